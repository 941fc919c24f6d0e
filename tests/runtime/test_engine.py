"""Engines open side by side, and refuse what does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.bundle import Bundle
from ffn_edge.errors import BundleError, EngineError
from ffn_edge.runtime.engine import EngineOptions, open_engines
from ffn_edge.runtime.onnxruntime_engine import OnnxRuntimeEngine


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


def test_nothing_is_touched_before_the_engine_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    missing = tmp_path / "missing.onnx"
    engine = OnnxRuntimeEngine(missing, frames=4, manifest=bundle.manifest, threads=1)
    with pytest.raises(EngineError, match="not open"):
        engine.infer(clip(4, 0))
    with pytest.raises(EngineError, match=r"cannot open .*missing\.onnx"):
        engine.__enter__()


def test_an_engine_that_was_closed_does_not_infer(bundle: Bundle) -> None:
    with open_engines(bundle, frame_counts=[4]) as engines:
        engine = engines[4]
    with pytest.raises(EngineError, match="not open"):
        engine.infer(clip(4, 0))


def test_a_graph_of_another_frame_count_is_refused(bundle: Bundle) -> None:
    swapped = OnnxRuntimeEngine(bundle.graph_path(8), frames=4, manifest=bundle.manifest, threads=1)
    with pytest.raises(EngineError, match="its manifest says"):
        swapped.__enter__()
