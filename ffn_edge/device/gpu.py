"""The CUDA device, through PyCUDA, which is imported only here.

    with Device() as device:
        buffer = device.allocate(1 << 20)
        device.upload(buffer, array)

PyCUDA (to 2026.1) wraps no stream capture, and inferences are not replayed as CUDA graphs.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ffn_edge.bundle.compose import Array
from ffn_edge.errors import EngineError, OutOfMemoryError

_ALIGNMENT = 256  # of device addresses, as cuMemAlloc gives them


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: CUDA's; every Orin module is called "Orin".
        sm: its architecture, such as "87".
        memory_bytes: in all.
        multiprocessors: how many it has; 0 if that is not told.
        is_integrated: whether its memory is the host's, as on a Jetson.
    """

    name: str
    sm: str
    memory_bytes: int
    multiprocessors: int = 0
    is_integrated: bool = False


def find_gpu() -> Gpu:
    """Describe the first CUDA device. No context is made.

    Raises:
        EngineError: PyCUDA, the driver or the device is missing.
    """
    driver = _driver()
    try:
        driver.init()
        if driver.Device.count() == 0:
            raise EngineError("no CUDA device is visible", "see `ffn-edge doctor`.")
        device = driver.Device(0)
        major, minor = device.compute_capability()
        kinds = driver.device_attribute
        return Gpu(
            name=device.name(),
            sm=f"{major}{minor}",
            memory_bytes=device.total_memory(),
            multiprocessors=device.get_attribute(kinds.MULTIPROCESSOR_COUNT),
            is_integrated=bool(device.get_attribute(kinds.INTEGRATED)),
        )
    except driver.Error as error:
        raise EngineError(
            f"the CUDA device does not answer: {error}",
            "is the NVIDIA driver loaded, and may this user open /dev/nvidia* or /dev/nvhost*? "
            "See `ffn-edge doctor`.",
        ) from error


def _driver() -> ModuleType:
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"PyCUDA is not installed ({error})",
            "pip install pycuda; it is compiled here, so nvcc must be on the PATH "
            "(export PATH=/usr/local/cuda/bin:$PATH), and curand.h beside cuda.h (libcurand-dev).",
        ) from error
    except ImportError as error:  # libcuda.so.1 comes with the driver
        raise EngineError(
            f"PyCUDA cannot be loaded ({error})",
            "this machine has no NVIDIA driver, or PyCUDA was built for another CUDA: "
            "pip install --force-reinstall --no-binary :all: --no-cache-dir pycuda.",
        ) from error


