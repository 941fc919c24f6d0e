"""The figures of a simulated run: kept up to date as it goes on, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.simulate.drive import Step

WINDOW_S = 10.0  # a power budget is a mean over so long
_DECISIONS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run comes to.

    Attributes:
        inferences: how many.
        misses: how many took longer than their deadline.
        misses_in_a_row: how many of these followed another miss.
        longest_burst: most misses in a row.
        accuracy: mean over the inferences, in 0..1; in a stream each counts for its period.
        in_time: the same, where an inference that was late counts for nothing: right and not late.
        switches_per_min: changes of the frame count.
        share: of the inferences, by frame count.
        mean_power_w: the board's true mean; None if it is not known.
        over_j: joules beyond the budget: the sum over windows of 10 s, one after the other, or
            what was drawn beyond the battery.
        excess: the largest mean over any window of 10 s, as a share above the budget; of a
            battery, what was drawn beyond it. 0 where it was kept, None without a budget.
        decision_us: median of the time to decide and observe, ...
        decision_p99_us: ... and its 0.99 quantile.
    """

    inferences: int
    misses: int
    misses_in_a_row: int
    longest_burst: int
    accuracy: float
    in_time: float
    switches_per_min: float
    share: dict[int, float]
    mean_power_w: float | None
    over_j: float
    excess: float | None
    decision_us: float
    decision_p99_us: float

    @property
    def miss_rate(self) -> float:
        """Misses an inference."""
        return self.misses / self.inferences

    @property
    def miss_after_miss(self) -> float | None:
        """The chance that a miss is followed by another; None if nothing was missed."""
        return self.misses_in_a_row / self.misses if self.misses else None


class Tally:
    """Takes each step, and gives the figures at the end."""

    def __init__(self, points: Sequence[OperatingPoint]) -> None:
        self._frames = [point.frames for point in points]
        self._accuracy = [point.accuracy or 0.0 for point in points]
        self._periods_s = [point.period_s or 1.0 for point in points]
        self._counts = [0] * len(points)
        self._late = [0] * len(points)
        self._misses = self._in_a_row = self._burst = self._longest = 0
        self._switches = 0
        self._last: Step | None = None
        self._decisions_us: deque[float] = deque(maxlen=_DECISIONS_KEPT)
        # (time, energy, allowance) at the end of each period of the last window.
        self._window: deque[tuple[float, float, float]] = deque()
        self._block: tuple[float, float, float] | None = None
        self._allowed_j = 0.0
        self._over_j = 0.0
        self._excess: float | None = None

    def add(self, step: Step) -> None:
        """Count an inference, and what was drawn until the next."""
        self._counts[step.index] += 1
        self._decisions_us.append(step.decision_us)
        if self._last is not None and step.index != self._last.index:
            self._switches += 1
        self._last = step
        if step.missed:
            self._misses += 1
            self._late[step.index] += 1
            self._in_a_row += self._burst > 0
            self._burst += 1
            self._longest = max(self._longest, self._burst)
        else:
            self._burst = 0
        self._add_energy(step)

    def _add_energy(self, step: Step) -> None:
        end, power_w = step.end_s, step.limits.power_w
        if power_w is None:
            self._window.clear()
            return
        self._allowed_j += power_w * (end - step.begin_s)
        now = (end, step.energy_j, self._allowed_j)
        window = self._window
        window.append(now)
        if len(window) == 1:
            self._block = now
        if self._block is not None and end - self._block[0] >= WINDOW_S - 1e-6:
            drawn_j, allowed_j = step.energy_j - self._block[1], now[2] - self._block[2]
            self._over_j += max(0.0, drawn_j - allowed_j)
            self._block = now
        while len(window) > 1 and end - window[1][0] >= WINDOW_S - 1e-6:
            window.popleft()
        if end - window[0][0] >= WINDOW_S - 1e-6:
            drawn_j, allowed_j = step.energy_j - window[0][1], now[2] - window[0][2]
            self._excess = max(self._excess or 0.0, drawn_j / allowed_j - 1)

    def figures(self) -> Figures:
        """Return what at least one step comes to."""
        assert self._last is not None
        length_s, energy_j = self._last.end_s, self._last.energy_j
        battery_j = self._last.limits.battery_j
        if energy_j == 0:  # a trace without power
            self._excess = None
        elif battery_j is not None:
            self._over_j = max(0.0, energy_j - battery_j)
            self._excess = self._over_j / battery_j
        count = sum(self._counts)
        seconds = np.multiply(self._counts, self._periods_s)
        in_time_s = np.multiply(np.subtract(self._counts, self._late), self._periods_s)
        median_us, p99_us = np.quantile(self._decisions_us, (0.5, 0.99))
        return Figures(
            inferences=count,
            misses=self._misses,
            misses_in_a_row=self._in_a_row,
            longest_burst=self._longest,
            accuracy=float(np.dot(self._accuracy, seconds) / seconds.sum()),
            in_time=float(np.dot(self._accuracy, in_time_s) / seconds.sum()),
            switches_per_min=self._switches / length_s * 60,
            share={t: n / count for t, n in zip(self._frames, self._counts, strict=True)},
            mean_power_w=energy_j / length_s if energy_j else None,
            over_j=self._over_j,
            excess=self._excess,
            decision_us=float(median_us),
            decision_p99_us=float(p99_us),
        )
