"""Small types of TensorRT: loggers, Dims, Weights, and memory that TensorRT hands out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy.typing as npt

from .graph import NUMPY_TYPES
from .machine import Machine
from .memory import host_array, is_mapped
from .signatures import Types


class Reporter:
    """How TensorRT's objects speak to the logger that they were given."""

    def __init__(self, machine: Machine, types: Types, logger: Any) -> None:
        self.logger = logger
        self._machine = machine
        self._severity: Any = types.classes["ILogger.Severity"]

    def error(self, message: str) -> None:
        """Say why a call fails."""
        self._say("ERROR", message)

    def warning(self, message: str) -> None:
        """Say what may be wrong."""
        self._say("WARNING", message)

    def info(self, message: str) -> None:
        """Say what happens."""
        self._say("INFO", message)

    def _say(self, severity: str, message: str) -> None:
        self._machine.log.append((severity, message))
        self._machine.count("ILogger.log")
        self.logger.log(self._severity[severity], message)


class Logging:
    """What builders, runtimes and refitters share: a logger, and how many threads they use."""

    _max_threads: int
    _report: Reporter
    _machine: Machine
    _types: Types

    def _log_to(self, logger: Any) -> None:
        self._report = Reporter(self._machine, self._types, logger)
        self._max_threads = 1

    def _refuse_without_gpu(self) -> None:
        if self._machine.gpu is None and not self._machine.is_rtx:
            self._report.error("CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def logger(self) -> Any:
        """The logger."""
        return self._report.logger

    @property
    def max_threads(self) -> int:
        """Threads that may be used."""
        return int(self._max_threads)

    @max_threads.setter
    def max_threads(self, value: int) -> None:
        self._max_threads = value


class ILogger:
    """Base of loggers; a subclass defines `log`."""

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        """Take a message."""
        raise TypeError('Tried to call pure virtual function "ILogger::log"')


class Logger:
    """A logger that writes to stderr."""

    _min_severity: Any
    _sets: ClassVar = {"min_severity": "ILogger.Severity"}
    _types: Types

    def __init__(self, min_severity: Any = None) -> None:
        severities: Any = self._types.classes["ILogger.Severity"]
        self._min_severity = min_severity or severities["WARNING"]

    @property
    def min_severity(self) -> Any:
        """The least severity that is written."""
        return self._min_severity

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._min_severity = value

    def log(self, severity: Any, msg: str) -> None:
        """Write a message."""
        if severity <= self._min_severity:
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)


class IErrorRecorder:
    """Base of error recorders."""

    def __init__(self) -> None:
        pass


class IProgressMonitor:
    """Base of progress monitors; a subclass defines the three methods."""

    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        """Take the start of a phase."""
        raise TypeError('Tried to call pure virtual function "IProgressMonitor::phaseStart"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Take a completed step; False ends the build."""
        raise TypeError('Tried to call pure virtual function "IProgressMonitor::stepComplete"')

    def phase_finish(self, phase_name: str) -> None:
        """Take the end of a phase."""
        raise TypeError('Tried to call pure virtual function "IProgressMonitor::phaseFinish"')


class IGpuAllocator:
    """Base of allocators; a subclass defines how memory is taken and given back."""

    def __init__(self) -> None:
        pass


class Allocating(Logging):
    """What takes device memory: by an allocator of the program's, or else by TensorRT's own."""

    _allocator: Any
    _sets: ClassVar = {"gpu_allocator": "IGpuAllocator"}

    @property
    def gpu_allocator(self) -> Any:
        """The program's allocator."""
        return self._allocator

    @gpu_allocator.setter
    def gpu_allocator(self, value: Any) -> None:
        self._allocator = value

    def _take(self, nbytes: int) -> int | None:
        """Return the address of new memory; None if there is too little."""
        machine = self._machine
        if self._allocator is None:
            with machine.lock:
                if machine.pool_bytes is not None and machine.pooled + nbytes > machine.pool_bytes:
                    return None
                address = machine.memory.allocate(nbytes, machine.context)
                machine.pooled += nbytes if address is not None else 0
                return address
        try:  # as the bindings do: nothing may pass through C++
            if machine.calls_async:
                return int(self._allocator.allocate_async(nbytes, 256, 0, 0)) or None
            return int(self._allocator.allocate(nbytes, 256, 0)) or None
        except Exception as error:
            machine.undefined.append(f"an allocator raised {error!r}")
            return None

    def _give(self, address: int, nbytes: int) -> bool:
        """Free memory; False if that cannot be."""
        if self._allocator is not None:
            try:
                if self._machine.calls_async:
                    return bool(self._allocator.deallocate_async(address, 0))
                return bool(self._allocator.deallocate(address))
            except Exception as error:
                self._machine.undefined.append(f"an allocator raised {error!r}")
                return False
        self._machine.pooled -= nbytes
        return self._machine.memory.free(address)


class Dims:
    """A shape. It equals tuples and lists, and cannot be held against another Dims."""

    _dims: tuple[int, ...]

    def __init__(self, shape: Any = ()) -> None:
        self._dims = tuple(shape)

    def __len__(self) -> int:
        return len(self._dims)

    def __getitem__(self, index: Any) -> Any:
        return self._dims[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._dims)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | list):
            raise TypeError("__eq__(): incompatible function arguments.")
        return self._dims == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._dims)

    @property
    def MAX_DIMS(self) -> int:  # noqa: N802
        """The most dimensions that a tensor has."""
        return 8


