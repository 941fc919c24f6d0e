"""Whether anything moves: cells of small pictures, compared with those of when something last did.

Legend: H x W pixels, G cells along a side.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ffn_edge.media.picture import Image, resize

_CELLS = 16
Cells = npt.NDArray[np.uint8]  # (G, G, 3)


def cells_of(prepared: Image) -> Cells:
    """Return the mean colours of a prepared frame's cells: of uint8 (H, W, 3), (16, 16, 3).

    Noise of the camera is averaged out; what moves is larger than a cell, or moves to others.
    """
    return resize(prepared, _CELLS, _CELLS)


def difference(cells: Cells, other: Cells) -> int:
    """Return by how much the most different cell differs, 0..255, in its most different colour."""
    return int(np.abs(cells.astype(np.int16) - other).max())


class Stillness:
    """Says since when a scene has been still.

    Compared is with the frame of the last motion, so that what moves slowly is seen as well.

    Attributes:
        moved_s: when something last moved, in seconds of the stream.
    """

    def __init__(self, threshold: float) -> None:
        """Begin anew; a difference of cells beyond `threshold`, 0..255, is motion."""
        self.moved_s = -math.inf
        self._threshold = threshold
        self._reference: Cells | None = None

    def see(self, cells: Cells, time_s: float) -> None:
        """Take the next frame; the first one is motion."""
        reference = self._reference
        if reference is None or difference(cells, reference) > self._threshold:
            self._reference = cells
            self.moved_s = time_s
