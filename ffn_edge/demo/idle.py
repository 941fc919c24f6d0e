"""What the demo renders of no action: clips of a class "nothing", and long streams, mostly idle.

A stream is a row of scenes of up to a minute. In some nothing happens, or something sways; in the
others the actors rest for seconds, act, rest, and act backwards.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffn_edge.demo.scenes import (
    ACTIONS,
    FPS,
    FRAMES,
    Canvas,
    Image,
    Share,
    action_frames,
    opposite,
    render_scene,
)
from ffn_edge.files.atomic import write_text
from ffn_edge.media.video_writer import VideoWriter

NOTHING = "nothing"

_SEED = 4  # first in the random seed of a stream; see `ffn_edge.demo.clips`
_IDLE_SHARE = 1 / 3  # of the scenes
_AGAIN_SHARE = 1 / 3  # of the scenes with actions: they begin with the last scene's first one
_REST_S = (1.0, 12.0)
# A clip shows at most this part of an action's time where it is of "nothing".
_MOST_DONE = 0.4


@dataclass(frozen=True, slots=True)
class Happening:
    """An action of a stream, from the first to the last frame in which something moves."""

    start_s: float
    end_s: float
    label: str


def render_nothing(share: Share, canvas: Canvas, rng: np.random.Generator) -> Iterator[Image]:
    """Yield the 48 frames of a clip without an action. See `render_action`.

    All rest; or they sway; or an action begins or ends, and is mostly beyond the clip; or one
    scene follows another.
    """
    kind = rng.integers(4)
    moves: list[tuple[float, float]] = []
    cut = FRAMES
    match kind:
        case 2:
            length = action_frames(rng)
            done = rng.uniform(0, _MOST_DONE) * length
            moves = [(FRAMES - done if rng.integers(2) else done - length, length)]
        case 3:
            cut = int(rng.integers(1, FRAMES))
    for frames in (cut, FRAMES - cut):
        action = ACTIONS[rng.integers(len(ACTIONS))]
        yield from render_scene(action, moves, frames, share, canvas, rng, sway=kind == 1)


def render_idle_stream(
    path: str | os.PathLike[str],
    *,
    seconds: float,
    share: Share,
    canvas: Canvas,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Happening, ...]:
    """Write a long video in which now and then something happens, and what it is beside it.

    Args:
        path: of the video; its name ends in .mp4. With the suffix .csv a list of its actions,
            which `ffn-edge calibrate --stream` reads.
        seconds: how long it is.
        share: the part of the photographs to draw with.
        canvas: the size of a frame.
        seed: decides everything; not negative.
        progress: called with (frames done, frames in all).

    Returns:
        The actions, in turn.

    Raises:
        DataError: scikit-image, which has the photographs, is missing.
        VideoError: the video cannot be written.
    """
    path = Path(path)
    rng = np.random.default_rng([_SEED, seed])
    total = round(seconds * FPS)
    found: list[Happening] = []
    done = 0
    action = ACTIONS[rng.integers(len(ACTIONS))]
    with VideoWriter(path, FPS, canvas.width, canvas.height, codec="mpeg4") as video:
        while done < total:
            frames = min(round(rng.uniform(10, 60) * FPS), total - done)
            idle = rng.random() < _IDLE_SHARE
            if idle or rng.random() >= _AGAIN_SHARE:
                action = ACTIONS[rng.integers(len(ACTIONS))]
            moves = [] if idle else _moves(frames, rng)
            sway = bool(idle and rng.integers(2))
            for frame in render_scene(action, moves, frames, share, canvas, rng, sway=sway):
                video.write(frame)
            found += [
                Happening(
                    (done + start) / FPS,
                    (done + start + length) / FPS,
                    opposite(action) if number % 2 else action,
                )
                for number, (start, length) in enumerate(moves)
            ]
            done += frames
            progress(done, total)
    write_text(path.with_suffix(".csv"), _labels(path.name, found))
    return tuple(found)


def _moves(frames: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return when the actors of a scene act, in frames: the first and the last second they rest."""
    moves = []
    start = rng.uniform(*_REST_S) * FPS
    while start + (length := action_frames(rng)) < frames - FPS:
        moves.append((start, length))
        start += length + rng.uniform(*_REST_S) * FPS
    return moves


def _labels(video: str, found: list[Happening]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "start_s", "end_s", "label"])
    for each in found:
        table.writerow([video, f"{each.start_s:.3f}", f"{each.end_s:.3f}", each.label])
    if not found:
        table.writerow([video, "", "", NOTHING])
    return text.getvalue()
