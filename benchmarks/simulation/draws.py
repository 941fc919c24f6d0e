"""Random numbers by their index, so that a board is the same whatever a policy does with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_CHUNK = 4096


class Draws:
    """An endless sequence of random numbers, of which only the latest chunk is held.

    The values follow from the generator alone: the chunk's length changes none.
    """

    def __init__(
        self, draw: Callable[[int], NDArray[np.float64]], chunk: int | None = None
    ) -> None:
        """Remember how to draw.

        Args:
            draw: returns so many values; two calls return what one call of both lengths would.
            chunk: how many to draw at once.
        """
        self._draw = draw
        self._chunk = chunk or _CHUNK
        self._begin = 0
        self._values: list[float] = []

    def at(self, index: int) -> float:
        """Return a value. The index may stand still or grow, but not go back a chunk."""
        offset = index - self._begin
        while offset >= len(self._values):
            self._begin += len(self._values)
            offset = index - self._begin
            self._values = self._draw(self._chunk).tolist()
        return self._values[offset]


def generators(seed: int, count: int) -> list[np.random.Generator]:
    """Return independent generators that follow from a seed."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]
