"""The emulated runtime and refitter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.emulator.program import EXPECTED, STRIPPED, WEIGHTS, Machine, started


@pytest.fixture
def machine() -> Iterator[Machine]:
    with started() as machine:
        yield machine


# The runtime and the refitter


@pytest.mark.parametrize("size", [1, 30, 200, -1], ids=["a byte", "magic", "header", "the end"])
def test_a_truncated_plan_is_refused(machine: Machine, size: int) -> None:
    plan = machine.build()
    assert plan is not None
    assert machine.load(plan[:size]) is None
    assert machine.messages[-1].startswith("IRuntime::deserializeCudaEngine")


def test_an_empty_plan_crashes_tensorrt_but_not_rtx(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="would crash"):
        machine.load(b"")
    with started("rtx-1.7.1.116") as rtx:
        assert rtx.load(b"") is None


def test_a_plan_of_another_version_or_gpu_is_refused(machine: Machine) -> None:
    plan = machine.build()
    with started("10.13.3.9") as other:
        assert other.load(plan) is None
        assert "not compatible with this version of TensorRT" in other.messages[-1]
    with started("10.3.0", sm=(11, 0)) as other:
        assert other.load(plan) is None
        assert "incompatible device" in other.messages[-1]


def test_a_refitter_knows_names_types_and_counts(machine: Machine) -> None:
    engine = machine.load(machine.build(*STRIPPED))
    trt, refitter = machine.trt, machine.trt.Refitter(engine, machine.logger)
    kernel = refitter.get_weights_prototype("kernel")
    assert (kernel.dtype, kernel.size) == (trt.float32, 108)
    assert refitter.get_weights_prototype("shape").size == 0
    assert not refitter.set_named_weights("shape", trt.Weights(WEIGHTS["bias"]))
    assert not refitter.set_named_weights("bias", trt.Weights(WEIGHTS["bias"].astype(np.float16)))
    assert not refitter.set_named_weights("bias", trt.Weights(WEIGHTS["bias"][:3]))
    assert refitter.set_named_weights("bias", trt.Weights(WEIGHTS["bias"]))
    assert refitter.get_missing_weights() == ["kernel"]
    assert not refitter.refit_cuda_engine()


def test_an_engine_without_its_weights_does_not_run(machine: Machine) -> None:
    engine = machine.load(machine.build(*STRIPPED))
    with pytest.raises(AssertionError):
        machine.run(engine)
    assert "no weights yet" in machine.messages[-1]


def test_a_plan_without_refit_has_no_refitter(machine: Machine) -> None:
    engine = machine.load(machine.build())
    assert not engine.refittable
    with pytest.raises(TypeError, match="nullptr"):
        machine.trt.Refitter(engine, machine.logger)


def test_other_weights_in_an_identical_plan_give_garbage_without_a_word(machine: Machine) -> None:
    other = {name: array * np.float32(1.01) for name, array in WEIGHTS.items()}
    result = machine.run(machine.refitted(other))
    assert not np.allclose(result, EXPECTED * 1.01, atol=1)
    assert len(machine.device.undefined) == 2


def test_a_plan_for_any_weights_takes_others(machine: Machine) -> None:
    engine = machine.load(machine.build("STRIP_PLAN", "REFIT"))
    refitter = machine.trt.Refitter(engine, machine.logger)
    for name, array in WEIGHTS.items():
        refitter.set_named_weights(name, machine.trt.Weights(array * np.float32(2)))
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(machine.run(engine), EXPECTED * 2, rtol=1e-4, atol=1e-3)
    assert machine.device.undefined == []


def test_weights_on_the_host_are_read_when_the_engine_is_refitted(machine: Machine) -> None:
    engine = machine.load(machine.build("STRIP_PLAN", "REFIT"))
    refitter = machine.trt.Refitter(engine, machine.logger)
    arrays = {name: np.zeros_like(array) for name, array in WEIGHTS.items()}
    for name, array in arrays.items():
        pointer = machine.trt.Weights(machine.trt.float32, array.ctypes.data, array.size)
        assert refitter.set_named_weights(name, pointer)
        array[...] = WEIGHTS[name]
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(machine.run(engine), EXPECTED, rtol=1e-4, atol=1e-3)


def test_an_engine_cannot_be_refitted_while_it_runs(machine: Machine) -> None:
    engine = machine.refitted()
    refitter = machine.trt.Refitter(engine, machine.logger)
    context = engine.create_execution_context()
    stream, memory = machine.cuda.Stream(), machine.cuda.mem_alloc(4096)
    context.set_tensor_address("frames", int(memory))
    context.set_tensor_address("logits", int(memory) + 1024)
    assert context.execute_async_v3(stream.handle)
    assert not refitter.refit_cuda_engine()
    assert "pending" in machine.messages[-1]
    stream.synchronize()
    assert refitter.refit_cuda_engine()


def test_scratch_memory_is_the_callers_where_the_caller_wants_it(machine: Machine) -> None:
    engine = machine.refitted()
    size = engine.device_memory_size_v2
    assert size >= 4 * EXPECTED.nbytes
    before = machine.device.live_bytes
    strategy = machine.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    context = engine.create_execution_context(strategy)
    assert machine.device.live_bytes == before
    stream, memory = machine.cuda.Stream(), machine.cuda.mem_alloc(4096)
    context.set_tensor_address("frames", int(memory))
    context.set_tensor_address("logits", int(memory) + 1024)
    assert not context.execute_async_v3(stream.handle)
    scratch = machine.cuda.mem_alloc(size)
    context.set_device_memory(int(scratch), size - 1)
    assert not context.execute_async_v3(stream.handle)
    context.set_device_memory(int(scratch), size)
    assert context.execute_async_v3(stream.handle)
    stream.synchronize()
    own = engine.create_execution_context()
    assert machine.device.live_bytes == before + 4096 + 2 * size
    del own
    assert machine.device.live_bytes == before + 4096 + size


def test_two_runs_at_once_in_one_scratch_memory_are_remembered(machine: Machine) -> None:
    engine, cuda = machine.refitted(), machine.cuda
    size = engine.device_memory_size_v2
    strategy = machine.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    contexts = [engine.create_execution_context(strategy) for _ in range(2)]
    scratch, memory = cuda.mem_alloc(size), cuda.mem_alloc(4096)
    streams = [cuda.Stream(), cuda.Stream()]
    for context in contexts:
        context.set_device_memory(int(scratch), size)
        context.set_tensor_address("frames", int(memory))
        context.set_tensor_address("logits", int(memory) + 1024)
    assert contexts[0].execute_async_v3(streams[0].handle)
    done = cuda.Event().record(streams[0])
    streams[1].wait_for_event(done)
    assert contexts[1].execute_async_v3(streams[1].handle)
    assert machine.device.undefined == []
    assert contexts[0].execute_async_v3(streams[0].handle)
    assert machine.device.undefined == ["two contexts run at once in one scratch memory"]
    cuda.Context.synchronize()
