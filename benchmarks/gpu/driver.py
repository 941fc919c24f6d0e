"""PyCUDA on CUDA's driver: what the product does there, and what the tests' emulator believes.

Each check is a function that returns its figure and fails by raising. In a dry run each of them
runs on an emulated machine, and has to hold there as well: what the emulator believes is what is
asserted of the device. `tests/emulator/beliefs.py` says which check stands for which belief.

Device work is made to last, where it must, by filling memory again and again (`_marked`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import mmap
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.gpu.report import Report, run_part
from ffn_edge.device.gpu import Device, aligned, find_gpu
from ffn_edge.errors import EngineError, OutOfMemoryError
from ffn_edge.runtime.engines.device_ring import DeviceRing
from ffn_edge.runtime.engines.tensorrt import EngineMemory

_GIB, _MIB = 1 << 30, 1 << 20
_FILLS = 100  # of a GiB each: some 40 ms on an H100
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
# A kernel that writes where nothing is.
_BAD_KERNEL = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .entry bad() {
    .reg .u64 %address;
    .reg .u32 %zero;
    mov.u64 %address, 64;
    mov.u32 %zero, 0;
    st.global.u32 [%address], %zero;
    ret;
}
\0"""


@dataclass(frozen=True)
class Bench:
    """What a check is given.

    Attributes:
        cuda: `pycuda.driver`.
        large: bytes of an allocation that takes the device a while to fill, and shows in the free
            memory.
        emulator: the emulated machine, in a dry run.
    """

    cuda: Any
    large: int
    emulator: Any = None


# The order matters: CUDA is initialised once a process, and a device that failed stays failed.


def cuda_must_be_initialised(bench: Bench) -> str:
    """Before `init`, a device is refused; flags are refused by `init`."""
    _refused(bench.cuda.LogicError, lambda: bench.cuda.init(1))
    said = _refused(bench.cuda.LogicError, lambda: bench.cuda.Device(0))
    bench.cuda.init()
    return said


def a_device_that_is_not_there_is_refused(bench: Bench) -> str:
    """A device's number is below `Device.count`."""
    bench.cuda.init()
    return _refused(bench.cuda.LogicError, lambda: bench.cuda.Device(bench.cuda.Device.count()))


def the_device_describes_itself(bench: Bench) -> str:
    """`find_gpu` and the versions say what is there."""
    gpu, cuda = find_gpu(), bench.cuda
    device = cuda.Device(0)
    attribute = cuda.device_attribute
    major = device.get_attribute(attribute.COMPUTE_CAPABILITY_MAJOR)
    assert gpu.sm.startswith(str(major)), gpu.sm
    assert device.get_attribute(attribute.UNIFIED_ADDRESSING) == 1
    assert cuda.Device(device.pci_bus_id()) == device
    version, driver = cuda.get_version(), cuda.get_driver_version()
    assert len(version) == 3
    assert driver // 1000 >= version[0], (driver, version)
    return f"{gpu.name}, SM {gpu.sm}, {gpu.memory_bytes / _GIB:.1f} GiB, CUDA {version}, {driver}"


def a_context_is_current_once_it_is_pushed(bench: Bench) -> str:
    """A retained context serves nothing before it is pushed."""
    bench.cuda.init()
    context = bench.cuda.Device(0).retain_primary_context()
    said = _refused(bench.cuda.LogicError, bench.cuda.Stream)
    context.push()
    assert bench.cuda.Context.get_current() == context
    assert bench.cuda.Context.get_device() == bench.cuda.Device(0)
    bench.cuda.Stream().synchronize()
    bench.cuda.Context.pop()
    context.detach()
    return said


def a_thread_without_a_context_is_refused(bench: Bench) -> str:
    """A context is current on its own thread alone."""
    with opened(bench):
        return _in_a_thread(
            lambda: _refused(bench.cuda.LogicError, lambda: bench.cuda.mem_alloc(64))
        )


