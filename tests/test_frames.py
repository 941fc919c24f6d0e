"""Frame counts, the frames that make a clip, and the sub-network that serves it."""

from __future__ import annotations

import numpy as np
import pytest

from ffn_edge.errors import FrameCountError
from ffn_edge.frames import (
    check_frame_counts,
    interval_random,
    nearest_frame_count,
    parse_frames,
    segment_centres,
    segment_random,
)


@pytest.mark.parametrize("counts", [(4, 8, 16), (2, 6), (1,), [16, 32, 64]])
def test_ascending_frame_counts_are_taken(counts: list[int]) -> None:
    assert check_frame_counts(counts) == tuple(counts)


@pytest.mark.parametrize("counts", [(), (0, 4), (-1,), (4, 8.0), (True, 2), ("4",), (4, 10**9)])
def test_what_is_no_frame_count_is_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(FrameCountError, match="whole numbers"):
        check_frame_counts(counts)


@pytest.mark.parametrize("counts", [(8, 4), (4, 4, 8)])
def test_frame_counts_out_of_order_are_refused_with_the_right_order(
    counts: tuple[int, ...],
) -> None:
    with pytest.raises(FrameCountError) as caught:
        check_frame_counts(counts)

    assert str(tuple(sorted(set(counts)))) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("4,8,16", (4, 8, 16)),
        ("2-5", (2, 3, 4, 5)),
        ("2-4,8, 3", (2, 3, 4, 8)),
        ("16,4", (4, 16)),
        ("7-7", (7,)),
    ],
)
def test_lists_and_ranges_are_read(text: str, counts: tuple[int, ...]) -> None:
    assert parse_frames(text) == counts


@pytest.mark.parametrize(
    "text", ["", "four", "0", "0-3", "-4", "8-", "8-4", "4,,8", "4;8", "1.5", "1-1000000000"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(FrameCountError, match="cannot read frame counts"):
        parse_frames(text)


@pytest.mark.parametrize(
    ("frames", "served_by"),
    [(2, 4), (4, 4), (6, 8), (8, 8), (10, 8), (11, 8), (12, 16), (14, 16), (16, 16), (20, 16)],
)
def test_the_nearest_sub_network_serves_ties_to_the_larger(frames: int, served_by: int) -> None:
    assert nearest_frame_count(frames, (4, 8, 16)) == served_by


@pytest.mark.parametrize(
    ("num_frames", "frames", "centres"),
    [
        (48, 4, [6, 18, 30, 42]),
        (119, 8, [7, 22, 37, 52, 66, 81, 96, 111]),
        (16, 16, list(range(16))),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_segment_centres_are_those_of_the_published_rule(
    num_frames: int, frames: int, centres: list[int]
) -> None:
    indices = segment_centres(num_frames, frames)

    assert indices.tolist() == centres
    assert indices.dtype == np.int64


@pytest.mark.parametrize("num_frames", [1, 5, 16, 48, 119, 997])
def test_segment_centres_lie_within_the_video(num_frames: int) -> None:
    for frames in range(1, 70):
        indices = segment_centres(num_frames, frames)
        assert indices.min() >= 0
        assert indices.max() < num_frames


def test_a_random_sample_takes_one_frame_of_each_segment() -> None:
    rng = np.random.default_rng(0)

    samples = np.stack([segment_random(50, 8, rng) for _ in range(200)])

    segments = samples // 6  # ⌊50/8⌋ frames each
    assert (segments == np.arange(8)).all()
    assert (np.unique(samples) == np.arange(48)).all()  # and every frame of each has its turn


@pytest.mark.parametrize("num_frames", [1, 2, 20, 60, 63])
@pytest.mark.parametrize("frames", [1, 4, 32])
def test_an_interval_has_its_frames_from_the_whole_video(num_frames: int, frames: int) -> None:
    rng = np.random.default_rng(0)

    samples = np.stack([interval_random(num_frames, frames, rng) for _ in range(3000)])

    s = (num_frames - 1) / frames
    for i in range(frames):
        ends = round(s * i), round(s * (i + 1))
        assert set(samples[:, i]) == set(range(ends[0], ends[1] + 1))  # each has its turn
    assert set(samples.flat) == set(range(num_frames))


@pytest.mark.parametrize("sample", [segment_centres, segment_random])
def test_a_video_shorter_than_the_clip_repeats_its_frames_evenly(sample: object) -> None:
    arguments = (np.random.default_rng(0),) if sample is segment_random else ()

    indices = sample(3, 7, *arguments)  # type: ignore[operator]

    counts = np.bincount(indices, minlength=3)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(indices) >= 0).all()
