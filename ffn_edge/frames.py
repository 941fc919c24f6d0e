"""Frame counts: which frames of a video make a clip, and which sub-network serves it. Pure.

Legend: N is the number of frames of a video, T the number of frames of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ffn_edge.errors import FrameCountError

Indices = npt.NDArray[np.int64]
# A training rule: given N, T and a generator, the frames of a clip, int64 (T,).
DrawFrames = Callable[[int, int, np.random.Generator], Indices]

# Of a clip. The longest of published networks have 128.
MOST_FRAMES = 4096


def check_frame_counts(frame_counts: Iterable[int]) -> tuple[int, ...]:
    """Return `frame_counts` as a tuple if they are positive, distinct and ascending.

    Raises:
        FrameCountError: they are not.
    """
    counts = tuple(frame_counts)
    whole = all(isinstance(t, int) and not isinstance(t, bool) for t in counts)
    if not (counts and whole and 1 <= min(counts) <= max(counts) <= MOST_FRAMES):
        raise FrameCountError(
            f"frame counts are whole numbers from 1 to {MOST_FRAMES}; got {counts!r:.100}",
            "for example (4, 8, 16).",
        )
    if list(counts) != sorted(set(counts)):
        raise FrameCountError(
            f"frame counts must ascend and differ; got {counts}",
            f"write {tuple(sorted(set(counts)))}.",
        )
    return counts


def parse_frames(text: str) -> tuple[int, ...]:
    """Read "4,8,16" or "2-20" or "2-6,8" into ascending frame counts.

    Raises:
        FrameCountError: the text is not of that form.
    """
    counts: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            low, high = int(first), int(last if dash else first)
            if not 1 <= low <= high <= MOST_FRAMES:
                raise ValueError
            counts.update(range(low, high + 1))
    except ValueError as error:
        raise FrameCountError(
            f"cannot read frame counts from {text!r:.50}",
            f'write a list or a range up to {MOST_FRAMES}: "4,8,16", "2-20".',
        ) from error
    return tuple(sorted(counts))


def nearest_frame_count(frames: int, frame_counts: Sequence[int]) -> int:
    """Return the sub-network that serves a clip of `frames` frames: the nearest, ties upwards."""
    return min(frame_counts, key=lambda t: (abs(t - frames), -t))


def segment_centres(num_frames: int, frames: int) -> Indices:
    """Return the centre frame of each of `frames` equal segments: int64 (T,), the test-time rule.

    int(N/T/2 + i·N/T). A video shorter than T repeats its frames evenly.
    """
    tick = num_frames / frames
    return np.asarray([int(tick / 2 + tick * i) for i in range(frames)], np.int64)


def segment_random(num_frames: int, frames: int, rng: np.random.Generator) -> Indices:
    """Return one random frame of each of `frames` segments: int64 (T,), TSM's training rule.

    i·⌊N/T⌋ + randint(⌊N/T⌋): the last N mod T frames are never drawn. A video shorter than T
    repeats its frames evenly.
    """
    length = num_frames // frames
    if length == 0:
        return segment_centres(num_frames, frames)
    return np.arange(frames, dtype=np.int64) * length + rng.integers(length, size=frames)


def interval_random(num_frames: int, frames: int, rng: np.random.Generator) -> Indices:
    """Return one random frame of each of `frames` intervals: int64 (T,), PySlowFast's rule.

    Frame i is one of round(s·i)..round(s·(i+1)), both ends included, with s = (N−1)/T. Source: the
    loaders for Something-Something in facebookresearch/SlowFast and in the paper's code.
    """
    ends = np.rint(np.arange(frames + 1) * ((num_frames - 1) / frames)).astype(np.int64)
    drawn: Indices = rng.integers(ends[:-1], ends[1:], endpoint=True)
    return drawn