def popping_what_is_not_there_is_refused(bench: Bench) -> str:
    """`Context.pop` fails on an empty stack."""
    bench.cuda.init()
    return _refused(bench.cuda.LogicError, bench.cuda.Context.pop)


def a_primary_context_is_one(bench: Bench) -> str:
    """A second `retain` gives the same context: it sees what the first one allocated."""
    cuda = bench.cuda
    with opened(bench) as first:
        memory = cuda.mem_alloc(8)
        cuda.memcpy_htod(memory, bytes(range(8)))
        cuda.Context.pop()
        second = cuda.Device(0).retain_primary_context()
        second.push()
        assert first == second
        result = np.zeros(8, np.uint8)
        cuda.memcpy_dtoh(result, memory)
        cuda.Context.pop()
        second.detach()
        first.push()
        memory.free()
    assert result.tolist() == list(range(8))
    return "after pop and retain"


def a_released_primary_context_is_left_on_the_stack(bench: Bench) -> str:
    """A call after the release of the last context is refused; the next `retain` mends that."""
    with opened(bench):
        pass
    said = _refused(bench.cuda.LogicError, lambda: bench.cuda.mem_alloc(64))
    with opened(bench):
        bench.cuda.mem_alloc(64).free()
    return said


def a_contexts_memory_goes_with_it(bench: Bench) -> str:
    """What a context had is freed with it; to free it afterwards does nothing."""
    cuda = bench.cuda
    with opened(bench):
        before = _free_bytes(bench)
        context = cuda.Device(0).make_context()
        memory = cuda.mem_alloc(bench.large)
        cuda.Context.pop()
        context.detach()
        del context
        memory.free()
        after = _free_bytes(bench)
    assert after > before - bench.large // 2, (before, after)
    return f"{(before - after) / _MIB:.0f} MiB missing afterwards"


def what_another_thread_frees_leaks(bench: Bench) -> str:
    """Memory that is freed on another thread leaks, with a warning."""
    cuda = bench.cuda
    with opened(bench):
        before = _free_bytes(bench)
        memory = cuda.mem_alloc(bench.large)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _in_a_thread(lambda: str(memory.free()))
        leaked = before - _free_bytes(bench)
    (warning,) = caught
    assert issubclass(warning.category, UserWarning)
    assert leaked >= bench.large, leaked
    return str(warning.message)


def another_thread_takes_and_frees_memory(bench: Bench) -> str:
    """`Device.on_this_thread`: memory taken and freed on a thread of TensorRT's own is all back."""
    with Device() as device:
        before = device.free_bytes

        def work() -> None:
            with device.on_this_thread():
                memory = device.allocate(bench.large)
                device.upload(int(memory), np.arange(64, dtype=np.uint8))
                device.free(memory)

        _in_a_thread(work)
        missing = before - device.free_bytes
        device.allocate(64)  # this thread's context is as it was
    assert missing < bench.large // 2, missing
    return f"{missing / _MIB:.0f} MiB missing afterwards"


def closing_gives_the_memory_back(bench: Bench) -> str:
    """A primary context that is released takes along what leaked in it."""

    def free() -> int:
        with opened(bench):
            return _free_bytes(bench)

    before = free()
    with opened(bench):
        leaked = bench.cuda.mem_alloc(bench.large)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _in_a_thread(lambda: str(leaked.free()))
    after = free()
    assert after > before - bench.large // 2, (before, after)
    return f"{(before - after) / _MIB:.0f} MiB missing afterwards"


def no_bytes_are_refused(bench: Bench) -> str:
    """`mem_alloc(0)` fails, which is why `Device.allocate` asks for one byte at least."""
    with opened(bench):
        said = _refused(bench.cuda.LogicError, lambda: bench.cuda.mem_alloc(0))
    with Device() as device:
        device.allocate(0)
    return said


