"""Rendered idleness: clips of nothing, and streams whose labels say when something moves."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np

from ffn_edge.demo.clips import CLIP, TEST_SHARE, TRAINING_SHARE, render_clips
from ffn_edge.demo.idle import NOTHING, render_idle_stream, render_nothing
from ffn_edge.demo.scenes import ACTIONS, FPS, FRAMES, opposite, render_action
from ffn_edge.media.classes import read_classes
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import read_list

# Of twelve clips of the first release that rendered them.
CLIPS_SHA256 = "8b0413176ce8b5fd26e9ba47b42b1b00218497e024358e360924e2386266cb7d"


def test_clips_are_what_they_were() -> None:
    found = hashlib.sha256()
    for index, action in enumerate(ACTIONS):
        rng = np.random.default_rng([0, 0, index])
        for image in render_action(action, TRAINING_SHARE, CLIP, rng):
            found.update(image.tobytes())
    assert found.hexdigest() == CLIPS_SHA256


def test_a_clip_of_nothing_is_as_long_as_any() -> None:
    for seed in range(8):  # of every kind
        clip = list(render_nothing(TEST_SHARE, CLIP, np.random.default_rng(seed)))
        assert (len(clip), clip[0].shape, clip[0].dtype) == (FRAMES, (64, 64, 3), np.uint8)


def test_clips_of_nothing_are_a_thirteenth_class(tmp_path: Path) -> None:
    render_clips(tmp_path / "clips", train=12, val=6, test=0, nothing=4, workers=1)
    classes = read_classes(tmp_path / "clips" / "classes.txt")
    assert tuple(classes) == (*ACTIONS, NOTHING)
    counts = [
        [video.label for video in read_list(tmp_path / "clips" / name, classes=classes)].count(12)
        for name in ("train.txt", "val.txt")
    ]
    assert counts == [4, 2]


def test_a_stream_moves_where_its_labels_say(tmp_path: Path) -> None:
    path = tmp_path / "stream.mp4"
    found = render_idle_stream(path, seconds=80, share=TEST_SHARE, canvas=CLIP, seed=6)
    assert found
    with VideoReader(path) as reader:
        images = list(reader)
    assert len(images) == 80 * FPS
    for first, second in itertools.pairwise(found):
        assert first.end_s < second.start_s
        assert 0.5 < first.end_s - first.start_s < 1.5
    listed = read_list(path.with_suffix(".csv"), classes=ACTIONS)
    assert [ACTIONS[video.label] for video in listed] == [each.label for each in found]
    assert opposite(opposite("left")) == "left" != opposite("left")
    again = render_idle_stream(
        tmp_path / "again.mp4", seconds=80, share=TEST_SHARE, canvas=CLIP, seed=6
    )
    assert again == found


def test_an_idle_stream_has_one_line_without_times(tmp_path: Path) -> None:
    path = tmp_path / "stream.mp4"
    assert not render_idle_stream(path, seconds=1, share=TEST_SHARE, canvas=CLIP)
    assert path.with_suffix(".csv").read_text().splitlines()[1] == "stream.mp4,,,nothing"
