"""The clocks as a state: a governor's rates of the moment, without their flicker. No I/O."""

from __future__ import annotations

import math
from collections import deque

# Between inferences a governor lets the clocks fall. The highest of late is the one that they had
# at work; an inference that ended just now lies within it.
_LATELY_S = 1.0
# A card wanders by steps of 15 MHz with its heat; a Jetson's steps are 8 % or more.
_SAME = 0.05


class ClockState:
    """The clocks that a machine works at.

    What is told stays until the highest rate of the last second is more than 5 % off it: compare
    two of them within 5 %. A rise shows at once, a fall after a second.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[float, ...]]] = deque()
        self._told: tuple[float, ...] = ()

    def add(self, now: float, clocks_mhz: tuple[float, ...]) -> None:
        """Add what the clocks of GPU and memory are at a moment; none is not known."""
        self._seen.append((now, clocks_mhz))
        while self._seen[0][0] < now - _LATELY_S:
            self._seen.popleft()

    def at_work_mhz(self) -> tuple[float, ...]:
        """Return them; `()` where they were not known in the second before the latest `add`."""
        known = [clocks_mhz for _, clocks_mhz in self._seen if clocks_mhz]
        count = max(map(len, known), default=0)
        highest = [max(each[i] for each in known if len(each) > i) for i in range(count)]
        before = self._told if len(self._told) == count else highest
        self._told = tuple(
            old if math.isclose(old, new, rel_tol=_SAME) else new
            for old, new in zip(before, highest, strict=True)
        )
        return self._told