class Device:
    """The first CUDA device, with its primary context current on this thread, and one stream.

    What was allocated is freed when the block ends, in reverse order, errors or not. Use it from
    the thread that opened it, or within `on_this_thread`.
    """

    def __init__(self) -> None:
        self._context: Any = None
        self._thread = 0
        self._allocations: list[Any] = []
        self._pinned: list[Any] = []
        self._stream: Any = None
        self._events: tuple[Any, Any] | None = None

    def __enter__(self) -> Device:
        """Open the device.

        Raises:
            EngineError: PyCUDA, the driver or the device is missing, or fails.
        """
        self.gpu = find_gpu()
        driver = self._cuda = _driver()
        with self.errors("open the CUDA device"):
            context = driver.Device(0).retain_primary_context()
            context.push()
            self._context = context
            self._thread = threading.get_ident()
        try:
            with self.errors("open the CUDA device"):
                self._stream = driver.Stream()
                self._events = (driver.Event(), driver.Event())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        for allocation in reversed(self._allocations):
            self._quietly(allocation.free)
        self._allocations.clear()
        for allocation in self._pinned:
            self._quietly(allocation.free)
        self._pinned.clear()
        self._events = None
        self._stream = None
        if self._context is not None:
            self._quietly(self._context.pop)
            # PyCUDA's destructor does not release a primary context (C++ calls the base class's
            # `detach_internal` there), so that its memory stays taken: seen on an H200.
            self._quietly(self._context.detach)
            self._context = None

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Make the device current on another thread than the one that opened it."""
        if threading.get_ident() == self._thread:
            yield
            return
        with self.errors("use the device on another thread"):
            self._context.push()
        try:
            yield
        finally:
            with self.errors("leave the device on another thread"):
                self._context.pop()

    @property
    def free_bytes(self) -> int:
        """Device memory that is free now."""
        with self.errors("ask for the free memory"):
            return int(self._cuda.mem_get_info()[0])

    def allocate(self, size: int) -> Any:
        """Allocate device memory; `int()` of the result is its address.

        Raises:
            OutOfMemoryError: there is too little.
        """
        with self.errors(f"allocate {size} bytes on the device"):
            allocation = self._cuda.mem_alloc(max(size, 1))
        self._allocations.append(allocation)
        return allocation

    def free(self, allocation: Any) -> None:
        """Give back what `allocate` gave, before the block ends."""
        self._allocations.remove(allocation)
        self._quietly(allocation.free)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Allocate page-locked host memory, which the device can copy by itself.

        It is freed with the device, and must not be read after that.

        Raises:
            OutOfMemoryError: there is too little.
        """
        with self.errors("allocate page-locked memory"):
            array: npt.NDArray[Any] = self._cuda.pagelocked_empty(shape, dtype)
        self._pinned.append(array.base)
        return array

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous host array to the device.

        The array may be changed afterwards; that the bytes have arrived, `wait_for_all` tells.
        """
        with self.errors("copy to the device"):
            self._cuda.memcpy_htod(address, array)

    def upload_async(self, address: int, pinned: Array) -> None:
        """Copy page-locked memory to the device, on the stream."""
        with self.errors("copy to the device"):
            self._cuda.memcpy_htod_async(address, pinned, self._stream)

    def download_async(self, pinned: Array, address: int) -> None:
        """Copy from the device to page-locked memory, on the stream."""
        with self.errors("copy from the device"):
            self._cuda.memcpy_dtoh_async(pinned, address, self._stream)

    def download(self, array: Array, address: int) -> None:
        """Copy from the device to a contiguous host array, once the stream has come so far."""
        self.synchronize()
        with self.errors("copy from the device"):
            self._cuda.memcpy_dtoh(array, address)

    def copy_async(self, target: int, source: int, size: int) -> None:
        """Copy within the device, on the stream."""
        with self.errors("copy on the device"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    def zero_async(self, address: int, size: int) -> None:
        """Fill memory of the device with zeros, on the stream."""
        with self.errors("clear memory of the device"):
            self._cuda.memset_d8_async(address, 0, size, self._stream)

    @property
    def stream_handle(self) -> int:
        """The stream, as TensorRT takes it."""
        return int(self._stream.handle)

    def synchronize(self) -> None:
        """Wait for all that was put on the stream.

        Raises:
            EngineError: something of it failed.
        """
        with self.errors("run on the device"):
            self._stream.synchronize()

    def wait_for_all(self) -> None:
        """Wait for every stream of the device, the one of plain copies among them.

        Raises:
            EngineError: something failed.
        """
        with self.errors("run on the device"):
            self._context.synchronize()

    def settle(self) -> None:
        """Wait for the stream, whatever became of what is on it: before things are released."""
        if self._stream is not None:
            self._quietly(self._stream.synchronize)

    def start_clock(self) -> None:
        """Mark on the stream where a measured piece of work begins."""
        assert self._events is not None
        with self.errors("run on the device"):
            self._events[0].record(self._stream)

    def stop_clock(self) -> float:
        """Wait for the stream; return the milliseconds since `start_clock`, by the device.

        Raises:
            EngineError: something on the stream failed.
        """
        # No names for the events: an error's traceback would keep them alive.
        assert self._events is not None
        with self.errors("run on the device"):
            self._events[1].record(self._stream)
            self._events[1].synchronize()
            return float(self._events[1].time_since(self._events[0]))

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn PyCUDA's errors into an EngineError that says what was being done."""
        try:
            yield
        except self._cuda.MemoryError as error:
            raise OutOfMemoryError(
                f"out of memory: could not {doing} ({error})", out_of_memory_hint(self.gpu)
            ) from error
        except self._cuda.Error as error:
            raise EngineError(
                f"the CUDA device failed: could not {doing} ({error})",
                "start again; if it happens again, rebuild with `ffn-edge build`.",
            ) from error

    def _quietly(self, release: Any) -> None:
        """Release one thing. A device that failed refuses even this, and has said why before."""
        with suppress(self._cuda.Error):
            release()


def out_of_memory_hint(gpu: Gpu | None) -> str:
    """Say what helps where the device has too little memory left."""
    hint = "end other programs, or keep one engine at a time: --resident one."
    if gpu is not None and gpu.is_integrated:
        hint += (
            " If much is free, it is in pieces: restart the board, or "
            "`sync; echo 3 | sudo tee /proc/sys/vm/drop_caches`."
        )
    return hint


def aligned(size: int) -> int:
    """Round a size up so that what follows it is aligned for the device."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
