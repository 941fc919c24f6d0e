"""TensorRT 10.3 to 11 and TensorRT-RTX through one door; the modules are imported only here.

Everything that differs between them stands in this file. Elsewhere the code uses only what all
of them have: strongly typed networks, named weights, `execute_async_v3`, enums by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ffn_edge.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from ffn_edge.device.gpu import Device

Target = Literal["tensorrt", "rtx"]
_OLDEST = (10, 3)  # has all that is used here
PRODUCTS = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_HINTS = {
    "tensorrt": "on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and make "
    "the virtual environment with --system-site-packages. On a PC with an NVIDIA GPU: pip install "
    "tensorrt; without one, `ffn-edge run` works on the processor.",
    "rtx": "pip install tensorrt-rtx-cu12 (or tensorrt-rtx-cu13).",
}


@dataclass(frozen=True, slots=True)
class Api:
    """One TensorRT.

    Attributes:
        target: which of the two products.
        module: its Python module.
        version: such as "10.3.0".
        log: its logger. There is one a process: TensorRT keeps the first that it is given.
    """

    target: Target
    module: ModuleType
    version: str
    log: Any

    @property
    def name(self) -> str:
        """Product and version."""
        return f"{PRODUCTS[self.target]} {self.version}"

    @property
    def keeps_timings(self) -> bool:
        """Whether a timing cache makes the next build faster; in RTX it is a no-op."""
        return self.target == "tensorrt"

    @property
    def plan_fits_any_gpu(self) -> bool:
        """Whether a plan runs on other architectures than the one it was built on.

        RTX compiles its kernels when the engine is first used.
        """
        return self.target == "rtx"

    def refit_flags(self, refit: str) -> tuple[str, ...]:
        """Return the names of the builder's flags for a plan without weights.

        Args:
            refit: "identical" weights at full speed; "any" weights; "individual", those that are
                marked, where the others stay in the plan; or "none": all stay.
        """
        if refit == "identical" and self.target == "rtx":
            refit = "any"  # NVIDIA documents no other way there
        flags = {"identical": "REFIT_IDENTICAL", "any": "REFIT", "individual": "REFIT_INDIVIDUAL"}
        return ("STRIP_PLAN", flags[refit]) if refit in flags else ()

    @property
    def drops_biases(self) -> bool:
        """Whether the flag REFIT may lose a bias: a known issue of TensorRT 11.3."""
        return self.target == "tensorrt" and _numbers(self.version) == (11, 3)

    def make(self, kind: str, *arguments: Any) -> Any:
        """Return a new object of one of TensorRT's classes, such as a Runtime.

        Raises:
            EngineError: TensorRT cannot make it. Its bindings know but a TypeError for that.
        """
        self.errors()
        try:
            return getattr(self.module, kind)(*arguments)
        except TypeError as error:
            message = f"{self.name} cannot make a {kind}: {self.errors() or error}"
            if is_out_of_memory(message):
                raise OutOfMemoryError(message, "end other programs.") from error
            older = "the driver may be older than this TensorRT needs; see `ffn-edge doctor`."
            raise EngineError(message, remedy_for(message, older)) from error

    def context(self, engine: Any, compiled: bytes = b"") -> tuple[Any, Any]:
        """Return an execution context, for scratch memory of the caller's, and its kernels.

        Args:
            engine: with or without its weights.
            compiled: kernels that RTX has compiled before, as they were serialised.

        Returns:
            The context, or None where there is too little memory; and what collects the kernels
            that RTX compiles while it runs, or None where they are part of the plan.
        """
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.target != "rtx":
            return engine.create_execution_context(strategy), None
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        kernels = config.create_runtime_cache()
        if compiled:  # those of another GPU or driver are not taken
            kernels.deserialize(compiled)
        config.set_runtime_cache(kernels)
        return engine.create_execution_context(config), kernels

    def allocator(self, device: Device) -> Any:
        """Return an allocator for a Runtime or a Builder that takes plain device memory.

        TensorRT's own was reported to give up on an 8 GB Orin Nano with 1.65 GiB free, where this
        did not. It must outlive what it is given to.

        Args:
            device: open, and for as long as the allocator is used.
        """
        return _allocator(self.module, device)

    def errors(self) -> str:
        """Return what TensorRT has complained of since the last call, and forget it."""
        text = "; ".join(self.log.errors)
        self.log.errors.clear()
        return text


_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|memory is insufficient|could not be allocated"
    r"|NvMapMemAlloc",
    re.I,
)


def is_out_of_memory(said: str) -> bool:
    """Return whether TensorRT's complaint is of too little memory, and not of memory misused."""
    return _OUT_OF_MEMORY.search(said) is not None


