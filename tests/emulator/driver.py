"""`pycuda.driver`: streams, events and memory. `copies` has the functions."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from . import errors
from .contexts import DriverState
from .errors import cuda_error
from .machine import Machine
from .streams import Queue, Work

_NON_BLOCKING = 1
_DISABLE_TIMING = 2
_handles = itertools.count(0x57AE_0000, 0x10)


class Stream:
    """A CUDA stream."""

    _context: Any
    _owner: object
    _queue: Queue
    _machine: Machine

    def __init__(self, flags: int = 0) -> None:
        driver: DriverState = self._machine.driver
        self._context = driver.acquire()
        driver.check("cuStreamCreate")
        self._owner = driver.top()
        with self._machine.lock:
            self._queue = self._machine.streams.open(
                next(_handles), blocking=not flags & _NON_BLOCKING
            )
        self._machine.residents.add(self)

    def __del__(self) -> None:
        if getattr(self, "_queue", None) is not None:
            leave = self._machine.driver.activate(self._context, "stream")
            if leave is not None:
                with self._machine.lock:
                    self._machine.streams.close(self._queue)
                leave()

    def _is_resident(self) -> bool:
        return bool(self._context._valid)

    @property
    def handle(self) -> int:
        """CUDA's handle, as TensorRT takes it."""
        return self._queue.handle

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._machine.driver.check("cuStreamSynchronize")
        with self._machine.lock:
            self._machine.streams.drain(self._queue)
        self._machine.driver.check_device("cuStreamSynchronize")

    def is_done(self) -> bool:
        """Whether all that was queued is done; by the next time it will be."""
        self._machine.driver.check("cuStreamQuery")
        with self._machine.lock:
            waiting = bool(self._queue.pending or self._queue.wait_next)
            self._machine.streams.drain(self._queue)
        return not waiting

    def wait_for_event(self, event: Any) -> None:
        """Let later work wait for an event."""
        self._machine.driver.check("cuStreamWaitEvent")
        if event._work is not None and not event._work.is_done:
            self._queue.wait_next.append(event._work)


class Event:
    """A CUDA event."""

    _context: Any
    _owner: object
    _flags: int
    _time: list[float]
    _work: Work | None
    _machine: Machine

    def __init__(self, flags: int = 0) -> None:
        driver: DriverState = self._machine.driver
        self._context = driver.acquire()
        driver.check("cuEventCreate")
        self._owner = driver.top()
        self._flags = flags
        self._work = None
        self._time = []
        self._machine.residents.add(self)

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            leave = self._machine.driver.activate(self._context, "event")
            if leave is not None:
                leave()

    def _is_resident(self) -> bool:
        return bool(self._context._valid)

    def record(self, stream: Any = None) -> object:
        """Queue the event on a stream."""
        self._machine.driver.check("cuEventRecord")
        streams = self._machine.streams
        time_of_record: list[float] = []
        self._time = time_of_record
        with self._machine.lock:
            self._work = streams.submit(
                streams.null if stream is None else stream._queue,
                lambda: time_of_record.append(time.perf_counter()),
            )
        return self

    def synchronize(self) -> object:
        """Wait for the event; one that was never recorded has happened."""
        self._machine.driver.check("cuEventSynchronize")
        if self._work is not None:
            with self._machine.lock:
                self._machine.streams.finish(self._work)
        self._machine.driver.check_device("cuEventSynchronize")
        return self

    def query(self) -> bool:
        """Whether the event has happened; by the next time it will have."""
        self._machine.driver.check("cuEventQuery")
        if self._work is None or self._work.is_done:
            return True
        with self._machine.lock:
            self._machine.streams.finish(self._work)
        return False

    def time_since(self, start: Any) -> float:
        """Return the milliseconds from another event to this one."""
        return _elapsed_ms(self._machine, start, self)

    def time_till(self, end: Any) -> float:
        """Return the milliseconds from this event to another one."""
        return _elapsed_ms(self._machine, self, end)


def _elapsed_ms(machine: Machine, start: Any, end: Any) -> float:
    machine.driver.check("cuEventElapsedTime")
    for event in (start, end):
        if event._work is None or event._flags & _DISABLE_TIMING:
            raise cuda_error("cuEventElapsedTime", errors.INVALID_HANDLE)
    if not (start._work.is_done and end._work.is_done):
        raise cuda_error("cuEventElapsedTime", errors.NOT_READY)
    return float((end._time[0] - start._time[0]) * 1e3)


class DeviceAllocation:
    """Device memory."""

    _address: int
    _context: Any
    _owner: object
    _machine: Machine

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self._release()

    def __int__(self) -> int:
        return int(self._address)

    __index__ = __long__ = __int__

    def _is_resident(self) -> bool:
        return self._context is not None and bool(self._context._valid)

    def free(self) -> None:
        """Free it, once all queued work is done."""
        if self._context is None:
            raise cuda_error("device_allocation::free", errors.INVALID_HANDLE)
        self._release()

    def _release(self) -> None:
        leave = self._machine.driver.activate(self._context, "device_allocation")
        self._context = None
        if leave is not None:
            with self._machine.lock:
                self._machine.streams.drain_all()
                self._machine.memory.free(self._address)
            leave()


class HostPointer:
    """Host memory that CUDA knows."""


class PagelockedHostAllocation:
    """Page-locked host memory: the base of an array from `pagelocked_empty`."""

    _address: int
    _context: Any
    _owner: object
    _freed: npt.NDArray[np.uint8]
    _interface: dict[str, Any]
    _machine: Machine

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self._release()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # How NumPy makes an array whose `base` is this object. PyCUDA does it in C.
        return dict(self._interface)

    def _is_resident(self) -> bool:
        return self._context is not None and bool(self._context._valid)

    def free(self) -> None:
        """Free it; arrays over it must not be used any more."""
        if self._context is None:
            raise cuda_error("pagelocked_host_allocation::free", errors.INVALID_HANDLE)
        self._release()

    def get_flags(self) -> int:
        """Return the flags of its allocation."""
        return 0

    def _release(self) -> None:
        leave = self._machine.driver.activate(self._context, "pagelocked_host_allocation")
        self._context = None
        if leave is not None:
            with self._machine.lock:
                self._machine.streams.drain_all()
                self._freed = self._machine.page_locked.free(self._address)
            leave()