class Weights:
    """A view of weights that somebody else owns, or a description of what is wanted."""

    _array: npt.NDArray[Any] | None
    _count: int
    _dtype: Any
    _pointer: int
    _types: Types

    def __init__(
        self,
        type: Any = None,
        ptr: int = 0,
        count: int = 0,
        a: npt.NDArray[Any] | None = None,
    ) -> None:
        kinds: Any = self._types.classes["DataType"]
        self._dtype = type or kinds["FLOAT"]
        self._pointer, self._count, self._array = ptr, count, a
        if a is None:
            return
        if not a.flags.c_contiguous:
            raise ValueError(
                "Could not convert non-contiguous NumPy array to Weights. "
                "Please use numpy.ascontiguousarray() to fix this."
            )
        name = next((n for n, kind in NUMPY_TYPES.items() if kind == a.dtype), None)
        if name is None:
            raise ValueError(
                f"[TRT] [E] Could not implicitly convert NumPy data type: {a.dtype} to TensorRT."
            )
        self._dtype, self._pointer, self._count = kinds[name], a.ctypes.data, a.size

    def __len__(self) -> int:
        return int(self._count)

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        return self._dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self._count)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return int(self._count) * NUMPY_TYPES[self._dtype.name].itemsize

    def numpy(self) -> npt.NDArray[Any]:
        """Return a view."""
        kind = NUMPY_TYPES[self._dtype.name]
        nbytes = int(self._count) * kind.itemsize
        if nbytes and not is_mapped(self._pointer, nbytes):
            raise AssertionError("the real binding would crash: weights at an invalid address")
        return host_array(self._pointer if nbytes else 0, nbytes).view(kind)


def host_memory_class(types: Types) -> type:
    """Make IHostMemory: a buffer with two properties, and not even a length.

    Only types written in C can be buffers before Python 3.12, hence bytes underneath.
    """

    class IHostMemory(bytes):
        __slots__ = ()

        def __init__(self) -> None:
            raise TypeError("IHostMemory: No constructor defined!")

        __hash__ = object.__hash__
        __eq__ = object.__eq__
        __repr__ = __str__ = object.__repr__
        __len__ = __getitem__ = __iter__ = __contains__ = None  # type: ignore[assignment]
        __add__ = __mul__ = __rmul__ = __mod__ = None  # type: ignore[assignment]

        def __bool__(self) -> bool:
            return True

        def __getattribute__(self, name: str) -> Any:
            if name == "nbytes":
                return bytes.__len__(self)
            if name == "dtype":
                kinds: Any = types.classes["DataType"]
                return kinds["INT8"]
            if name.startswith("__"):
                return object.__getattribute__(self, name)
            raise AttributeError(f"'IHostMemory' object has no attribute '{name}'")

    types.classes["IHostMemory"] = IHostMemory
    return IHostMemory


def host_memory(types: Types, data: bytes) -> Any:
    """Return bytes as an IHostMemory."""
    return bytes.__new__(types.classes["IHostMemory"], data)


def volume(iterable: Any) -> int:
    """Return the product of a shape."""
    return math.prod(iterable)
