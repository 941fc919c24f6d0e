"""Engines open side by side, and refuse what does not fit."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.known_answer import deviation, known_clips, known_logits
from ffn_edge.device.int8_instructions import Int8Instructions
from ffn_edge.errors import BundleError, EngineError
from ffn_edge.runtime.engines import onnxruntime as onnxruntime_module
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.engines.onnxruntime import (
    HeldWeights,
    OnnxRuntimeEngine,
    session_options,
)


def clip(frames: int, channel: int) -> np.ndarray:
    pixels = np.zeros((1, frames, 16, 16, 3), np.uint8)
    pixels[..., channel] = 255
    return pixels


def test_every_engine_of_a_bundle_classifies(bundle: Bundle) -> None:
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        assert list(engines) == [2, 4, 8]
        for frames, engine in engines.items():
            assert engine.frames == frames
            for channel in range(3):
                logits = engine.infer(clip(frames, channel))
                assert logits.shape == (1, 3)
                assert logits.dtype == np.float32
                assert logits.argmax() == channel


def test_only_the_engines_asked_for_are_opened(bundle: Bundle) -> None:
    with open_engines(bundle, frame_counts=[8, 2]) as engines:
        assert list(engines) == [2, 8]


def test_a_frame_count_that_the_bundle_lacks_is_refused(bundle: Bundle) -> None:
    with (
        pytest.raises(BundleError, match="serves 2, 4, 8 frames; 16 was asked for") as caught,
        open_engines(bundle, frame_counts=[16]),
    ):
        pass
    assert "--frames" in caught.value.hint


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(EngineError, match="no backend 'abacus'"):
        EngineOptions(backend="abacus")


def test_the_choice_of_a_backend_says_which_and_why(bundle: Bundle) -> None:
    with open_engines(bundle, EngineOptions(threads=3)) as engines:
        automatic = engines.backend
    with open_engines(bundle, EngineOptions(backend="onnxruntime")) as engines:
        named = engines.backend
    assert automatic.name == named.name == "onnxruntime"
    assert automatic.version == named.version != ""
    assert automatic.threads == 3
    assert named.threads >= 1
    assert automatic.reason != named.reason == "asked for"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="no precision 'fp8'"):
        EngineOptions(precision="fp8")  # type: ignore[arg-type]


def test_onnx_runtime_refuses_fp16(bundle: Bundle) -> None:
    options = EngineOptions(precision="fp16")
    with pytest.raises(EngineError, match="fp16") as caught, open_engines(bundle, options):
        pass
    assert "--precision fp32" in caught.value.hint


def test_int8_of_a_bundle_that_was_not_quantised_is_refused(bundle: Bundle) -> None:
    options = EngineOptions(precision="int8")
    with pytest.raises(BundleError, match="INT8") as caught, open_engines(bundle, options):
        pass
    assert "ffn-edge quantize" in caught.value.hint


def test_engines_of_both_precisions_stand_side_by_side(
    quantize: Callable[[dict[int, float]], Bundle],
) -> None:
    bundle = quantize({2: 0.0, 4: 0.0})
    precisions: dict[int, Precision] = {2: "fp32", 4: "int8"}
    tensors, contract = bundle.tensors(), bundle.manifest.input
    with open_engines(
        bundle, EngineOptions(threads=1), precisions=lambda *_: precisions
    ) as engines:
        assert engines.precisions == precisions
        off = {
            frames: deviation(
                np.stack([engine.infer(clip) for clip in known_clips(contract, frames)]),
                known_logits(tensors, frames),
            )
            for frames, engine in engines.items()
        }
    int8 = bundle.manifest.sub_networks[4].int8
    assert int8 is not None
    assert off[2] < 1e-5  # float32: rounding only
    assert 1e-5 < off[4] <= 2 * int8.deviation


def test_no_threads_are_refused() -> None:
    with pytest.raises(EngineError, match="at least one thread"):
        EngineOptions(threads=0)


def test_a_missing_onnx_runtime_is_named_with_its_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with (
        pytest.raises(EngineError, match="cannot be imported") as caught,
        open_engines(bundle),
    ):
        pass
    assert "ffn-edge[cpu]" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4, 16, 16, 3), np.float32),
        np.zeros((1, 8, 16, 16, 3), np.uint8),
        np.zeros((4, 16, 16, 3), np.uint8),
        np.zeros((1, 4, 3, 16, 16), np.uint8),
    ],
    ids=["float32", "8 frames", "no batch", "channels first"],
)
def test_frames_of_another_shape_or_type_are_refused(bundle: Bundle, wrong: np.ndarray) -> None:
    with (
        open_engines(bundle, frame_counts=[4]) as engines,
        pytest.raises(EngineError, match=r"takes uint8 \(1, 4, 16, 16, 3\); got"),
    ):
        engines[4].infer(wrong)


def test_an_engine_that_was_not_opened_does_not_infer(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(b"", {}, frames=4, manifest=bundle.manifest, threads=1)
    with pytest.raises(EngineError, match="not open"):
        engine.infer(clip(4, 0))


def test_what_onnx_runtime_refuses_is_named(bundle: Bundle) -> None:
    graph = b"not a graph"
    engine = OnnxRuntimeEngine(graph, {}, frames=4, manifest=bundle.manifest, threads=1)
    with pytest.raises(EngineError, match="cannot open the graph for 4 frames"):
        engine.__enter__()


def test_nothing_of_onnx_runtime_goes_to_stdout(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(EngineError, match="no such operator"), open_engines(bundle):
        pass
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("found", [(), ("avx512_vnni",)])
def test_what_would_overflow_without_vnni_is_multiplied_another_way(
    found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions = Int8Instructions(("avx512_vnni", "avx_vnni"), found)
    monkeypatch.setattr(onnxruntime_module, "int8_instructions", lambda: instructions)
    options = session_options(1)
    name = "session.x64quantprecision"
    if found:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(name)
    else:
        assert options.get_session_config_entry(name) == "1"


def test_an_engine_that_was_closed_holds_no_weights(bundle: Bundle) -> None:
    weights = HeldWeights(bundle.tensors()).of(["head.weight"])
    held = weakref.ref(weights["head.weight"])
    engine = OnnxRuntimeEngine(
        bundle.read_graph(4), weights, frames=4, manifest=bundle.manifest, threads=1
    )
    with engine:
        engine.infer(clip(4, 0))
    del weights
    assert held() is None


def test_an_engine_that_was_closed_does_not_infer(bundle: Bundle) -> None:
    with open_engines(bundle, frame_counts=[4]) as engines:
        engine = engines[4]
    with pytest.raises(EngineError, match="not open"):
        engine.infer(clip(4, 0))


def test_engines_outlive_a_bundle_that_is_written_over(bundle: Bundle) -> None:
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        for file in bundle.path.iterdir():
            file.write_bytes(b"")
        for engine in engines.values():
            assert engine.infer(clip(engine.frames, 2)).argmax() == 2


def test_all_engines_hold_one_copy_of_the_weights(bundle: Bundle) -> None:
    read: list[str] = []

    class Counted(dict[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            read.append(name)
            return super().__getitem__(name)

    weights = HeldWeights(Counted(bundle.tensors()))
    first, second = (weights.of(["head.weight"]) for _ in range(2))

    assert read == ["head.weight"]
    assert first["head.weight"] is second["head.weight"]


@pytest.mark.parametrize("name", ["graph_4.onnx", "weights.safetensors"])
def test_a_bundle_that_was_altered_since_it_was_loaded_is_refused(
    name: str, bundle: Bundle
) -> None:
    content = (bundle.path / name).read_bytes()
    (bundle.path / name).write_bytes(content[:-1])
    with pytest.raises(BundleError) as caught, open_engines(bundle):
        pass
    assert name in caught.value.message
