"""Engines for streams: a step for each frame, which the state of the steps before goes into."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.known_answer import mean_of_steps
from ffn_edge.device import tensorrt_api
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import BundleError, EngineError, OutOfMemoryError
from ffn_edge.export.graph_session import GraphSession
from ffn_edge.export.tensorrt_plan import BuildOptions, Built, build_plans
from ffn_edge.runtime.engines.engine import (
    Engine,
    EngineOptions,
    PrecisionOption,
    open_engines,
)
from ffn_edge.runtime.engines.tensorrt import TensorRTEngine
from ffn_edge.runtime.engines.tensorrt_group import prove
from tests.emulator import VERSIONS, Emulator
from tests.runtime.engines.test_tensorrt import invoke

CPU = EngineOptions(backend="onnxruntime", threads=1)
STREAM = dataclasses.replace(CPU, stream=True)
Frames = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def forget_tensorrt() -> Iterator[None]:
    """Each test loads TensorRT anew."""
    tensorrt_api.load.cache_clear()
    yield
    tensorrt_api.load.cache_clear()


@pytest.fixture
def orin() -> Iterator[Emulator]:
    """A device with the version of JetPack 6; nothing may be left on it."""
    with Emulator("10.3.0") as device:
        yield device
        gc.collect()  # an error's traceback holds what it passed
        assert device.alive == []
        assert device.live_bytes == 0


@pytest.fixture
def device(tmp_path: Path) -> EngineOptions:
    return EngineOptions(backend="tensorrt", cache=tmp_path / "cache", stream=True)


def build(bundle: Bundle, options: EngineOptions, precision: Precision = "fp16") -> list[Built]:
    target = "rtx" if options.backend == "rtx" else "tensorrt"
    chosen = BuildOptions(target=target, precision=precision, stream=options.stream)
    opened = functools.partial(prove, bundle=bundle)
    return build_plans(bundle, PlanCache(options.cache), chosen, prove=opened)


def stream_of(bundle: Bundle, count: int, seed: int = 0) -> Frames:
    """Return frames of a stream: (1, count, H, W, 3)."""
    size = bundle.manifest.input.height
    return np.random.default_rng(seed).integers(0, 256, (1, count, size, size, 3), np.uint8)


def steps(engine: Engine, stream: Frames) -> list[Logits]:
    return [engine.infer(stream[:, t : t + 1]) for t in range(stream.shape[1])]


def relative(logits: Logits, expected: Logits) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


# ------------------------------------------------------------------------------ ONNX Runtime


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_steps_from_the_start_are_what_the_engine_for_clips_says(
    precision: PrecisionOption, causal_int8: Bundle
) -> None:
    with (
        open_engines(causal_int8, dataclasses.replace(CPU, precision=precision)) as clips,
        open_engines(causal_int8, dataclasses.replace(STREAM, precision=precision)) as streams,
    ):
        for frames in (2, 4):
            clip = stream_of(causal_int8, frames)
            expected = clips[frames].infer(clip)
            found = mean_of_steps(streams[frames].infer, clip)
            assert relative(found, expected) <= 1e-5  # the same sums: float32's rounding
            # And it goes on from there, where a clip would not.
            assert not np.array_equal(mean_of_steps(streams[frames].infer, clip), found)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_goes_on_from_its_own_state_as_if_nothing_had_been(
    precision: PrecisionOption, causal_int8: Bundle
) -> None:
    stream = stream_of(causal_int8, 8)
    with open_engines(causal_int8, dataclasses.replace(STREAM, precision=precision)) as engines:
        expected = steps(engines[4], stream)
        engines[4].restart()
        steps(engines[4], stream[:, :5])
        state = engines[4].state()
        steps(engines[4], stream[:, :3])
        engines[4].restart(state)
        assert np.array_equal(steps(engines[4], stream[:, 5:]), expected[5:])
    assert {values.dtype for values in state} == {np.dtype(np.float32)}
    assert all(np.abs(values).max() > 0 for values in state)


def test_a_state_is_worth_the_same_to_engines_of_other_rates_and_precisions(
    causal_int8: Bundle,
) -> None:
    stream = stream_of(causal_int8, 6)
    with (
        open_engines(causal_int8, dataclasses.replace(STREAM, precision="fp32")) as floats,
        open_engines(causal_int8, dataclasses.replace(STREAM, precision="int8")) as bytes_,
    ):
        steps(floats[2], stream)
        kept = floats[2].state()
        floats[4].restart(kept)
        assert all(map(np.array_equal, floats[4].state(), kept))
        bytes_[4].restart(kept)
        for values, rounded in zip(kept, bytes_[4].state(), strict=True):
            # Within half a step of 127 or 255, but for what is beyond the range.
            step = np.abs(rounded).max() / 127
            assert np.median(np.abs(values - rounded)) <= step
        bytes_[2].restart(bytes_[4].state())
        frame = stream[:, :1]
        assert relative(bytes_[2].infer(frame), floats[2].infer(frame)) < 0.3


def test_a_restart_or_another_opening_gives_the_same_bits(exported_causal: Bundle) -> None:
    stream = stream_of(exported_causal, 9)
    with open_engines(exported_causal, STREAM) as engines:
        first = steps(engines[4], stream)
        engines[4].restart()
        again = steps(engines[4], stream)
    with open_engines(exported_causal, STREAM) as engines:
        anew = steps(engines[4], stream)
    assert np.array_equal(first, again)
    assert np.array_equal(first, anew)
    assert not np.array_equal(first[0], first[8])


def test_engines_that_take_turns_do_not_disturb_each_other(exported_causal: Bundle) -> None:
    first, second = (stream_of(exported_causal, 5, seed) for seed in (1, 2))
    with open_engines(exported_causal, STREAM) as engines:
        alone = steps(engines[2], first), steps(engines[4], second)
        for engine in engines.values():
            engine.restart()
        pairs = [
            (engines[2].infer(first[:, t : t + 1]), engines[4].infer(second[:, t : t + 1]))
            for t in range(5)
        ]
    assert np.array_equal(alone, [list(each) for each in zip(*pairs, strict=True)])


def test_a_step_that_fails_leaves_the_stream_where_it_was(exported_causal: Bundle) -> None:
    stream = stream_of(exported_causal, 4)
    with open_engines(exported_causal, STREAM) as engines:
        expected = steps(engines[4], stream)
        engines[4].restart()
        found = steps(engines[4], stream[:, :2])
        with pytest.raises(EngineError, match="takes uint8"):
            engines[4].infer(stream)  # a whole clip
        found += steps(engines[4], stream[:, 2:])
    assert np.array_equal(found, expected)


def test_a_network_that_looks_both_ways_has_no_engines_for_streams(exported: Bundle) -> None:
    with pytest.raises(BundleError, match="future"), open_engines(exported, STREAM):
        pass
    with pytest.raises(BundleError, match="future"):
        build_plans(exported, PlanCache(None), BuildOptions(stream=True))


# ------------------------------------------------------------------------------ TensorRT


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_engines_of_steps_are_built_proven_and_run(
    version: str, precision: Precision, causal_int8: Bundle, tmp_path: Path
) -> None:
    target = "rtx" if version.startswith("rtx") else "tensorrt"
    options = EngineOptions(backend=target, cache=tmp_path, stream=True)
    stream = stream_of(causal_int8, 6)
    graph = causal_int8.read_graph(4, precision, step=True)
    expected = GraphSession(graph, causal_int8.tensors()).run_steps(stream)
    with Emulator(version) as device:
        for built in build(causal_int8, options, precision):
            assert f"step-{precision}" in built.plan.path.name
            assert built.plan.sidecar.deviation is not None
        with open_engines(causal_int8, options) as engines:
            assert engines.precisions == {2: precision, 4: precision}
            found = steps(engines[4], stream)
            device.reset_counters()
            engines[4].restart()
            again = steps(engines[4], stream)
            assert device.calls["driver.mem_alloc"] == device.copied_bytes == 0
            frame, logits = stream[:, 0].nbytes, 4 * len(causal_int8.manifest.classes)
            assert device.uploaded_bytes == 6 * frame
            assert device.downloaded_bytes == 6 * logits
        assert device.alive == []
    assert np.array_equal(found, again)
    # INT8 against its own graph in float32: what is not quantised is rounded to float16.
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 5e-2}[precision]
    assert relative(np.mean(found, axis=0), expected) < tolerance


def test_states_of_fp16_engines_take_half_the_memory(
    orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    def state_bytes(precision: Precision) -> int:
        options = dataclasses.replace(device, precision=precision)
        with open_engines(exported_causal, options) as engines:
            return sum(
                orin.memory.block_of(int(engine._states))[1]  # type: ignore[attr-defined, index]
                for engine in engines.values()
            )

    build(exported_causal, device, "fp16")
    build(exported_causal, device, "fp32")
    # Half, but for the places where a tensor may begin: these are small.
    assert state_bytes("fp16") < 0.6 * state_bytes("fp32")


def test_one_engine_at_a_time_begins_anew_when_it_is_loaded(
    orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    build(exported_causal, device)
    stream = stream_of(exported_causal, 3)
    with open_engines(exported_causal, device) as engines:
        expected = {frames: steps(engine, stream) for frames, engine in engines.items()}
    with open_engines(exported_causal, dataclasses.replace(device, resident="one")) as engines:
        live = set()
        for frames in (2, 4, 2, 4):
            assert np.array_equal(steps(engines[frames], stream), expected[frames])
            live.add((frames, orin.live_bytes))
        assert len(live) == 2  # nothing is left of an engine that gave way


def test_engines_on_a_device_that_take_turns_do_not_disturb_each_other(
    orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    build(exported_causal, device)
    stream = stream_of(exported_causal, 3)
    with open_engines(exported_causal, device) as engines:
        expected = {frames: steps(engine, stream) for frames, engine in engines.items()}
        for engine in engines.values():
            engine.restart()
        for t in range(3):
            for frames, engine in engines.items():
                assert np.array_equal(engine.infer(stream[:, t : t + 1]), expected[frames][t])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("resident", ["all", "one"])
def test_engines_on_a_device_hand_a_state_on(
    resident: str,
    precision: Precision,
    orin: Emulator,
    causal_int8: Bundle,
    device: EngineOptions,
) -> None:
    build(causal_int8, device, precision)
    chosen = dataclasses.replace(device, resident=resident, precision=precision)
    stream = stream_of(causal_int8, 6)
    with open_engines(causal_int8, chosen) as engines:
        expected = steps(engines[4], stream)
        engines[4].restart()
        steps(engines[4], stream[:, :4])
        state = engines[4].state()
        engines[2].restart(state)  # another rate has it meanwhile
        steps(engines[2], stream[:, :1])
        engines[4].restart(state)
        assert np.array_equal(steps(engines[4], stream[:, 4:]), expected[4:])


def test_a_ring_of_few_frames_feeds_them_one_by_one(
    orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    build(exported_causal, device)
    stream = stream_of(exported_causal, 7)
    with open_engines(exported_causal, device) as engines:
        expected = steps(engines[4], stream)
        engines[4].restart()
        assert engines.new_ring is not None
        with engines.new_ring(2) as ring:
            for t in range(7):
                ring.store(t % 2, stream[0, t])
                clip = ring.gather(np.array([t % 2]))
                assert np.array_equal(engines[4].infer(clip), expected[t])


def _not_swapped(engine: TensorRTEngine) -> tuple[int, int]:
    first = int(engine._states)
    return first, first + engine._half


def _in_place(engine: TensorRTEngine) -> tuple[int, int]:
    return int(engine._states), int(engine._states)


def _too_short(engine: TensorRTEngine) -> tuple[int, int]:
    first = int(engine._states)
    return first, first + engine._half // 2


@pytest.mark.parametrize("wrong", [_not_swapped, _in_place, _too_short])
def test_states_that_change_places_wrongly_are_not_to_be_trusted(
    wrong: object,
    orin: Emulator,
    exported_causal: Bundle,
    device: EngineOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(exported_causal, device, "fp32")
    monkeypatch.setattr(TensorRTEngine, "_halves", wrong)
    with (
        pytest.raises(EngineError, match="not to be trusted"),
        open_engines(exported_causal, device),
    ):
        pass


@pytest.mark.parametrize("nth", range(1, 10))
def test_too_little_memory_keeps_one_engine_or_is_one_clear_error(
    nth: int, orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    build(exported_causal, device)
    stream = stream_of(exported_causal, 3)
    with open_engines(exported_causal, device) as engines:
        expected = steps(engines[4], stream)
    orin.reset_counters()
    orin.fail("mem_alloc", nth=nth)
    with open_engines(exported_causal, device) as engines:
        assert np.array_equal(steps(engines[4], stream), expected)
    for again in (1, 2):
        orin.fail("mem_alloc", nth=again)
    with pytest.raises(OutOfMemoryError), open_engines(exported_causal, device):
        pass


def test_the_commands_build_and_verify_them(
    orin: Emulator, exported_causal: Bundle, exported: Bundle, tmp_path: Path
) -> None:
    path, cache = str(exported_causal.path), ["--cache", str(tmp_path)]
    built = json.loads(invoke("build", path, *cache, "--stream", "--json").stdout)
    assert all(row["step"] for row in built)

    options = [*cache, "--backend", "tensorrt", "--stream", "--clips", "2", "--json"]
    verified = json.loads(invoke("verify", path, *options).stdout)
    pairs = [each["pair"] for each in verified["frames"]["4"]["comparisons"]]
    assert pairs == ["graph = composed", "graph = steps", "graph = tensorrt fp16 steps"]
    assert verified["passed"]

    with pytest.raises(BundleError, match="future"):
        invoke("verify", str(exported.path), "--backend", "onnxruntime", "--stream")


def test_a_cache_without_engines_of_steps_says_how_to_build_them(
    orin: Emulator, exported_causal: Bundle, device: EngineOptions
) -> None:
    build(exported_causal, dataclasses.replace(device, stream=False))
    with (
        pytest.raises(EngineError, match="of a stream") as caught,
        open_engines(exported_causal, device),
    ):
        pass
    assert "--stream" in caught.value.hint