def addresses_are_aligned(bench: Bench) -> str:
    """Allocations are aligned as `gpu.aligned` assumes, and lie where they say."""
    cuda = bench.cuda
    with opened(bench):
        held = [cuda.mem_alloc(size) for size in (1, 3, 255, 257, 100_000)]
        addresses = [int(each) for each in held]
        start, size = cuda.mem_get_address_range(addresses[-1] + 7)
        assert start == addresses[-1]
        assert size >= 100_000
        nowhere = addresses[-1] + (1 << 44)
        _refused(cuda.LogicError, lambda: cuda.mem_get_address_range(nowhere))
    assert all(address % aligned(1) == 0 for address in addresses), addresses
    alignment = min(address & -address for address in addresses)
    return f"{alignment} bytes at least"


def memory_is_counted(bench: Bench) -> str:
    """The free memory falls by what is allocated, and rises again."""
    with opened(bench):
        before = _free_bytes(bench)
        memory = bench.cuda.mem_alloc(bench.large)
        taken = before - _free_bytes(bench)
        memory.free()
        after = _free_bytes(bench)
    assert bench.large <= taken < 1.1 * bench.large, taken
    assert after > before - bench.large // 8, (before, after)
    return f"{bench.large} bytes take {taken}"


def memory_ends_with_an_error_of_its_own(bench: Bench) -> str:
    """Memory is allocated until an OutOfMemoryError; the device works on."""
    count = 0
    with Device() as device:
        size = device.gpu.memory_bytes // 10
        try:
            for count in range(12):  # noqa: B007
                device.allocate(size)
            raise AssertionError("there was no end to the memory")
        except OutOfMemoryError as error:
            said = error.message
    with Device() as device:  # all of it came back
        memory = device.allocate(size)
        device.upload(int(memory), np.arange(4, dtype=np.uint8))
        device.wait_for_all()
    with opened(bench):
        _refused(bench.cuda.MemoryError, lambda: bench.cuda.mem_alloc(20 * size))
        bench.cuda.mem_alloc(64).free()
    return f"after {count} tenths: {said}"


def garbage_is_collected_before_memory_ends(bench: Bench) -> str:
    """PyCUDA collects Python's garbage before it gives up."""

    class Cycle:
        def __init__(self, memory: Any) -> None:
            self.memory, self.itself = memory, self

    gc.disable()
    try:
        with opened(bench):
            size = 6 * _free_bytes(bench) // 10
            Cycle(bench.cuda.mem_alloc(size))
            bench.cuda.mem_alloc(size).free()
    finally:
        gc.enable()
    return f"twice {size} bytes"


def memory_is_freed_once(bench: Bench) -> str:
    """To free a second time is refused, for device and page-locked memory."""
    with opened(bench):
        memory = bench.cuda.mem_alloc(64)
        memory.free()
        said = _refused(bench.cuda.LogicError, memory.free)
        array = bench.cuda.pagelocked_empty(64, np.uint8)
        array.base.free()
        _refused(bench.cuda.LogicError, array.base.free)
    return said


def page_locked_memory_is_an_array(bench: Bench) -> str:
    """Page-locked arrays start at a page, have the asked shape and order, and free by their base.

    What still points into a freed one may go away afterwards.
    """
    with opened(bench):
        array = bench.cuda.pagelocked_empty((3, 5), np.float32)
        assert array.ctypes.data % mmap.PAGESIZE == 0
        assert (array.shape, array.strides) == ((3, 5), (20, 4))
        columns = bench.cuda.pagelocked_zeros((3, 5), np.float32, order="F")
        assert columns.strides == (4, 12)
        assert not columns.any()
        assert bench.cuda.pagelocked_empty_like(array).shape == (3, 5)
        part = array[1:]
        array.base.free()
        del array, part
        gc.collect()
        bench.cuda.Context.synchronize()
    return "by pagelocked_empty, _zeros and _empty_like"


def a_copy_takes_contiguous_buffers(bench: Bench) -> str:
    """Copies take bytes, a bytearray, a contiguous array; any other array is refused."""
    cuda = bench.cuda
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with opened(bench):
        memory = cuda.mem_alloc(12)
        for source in (values, values.tobytes(), np.asfortranarray(values.T)):
            cuda.memset_d8(memory, 0, 12)
            cuda.memcpy_htod(memory, source)
            result = bytearray(12)
            cuda.memcpy_dtoh(result, memory)
            assert bytes(result) == values.tobytes()
        said = _refused(ValueError, lambda: cuda.memcpy_htod(memory, values[:, ::2]))
    return said


