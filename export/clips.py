"""The clips that a bundle is verified on: real ones from videos, or synthetic ones.

Legend: clips are uint8 (clips, T, H, W, 3), RGB, prepared as the bundle's input contract says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import InputContract
from ffn_edge.errors import counted
from ffn_edge.frames import segment_centres
from ffn_edge.media.clips import clips_at, open_video, spread
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video_list import Video

Clips = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSet:
    """Clips to verify on, by frame count; `source` says in words what they are."""

    source: str
    clips: Mapping[int, Clips]


def synthetic_clips(
    contract: InputContract, frame_counts: Sequence[int], count: int, seed: int = 0
) -> ClipSet:
    """Draw seeded clips of drifting waves with noise: they are moving, but they are no video."""
    rng = np.random.default_rng(seed)
    rows = np.arange(contract.height)[:, None, None]
    columns = np.arange(contract.width)[:, None]
    clips = {}
    for frames in frame_counts:
        time = np.arange(frames).reshape(-1, 1, 1, 1) / frames
        made = np.empty((count, frames, contract.height, contract.width, 3), np.uint8)
        for clip in made:
            wave = rng.uniform(-0.3, 0.3, (2, 3))  # radians per pixel, for each colour
            drift = rng.uniform(-6, 6, 3)  # radians per clip
            phase = rows * wave[0] + columns * wave[1] + time * drift  # (T, H, W, 3)
            noise = rng.normal(0, 12, phase.shape)
            clip[:] = np.clip(128 + 90 * np.sin(phase) + noise, 0, 255)
        clips[frames] = made
    return ClipSet(source=f"synthetic: seeded drifting waves (seed {seed}), no video", clips=clips)


def clips_from_videos(
    videos: Sequence[Video], contract: InputContract, frame_counts: Sequence[int], count: int
) -> ClipSet:
    """Read about `count` clips for each frame count, spread evenly over the videos.

    With fewer videos than clips, each video is cut into as many equal spans as it gives clips;
    with more, every k-th video is used. A span is sampled at its segments' centres. Each video is
    decoded once, for all frame counts.

    Raises:
        VideoError: a video cannot be read, or is cut off.
    """
    used = spread(videos, count)
    spans = -(-count // len(used))
    prepare = partial(prepare_frame, short_side=contract.short_side, size=contract.height)
    clips: dict[int, list[Clips]] = {frames: [] for frames in frame_counts}
    for video in used:
        with open_video(video) as reader:
            found = clips_at(reader, frame_counts, partial(_span_centres, spans=spans), prepare)
        for frames, clip in found.items():
            clips[frames].append(clip)
    return ClipSet(
        source=counted(len(used), "video"),
        clips={frames: np.concatenate(each) for frames, each in clips.items()},
    )


def _span_centres(num_frames: int, frames: int, spans: int) -> npt.NDArray[np.int64]:
    """Cut N frames into equal spans, and return each one's segment centres: (spans, T)."""
    edges = np.linspace(0, num_frames, min(spans, num_frames) + 1).astype(int)
    return np.stack(
        [start + segment_centres(stop - start, frames) for start, stop in itertools.pairwise(edges)]
    )