# By what TensorRT was seen to say (TensorRT-RTX 1.7 on an H200 under driver 580).
_REMEDIES = (
    (
        re.compile(r"cannot run on this GPU", re.I),
        "TensorRT-RTX is for RTX graphics cards: for another, build with --target tensorrt, or run "
        "without an engine: --backend onnxruntime.",
    ),
    (
        re.compile(r"CUDA error 222|unsupported PTX", re.I),
        "the driver is older than this TensorRT: update the driver, or install TensorRT for its "
        "CUDA, such as tensorrt-rtx-cu12 in place of tensorrt-rtx-cu13.",
    ),
)


def remedy_for(said: str, otherwise: str) -> str:
    """Return the hint that helps against what TensorRT complains of, or else `otherwise`."""
    return next((hint for words, hint in _REMEDIES if words.search(said)), otherwise)


def is_installed(target: Target) -> bool:
    """Return whether there is a module to import. It may still not load."""
    return has_module(MODULES[target])


def has_module(name: str) -> bool:
    """Return whether a top-level module could be imported, and import nothing."""
    if sys.modules.get(name) is not None:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # a finder that someone installed may refuse
        return False


@functools.cache
def load(target: Target) -> Api:
    """Import TensorRT.

    Raises:
        EngineError: it is not installed, does not load, or is too old.
    """
    try:
        module = importlib.import_module(MODULES[target])
    except (ImportError, OSError, RuntimeError) as error:  # libraries of it may fail to load
        raise EngineError(
            f"{MODULES[target]} cannot be imported ({error})", _HINTS[target]
        ) from error
    version = str(module.__version__)
    if target == "tensorrt" and _numbers(version) < _OLDEST:
        raise EngineError(
            f"TensorRT {version} is too old: an engine needs 10.3",
            "on a Jetson, install JetPack 6.1 or later; on a PC, pip install --upgrade tensorrt.",
        )
    return Api(target, module, version, _logger(module))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _logger(module: ModuleType) -> Any:
    class Log(module.ILogger):  # type: ignore[misc, name-defined]
        """Keeps the last errors, for the EngineError that follows them."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split()))

    return Log()


def _allocator(module: ModuleType, device: Device) -> Any:
    class Allocator(module.IGpuAllocator):  # type: ignore[misc, name-defined]
        """Takes memory with cuMemAlloc, as PyCUDA does, on whatever thread TensorRT asks."""

        def __init__(self) -> None:
            module.IGpuAllocator.__init__(self)
            self.taken: dict[int, Any] = {}

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            try:
                with device.on_this_thread():
                    allocation = device.allocate(size)
            except EngineError:  # none may pass through TensorRT, for which 0 is no memory
                return 0
            address = int(allocation)
            self.taken[address] = allocation
            return address

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            return self.allocate(size, alignment, flags)

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0  # TensorRT then takes another piece

        def deallocate(self, memory: int) -> bool:
            allocation = self.taken.pop(memory, None)
            if allocation is None:  # null may be freed
                return True
            try:
                with device.on_this_thread():
                    device.free(allocation)
            except EngineError:
                return False
            return True

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return self.deallocate(memory)

    return Allocator()
