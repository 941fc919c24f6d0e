"""Build, refit and run on TensorRT: on an emulator with the interfaces of the real versions.

See `tests/emulator`: it has what a version has, computes in ONNX Runtime on memory of its own,
runs queued work only at a synchronise, and fails as the real one does.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import gc
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import Tensor, nn

from benchmarks.example import quantized
from ffn_edge import cli, network
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.known_answer import tolerance
from ffn_edge.device import tensorrt_api
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import BundleError, EngineError, ExportError, OutOfMemoryError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.plan_graph import write_plan_graph
from ffn_edge.export.tensorrt_plan import BuildOptions, Built, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.engines.tensorrt import TensorRTEngine
from ffn_edge.runtime.engines.tensorrt_group import TensorRTGroup, built_precisions, prove
from ffn_edge.runtime.profile.profile import Latency, profile_bundle, save_profile
from ffn_edge.runtime.profile.setting import PrecisionChooser
from ffn_edge.runtime.run import RunOptions, open_session
from tests.emulator import VERSIONS, Emulator

ROOT = Path(__file__).parents[3]
Frames = npt.NDArray[np.uint8]
Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]


def target_of(version: str) -> Any:
    return "rtx" if version.startswith("rtx") else "tensorrt"


@pytest.fixture(autouse=True)
def forget_tensorrt() -> Iterator[None]:
    """Each test loads TensorRT anew."""
    tensorrt_api.load.cache_clear()
    yield
    tensorrt_api.load.cache_clear()


@pytest.fixture(params=VERSIONS)
def device(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A device with each of the versions; nothing may be left on it."""
    with Emulator(request.param) as device:
        yield device
        gc.collect()  # an error's traceback holds what it passed
        assert device.alive == []


@pytest.fixture
def orin() -> Iterator[Emulator]:
    """A device with the version of JetPack 6; nothing may be left on it."""
    with Emulator("10.3.0") as device:
        yield device
        gc.collect()  # an error's traceback holds what it passed
        assert device.alive == []


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(backend="tensorrt", cache=tmp_path / "cache")


@pytest.fixture
def clip_video(write_video: Callable[..., Path]) -> Path:
    """Two seconds of changing colours."""
    return write_video("clip.mp4", ["red", "green", "blue", "green", "red"] * 4)


def invoke(command: str, *arguments: str) -> Result:
    found = cli.cli.get_command(click.Context(cli.cli), command)
    assert found is not None
    return CliRunner().invoke(found, arguments, catch_exceptions=False)


def build(bundle: Bundle, folder: Path | None, **choices: Any) -> list[Built]:
    return build_plans(bundle, PlanCache(folder), BuildOptions(**choices))


def build_and_prove(bundle: Bundle, folder: Path, **choices: Any) -> list[Built]:
    """Build as the command does: what was built is opened and tried."""
    opened = functools.partial(prove, bundle=bundle)
    return build_plans(bundle, PlanCache(folder), BuildOptions(**choices), prove=opened)


def random_clip(bundle: Bundle, frames: int, seed: int = 0) -> Frames:
    size = bundle.manifest.input.height
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (1, frames, size, size, 3), np.uint8)


def by_onnxruntime(graph: Path, clip: Frames) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(None, {"frames": clip})[0]
    return logits