def a_call_takes_what_it_was_recorded_with(bench: Bench) -> str:
    """An address is an allocation or a plain int, a stream is a Stream: nothing like them."""
    cuda = bench.cuda
    with opened(bench):
        memory, stream = cuda.mem_alloc(8), cuda.Stream()
        pinned = cuda.pagelocked_zeros(8, np.uint8)
        cuda.memcpy_htod_async(memory, pinned, stream)
        cuda.memcpy_htod_async(int(memory), pinned, stream)
        address, handle = np.int64(0), stream.handle
        assert isinstance(handle, int)
        said = _refused(TypeError, lambda: cuda.memcpy_htod_async(address, pinned, stream))
        _refused(TypeError, lambda: cuda.memcpy_htod_async(memory, pinned, handle))
        stream.synchronize()
    return said.split("\n")[0][:60]


def copies_are_those_of_numpy(bench: Bench) -> str:
    """Up, within the device, and down again on a stream: the bytes are the same."""
    cuda = bench.cuda
    values = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    with opened(bench):
        stream = cuda.Stream()
        first, second = cuda.mem_alloc(1000), cuda.mem_alloc_like(values)
        source, result = (cuda.pagelocked_empty(1000, np.uint8) for _ in range(2))
        source[:] = values
        cuda.memcpy_htod_async(first, source, stream)
        cuda.memcpy_dtod_async(int(second) + 100, int(first), 900, stream)
        cuda.memset_d8_async(second, 7, 100, stream)
        cuda.memcpy_dtoh_async(result, second, stream)
        stream.synchronize()
        found = result.copy()
        cuda.memset_d32(second, 0x01020304, 25)
        cuda.memset_d32_async(int(second) + 100, 5, 10, stream)
        stream.synchronize()
        words = np.zeros(35, np.uint32)
        cuda.memcpy_dtoh(words, second)
    expected = np.concatenate([np.full(100, 7, np.uint8), values[:900]])
    assert np.array_equal(found, expected)
    assert words.tolist() == [0x01020304] * 25 + [5] * 10
    return "1000 bytes, memset_d8, memset_d32"


