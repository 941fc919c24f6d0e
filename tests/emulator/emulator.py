"""An emulated machine as a context manager."""

from __future__ import annotations

from types import ModuleType, TracebackType

from .machine import Machine
from .modules import ImportHook, pycuda_modules, tensorrt_module
from .surface import module_name


class Emulator(Machine):
    """A machine with TensorRT and PyCUDA, while the `with` block lasts.

    Inside it, `import tensorrt` (or `tensorrt_rtx`) and `import pycuda.driver` give the emulated
    modules, whatever is installed.
    """

    def __init__(
        self,
        version: str,
        gpu: str | None = "NVIDIA Orin (emulated)",
        sm: tuple[int, int] = (8, 7),
        memory_bytes: int = 2 << 30,
        *,
        tensorrt: bool = True,
        pycuda: bool = True,
    ) -> None:
        """Describe the machine.

        Args:
            version: of TensorRT, one of `VERSIONS`.
            gpu: its name; None for a machine without a GPU and its driver.
            sm: its compute capability.
            memory_bytes: of the GPU.
            tensorrt: whether TensorRT is installed.
            pycuda: whether PyCUDA is installed.
        """
        super().__init__(version, gpu=gpu, sm=sm, memory_bytes=memory_bytes)
        modules: dict[str, ModuleType] = {}
        if pycuda:
            modules |= pycuda_modules(self)
        if tensorrt:
            modules[module_name(version)] = tensorrt_module(self)
        without_driver = {"pycuda.driver"} if pycuda and gpu is None else set()
        self._hook = ImportHook(modules, frozenset(without_driver))

    def __enter__(self) -> Emulator:
        self._hook.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.uninstall()
