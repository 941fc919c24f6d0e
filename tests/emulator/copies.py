"""`pycuda.driver`: functions that allocate, copy and fill memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import errors
from .classes import create
from .errors import DeviceFailure, cuda_error
from .machine import Machine
from .memory import host_array, host_span
from .streams import Queue


def init(machine: Machine, flags: int = 0) -> None:
    """Initialise CUDA."""
    if flags:
        raise cuda_error("cuInit", errors.INVALID_VALUE)
    machine.driver.is_initialized = True


def get_version(machine: Machine) -> tuple[int, int, int]:
    """Return the version of CUDA that PyCUDA was compiled with."""
    return (13, 2, 0) if machine.version.startswith(("10.16", "11")) else (12, 6, 0)


def get_driver_version(machine: Machine) -> int:
    """Return the newest version of CUDA that the driver knows."""
    major, minor, _ = get_version(machine)
    return major * 1000 + minor * 10


def mem_get_info(machine: Machine) -> tuple[int, int]:
    """Return free and total bytes."""
    machine.driver.check("cuMemGetInfo")
    return machine.memory.capacity - machine.memory.live_bytes, machine.memory.capacity


def mem_alloc(machine: Machine, nbytes: int) -> object:
    """Allocate device memory."""
    machine.driver.check("cuMemAlloc")
    if nbytes == 0:
        raise cuda_error("cuMemAlloc", errors.INVALID_VALUE)
    failure = machine.failure_of("mem_alloc")
    with machine.lock:
        owner = machine.context
        address = machine.memory.allocate(nbytes, owner) if failure is None else None
        if address is None and failure is None:
            gc.collect()  # as PyCUDA does before it gives up
            address = machine.memory.allocate(nbytes, owner)
    if address is None:
        raise cuda_error("cuMemAlloc", failure or errors.OUT_OF_MEMORY)
    allocation = create(
        machine.driver.types.classes["DeviceAllocation"],
        _address=address,
        _context=machine.driver.acquire(),
        _owner=owner,
    )
    machine.residents.add(allocation)
    return allocation


def mem_alloc_like(machine: Machine, ary: Any) -> object:
    """Allocate as many bytes as an array has."""
    return mem_alloc(machine, ary.nbytes)


def mem_get_address_range(machine: Machine, ptr: int) -> tuple[int, int]:
    """Return start and size of the allocation that an address lies in."""
    machine.driver.check("cuMemGetAddressRange")
    block = machine.memory.block_of(ptr)
    if block is None:
        raise cuda_error("cuMemGetAddressRange", errors.INVALID_VALUE)
    return block


def pagelocked_empty(
    machine: Machine,
    shape: Any,
    dtype: Any,
    order: Any = "C",
    mem_flags: int = 0,
) -> npt.NDArray[Any]:
    """Return an array in page-locked host memory."""
    machine.driver.check("cuMemHostAlloc")
    like = np.empty(0, dtype=dtype).dtype
    dims = (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape))
    nbytes = like.itemsize * int(np.prod(dims, dtype=np.int64))
    failure = machine.failure_of("pagelocked_empty")
    if failure is not None:
        raise cuda_error("cuMemHostAlloc", failure or errors.OUT_OF_MEMORY)
    context = machine.driver.acquire()
    with machine.lock:
        address = machine.page_locked.allocate(nbytes)
    strides = None
    if order == "F":
        steps = np.cumprod((like.itemsize, *dims[:-1]))
        strides = tuple(int(step) for step in steps[: len(dims)])
    interface = {
        "version": 3,
        "shape": dims,
        "typestr": like.str,
        "strides": strides,
        "data": (address, False),
    }
    allocation = create(
        machine.driver.types.classes["PagelockedHostAllocation"],
        _address=address,
        _context=context,
        _owner=machine.context,
        _interface=interface,
    )
    machine.residents.add(allocation)
    return np.asarray(allocation)


def pagelocked_zeros(
    machine: Machine,
    shape: Any,
    dtype: Any,
    order: Any = "C",
    mem_flags: int = 0,
) -> npt.NDArray[Any]:
    """Return zeros in page-locked host memory."""
    array = pagelocked_empty(machine, shape, dtype, order, mem_flags)
    array.fill(0)
    return array


def pagelocked_empty_like(
    machine: Machine, array: npt.NDArray[Any], mem_flags: int = 0
) -> npt.NDArray[Any]:
    """Return an array in page-locked memory with another one's shape and type."""
    return pagelocked_empty(machine, array.shape, array.dtype, "C", mem_flags)


def memcpy_htod(machine: Machine, dest: int, src: Any) -> None:
    """Copy host to device, after all that is queued, and wait."""
    _copy(machine, "cuMemcpyHtoD", dest, host_span(src), None, wait=True)


