"""Verification passes what is equal, fails what is not, and says what it compared on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn_edge.bundle import graph_check
from ffn_edge.bundle.bundle import MANIFEST, Bundle, InputContract
from ffn_edge.errors import ExportError, VideoError
from ffn_edge.export.clips import clips_from_videos, synthetic_clips
from ffn_edge.export.verify import (
    COMPOSED_TOLERANCE,
    NETWORK_TOLERANCE,
    STEPS_TOLERANCE,
    compare,
    verify,
)
from ffn_edge.frames import segment_centres
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import UNLABELLED, Video
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network import build
from ffn_edge.network.checkpoint import Checkpoint, load_checkpoint

CONTRACT = InputContract(
    batch=1, height=32, width=32, short_side=40, mean=(0.5,) * 3, std=(0.25,) * 3
)


def test_an_exported_bundle_passes(exported: Bundle, checkpoint: Checkpoint) -> None:
    clips = synthetic_clips(exported.manifest.input, (2, 4), 3)

    found = verify(exported, clips, checkpoint=checkpoint)

    assert [each.frames for each in found] == [2, 4]
    for each in found:
        assert each.passed
        assert each.clips == 3
        by_network, by_composed = each.comparisons
        assert by_network.pair == "PyTorch = graph"
        assert by_network.tolerance == NETWORK_TOLERANCE["float32"]
        assert by_network.same_top1 == 3
        assert by_composed.pair == "graph = composed"
        assert by_composed.tolerance == COMPOSED_TOLERANCE
        assert by_composed.max_difference == 0  # the same bits, on one machine


def test_without_a_checkpoint_the_graph_is_compared_with_the_composed_one(
    exported: Bundle,
) -> None:
    found = verify(exported, synthetic_clips(exported.manifest.input, (2, 4), 1))

    assert [[pair.pair for pair in each.comparisons] for each in found] == [
        ["graph = composed"],
        ["graph = composed"],
    ]


def test_steps_of_a_causal_network_are_compared_too(
    exported_causal: Bundle, causal_checkpoint: Path
) -> None:
    clips = synthetic_clips(exported_causal.manifest.input, (2, 4), 3)

    found = verify(exported_causal, clips, checkpoint=load_checkpoint(causal_checkpoint))

    for each in found:
        assert each.passed
        *_, by_graph, by_network = each.comparisons
        assert by_graph.pair == "graph = steps"
        assert by_graph.relative <= by_graph.tolerance == STEPS_TOLERANCE
        assert by_network.pair == "PyTorch steps = steps"
        assert by_network.same_top1 == 3


def test_steps_in_int8_are_compared_with_clips_in_int8(causal_int8: Bundle) -> None:
    found = verify(causal_int8, synthetic_clips(CONTRACT, (2, 4), 1))

    for each in found:
        assert each.passed
        assert [pair.pair for pair in each.comparisons][1:] == [
            "graph = steps",
            "INT8 graph = INT8 steps",
        ]


def test_steps_of_another_frame_count_do_not_pass(exported_causal: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_causal.path, tmp_path / "bundle")
    manifest = json.loads((folder / MANIFEST).read_text())
    two, four = manifest["sub_networks"].values()
    two["step"], four["step"] = four["step"], two["step"]
    (folder / MANIFEST).write_text(json.dumps(manifest))

    found = verify(Bundle.load(folder), synthetic_clips(CONTRACT, (2, 4), 1))

    for each in found:
        assert [pair.passed for pair in each.comparisons] == [True, False]


def test_a_network_whose_weights_are_more_than_a_graph_may_have_is_compared(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_check, "MOST_BYTES", 1000)
    assert all(each.passed for each in verify(exported, synthetic_clips(CONTRACT, (2, 4), 1)))


def test_other_weights_do_not_pass(exported: Bundle, checkpoint_file: Path) -> None:
    other = load_checkpoint(checkpoint_file)
    with torch.no_grad():
        other.network.body.layer4[1].bn2.norms["4"].running_mean += 1e-3

    found = verify(exported, synthetic_clips(exported.manifest.input, (2, 4), 2), checkpoint=other)

    assert [each.passed for each in found] == [True, False]
    assert found[1].comparisons[0].relative > NETWORK_TOLERANCE["float32"]


def test_another_normalisation_does_not_pass(exported: Bundle, checkpoint: Checkpoint) -> None:
    card = dataclasses.replace(checkpoint.card, mean=(0.5, 0.5, 0.5))
    other = dataclasses.replace(checkpoint, card=card)

    found = verify(exported, synthetic_clips(exported.manifest.input, (2, 4), 1), checkpoint=other)

    assert not any(each.passed for each in found)


def test_a_tolerance_can_be_asked_for(exported: Bundle, checkpoint: Checkpoint) -> None:
    clips = synthetic_clips(exported.manifest.input, (2, 4), 1)

    found = verify(exported, clips, checkpoint=checkpoint, tolerance=1e-12)

    assert not any(each.passed for each in found)


def test_composed_weights_of_another_hash_do_not_pass(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text())
    manifest["sub_networks"]["2"]["composed_sha256"] = "0" * 64
    (bundle_copy / MANIFEST).write_text(json.dumps(manifest))
    bundle = Bundle.load(bundle_copy)

    found = verify(bundle, synthetic_clips(bundle.manifest.input, (2, 4), 1))

    assert [each.composed_matches for each in found] == [False, True]
    assert [each.passed for each in found] == [False, True]


@pytest.mark.parametrize(
    ("architecture", "classes", "frame_counts"),
    [("tsm_resnet18", 5, (2, 4)), ("tsm_tiny", 6, (2, 4)), ("tsm_tiny", 5, (2, 8))],
)
def test_a_checkpoint_of_another_network_is_refused(
    architecture: str,
    classes: int,
    frame_counts: tuple[int, ...],
    exported: Bundle,
    checkpoint: Checkpoint,
) -> None:
    other = dataclasses.replace(checkpoint, network=build(architecture, classes, frame_counts))

    with pytest.raises(ExportError, match="the bundle holds a tsm_tiny with 5 classes"):
        verify(exported, synthetic_clips(CONTRACT, (2, 4), 1), checkpoint=other)


def test_half_precision_and_batches_that_are_not_full_pass(
    half_exported: Bundle, checkpoint: Checkpoint
) -> None:
    assert half_exported.manifest.input.batch == 2

    (found,) = verify(half_exported, synthetic_clips(CONTRACT, (4,), 3), checkpoint=checkpoint)

    by_network, by_composed = found.comparisons
    assert found.passed
    assert by_network.tolerance == NETWORK_TOLERANCE["float16"]
    assert by_network.relative > 1e-5  # the weights were rounded
    assert by_composed.max_difference == 0  # and composed from what was rounded


def test_int8_weights_pass(int8_exported: Bundle, checkpoint: Checkpoint) -> None:
    clips = synthetic_clips(int8_exported.manifest.input, (2, 4), 3)

    for found in verify(int8_exported, clips, checkpoint=checkpoint):
        by_network, by_composed = found.comparisons
        assert found.passed
        assert by_network.tolerance == NETWORK_TOLERANCE["int8"]
        assert by_network.relative > 1e-3  # the weights were rounded
        assert by_composed.max_difference == 0  # and composed from what was rounded


def test_a_graph_that_does_not_run_is_refused(bundle_copy: Path) -> None:
    bundle = Bundle.load(bundle_copy)
    clips = synthetic_clips(dataclasses.replace(CONTRACT, height=16), (2, 4), 1)

    with pytest.raises(ExportError, match=r"ONNX Runtime .* cannot run the graph"):
        verify(bundle, clips)


def test_differences_are_relative_to_each_clips_own_logits() -> None:
    reference = np.asarray([[1.0, -2.0, 0.0], [100.0, 0.0, 50.0]], np.float32)
    other = np.asarray([[1.0, -2.5, 0.0], [100.0, 1.0, 50.0]], np.float32)

    found = compare("a = b", reference, other, tolerance=0.2)

    assert found.max_difference == 1.0
    assert found.relative == pytest.approx(0.25)  # of the first clip
    assert found.same_top1 == 2
    assert not found.passed


def test_not_a_number_does_not_pass() -> None:
    reference = np.ones((1, 3), np.float32)

    assert not compare("a = b", reference, reference * np.nan, tolerance=1.0).passed
    assert not compare("a = b", reference * np.nan, reference * np.nan, tolerance=1.0).passed


def test_zero_logits_are_equal_to_zero_logits_only() -> None:
    zeros = np.zeros((1, 3), np.float32)

    assert compare("a = b", zeros, zeros, tolerance=1e-5).passed
    assert not compare("a = b", zeros, zeros + 1e-6, tolerance=1e-5).passed


def test_synthetic_clips_are_seeded_moving_and_said_to_be_synthetic() -> None:
    clip_set = synthetic_clips(CONTRACT, (2, 4), 3)
    again = synthetic_clips(CONTRACT, (2, 4), 3)
    other = synthetic_clips(CONTRACT, (2, 4), 3, seed=1)

    assert clip_set.source.startswith("synthetic")
    assert clip_set.clips[4].shape == (3, 4, 32, 32, 3)
    assert clip_set.clips[4].dtype == np.uint8
    assert np.array_equal(clip_set.clips[4], again.clips[4])
    assert not np.array_equal(clip_set.clips[4], other.clips[4])
    steps = np.abs(np.diff(clip_set.clips[4].astype(int), axis=1)).mean(axis=(2, 3, 4))
    assert (steps > 10).all()


@pytest.fixture
def video(tmp_path: Path) -> Callable[[str, int], Path]:
    """A function that writes a video of grey frames, each brighter than the one before."""

    def write(name: str, num_frames: int) -> Path:
        with VideoWriter(tmp_path / name, 24, 64, 48) as writer:
            for i in range(num_frames):
                writer.write(np.full((48, 64, 3), 10 + 5 * i, np.uint8))
        return tmp_path / name

    return write


def test_clips_of_a_video_are_its_spans_sampled_at_segment_centres(
    video: Callable[[str, int], Path],
) -> None:
    path = video("a.mp4", 20)

    clip_set = clips_from_videos([Video(path, UNLABELLED, None)], CONTRACT, (2, 4), 2)

    assert clip_set.source == "1 video"
    with VideoReader(path) as reader:
        for frames in (2, 4):
            indices = np.stack([segment_centres(10, frames), 10 + segment_centres(10, frames)])
            expected = [prepare_frame(frame, 40, 32) for frame in reader.read(indices.ravel())]
            assert np.array_equal(
                clip_set.clips[frames], np.stack(expected).reshape(2, frames, 32, 32, 3)
            )


def test_clips_are_spread_over_the_videos(video: Callable[[str, int], Path]) -> None:
    videos = [Video(video(f"{i}.mp4", 6 + i), UNLABELLED, None) for i in range(4)]
    three_frames = Video(video("short.mp4", 3), UNLABELLED, None)

    few = clips_from_videos(videos, CONTRACT, (2,), 2)
    many = clips_from_videos(videos[:3], CONTRACT, (2,), 8)
    short = clips_from_videos([three_frames], CONTRACT, (2, 4), 8)

    assert few.source == "2 videos"
    assert len(few.clips[2]) == 2
    assert len(many.clips[2]) == 9  # three spans of each
    assert short.clips[4].shape[0] == 3  # no more spans than frames


def test_a_broken_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")

    with pytest.raises(VideoError, match=r"broken\.mp4"):
        clips_from_videos([Video(tmp_path / "broken.mp4", UNLABELLED, None)], CONTRACT, (2,), 1)
