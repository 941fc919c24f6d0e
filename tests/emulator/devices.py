"""`pycuda.driver`: the device and its contexts."""

from __future__ import annotations

from typing import Any

from . import errors
from .contexts import CudaContext, DriverState
from .errors import cuda_error
from .machine import Machine


class Device:
    """The one GPU of the machine."""

    _state: DriverState
    _machine: Machine
    _types: Any

    def __init__(self, ordinal: int | str) -> None:
        self._state = self._machine.driver
        if not self._state.is_initialized:
            raise cuda_error("cuDeviceGet", errors.NOT_INITIALIZED)
        if ordinal not in (0, _PCI_BUS_ID):
            raise cuda_error("cuDeviceGet", errors.INVALID_DEVICE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self))

    def __hash__(self) -> int:
        return 0

    @staticmethod
    def count(machine: Machine) -> int:
        """Return the number of GPUs."""
        if not machine.driver.is_initialized:
            raise cuda_error("cuDeviceGetCount", errors.NOT_INITIALIZED)
        return 1

    def name(self) -> str:
        """Return the GPU's name."""
        assert self._machine.gpu is not None
        return self._machine.gpu

    def pci_bus_id(self) -> str:
        """Return its place on the bus."""
        return _PCI_BUS_ID

    def compute_capability(self) -> tuple[int, int]:
        """Return the SM version."""
        return self._machine.sm

    def total_memory(self) -> int:
        """Return all of its memory, in bytes."""
        return self._machine.memory.capacity

    def get_attribute(self, attr: Any) -> int:
        """Return one property."""
        known = {
            "COMPUTE_CAPABILITY_MAJOR": self._machine.sm[0],
            "COMPUTE_CAPABILITY_MINOR": self._machine.sm[1],
            "MULTIPROCESSOR_COUNT": 16,
            "CLOCK_RATE": 1_020_000,
            "INTEGRATED": int(self._machine.sm in _JETSONS),
            "CAN_MAP_HOST_MEMORY": 1,
            "ASYNC_ENGINE_COUNT": 2,
            "UNIFIED_ADDRESSING": 1,
        }
        if attr.name not in known:
            raise NotImplementedError(f"the emulator has no attribute {attr.name}")
        return known[attr.name]

    def make_context(self, flags: int = 0) -> object:
        """Create a context and make it current."""
        return self._state.make(self._types.classes["Context"], primary=False)

    def retain_primary_context(self) -> object:
        """Return the primary context; it is not current yet."""
        return self._state.make(self._types.classes["Context"], primary=True)


_PCI_BUS_ID = "0000:01:00.0"
_JETSONS = ((7, 2), (8, 7), (11, 0))


class Context:
    """A CUDA context."""

    _cuda: CudaContext
    _thread: int
    _valid: bool
    _machine: Machine

    def __del__(self) -> None:
        # A primary context that is dropped is not released: its destructor calls the base class's.
        if getattr(self, "_valid", False) and not self._cuda.primary:
            self._machine.driver.detach(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._cuda is self._cuda

    def __hash__(self) -> int:
        return hash(self._cuda)

    @property
    def _owner(self) -> CudaContext:
        return self._cuda

    def _is_resident(self) -> bool:
        return bool(self._valid)

    @property
    def handle(self) -> int:
        """CUDA's handle."""
        return int(self._cuda.handle)

    def push(self) -> None:
        """Make it current on this thread."""
        self._machine.driver.push(self)

    def detach(self) -> None:
        """Give it back."""
        self._machine.driver.detach(self)

    @staticmethod
    def pop(machine: Machine) -> None:
        """Take the current context off this thread's stack."""
        machine.driver.pop()

    @staticmethod
    def get_current(machine: Machine) -> object:
        """Return the current context, or None."""
        return machine.driver.current()

    @staticmethod
    def get_device(machine: Machine) -> object:
        """Return the current context's device."""
        machine.driver.check("cuCtxGetDevice")
        return machine.driver.device_class(0)

    @staticmethod
    def synchronize(machine: Machine) -> None:
        """Wait for all streams."""
        machine.driver.check("cuCtxSynchronize")
        with machine.lock:
            machine.streams.drain_all()
        machine.driver.check_device("cuCtxSynchronize")