def a_plain_copy_has_read_its_source(bench: Bench) -> str:
    """After `memcpy_htod` the array may change; after `Context.synchronize` the bytes are there."""
    cuda = bench.cuda
    values = np.full(bench.large // 4, 3, np.uint8)
    with opened(bench) as context:
        memory = cuda.mem_alloc(values.nbytes)
        cuda.memcpy_htod(memory, values)
        values[:] = 9
        context.synchronize()
        other = cuda.Stream(_NON_BLOCKING)
        result = cuda.pagelocked_empty(values.nbytes, np.uint8)
        cuda.memcpy_dtoh_async(result, memory, other)
        other.synchronize()
        right = bool((result == 3).all())
    assert right
    return f"{values.nbytes / _MIB:.0f} MiB of pageable memory"


def a_plain_copy_waits_for_the_streams(bench: Bench) -> str:
    """`memcpy_dtoh` comes after all that a stream had queued, without a synchronise."""
    cuda = bench.cuda
    with opened(bench):
        stream = cuda.Stream()
        memory = _marked(bench, stream)
        result = np.zeros(1, np.uint8)
        cuda.memcpy_dtoh(result, memory)
    assert result.tolist() == [7]
    return f"after {_FILLS} fills"


def the_null_stream_and_others_wait_for_each_other(bench: Bench) -> str:
    """An ordinary stream waits for the null stream; one that is made non-blocking does not."""
    cuda = bench.cuda
    with opened(bench):
        free, ordinary = cuda.Stream(_NON_BLOCKING), cuda.Stream()
        result = cuda.pagelocked_zeros(1, np.uint8)
        memory = _marked(bench, None)
        end = cuda.Event().record()
        cuda.Event().record(free).synchronize()
        assert not end.query(), "the non-blocking stream waited, or the work was too short"
        cuda.memcpy_dtoh_async(result, memory, ordinary)
        ordinary.synchronize()
        found = result.tolist()
    assert found == [7]
    return f"after {_FILLS} fills on the null stream"


def a_copy_within_the_device_does_not_wait(bench: Bench) -> str:
    """`memcpy_dtod` returns before it is done."""
    cuda = bench.cuda
    with opened(bench):
        stream = cuda.Stream()
        memory = _marked(bench, stream)
        cuda.memcpy_dtod(int(memory) + 1, memory, 1)
        event = cuda.Event().record()
        waited = event.query()
        event.synchronize()
        result = np.zeros(2, np.uint8)
        cuda.memcpy_dtoh(result, memory)
    assert not waited
    assert result.tolist() == [7, 7]
    return "behind a busy stream"


def streams_do_not_wait_for_each_other(bench: Bench) -> str:
    """A second stream is done while the first is busy; told to wait for an event, it waits."""
    cuda = bench.cuda
    with opened(bench):
        first, second = cuda.Stream(), cuda.Stream()
        result = cuda.pagelocked_zeros(1, np.uint8)
        memory = _marked(bench, first)
        event = cuda.Event().record(first)
        cuda.Event().record(second).synchronize()
        assert not event.query(), "the streams waited, or the work was too short"
        event = cuda.Event().record(first)
        second.wait_for_event(event)
        cuda.memcpy_dtoh_async(result, memory, second)
        second.synchronize()
        found = result.tolist()
    assert found == [7]
    return f"beside {_FILLS} fills"


def what_is_queued_is_asked_for(bench: Bench) -> str:
    """A stream that is busy is not done, nor is its event; waited for, both are."""
    cuda = bench.cuda
    with opened(bench):
        stream = cuda.Stream()
        assert stream.is_done()
        first = _marked(bench, stream)
        assert not stream.is_done()
        second = _marked(bench, stream)
        event = cuda.Event().record(stream)
        assert not event.query()
        stream.synchronize()
        assert stream.is_done()
        assert event.query()
        del first, second
    return "is_done and query"


def a_dropped_stream_still_does_its_work(bench: Bench) -> str:
    """A stream that Python lets go of while it is busy ends its work."""
    cuda = bench.cuda
    with opened(bench) as context:
        stream = cuda.Stream()
        memory = _marked(bench, stream)
        del stream
        context.synchronize()
        result = np.zeros(1, np.uint8)
        cuda.memcpy_dtoh(result, memory)
    assert result.tolist() == [7]
    return f"{_FILLS} fills"


def freeing_waits_for_the_work(bench: Bench) -> str:
    """Memory that queued work still uses can be freed: that waits."""
    cuda = bench.cuda
    with opened(bench):
        stream = cuda.Stream()
        result = cuda.pagelocked_zeros(1, np.uint8)
        memory = _marked(bench, stream)
        cuda.memcpy_dtoh_async(result, memory, stream)
        memory.free()
        found = result.tolist()
        stream.synchronize()
    assert found == [7]
    return f"after {_FILLS} fills, without a synchronise"


def events_tell_the_time_once_they_have_happened(bench: Bench) -> str:
    """Milliseconds between events: refused before both were recorded, and before both happened."""
    cuda = bench.cuda
    with opened(bench):
        stream = cuda.Stream()
        begin, end = cuda.Event(), cuda.Event()
        assert end.query()
        end.synchronize()
        _refused(cuda.LogicError, lambda: end.time_since(begin))
        begin.record(stream)
        memory = _marked(bench, stream)
        end.record(stream)
        said = _refused(cuda.RuntimeError, lambda: end.time_since(begin))
        end.synchronize()
        milliseconds = end.time_since(begin)
        assert milliseconds > 0
        assert begin.time_till(end) == milliseconds
        del memory
        silent = cuda.Event(cuda.event_flags.DISABLE_TIMING).record(stream)
        stream.synchronize()
        _refused(cuda.LogicError, lambda: silent.time_since(begin))
    return f"{milliseconds:.1f} ms for {_FILLS} fills; before: {said}"


def the_products_device_does_its_work(bench: Bench) -> str:
    """`Device`: pinned memory, copies either way, its clock; twice, and the memory is back."""
    values = np.random.default_rng(1).integers(0, 256, bench.large // 64, np.uint8)

    def free() -> int:
        with Device():
            return _free_bytes(bench)

    before = free()
    for _ in range(2):
        with Device() as device:
            memory, other = (int(device.allocate(values.nbytes)) for _ in range(2))
            pinned = device.pinned(values.shape, np.uint8)
            device.upload(other, values[::-1].copy())
            device.wait_for_all()
            device.start_clock()
            np.copyto(pinned, values)
            device.upload_async(memory, pinned)
            device.synchronize()
            device.copy_async(memory, other, 16)
            device.download_async(pinned, memory)
            milliseconds = device.stop_clock()
            found = pinned.copy()
    assert np.array_equal(found, np.concatenate([values[::-1][:16], values[16:]]))
    assert milliseconds > 0
    missing = before - free()
    assert missing < bench.large // 4, missing
    return f"{values.nbytes / _MIB:.2g} MiB there and back {milliseconds:.2f} ms"


def the_ring_on_the_device_gives_its_frames(bench: Bench) -> str:
    """`DeviceRing`: clips of new, old, repeated and overwritten frames, against NumPy."""
    side, capacity, most = 32 if bench.emulator else 224, 10, 8
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (capacity, side, side, 3), np.uint8)
    contract = SimpleNamespace(batch=1, height=side, width=side)
    manifest: Any = SimpleNamespace(input=contract, classes=("left", "right"))
    milliseconds = 0.0
    with Device() as device:
        memory = EngineMemory(device, manifest, most)
        ring = DeviceRing(device, memory, capacity, side, side)
        result = device.pinned((most, side, side, 3), np.uint8)
        for row in range(capacity):
            ring.store(row, frames[row])
        for turn in range(20):
            rows = rng.integers(0, capacity, most)
            assert ring.gather(rows).shape == (1, most, side, side, 3)
            device.download_async(result, memory.input)
            milliseconds = device.stop_clock()
            assert np.array_equal(result, frames[rows]), turn
            frames[turn % capacity] = rng.integers(0, 256, (side, side, 3), np.uint8)
            ring.store(turn % capacity, frames[turn % capacity])
        ring.close()
    return f"20 clips of {most} frames, the last in {milliseconds:.2f} ms"


def a_bad_address_is_noticed(bench: Bench) -> str:
    """A copy from freed memory fails, at the call or at the synchronise."""
    cuda = bench.cuda

    def copy() -> None:
        cuda.memcpy_dtod_async(target, address, bench.large, stream)
        stream.synchronize()

    with opened(bench):
        stream = cuda.Stream()
        source, target = cuda.mem_alloc(bench.large), cuda.mem_alloc(bench.large)
        address = int(source)
        source.free()
        return _refused(cuda.LogicError, copy)


def a_failure_ends_the_device(bench: Bench) -> str:
    """A kernel that fails shows at the next synchronise and in every call; closing stays quiet."""
    cuda = bench.cuda
    with Device() as device:
        memory = device.allocate(64)
        stream = cuda.Stream()
        _fail_on(bench, stream)
        said = _refused(cuda.LogicError, stream.synchronize)
        for call in (cuda.Stream, cuda.Event, cuda.Context.synchronize):
            _refused(cuda.LogicError, call)
        _refused(cuda.LogicError, lambda: cuda.mem_alloc(64))
        _refused(EngineError, device.wait_for_all)
        device.free(memory)
    return said


CHECKS: tuple[Callable[[Bench], str], ...] = (
    cuda_must_be_initialised,
    a_device_that_is_not_there_is_refused,
    the_device_describes_itself,
    popping_what_is_not_there_is_refused,
    a_context_is_current_once_it_is_pushed,
    a_thread_without_a_context_is_refused,
    a_primary_context_is_one,
    a_released_primary_context_is_left_on_the_stack,
    a_contexts_memory_goes_with_it,
    what_another_thread_frees_leaks,
    another_thread_takes_and_frees_memory,
    closing_gives_the_memory_back,
    no_bytes_are_refused,
    addresses_are_aligned,
    memory_is_counted,
    memory_ends_with_an_error_of_its_own,
    garbage_is_collected_before_memory_ends,
    memory_is_freed_once,
    page_locked_memory_is_an_array,
    a_copy_takes_contiguous_buffers,
    a_call_takes_what_it_was_recorded_with,
    copies_are_those_of_numpy,
    a_plain_copy_has_read_its_source,
    a_plain_copy_waits_for_the_streams,
    the_null_stream_and_others_wait_for_each_other,
    a_copy_within_the_device_does_not_wait,
    streams_do_not_wait_for_each_other,
    what_is_queued_is_asked_for,
    a_dropped_stream_still_does_its_work,
    freeing_waits_for_the_work,
    events_tell_the_time_once_they_have_happened,
    the_products_device_does_its_work,
    the_ring_on_the_device_gives_its_frames,
    a_bad_address_is_noticed,
    a_failure_ends_the_device,
)


@contextlib.contextmanager
def bench_for(dry_run: bool) -> Iterator[Bench]:
    """Yield the device; in a dry run a new emulated machine, with 64 MiB."""
    if not dry_run:
        yield Bench(importlib.import_module("pycuda.driver"), _GIB)
        return
    from tests.emulator import Emulator

    with Emulator("10.3.0", memory_bytes=64 * _MIB) as emulator:
        yield Bench(importlib.import_module("pycuda.driver"), _MIB, emulator)


def main(report: Report) -> None:
    """Run all checks, in their order."""
    if not report.dry_run:
        importlib.import_module("pycuda.driver")  # fails here once, and not in every check
    for check in CHECKS:
        assert check.__doc__ is not None

        def run(check: Callable[[Bench], str] = check) -> str:
            with bench_for(report.dry_run) as bench:
                return check(bench)

        report.run(check.__doc__.split("\n")[0], run)


@contextlib.contextmanager
def opened(bench: Bench) -> Iterator[Any]:
    """Yield the primary context, current on this thread."""
    bench.cuda.init()
    context = bench.cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield context
    finally:
        bench.cuda.Context.pop()
        context.detach()  # dropping it would release nothing


def _marked(bench: Bench, stream: Any) -> Any:
    """Keep a stream busy, and then put a 7 into the first byte of the memory that is returned.

    Hold that memory: to let go of it waits for the work.
    """
    memory = bench.cuda.mem_alloc(bench.large)
    for _ in range(_FILLS):
        bench.cuda.memset_d8_async(memory, 0, bench.large, stream)
    bench.cuda.memset_d8_async(memory, 7, 1, stream)
    return memory


def _fail_on(bench: Bench, stream: Any) -> None:
    """Queue work that fails; the emulator has no kernels, but copies fail there in the same way."""
    if bench.emulator:
        source, target = (bench.cuda.mem_alloc(64) for _ in range(2))
        address = int(source)
        source.free()
        bench.cuda.memcpy_dtod_async(target, address, 64, stream)
        return
    module = bench.cuda.module_from_buffer(_BAD_KERNEL)
    module.get_function("bad")(block=(1, 1, 1), grid=(1, 1), stream=stream)


def _free_bytes(bench: Bench) -> int:
    return int(bench.cuda.mem_get_info()[0])


def _refused(kind: type[BaseException], action: Callable[[], object]) -> str:
    """Return what an action says that must fail with `kind`."""
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"there was no {kind.__name__}")


def _in_a_thread(action: Callable[[], str]) -> str:
    """Run an action on a thread of its own; return what it returns, raise what it raises."""
    outcome: list[str | BaseException] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


if __name__ == "__main__":
    run_part("PyCUDA on the driver", main)