def memcpy_htod_async(machine: Machine, dest: int, src: Any, stream: Any = None) -> None:
    """Queue a copy host to device."""
    _copy(machine, "cuMemcpyHtoDAsync", dest, host_span(src), stream, wait=False)


def memcpy_dtoh(machine: Machine, dest: Any, src: int) -> None:
    """Copy device to host, after all that is queued, and wait."""
    _copy(machine, "cuMemcpyDtoH", host_span(dest), src, None, wait=True)


def memcpy_dtoh_async(machine: Machine, dest: Any, src: int, stream: Any = None) -> None:
    """Queue a copy device to host."""
    _copy(machine, "cuMemcpyDtoHAsync", host_span(dest), src, stream, wait=False)


def memcpy_dtod(machine: Machine, dest: int, src: int, size: int) -> None:
    """Copy device to device. Not even the real one waits for that."""
    _copy(machine, "cuMemcpyDtoD", dest, src, None, wait=False, nbytes=size)


def memcpy_dtod_async(
    machine: Machine,
    dest: int,
    src: int,
    size: int,
    stream: Any = None,
) -> None:
    """Queue a copy device to device."""
    _copy(machine, "cuMemcpyDtoDAsync", dest, src, stream, wait=False, nbytes=size)


def _copy(
    machine: Machine,
    function: str,
    dest: int | tuple[int, int],
    src: int | tuple[int, int],
    stream: Any,
    *,
    wait: bool,
    nbytes: int = 0,
) -> None:
    """Queue a copy; host memory is given as address and size, device memory as address."""
    machine.driver.check(function)
    for span in (dest, src):
        if isinstance(span, tuple):
            nbytes = span[1]
            if not wait and not machine.page_locked.covers(*span):
                raise cuda_error(
                    function,
                    errors.INVALID_VALUE,
                    "the host memory is not page-locked, so the real copy would not be "
                    "asynchronous; use pagelocked_empty",
                )
    if isinstance(src, tuple):
        machine.uploaded_bytes += nbytes
    elif isinstance(dest, tuple):
        machine.downloaded_bytes += nbytes
    else:
        machine.copied_bytes += nbytes

    def bytes_at(place: int | tuple[int, int]) -> npt.NDArray[np.uint8]:
        if isinstance(place, int):
            return machine.memory.array(place, nbytes)
        if not wait and not machine.page_locked.covers(*place):
            raise DeviceFailure(errors.ILLEGAL_ADDRESS)
        return host_array(*place)

    def run() -> None:
        bytes_at(dest)[:] = bytes_at(src)

    _submit(machine, function, stream, run, wait=wait)


def _submit(
    machine: Machine,
    function: str,
    stream: Any,
    run: Callable[[], None],
    *,
    wait: bool,
) -> None:
    queue: Queue = machine.streams.null if stream is None else stream._queue
    with machine.lock:
        machine.streams.submit(queue, run)
        if wait:
            machine.streams.drain(queue)
    if wait:
        machine.driver.check_device(function)


def _fill(
    machine: Machine,
    function: str,
    dest: int,
    data: int,
    size: int,
    dtype: type[np.unsignedinteger[Any]],
    stream: Any = None,
) -> None:
    machine.driver.check(function)

    def run() -> None:
        nbytes = size * np.dtype(dtype).itemsize
        machine.memory.array(dest, nbytes).view(dtype)[:] = dtype(data)

    _submit(machine, function, stream, run, wait=False)


def memset_d8(machine: Machine, dest: int, data: int, size: int) -> None:
    """Fill bytes."""
    _fill(machine, "cuMemsetD8", dest, data, size, np.uint8)


def memset_d8_async(
    machine: Machine,
    dest: int,
    data: int,
    size: int,
    stream: Any = None,
) -> None:
    """Queue a fill of bytes."""
    _fill(machine, "cuMemsetD8Async", dest, data, size, np.uint8, stream)


def memset_d32(machine: Machine, dest: int, data: int, size: int) -> None:
    """Fill words of four bytes."""
    _fill(machine, "cuMemsetD32", dest, data, size, np.uint32)


def memset_d32_async(
    machine: Machine,
    dest: int,
    data: int,
    size: int,
    stream: Any = None,
) -> None:
    """Queue a fill of words of four bytes."""
    _fill(machine, "cuMemsetD32Async", dest, data, size, np.uint32, stream)


FUNCTIONS = (
    init,
    get_version,
    get_driver_version,
    mem_get_info,
    mem_alloc,
    mem_alloc_like,
    mem_get_address_range,
    pagelocked_empty,
    pagelocked_zeros,
    pagelocked_empty_like,
    memcpy_htod,
    memcpy_htod_async,
    memcpy_dtoh,
    memcpy_dtoh_async,
    memcpy_dtod,
    memcpy_dtod_async,
    memset_d8,
    memset_d8_async,
    memset_d32,
    memset_d32_async,
)
