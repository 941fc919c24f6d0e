"""How a training video is varied, all its frames alike: crop, flips, and playing backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffn_edge.media.picture import Box

# The scales of the paper's recipe, of the frame's short side.
MULTI_SCALE = (1.0, 0.875, 0.75, 0.66)

# Where a crop may lie, in quarters of the room it has (across, down): the corners, the centre,
# the middles of the sides, and half-way between centre and corners.
_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetries:
    """What may be done to a video, and the label that each class has afterwards.

    Each is the new label of every label, or None where the result would be no example of any
    class ("pushing left" mirrored, without a class "pushing right").
    """

    mirror: tuple[int, ...] | None = None
    upside_down: tuple[int, ...] | None = None
    backwards: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Variation:
    """One way to show a video."""

    box: Box
    mirror: bool
    upside_down: bool
    backwards: bool

    def label(self, label: int, symmetries: Symmetries) -> int:
        """Return what a video of class `label` shows when it is varied so."""
        for done, swap in (
            (self.mirror, symmetries.mirror),
            (self.upside_down, symmetries.upside_down),
            (self.backwards, symmetries.backwards),
        ):
            if done and swap is not None:
                label = swap[label]
        return label


def draw_variation(
    height: int,
    width: int,
    size: int,
    symmetries: Symmetries,
    scales: tuple[float, ...],
    rng: np.random.Generator,
) -> Variation:
    """Draw a multi-scale crop, and each symmetry that is allowed with probability one half."""
    box = multi_scale_crop(height, width, size, scales, rng)
    mirror, upside_down, backwards = rng.random(3) < 0.5
    return Variation(
        box,
        mirror=bool(mirror) and symmetries.mirror is not None,
        upside_down=bool(upside_down) and symmetries.upside_down is not None,
        backwards=bool(backwards) and symmetries.backwards is not None,
    )


def multi_scale_crop(
    height: int, width: int, size: int, scales: tuple[float, ...], rng: np.random.Generator
) -> Box:
    """Draw the crop of TSM's training: sides from `scales`, at one of thirteen places.

    Each side is a scale of the frame's short side; the two are the same scale or neighbours, so
    that the shape is little distorted when the crop is made square.

    Args:
        height: of the frame.
        width: of the frame.
        size: the crop will be scaled to size x size; a side within 2 pixels of it is made equal,
            which saves the scaling.
        scales: descending.
        rng: decides.
    """
    short = min(height, width)
    sides = [int(short * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= short else side for side in sides]
    shapes = [
        (tall, wide)
        for i, tall in enumerate(sides)
        for j, wide in enumerate(sides)
        if abs(i - j) <= 1
    ]
    tall, wide = shapes[rng.integers(len(shapes))]
    across, down = _PLACES[rng.integers(len(_PLACES))]
    return Box(down * ((height - tall) // 4), across * ((width - wide) // 4), tall, wide)
