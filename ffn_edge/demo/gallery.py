"""Clips and the answers to them, as the demo's page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.frames import segment_centres
from ffn_edge.media.video import VideoReader
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, open_session
from ffn_edge.runtime.session import Prediction

CLIPS = 6
_FRAMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip and what was answered to it.

    Attributes:
        action: what it shows.
        frames: some of its frames, uint8 (N, H, W, 3), RGB.
        answers: the first answer, by frame count.
    """

    action: str
    frames: npt.NDArray[np.uint8]
    answers: dict[int, Prediction]


def shown_clips(
    bundle: Bundle, videos: Sequence[tuple[Path, str]], options: RunOptions
) -> list[ShownClip]:
    """Run each video with each frame count; `videos` are paths and what they show."""
    shown = []
    for path, action in videos:
        with VideoReader(path) as video:
            frames = video.sample(
                lambda count: {0: segment_centres(count, _FRAMES_SHOWN)},
                lambda frame: np.ascontiguousarray(frame[..., ::-1]),
            )[0]
        answers = {}
        for count in bundle.manifest.frame_counts:
            with open_session(bundle, str(path), Limits(frames=count), options) as session:
                answers[count] = list(session)[-1].top[0]
        shown.append(ShownClip(action, frames, answers))
    return shown
