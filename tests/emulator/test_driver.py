"""The emulated PyCUDA: contexts, memory, streams, and what fails."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.emulator.program import CLIP, EXPECTED, STRIPPED, Machine, started


@pytest.fixture
def machine() -> Iterator[Machine]:
    with started() as machine:
        yield machine


def _in_a_thread(action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


# Contexts


def test_a_call_without_a_context_on_its_thread_fails(machine: Machine) -> None:
    errors: list[Exception] = []

    def allocate() -> None:
        try:
            machine.cuda.mem_alloc(512)
        except machine.cuda.LogicError as error:
            errors.append(error)

    _in_a_thread(allocate)
    assert [str(error) for error in errors] == ["cuMemAlloc failed: invalid device context"]


def test_cuda_must_be_initialised(machine: Machine) -> None:
    machine.device.driver.is_initialized = False
    with pytest.raises(machine.cuda.LogicError, match="initialization error"):
        machine.cuda.Device(0)
    machine.device.driver.is_initialized = True
    with pytest.raises(machine.cuda.LogicError, match="invalid device ordinal"):
        machine.cuda.Device(1)


def test_a_context_that_is_retained_is_not_yet_current() -> None:
    with started() as machine:
        device = machine.cuda.Device(0)
        machine.cuda.Context.pop()
        with pytest.raises(machine.cuda.LogicError, match="invalid device context"):
            machine.cuda.Stream()
        context = device.retain_primary_context()
        with pytest.raises(machine.cuda.LogicError):
            machine.cuda.Stream()
        context.push()
        machine.cuda.Stream()
        assert machine.cuda.Context.get_current() == context
        del context


def test_a_context_that_is_destroyed_under_an_allocation_is_remembered(machine: Machine) -> None:
    cuda = machine.cuda
    primary = cuda.mem_alloc(8)
    context = cuda.Device(0).make_context()
    allocation = cuda.mem_alloc(512)
    cuda.Context.pop()
    context.detach()
    assert machine.device.undefined == ["a CUDA context was destroyed under DeviceAllocation"]
    assert machine.device.allocations == [(int(primary), 8)]
    allocation.free()  # without effect, and without an error


def test_memory_that_another_thread_frees_leaks_with_a_warning(machine: Machine) -> None:
    allocation = machine.cuda.mem_alloc(512)
    seen: list[str] = []

    def free() -> None:
        with pytest.warns(UserWarning, match="out-of-thread context") as caught:
            allocation.free()
        seen.extend(str(warning.message) for warning in caught)

    _in_a_thread(free)
    assert seen == ["device_allocation in out-of-thread context could not be cleaned up"]
    assert machine.device.live_bytes == 512


def test_what_is_alive_is_named(machine: Machine) -> None:
    before = machine.device.alive
    stream, allocation = machine.cuda.Stream(), machine.cuda.mem_alloc(8)
    assert sorted(machine.device.alive) == sorted([*before, "DeviceAllocation", "Stream"])
    del stream, allocation
    assert machine.device.alive == before


# Memory


def test_new_memory_holds_nothing_useful(machine: Machine) -> None:
    result = np.zeros(4, np.float32)
    machine.cuda.memcpy_dtoh(result, machine.cuda.mem_alloc(16))
    assert np.isnan(result).all()
    assert np.isnan(machine.cuda.pagelocked_empty(4, np.float32)).all()


def test_addresses_are_far_from_the_hosts_and_never_used_twice(machine: Machine) -> None:
    addresses = set()
    for _ in range(5):
        allocation = machine.cuda.mem_alloc(100)
        addresses.add(int(allocation))
        allocation.free()
    assert len(addresses) == 5
    assert min(addresses) > 1 << 47


def test_memory_is_counted(machine: Machine) -> None:
    device, cuda = machine.device, machine.cuda
    first, second = cuda.mem_alloc(100), cuda.mem_alloc(200)
    assert device.allocations == [(int(first), 100), (int(second), 200)]
    first.free()
    assert (device.live_bytes, device.peak_bytes) == (200, 300)
    assert cuda.mem_get_info() == ((2 << 30) - 200, 2 << 30)
    device.reset_counters()
    assert device.peak_bytes == 200


def test_memory_ends() -> None:
    with started(memory_bytes=1000) as machine:
        held = machine.cuda.mem_alloc(900)
        with pytest.raises(machine.cuda.MemoryError, match="cuMemAlloc failed: out of memory"):
            machine.cuda.mem_alloc(101)
        held.free()
        machine.cuda.mem_alloc(1000)


def test_memory_is_freed_once(machine: Machine) -> None:
    allocation = machine.cuda.mem_alloc(8)
    allocation.free()
    with pytest.raises(machine.cuda.LogicError, match="invalid resource handle"):
        allocation.free()
    array = machine.cuda.pagelocked_empty(8, np.uint8)
    array.base.free()
    with pytest.raises(machine.cuda.LogicError, match="invalid resource handle"):
        array.base.free()


def test_device_memory_is_not_the_hosts(machine: Machine) -> None:
    tracemalloc.start()
    allocation = machine.cuda.mem_alloc(8 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    allocation.free()


@pytest.mark.parametrize("fault", ["freed", "past the end", "a host address"])
def test_a_bad_address_shows_at_the_synchronise_and_ends_the_device(
    machine: Machine, fault: str
) -> None:
    cuda, stream = machine.cuda, machine.cuda.Stream()
    source, target = cuda.mem_alloc(64), cuda.mem_alloc(64)
    address = int(source)
    if fault == "freed":
        source.free()
    elif fault == "past the end":
        address += 1
    else:
        address = CLIP.ctypes.data
    cuda.memcpy_dtod_async(target, address, 64, stream)
    message = "cuStreamSynchronize failed: an illegal memory access was encountered"
    with pytest.raises(cuda.LogicError, match=message):
        stream.synchronize()
    with pytest.raises(cuda.LogicError, match="cuMemAlloc failed: an illegal memory access"):
        cuda.mem_alloc(64)
    target.free()


def test_copies_are_counted_by_direction(machine: Machine) -> None:
    cuda, device = machine.cuda, machine.device
    first, second = cuda.mem_alloc(64), cuda.mem_alloc(64)
    cuda.memcpy_htod(first, bytes(10))
    cuda.memcpy_dtod(second, first, 7)
    cuda.memcpy_dtoh(bytearray(3), second)
    assert (device.uploaded_bytes, device.copied_bytes, device.downloaded_bytes) == (10, 7, 3)
    assert device.calls["driver.memcpy_htod"] == 1


# Streams


def test_a_copy_reads_its_source_when_somebody_waits_for_it(machine: Machine) -> None:
    cuda, stream = machine.cuda, machine.cuda.Stream()
    memory = cuda.mem_alloc(8)
    staging, result = (cuda.pagelocked_zeros(8, np.uint8) for _ in range(2))
    staging[:] = 1
    cuda.memcpy_htod_async(memory, staging, stream)
    staging[:] = 2  # too soon
    cuda.memcpy_dtoh_async(result, memory, stream)
    assert result.tolist() == [0] * 8
    stream.synchronize()
    assert result.tolist() == [2] * 8


def test_asynchronous_copies_take_page_locked_memory_only(machine: Machine) -> None:
    memory, stream = machine.cuda.mem_alloc(8), machine.cuda.Stream()
    with pytest.raises(machine.cuda.LogicError, match="not page-locked"):
        machine.cuda.memcpy_htod_async(memory, np.zeros(8, np.uint8), stream)
    with pytest.raises(TypeError):  # a stream, not its handle
        pinned = machine.cuda.pagelocked_empty(8, np.uint8)
        machine.cuda.memcpy_htod_async(memory, pinned, stream.handle)


def test_a_synchronous_copy_waits_for_the_streams(machine: Machine) -> None:
    cuda, stream = machine.cuda, machine.cuda.Stream()
    memory, staging = cuda.mem_alloc(8), cuda.pagelocked_zeros(8, np.uint8)
    staging[:] = 7
    cuda.memcpy_htod_async(memory, staging, stream)
    result = np.zeros(8, np.uint8)
    cuda.memcpy_dtoh(result, memory)
    assert result.tolist() == [7] * 8


def test_streams_do_not_wait_for_each_other_unless_told_to(machine: Machine) -> None:
    cuda, first, second = machine.cuda, machine.cuda.Stream(), machine.cuda.Stream()
    memory = cuda.mem_alloc(8)
    staging, result = (cuda.pagelocked_zeros(8, np.uint8) for _ in range(2))
    cuda.memcpy_htod_async(memory, staging, first)
    cuda.memcpy_dtoh_async(result, memory, second)
    second.synchronize()
    assert result.tolist() == [0xFF] * 8  # what new memory holds
    event = cuda.Event().record(first)
    second.wait_for_event(event)
    cuda.memcpy_dtoh_async(result, memory, second)
    second.synchronize()
    assert result.tolist() == [0] * 8


def test_events_tell_the_time_once_they_have_happened(machine: Machine) -> None:
    cuda, stream = machine.cuda, machine.cuda.Stream()
    begin, end = cuda.Event(), cuda.Event()
    with pytest.raises(cuda.LogicError, match="invalid resource handle"):
        end.time_since(begin)
    begin.record(stream)
    end.record(stream)
    with pytest.raises(cuda.RuntimeError, match="not ready"):
        end.time_since(begin)
    assert not end.query()
    assert end.query()
    end.synchronize()
    assert 0 <= end.time_since(begin) < 1000
    assert begin.time_till(end) == end.time_since(begin)


def test_a_polled_stream_gets_done(machine: Machine) -> None:
    stream = machine.cuda.Stream()
    assert stream.is_done()
    machine.cuda.Event().record(stream)
    assert not stream.is_done()
    assert stream.is_done()


# Faults


def test_each_fault_strikes_the_nth_call_once(machine: Machine) -> None:
    machine.device.fail("mem_alloc", nth=2)
    machine.cuda.mem_alloc(8)
    with pytest.raises(machine.cuda.MemoryError, match="cuMemAlloc failed: out of memory"):
        machine.cuda.mem_alloc(8)
    machine.cuda.mem_alloc(8)
    with pytest.raises(ValueError, match="cannot be made to fail"):
        machine.device.fail("everything")


def test_page_locked_memory_can_run_out(machine: Machine) -> None:
    machine.device.fail("pagelocked_empty")
    with pytest.raises(machine.cuda.MemoryError, match="out of memory"):
        machine.cuda.pagelocked_empty(8, np.uint8)


def test_tensorrt_fails_as_it_does(machine: Machine) -> None:
    device, trt = machine.device, machine.trt
    device.fail("build")
    assert machine.build() is None
    assert machine.messages[-1] == "build: out of memory"
    device.fail("parse")
    _, parser, parsed = machine.parse(b"")
    assert (parsed, parser.num_errors) == (False, 1)
    device.fail("deserialize", error="out of luck")
    plan = machine.build(*STRIPPED)
    assert machine.load(plan) is None
    assert "out of luck" in machine.messages[-1]
    engine = machine.load(plan)
    refitter = trt.Refitter(engine, machine.logger)
    device.fail("set_named_weights")
    assert not refitter.set_named_weights("bias", trt.Weights(np.zeros(4, np.float32)))
    engine = machine.refitted()
    device.fail("refit")
    assert not trt.Refitter(engine, machine.logger).refit_cuda_engine()
    device.fail("create_execution_context")
    assert engine.create_execution_context() is None
    assert trt.Refitter(engine, machine.logger).refit_cuda_engine()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_a_fault_can_be_an_exception(machine: Machine, error: BaseException) -> None:
    machine.device.fail("build", error=error)
    with pytest.raises(type(error)):
        machine.build()


def test_a_run_that_is_refused_says_so(machine: Machine) -> None:
    engine = machine.refitted()
    machine.device.fail("execute_refused")
    with pytest.raises(AssertionError):
        machine.run(engine)
    np.testing.assert_allclose(machine.run(engine), EXPECTED, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(None, "LogicError"), ("unspecified launch failure", "LaunchError")],
)
def test_a_run_that_fails_ends_the_device_for_good(
    machine: Machine, text: str | None, kind: str
) -> None:
    engine, plan = machine.refitted(), machine.build()
    machine.device.fail("execute", error=text)
    message = text or "an illegal memory access was encountered"
    failure = getattr(machine.cuda, kind)
    with pytest.raises(failure, match=f"cuStreamSynchronize failed: {message}"):
        machine.run(engine)
    for action in (machine.cuda.Stream, machine.cuda.Event, machine.cuda.Context.synchronize):
        with pytest.raises(failure, match=message):
            action()
    assert machine.load(plan) is None


def test_stale_and_wrong_outputs_come_without_a_word(machine: Machine) -> None:
    engine = machine.refitted()
    machine.device.fail("stale", nth=2)
    np.testing.assert_allclose(machine.run(engine), EXPECTED, rtol=1e-4, atol=1e-3)
    for _ in range(2):
        assert np.isnan(machine.run(engine)).all()


def test_wrong_outputs_are_off_by_the_same_each_time(machine: Machine) -> None:
    engine = machine.refitted()
    machine.device.fail("wrong")
    first, second = machine.run(engine), machine.run(engine)
    assert np.array_equal(first, second)
    assert np.abs(first - EXPECTED).min() > 0.5


def test_an_action_can_be_put_before_a_call(machine: Machine) -> None:
    seen: list[Any] = []
    machine.device.before["driver.mem_alloc"] = lambda: seen.append(machine.device.live_bytes)
    held = [machine.cuda.mem_alloc(8) for _ in range(2)]
    assert seen == [0, 8]
    del held
    gc.collect()