def relative(logits: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


# ------------------------------------------------------------------------------ the whole path


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("version", VERSIONS)
def test_engines_that_share_a_weight_file_give_what_onnx_runtime_gives(
    version: str, precision: str, exported: Bundle, tmp_path: Path
) -> None:
    with Emulator(version) as device:
        built = build(exported, tmp_path / "cache", target=target_of(version), precision=precision)
        chosen = EngineOptions(backend=target_of(version), cache=tmp_path / "cache")
        with open_engines(exported, chosen) as engines:
            assert engines.precisions == {2: precision, 4: precision}
            for frames, engine in engines.items():
                clip = random_clip(exported, frames)
                logits = engine.infer(clip)
                write_plan_graph(exported, frames, precision, tmp_path)
                # The same graph in ONNX Runtime. It fuses otherwise where weights are constants,
                # as they are here and not in the emulator, so values are rounded elsewhere.
                expected = by_onnxruntime(tmp_path / "graph.onnx", clip)
                assert relative(logits, expected) < (2e-3 if precision == "fp16" else 1e-5)
                # float16 against the bundle's own float32 graph: rounding of weights and values.
                reference = by_onnxruntime(exported.graph_path(frames), clip)
                assert relative(logits, reference) < (1e-2 if precision == "fp16" else 1e-5)
                assert engine.device_ms is not None
        assert device.alive == []
    for each in built:
        refit = "REFIT" if target_of(version) == "rtx" else "REFIT_IDENTICAL"
        assert each.plan.sidecar.flags == ("STRIP_PLAN", refit)
        weights = sum(weight.count for weight in each.plan.sidecar.weights)
        assert each.plan.sidecar.plan.bytes < weights  # stripped: a fraction of 2 or 4 bytes each


def test_a_video_is_watched_on_every_version(
    device: Emulator,
    exported: Bundle,
    tmp_path: Path,
    clip_video: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = target_of(device.version)
    build(exported, tmp_path, target=target)
    chosen = RunOptions(
        window_s=0.4, hop_s=0.1, engines=EngineOptions(backend=target, cache=tmp_path)
    )
    cpu = dataclasses.replace(chosen, engines=EngineOptions(backend="onnxruntime", threads=1))
    caplog.set_level("INFO")

    for frames in exported.manifest.frame_counts:
        with open_session(exported, clip_video, frames=frames, options=chosen) as session:
            results = list(session)
        with open_session(exported, clip_video, frames=frames, options=cpu) as session:
            expected = list(session)
        # The device's ring gives the engine the very frames that the host's gives.
        assert [result.time_s for result in results] == [result.time_s for result in expected]
        for result, other in zip(results, expected, strict=True):
            assert result.top[0].class_name == other.top[0].class_name
            assert result.top[0].probability == pytest.approx(other.top[0].probability, abs=0.01)
            assert result.device_ms is not None
            assert 0 < result.device_ms <= result.engine_ms + 5
    assert any(
        f"{target} {device.version.removeprefix('rtx-')} in fp16" in line
        for line in caplog.messages
    )


def test_the_commands_work_from_build_to_verify(
    orin: Emulator, exported: Bundle, tmp_path: Path, clip_video: Path
) -> None:
    path, cache = str(exported.path), ["--cache", str(tmp_path)]
    rows = json.loads(invoke("build", path, *cache, "--json").stdout)
    assert [row["frames"] for row in rows] == [2, 4]
    assert all(row["gpu"] == orin.gpu and row["sm"] == "87" for row in rows)

    verified = json.loads(
        invoke("verify", path, *cache, "--backend", "tensorrt", "--clips", "2", "--json").stdout
    )
    pairs = [each["pair"] for each in verified["frames"]["4"]["comparisons"]]
    assert pairs == ["graph = composed", "graph = tensorrt fp16"]
    assert verified["passed"]

    lines = invoke(
        "run",
        path,
        *cache,
        "--backend",
        "tensorrt",
        "--source",
        str(clip_video),
        "--frames",
        "4",
        "--window",
        "0.4",
        "--json",
    )
    first, *_, summary = map(json.loads, lines.stdout.splitlines())
    assert first["frames"] == 4
    assert first["device_ms"] > 0
    assert "summary" in summary


@pytest.mark.slow
@pytest.mark.parametrize("weights_dtype", ["fp16", "int8"])
def test_rounded_weights_of_the_bundle_and_batches_work_too(
    weights_dtype: str, orin: Emulator, tiny: FrameFlexibleNetwork, tmp_path: Path
) -> None:
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    bundle = export_bundle(tiny, card, tmp_path / "bundle", weights_dtype=weights_dtype, batch=2)
    build(bundle, tmp_path / "cache")
    clip = np.concatenate([random_clip(bundle, 4, seed) for seed in (1, 2)])
    chosen = EngineOptions(backend="tensorrt", cache=tmp_path / "cache")
    with open_engines(bundle, chosen) as engines:
        logits = engines[4].infer(clip)
    assert relative(logits, by_onnxruntime(bundle.graph_path(4), clip)) < 1e-2


# ------------------------------------------------------------------------------ what it costs


def test_a_switch_allocates_nothing_refits_nothing_and_copies_only_new_frames(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    size = exported.manifest.input.height
    frame_bytes = size * size * 3
    with open_engines(exported, options) as engines:
        assert engines.new_ring is not None
        with engines.new_ring(8) as ring:
            for row in range(8):
                ring.store(row, np.full((size, size, 3), row, np.uint8))
            engines[4].infer(ring.gather(np.array([1, 3, 5, 7])))
            orin.reset_counters()
            engines[2].infer(ring.gather(np.array([3, 7])))
            assert orin.uploaded_bytes == 0  # the 4-frame clip has brought both
            assert orin.copied_bytes == 2 * frame_bytes
            ring.store(1, np.full((size, size, 3), 99, np.uint8))
            engines[4].infer(ring.gather(np.array([3, 5, 7, 1])))
            assert orin.uploaded_bytes == frame_bytes
            assert orin.copied_bytes == 6 * frame_bytes
            assert orin.downloaded_bytes == 2 * 4 * len(exported.manifest.classes)
            for costly in (
                "driver.mem_alloc",
                "driver.pagelocked_empty",
                "Refitter.refit_cuda_engine",
                "Runtime.deserialize_cuda_engine",
                "ICudaEngine.create_execution_context",
            ):
                assert orin.calls[costly] == 0, costly


def test_scratch_memory_is_the_largest_engines_and_not_the_sum(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    with open_engines(exported, options) as engines:
        needs = [engine.scratch_bytes for engine in engines.values()]  # type: ignore[attr-defined]
        assert needs[0] < needs[1]
        sizes = [size for _, size in orin.allocations]
        assert sizes.count(needs[1]) == 1
        assert needs[0] not in sizes
    assert orin.live_bytes == 0


@pytest.mark.slow
def test_refitting_holds_one_layer_in_host_memory_and_not_a_model(
    orin: Emulator, randomise: Randomise, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = randomise(network.build("tsm_resnet18", 5, (2, 4)))
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    bundle = export_bundle(model, card, tmp_path / "bundle")
    build(bundle, tmp_path / "cache")
    sizes = [array.nbytes for _, array in compose(bundle.tensors(), bundle.manifest.layers, 2)]
    chosen = EngineOptions(backend="tensorrt", cache=tmp_path / "cache")
    peaks: list[int] = []

    # Between loading the plan and handing over the last weight: what the refit itself holds.
    def begin() -> None:
        tracemalloc.start()

    def end() -> None:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    orin.before["Refitter.get_all_weights"] = begin
    orin.before["Refitter.refit_cuda_engine"] = end
    with open_engines(bundle, chosen):
        pass

    assert len(peaks) == 2
    # The largest layer, pieces of it in float16, and Python's own small objects.
    assert max(peaks) < 1.2 * max(sizes) + 1e6 < 0.5 * sum(sizes)


# ------------------------------------------------------------------------------ one at a time


def test_one_engine_at_a_time_gives_the_same_in_less_memory(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    clips = {frames: random_clip(exported, frames) for frames in (2, 4)}
    with open_engines(exported, options) as engines:
        together = {frames: engines[frames].infer(clip) for frames, clip in clips.items()}
        bytes_together = orin.live_bytes
    orin.reset_counters()
    one = dataclasses.replace(options, resident="one")
    with open_engines(exported, one) as engines:
        for frames in (2, 4, 2):
            assert np.array_equal(engines[frames].infer(clips[frames]), together[frames])
            assert orin.alive.count("IExecutionContext") == 1
        assert orin.live_bytes < bytes_together
        orin.reset_counters()
        engines[2].infer(clips[2])  # no switch
        assert orin.calls["Refitter.refit_cuda_engine"] == 0


def test_a_clip_that_lies_on_the_device_survives_a_switch_that_loads_an_engine(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    clip = random_clip(exported, 4)
    with open_engines(exported, dataclasses.replace(options, resident="one")) as engines:
        assert engines.new_ring is not None
        expected = engines[4].infer(clip)
        engines[2].infer(random_clip(exported, 2))
        with engines.new_ring(4) as ring:
            for row in range(4):
                ring.store(row, clip[0, row])
            assert np.array_equal(engines[4].infer(ring.gather(np.arange(4))), expected)


def test_too_little_memory_for_all_keeps_one_and_says_so(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    orin.fail("create_execution_context", nth=2, error="out of memory")
    with open_engines(exported, options) as engines:
        for frames in (2, 4):
            clip = random_clip(exported, frames)
            expected = by_onnxruntime(exported.graph_path(frames), clip)
            assert relative(engines[frames].infer(clip), expected) < 1e-2
        assert orin.alive.count("IExecutionContext") == 1
    assert any(
        "out of memory" in line and "one engine at a time" in line for line in engines.warnings
    )


@pytest.mark.parametrize("nth", range(1, 12))
def test_an_allocation_that_fails_falls_back_or_is_one_clear_error(
    nth: int, orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    orin.fail("mem_alloc", nth=nth)
    with open_engines(exported, options) as engines:
        engines[4].infer(random_clip(exported, 4))
        opened = orin.calls["driver.mem_alloc"]
    if nth <= opened - 7:  # it hit while opening: seven allocations, and then all anew
        assert any("one engine at a time" in line for line in engines.warnings)


@pytest.mark.parametrize("nth", range(1, 7))
def test_nothing_is_left_on_the_device_while_the_error_is_in_hand(
    nth: int, orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    # A traceback that held an engine would destroy it after its device.
    build(exported, options.cache)
    orin.fail("mem_alloc", nth=nth)
    try:
        with open_engines(exported, dataclasses.replace(options, resident="one")):
            assert nth > orin.calls["driver.mem_alloc"]
    except OutOfMemoryError:
        held = [name for name in orin.alive if name not in ("Event", "Stream")]
        assert held == []


def test_memory_that_is_short_even_for_one_engine_is_one_clear_error(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    for nth in (1, 2):
        orin.fail("mem_alloc", nth=nth)
    error = refusal(exported, options, "out of memory", OutOfMemoryError)
    assert "end other programs" in error.hint


# ------------------------------------------------------------------------------ what it refuses


def refusal(
    bundle: Bundle, options: EngineOptions, match: str, kind: type[EngineError] = EngineError
) -> EngineError:
    """Return why the engines of a bundle do not open."""
    with pytest.raises(kind, match=match) as caught, open_engines(bundle, options):
        pass
    return caught.value


@pytest.mark.parametrize(
    ("fault", "nth", "message"),
    [
        ("deserialize", 1, "cannot load the plan"),
        ("deserialize", 2, "cannot load the plan"),
        ("refit", 1, "did not take the weights"),
        ("set_named_weights", 7, "refuses the weights of"),
        ("create_execution_context", 2, "cannot make an execution context"),
        ("execute_refused", 1, "did not run"),
        ("stale", 2, "does not change with the input"),
        ("wrong", 1, "its logits are off by"),
    ],
)
def test_an_engine_that_fails_at_startup_is_refused(
    fault: str, nth: int, message: str, orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    orin.fail(fault, nth=nth, error="internal error")
    error = refusal(exported, options, message)
    assert "ffn-edge build" in error.hint


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_device_that_fails_at_startup_or_while_running_ends_in_order(
    nth: int, exported: Bundle, options: EngineOptions
) -> None:
    with Emulator("10.3.0") as device:
        build(exported, options.cache)
        device.fail("execute", nth=nth)  # the first four are the known answers
        with (
            pytest.raises(EngineError, match="illegal memory access"),
            open_engines(exported, options) as engines,
        ):
            engines[2].infer(random_clip(exported, 2))
        gc.collect()  # the error's traceback holds what it passed
        # The driver refuses to pop a context that failed; the rest is gone.
        assert set(device.alive) <= {"Context"}
        assert device.live_bytes == 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4, 32, 32, 3), np.float32),
        np.zeros((1, 2, 32, 32, 3), np.uint8),
        np.zeros((4, 32, 32, 3), np.uint8),
    ],
    ids=["float32", "2 frames", "no batch"],
)
def test_frames_of_another_shape_or_type_are_refused(
    wrong: npt.NDArray[Any], orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    with (
        open_engines(exported, options) as engines,
        pytest.raises(EngineError, match=r"takes uint8 \(1, 4, 32, 32, 3\); got"),
    ):
        engines[4].infer(wrong)


def test_nothing_built_is_said_with_the_command_that_builds(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    error = refusal(exported, options, "no engine for 2 frames was built in")
    assert f"ffn-edge build {exported.path}" in error.hint


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"version": "10.13.3.9"}, r"of TensorRT 10\.3\.0; this is 10\.13\.3\.9"),
        ({"sm": (11, 0)}, "for a GPU of SM 87; this one has SM 110"),
    ],
    ids=["version", "gpu"],
)
def test_a_plan_of_another_version_or_gpu_is_not_even_opened(
    other: dict[str, Any], message: str, exported: Bundle, options: EngineOptions
) -> None:
    with Emulator("10.3.0"):
        build(exported, options.cache)
    tensorrt_api.load.cache_clear()
    with Emulator(other.pop("version", "10.3.0"), **other) as device:
        with pytest.raises(EngineError, match=message), open_engines(exported, options):
            pass
        assert device.calls["Runtime.deserialize_cuda_engine"] == 0
        assert device.alive == []


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_plan_never_reaches_tensorrt(
    damage: bytes, orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    built = build(exported, options.cache)
    built[0].plan.path.write_bytes(damage)
    error = refusal(exported, options, f"has {len(damage)} bytes")
    assert "ffn-edge build" in error.hint
    assert orin.calls["Runtime.deserialize_cuda_engine"] == 0


@pytest.fixture
def changed(randomise: Randomise, exported: Bundle, tmp_path: Path) -> Bundle:
    """The bundle of a network of the same shape with other weights."""
    torch.manual_seed(1)
    model = randomise(network.build("tsm_tiny", 5, (2, 4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.9
    manifest = exported.manifest
    card = ModelCard(classes=manifest.classes, size=32, short_side=40)
    return export_bundle(model, card, tmp_path / "changed")


@pytest.mark.slow
def test_weights_that_changed_since_the_build_are_refused(
    orin: Emulator, exported: Bundle, changed: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    with (
        pytest.raises(EngineError, match=r"the bundle.s weights changed since.*--refit any"),
        open_engines(changed, options),
    ):
        pass


@pytest.mark.slow
def test_engines_for_any_weights_take_those_that_changed(
    orin: Emulator, exported: Bundle, changed: Bundle, options: EngineOptions
) -> None:
    built = build(exported, options.cache, refit="any")
    assert all(each.plan.sidecar.flags == ("STRIP_PLAN", "REFIT") for each in built)
    clip = random_clip(changed, 4)
    for bundle in (exported, changed):
        with open_engines(bundle, options) as engines:
            logits = engines[4].infer(clip)
        assert relative(logits, by_onnxruntime(bundle.graph_path(4), clip)) < 1e-2


def test_an_engine_that_needs_a_weight_the_sidecar_lacks_is_refused(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    built = build(exported, options.cache)
    sidecar = built[0].plan.sidecar
    fewer = dataclasses.replace(
        sidecar, weights=tuple(each for each in sidecar.weights if each.name != "conv1.weight")
    )
    built[0].plan.path.with_suffix(".json").write_text(fewer.to_json())
    refusal(exported, options, r"does not have: conv1\.weight")


def test_a_weight_of_another_type_is_refused(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    built = build(exported, options.cache)
    sidecar = built[0].plan.sidecar
    other = dataclasses.replace(
        sidecar, weights=tuple(dataclasses.replace(w, dtype="float32") for w in sidecar.weights)
    )
    built[0].plan.path.with_suffix(".json").write_text(other.to_json())
    refusal(exported, options, r"does not have: conv1\.")


def test_a_bundle_without_known_answers_is_to_be_exported_again(
    orin: Emulator, exported: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(exported, options.cache)
    monkeypatch.setattr("ffn_edge.bundle.known_answer.answer_name", lambda frames: "nowhere")
    refusal(exported, options, "no known answer for 2 frames")


# ------------------------------------------------------------------------------ building


@pytest.mark.parametrize(
    ("fault", "error", "message", "hint"),
    [
        ("build", "out of memory", "built no engine: .*out of memory", "--workspace 256MiB"),
        ("build", "internal error", "built no engine: .*internal error", "ffn-edge doctor"),
        ("parse", None, "cannot parse the graph: node", "--backend onnxruntime"),
    ],
)
def test_a_build_that_fails_says_why_and_leaves_nothing(
    fault: str,
    error: str | None,
    message: str,
    hint: str,
    orin: Emulator,
    exported: Bundle,
    tmp_path: Path,
) -> None:
    orin.fail(fault, nth=2, error=error)  # the second frame count
    with pytest.raises(ExportError, match=message) as caught:
        build(exported, tmp_path / "cache")
    assert hint in caught.value.hint
    left = sorted(path.suffix for path in (tmp_path / "cache").glob("*.*") if path.is_file())
    assert left == [".cache", ".json", ".plan"]  # the first frame count is whole
    again = build(exported, tmp_path / "cache")
    assert [each.reused for each in again] == [True, False]


def test_a_timing_cache_is_kept_for_each_version_and_a_foreign_one_is_not_used(
    exported: Bundle, tmp_path: Path
) -> None:
    for version in ("10.3.0", "10.13.3.9"):
        tensorrt_api.load.cache_clear()
        with Emulator(version):
            build(exported, tmp_path / "cache")
    (first,) = (tmp_path / "cache").glob("timings-10.3.0-87-*.cache")
    (second,) = (tmp_path / "cache").glob("timings-10.13.3.9-87-*.cache")
    assert first.read_bytes() != second.read_bytes()

    second.write_bytes(first.read_bytes())
    tensorrt_api.load.cache_clear()
    with Emulator("10.13.3.9"):
        build(exported, tmp_path / "cache", precision="fp32")
    assert first.read_bytes() != second.read_bytes()


def test_rtx_keeps_no_timing_cache(exported: Bundle, tmp_path: Path) -> None:
    with Emulator("rtx-1.7.1.116"):
        build(exported, tmp_path / "cache", target="rtx")
    assert not list((tmp_path / "cache").glob("timings-*"))


def test_rtx_compiles_its_kernels_once_and_not_at_each_start(
    exported: Bundle, tmp_path: Path
) -> None:
    def compiled() -> int:
        device.calls.clear()
        with open_engines(exported, EngineOptions(backend="rtx", cache=tmp_path)):
            return device.calls["compile"]

    with Emulator("rtx-1.7.1.116") as device:
        build(exported, tmp_path, target="rtx")
        assert compiled() == 2
        assert compiled() == 0
        build_and_prove(exported, tmp_path, target="rtx", precision="fp32")
        assert len(list(tmp_path.glob("*fp32*.kernels"))) == 2  # of the proof, for the first run
        for path in tmp_path.glob("*.kernels"):
            path.write_bytes(b"rubbish")
        assert compiled() == 2
        device.sm = (12, 0)
        assert compiled() == 2
    assert len(list(tmp_path.glob("*fp16*.kernels"))) == 2


def test_rtx_plans_that_hold_their_weights_run_without_a_refit(
    exported: Bundle, options: EngineOptions
) -> None:
    with Emulator("rtx-1.7.1.116", gpu=None):
        built = build(exported, options.cache, target="rtx")
    assert all(each.plan.sidecar.key.refit == "none" for each in built)
    tensorrt_api.load.cache_clear()
    with Emulator("rtx-1.7.1.116") as device:
        chosen = dataclasses.replace(options, backend="rtx")
        clip = random_clip(exported, 4)
        with open_engines(exported, chosen) as engines:
            logits = engines[4].infer(clip)
        assert relative(logits, by_onnxruntime(exported.graph_path(4), clip)) < 1e-2
        assert device.calls["Refitter.refit_cuda_engine"] == 0
        assert device.alive == []


# ------------------------------------------------------------------------------ what is there


@pytest.mark.parametrize(
    ("machine", "message", "hint"),
    [
        ({"gpu": None}, "PyCUDA cannot be loaded", "no NVIDIA driver"),
        ({"pycuda": False}, "PyCUDA is not installed", "pip install pycuda"),
        ({"tensorrt": False}, "tensorrt cannot be imported", "comes with JetPack"),
    ],
    ids=["no driver", "TensorRT without PyCUDA", "a driver without TensorRT"],
)
def test_what_is_missing_is_named_with_its_remedy(
    machine: dict[str, Any], message: str, hint: str, exported: Bundle, options: EngineOptions
) -> None:
    with Emulator("10.3.0", **machine):
        for attempt in (
            lambda: build(exported, options.cache),
            lambda: open_engines(exported, options).__enter__(),
        ):
            with pytest.raises(EngineError, match=message) as caught:
                attempt()
            assert hint in caught.value.hint


def opened_automatically(bundle: Bundle, cache: Path | None) -> OpenEngines:
    with open_engines(bundle, EngineOptions(cache=cache)) as engines:
        engines[4].infer(random_clip(bundle, 4))
        return engines


def test_auto_takes_tensorrt_where_it_works_and_says_why_where_not(
    exported: Bundle, options: EngineOptions
) -> None:
    with Emulator("10.3.0"):
        nothing_built = opened_automatically(exported, options.cache).backend
        build(exported, options.cache)
        works = opened_automatically(exported, options.cache).backend
    assert (works.name, works.reason) == ("tensorrt", "the fastest that works here")
    assert works.device == "NVIDIA Orin (emulated), SM 87"
    assert nothing_built.name == "onnxruntime"
    assert "no engine for 2 frames was built" in nothing_built.reason


def test_auto_falls_back_when_an_engine_gives_wrong_answers(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    orin.fail("wrong")
    backend = opened_automatically(exported, options.cache).backend
    assert backend.name == "onnxruntime"
    assert "not to be trusted" in backend.reason


def test_a_runtime_that_cannot_be_made_is_an_error_and_auto_goes_on(
    orin: Emulator, exported: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(exported, options.cache)

    def broken(*arguments: object) -> object:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt_api.load("tensorrt").module, "Runtime", broken)
    error = refusal(exported, options, "cannot make a Runtime: pybind11")
    assert "driver" in error.hint
    assert opened_automatically(exported, options.cache).backend.name == "onnxruntime"


def test_the_hint_names_what_was_asked_for(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache, precision="fp16")
    asked = dataclasses.replace(options, precision="fp32")
    error = refusal(exported, asked, "in fp16, not fp32")
    assert f"--precision fp32 --cache {options.cache}" in error.hint


# ------------------------------------------------------------------------------ INT8


@pytest.fixture(scope="module")
def resnet(randomise: Randomise, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tsm_resnet18 with INT8 graphs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    model = randomise(network.build("tsm_resnet18", 5, (2, 4)))
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    return quantized(export_bundle(model, card, folder / "bundle"), folder / "int8")


def check_int8(device: Emulator, bundle: Bundle, cache: Path) -> None:
    """Build, refit and try; the answers are those of the bundle's own INT8 graph."""
    target = target_of(device.version)
    built = build_and_prove(bundle, cache, target=target, precision="int8")
    chosen = EngineOptions(backend=target, cache=cache, precision="int8")
    with open_engines(bundle, chosen) as engines:
        assert set(engines.precisions.values()) == {"int8"}
        for each, (frames, engine) in zip(built, engines.items(), strict=True):
            clip = random_clip(bundle, frames)
            expected = by_onnxruntime(bundle.graph_path(frames, "int8"), clip)
            most = tolerance(bundle.manifest, frames, "int8")
            assert relative(engine.infer(clip), expected) < most
            sidecar = each.plan.sidecar
            assert sidecar.deviation is not None and 0 < sidecar.deviation < most
            graph = bundle.graph_path(frames, "int8").name
            assert sidecar.key.graph_sha256 == bundle.manifest.files[graph].sha256
            assert sidecar.flags[0] == "STRIP_PLAN"
            assert sidecar.plan.bytes < sum(weight.count for weight in sidecar.weights)


def test_int8_engines_are_refitted_from_the_one_weight_file(
    device: Emulator, exported_int8: Bundle, tmp_path: Path
) -> None:
    check_int8(device, exported_int8, tmp_path)


@pytest.mark.slow
def test_int8_engines_of_another_network_are_refitted_as_well(
    device: Emulator, resnet: Bundle, tmp_path: Path
) -> None:
    check_int8(device, resnet, tmp_path)


def test_each_frame_count_has_a_precision_of_its_own(
    orin: Emulator, exported_int8: Bundle, tmp_path: Path
) -> None:
    for precision in ("fp32", "int8"):
        build(exported_int8, tmp_path, precision=precision)
    counts = exported_int8.manifest.frame_counts

    built = built_precisions(exported_int8, "tensorrt", counts, tmp_path)
    assert built == {2: ("fp32", "int8"), 4: ("fp32", "int8")}
    wanted: dict[int, Precision] = {2: "int8", 4: "fp32"}
    with TensorRTGroup(exported_int8, "tensorrt", wanted, cache=tmp_path) as group:
        assert group.precisions == wanted
        assert group.deviations[4] < 1e-5 < group.deviations[2]
    missing = TensorRTGroup(exported_int8, "tensorrt", {2: "fp16"}, cache=tmp_path)
    with pytest.raises(EngineError, match="no engine for 2 frames") as caught, missing:
        pass
    assert f"ffn-edge build {exported_int8.path} --precision fp16" in caught.value.hint


def test_without_int8_graphs_no_int8_engine_is_looked_for(
    orin: Emulator, exported: Bundle, tmp_path: Path
) -> None:
    build(exported, tmp_path, precision="fp16")
    assert built_precisions(exported, "tensorrt", (2,), tmp_path) == {2: ("fp16",)}
    for attempt in (
        lambda: build(exported, tmp_path, precision="int8"),
        lambda: TensorRTGroup(exported, "tensorrt", {2: "int8"}, cache=tmp_path).__enter__(),
    ):
        with pytest.raises(BundleError, match="INT8") as caught:
            attempt()
        assert "ffn-edge quantize" in caught.value.hint


@pytest.mark.parametrize("name", ["relu_1.scale", "layer1.0.conv2.weight.scale",
                                  "layer1.0.conv2.weight"])  # fmt: skip
def test_a_wrong_value_in_an_int8_engine_gives_itself_away(
    name: str, device: Emulator, exported_int8: Bundle, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    target = target_of(device.version)
    plan = build(exported_int8, tmp_path, target=target, precision="int8")[0].plan
    assert name in {weight.name for weight in plan.sidecar.weights}
    real = TensorRTEngine._hand_over

    def wrong(engine: Any, weight: Any, values: Any, address: int) -> None:
        real(engine, weight, values / 8 if weight.name == name else values, address)

    monkeypatch.setattr(TensorRTEngine, "_hand_over", wrong)
    with pytest.raises(EngineError, match="not to be trusted"):
        prove(plan, exported_int8)


def test_int8_engines_for_any_weights_are_refused(
    orin: Emulator, exported_int8: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="INT8") as caught:
        build(exported_int8, tmp_path, precision="int8", refit="any")
    assert "--refit any" in caught.value.hint


# ------------------------------------------------------------------------------ signatures


@pytest.mark.slow
def test_every_call_that_the_code_makes_was_checked_against_the_recorded_signatures(
    exported: Bundle, exported_causal: Bundle, tmp_path: Path
) -> None:
    # The emulator binds each call to the signature of its version. So it is enough that the
    # whole path, run above, has called whatever the source names.
    called: set[str] = set()
    for version in VERSIONS:
        tensorrt_api.load.cache_clear()
        with Emulator(version) as device:
            target = target_of(version)
            for refit in ("identical", "any"):
                build(exported, tmp_path / refit, target=target, refit=refit)
            device.own_weights = ("tmp_weight_7",)
            build_and_prove(exported, tmp_path / "individual", target=target, precision="fp32")
            chosen = EngineOptions(backend=target, cache=tmp_path / "identical", resident="one")
            with open_engines(exported, chosen) as engines:
                assert engines.new_ring is not None
                with engines.new_ring(4) as ring:
                    engines[4].infer(ring.gather(np.arange(4)))
            with open_engines(exported, chosen):  # with what the first start has kept
                pass
            build_and_prove(exported_causal, tmp_path / "steps", target=target, stream=True)
            chosen = EngineOptions(backend=target, cache=tmp_path / "steps", stream=True)
            with open_engines(exported_causal, chosen) as engines:
                first, *_ = engines.values()
                first.restart(first.state())
            called |= {name.partition(".")[2] for name in device.calls}
            methods = device.methods
    named = set()
    for file in (
        "export/tensorrt_plan.py",
        "runtime/engines/tensorrt.py",
        "runtime/engines/tensorrt_group.py",
        "ffn_edge/device/gpu.py",
        "ffn_edge/device/tensorrt_api.py",
    ):
        tree = ast.parse((ROOT / file).read_text())
        named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # What only errors reach is called by the tests of those errors; memory is asked for where it
    # is not the host's.
    on_errors = {"get_error", "node", "node_operator", "desc", "num_errors", "mem_get_info"}
    assert (named & methods) - on_errors <= called


# ------------------------------------------------------------------------------ what was built


class Tokens(nn.Module):
    """Layer norms whose bias the next layer takes, and frames that are picked by number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (1, 4, 4), stride=(1, 4, 4))
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W)."""
        x = self.stem(x)[:, :, torch.tensor([0, 1, 3])]
        x = x.flatten(2).transpose(1, 2)
        x = x + F.gelu(self.mix(self.norm(x)))
        return self.head(self.last(x)).mean(1)


@pytest.fixture(scope="module")
def tokens(randomise: Randomise, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    model = randomise(network.specialize(Tokens(), (4, 8), num_classes=5, layout="clip"))
    card = ModelCard(classes=tuple("abcde"), size=16, short_side=16)
    return export_bundle(model, card, tmp_path_factory.mktemp("tokens") / "bundle")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_was_built_is_refitted_and_tried_on_every_version(
    precision: str, device: Emulator, tokens: Bundle, tmp_path: Path
) -> None:
    built = build_and_prove(tokens, tmp_path, target=target_of(device.version), precision=precision)

    for each in built:
        sidecar = each.plan.sidecar
        assert sidecar.deviation is not None
        assert 0 < sidecar.deviation < (2e-2 if precision == "fp16" else 1e-4)
        assert any(weight.dtype == "int64" and weight.count == 3 for weight in sidecar.weights)
        assert PlanCache(tmp_path).find(sidecar.key) == each.plan
    assert device.calls["Refitter.refit_cuda_engine"] == len(built)


def test_the_command_prints_how_far_the_answers_are_off(
    orin: Emulator, exported: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    arguments = [str(exported.path), "--cache", str(tmp_path)]
    shown = invoke("build", *arguments)
    assert "running the known clips" in caplog.text
    (two, four) = json.loads(invoke("build", *arguments, "--json").stdout)
    assert f"{two['deviation']:.1e}" in shown.stdout
    assert 0 < four["deviation"] < 5e-2


def test_an_engine_with_weights_that_nobody_knows_is_built_so_that_it_keeps_them(
    device: Emulator, tokens: Bundle, tmp_path: Path
) -> None:
    device.own_weights = ("tmp_weight_7",)
    target = target_of(device.version)

    built = build_and_prove(tokens, tmp_path, target=target)

    for each in built:
        assert each.plan.sidecar.flags == ("STRIP_PLAN", "REFIT_INDIVIDUAL")
    with open_engines(tokens, EngineOptions(backend=target, cache=tmp_path)) as engines:
        clip = random_clip(tokens, 4)
        expected = by_onnxruntime(tokens.graph_path(4), clip)
        assert relative(engines[4].infer(clip), expected) < 1e-2


def test_an_engine_with_integers_of_another_type_keeps_them(
    orin: Emulator, tokens: Bundle, tmp_path: Path
) -> None:
    orin.narrows = True
    first, second = build_and_prove(tokens, tmp_path)
    assert (
        first.plan.sidecar.flags == second.plan.sidecar.flags == ("STRIP_PLAN", "REFIT_INDIVIDUAL")
    )
    # Once it is known, no frame count is built twice any more.
    assert orin.calls["Builder.build_serialized_network"] == 3


def test_a_weight_that_cannot_be_refitted_by_itself_ends_the_build(
    orin: Emulator, tokens: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    orin.own_weights = ("tmp_weight_7",)
    network_class: Any = tensorrt.INetworkDefinition
    monkeypatch.setattr(network_class, "mark_weights_refittable", lambda network, name: False)
    with pytest.raises(ExportError, match="cannot refit"):
        build_and_prove(tokens, tmp_path)


def test_a_build_that_fails_leaves_nothing_of_tensorrt_on_the_device(
    exported: Bundle, tmp_path: Path
) -> None:
    with Emulator("10.3.0") as board:
        board.fail("build")
        with pytest.raises(ExportError) as caught:
            build(exported, tmp_path)
        del caught  # its traceback held what the error had passed
        gc.collect()
        assert board.undefined == []
        assert board.live_bytes == 0


@pytest.mark.parametrize("fault", ["wrong", "stale", "refit", "deserialize"])
def test_an_engine_that_does_not_prove_itself_is_not_kept(
    fault: str, orin: Emulator, exported: Bundle, tmp_path: Path
) -> None:
    orin.fail(fault)
    with pytest.raises(EngineError, match="was built and is of no use") as caught:
        build_and_prove(exported, tmp_path / "cache")
    assert "delete" not in caught.value.hint  # nothing was kept
    orin.outputs_are_wrong = orin.outputs_are_stale = False
    assert not list((tmp_path / "cache").glob("*.plan"))
    assert not [
        each.reused for each in build_and_prove(exported, tmp_path / "cache") if each.reused
    ]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "The engine cannot run on this GPU, which has compute capability 9.0",
            "--target tensorrt",
        ),
        ("CUDA error 222 loading a module", "update the driver"),
    ],
)
@pytest.mark.parametrize("stage", ["deserialize", "execute_refused"])
def test_a_card_or_driver_that_tensorrt_does_not_take_gets_the_hint_that_helps(
    stage: str, said: str, hint: str, orin: Emulator, exported: Bundle, tmp_path: Path
) -> None:
    orin.fail(stage, error=said)
    with pytest.raises(EngineError, match="was built and is of no use") as caught:
        build_and_prove(exported, tmp_path / "cache")
    assert hint in caught.value.hint
    assert "fp32" not in caught.value.hint


def test_a_progress_that_fails_ends_the_build_with_its_own_error(
    orin: Emulator, exported: Bundle, tmp_path: Path
) -> None:
    def broken(phase: str, done: int, total: int) -> None:
        raise BrokenPipeError("nobody reads this any more")

    with pytest.raises(BrokenPipeError):
        build_plans(exported, PlanCache(tmp_path / "cache"), BuildOptions(), progress=broken)
    assert not list((tmp_path / "cache").glob("*.plan"))


def test_weights_that_may_change_are_refused_where_tensorrt_loses_biases(
    orin: Emulator, exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorrt.__version__", "11.3.0")
    with pytest.raises(ExportError, match="bias"):
        build_and_prove(exported, tmp_path, refit="any")


# ------------------------------------------------------------------------------ small boards


def test_on_a_board_tensorrt_takes_memory_that_its_own_allocator_does_not_get(
    exported: Bundle, tmp_path: Path
) -> None:
    with Emulator("10.3.0") as board:
        board.pool_bytes = 1000
        build(exported, tmp_path)
        with open_engines(exported, EngineOptions(backend="tensorrt", cache=tmp_path)) as engines:
            assert engines.backend.name == "tensorrt"
            assert board.pooled == 0
        assert board.live_bytes == 0
        assert board.alive == []


def test_a_graphics_card_is_left_to_tensorrts_own_allocator(
    exported: Bundle, tmp_path: Path
) -> None:
    with Emulator("10.16.1.11", gpu="NVIDIA RTX A2000", sm=(8, 6)) as card:
        build(exported, tmp_path)
        with open_engines(exported, EngineOptions(backend="tensorrt", cache=tmp_path)):
            assert card.pooled > 0
        assert card.calls["driver.mem_get_info"] > 0  # the host's memory is another


def test_out_of_memory_on_a_board_names_memory_in_pieces(
    exported: Bundle, options: EngineOptions
) -> None:
    alone = dataclasses.replace(options, resident="one")
    with Emulator("10.3.0") as board:
        build(exported, options.cache)
        board.fail("mem_alloc")
        with pytest.raises(OutOfMemoryError) as caught, open_engines(exported, alone):
            pass
    assert "drop_caches" in caught.value.hint


@pytest.mark.parametrize(
    "said",
    [
        "Requested amount of GPU memory (134217728 bytes) could not be allocated.",
        "NvMapMemAllocInternalTagged: 1075072515 error 12",
        "Error Code 2: OutOfMemory (no further information)",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    ],
)
def test_what_tensorrt_says_when_memory_is_short_is_known(said: str) -> None:
    assert tensorrt_api.is_out_of_memory(said)


def test_open_engines_tell_how_far_their_logits_are_off(
    orin: Emulator, exported: Bundle, options: EngineOptions
) -> None:
    build(exported, options.cache)
    with open_engines(exported, options) as engines:
        assert engines.logit_errors.keys() == {2, 4}
        assert all(0 < error < 0.5 for error in engines.logit_errors.values())


# ------------------------------------------------------------------------------ power modes


def test_engines_of_another_power_mode_are_warned_of_and_built_anew(
    orin: Emulator, exported: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = (
        "ffn_edge.export.tensorrt_plan.power_mode",
        "ffn_edge.runtime.engines.tensorrt_group.power_mode",
    )

    def switch_to(mode: str | None) -> None:
        for name in modes:
            monkeypatch.setattr(name, lambda: mode)

    def warnings() -> list[str]:
        with open_engines(exported, options) as engines:
            return list(engines.warnings)

    switch_to("15W")
    build(exported, options.cache)
    assert warnings() == []
    switch_to("MAXN_SUPER")
    assert "15W" in warnings()[0]
    assert [each.reused for each in build(exported, options.cache)] == [False, False]
    assert warnings() == []
    switch_to(None)  # in a container, say
    assert [each.reused for each in build(exported, options.cache)] == [True, True]


# ------------------------------------------------------------------------------ precisions


@pytest.fixture
def int8_bundle(exported_int8: Bundle, tmp_path: Path) -> Bundle:
    """A quantised bundle, for a profile to be written into."""
    return Bundle.load(shutil.copytree(exported_int8.path, tmp_path / "bundle"))


@pytest.mark.parametrize("missing", [2, 4])
def test_run_says_which_frame_count_was_not_built(
    missing: int, orin: Emulator, int8_bundle: Bundle, options: EngineOptions, clip_video: Path
) -> None:
    if missing == 4:
        plan = build(int8_bundle, options.cache)[1].plan.path
        plan.unlink()
        plan.with_suffix(".json").unlink()
    chosen = RunOptions(engines=options)
    with (
        pytest.raises(EngineError, match=f"no engine for {missing} frames") as caught,
        open_session(int8_bundle, clip_video, options=chosen),
    ):
        pass
    assert "ffn-edge build" in caught.value.hint


def test_what_is_profiled_is_what_runs_where_int8_alone_was_built(
    orin: Emulator, int8_bundle: Bundle, options: EngineOptions
) -> None:
    options = dataclasses.replace(options, backend="auto")
    build(int8_bundle, options.cache, precision="int8")
    profiled = profile_bundle(int8_bundle, options, runs=1)
    assert profiled.latencies.keys() == {"int8"}
    chooser = PrecisionChooser(int8_bundle, options)
    with open_engines(int8_bundle, options, precisions=chooser) as engines:
        assert engines.backend.name == profiled.conditions.backend == "tensorrt"
        assert set(engines.precisions.values()) == {"int8"}


def test_auto_goes_on_to_the_cpu_where_int8_alone_was_built_and_may_lose_too_much(
    orin: Emulator, int8_bundle: Bundle, options: EngineOptions
) -> None:
    manifest = int8_bundle.manifest
    sub_networks = {
        frames: dataclasses.replace(sub, int8=dataclasses.replace(sub.int8, accuracy=None))  # type: ignore[type-var]
        for frames, sub in manifest.sub_networks.items()
    }
    bundle = dataclasses.replace(
        int8_bundle, manifest=dataclasses.replace(manifest, sub_networks=sub_networks)
    )
    build(bundle, options.cache, precision="int8")
    with (
        pytest.raises(EngineError, match="no labels"),
        open_engines(bundle, options, precisions=PrecisionChooser(bundle, options)),
    ):
        pass
    options = dataclasses.replace(options, backend="auto")
    chooser = PrecisionChooser(bundle, options)
    with open_engines(bundle, options, precisions=chooser) as engines:
        assert engines.backend.name == "onnxruntime"
        assert set(engines.precisions.values()) == {"fp32"}


def test_a_damaged_plan_of_one_precision_leaves_the_others(
    orin: Emulator, int8_bundle: Bundle, options: EngineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    build(int8_bundle, options.cache, precision="fp16")
    build(int8_bundle, options.cache, precision="int8")[0].plan.path.write_bytes(b"half")
    assert profile_bundle(int8_bundle, options, runs=1).latencies.keys() == {"fp16", "int8"}
    chooser = PrecisionChooser(int8_bundle, options)
    with open_engines(int8_bundle, options, precisions=chooser) as engines:
        assert engines.precisions[2] == "fp16"
    assert "has 4 bytes" in caplog.text


def test_run_opens_each_frame_count_in_what_the_profile_says_is_fastest(
    orin: Emulator, int8_bundle: Bundle, options: EngineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bundle = int8_bundle
    for precision in ("fp16", "int8"):
        build(bundle, options.cache, precision=precision)
    with open_engines(bundle, options) as engines:
        assert engines.precisions == {2: "fp16", 4: "fp16"}
    latencies: dict[Precision, dict[int, Latency]] = {
        "fp16": {2: Latency((1.0,)), 4: Latency((3.0,))},
        "int8": {2: Latency((1.5,)), 4: Latency((2.0,))},
    }
    save_profile(bundle, engines.backend, latencies)
    chooser = PrecisionChooser(bundle, options)
    with open_engines(bundle, options, precisions=chooser) as engines:
        assert engines.precisions == {2: "fp16", 4: "int8"}
    said = "4 frames in int8: 2 ms against 3 in fp16 and it lost nothing on 200 clips"
    assert said in caplog.messages
