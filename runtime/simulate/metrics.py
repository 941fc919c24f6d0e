"""The figures of a simulated run: kept up to date as it goes on, in memory that does not grow."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ffn_edge.runtime.policy.interface import Limits, OperatingPoint

WINDOW_S = 10.0  # a power budget is a mean over so long
_DECISIONS_KEPT = 10_000
_SETTLED_S, _SETTLED_ACCURACY = 2.0, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run comes to.

    Attributes:
        inferences: how many.
        misses: how many took longer than their deadline.
        misses_in_a_row: how many of these followed another miss.
        longest_burst: most misses in a row.
        accuracy: mean over the inferences, in 0..1.
        switches_per_min: changes of the frame count.
        share: of the inferences, by frame count.
        mean_power_w: the board's true mean; None if it is not known.
        over_j: joules beyond the budget: the sum over windows of 10 s, one after the other, or
            what was drawn beyond the battery.
        excess: the largest mean over any window of 10 s, as a share above the budget; of a
            battery, what was drawn beyond it. 0 where it was kept, None without a budget.
        settling_s: from a change of the scenario until the policy behaves as it does later on,
            mean over the changes; None if there are none, or the run was not kept.
        decision_us: median of the time to decide and observe, ...
        decision_p99_us: ... and its 0.99 quantile.
    """

    inferences: int
    misses: int
    misses_in_a_row: int
    longest_burst: int
    accuracy: float
    switches_per_min: float
    share: dict[int, float]
    mean_power_w: float | None
    over_j: float
    excess: float | None
    decision_us: float
    decision_p99_us: float
    settling_s: float | None = None

    @property
    def miss_rate(self) -> float:
        """Misses an inference."""
        return self.misses / self.inferences

    @property
    def miss_after_miss(self) -> float | None:
        """The chance that a miss is followed by another; None if nothing was missed."""
        return self.misses_in_a_row / self.misses if self.misses else None


@dataclass(slots=True)
class Timeline:
    """One entry an inference.

    Attributes:
        time_s: when it began.
        index: which point ran.
        latency_ms: how long it took.
        deadline_ms: that held; NaN if none did.
        power_w: the board's true mean from its begin to that of the next.
        budget_w: that held; NaN if none did.
        temperature_c: at the begin of the next; NaN if it is not known.
    """

    time_s: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    deadline_ms: list[float] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)
    budget_w: list[float] = field(default_factory=list)
    temperature_c: list[float] = field(default_factory=list)

    def append(
        self,
        time_s: float,
        index: int,
        latency_ms: float,
        limits: Limits,
        *,
        power_w: float,
        temperature_c: float | None,
    ) -> None:
        """Add an inference."""
        self.time_s.append(time_s)
        self.index.append(index)
        self.latency_ms.append(latency_ms)
        self.deadline_ms.append(math.nan if limits.latency_ms is None else limits.latency_ms)
        self.power_w.append(power_w)
        self.budget_w.append(math.nan if limits.power_w is None else limits.power_w)
        self.temperature_c.append(math.nan if temperature_c is None else temperature_c)


def settling_s(
    timeline: Timeline, points: Sequence[OperatingPoint], steps_s: Sequence[float]
) -> float | None:
    """Return how long the policy takes to settle after a step, as a mean over the steps.

    It has settled where the next two seconds hold at most one miss and its mean accuracy there
    is within a point of that over the second half of the span up to the next step. Where that
    never comes, the whole span counts.

    Args:
        timeline: of the run.
        points: its `index` is of these.
        steps_s: when something changed at once; the last one is the end of the run.
    """
    if len(steps_s) < 2:
        return None
    time_s = np.asarray(timeline.time_s)
    accuracy = np.asarray([point.accuracy or 0.0 for point in points])[timeline.index]
    missed = np.asarray(timeline.latency_ms) > np.asarray(timeline.deadline_ms)  # NaN: none
    waits = []
    for begin, end in pairwise(steps_s):
        first, middle, last = np.searchsorted(time_s, (begin, (begin + end) / 2, end))
        usual = accuracy[middle:last].mean() if middle < last else math.nan
        wait = end - begin
        for number in range(first, last):
            after = min(last, int(np.searchsorted(time_s, time_s[number] + _SETTLED_S)))
            close = abs(accuracy[number:after].mean() - usual) <= _SETTLED_ACCURACY
            if close and missed[number:after].sum() <= 1:
                wait = time_s[number] - begin
                break
        waits.append(max(0.0, wait))
    return float(np.mean(waits))


class Tally:
    """Takes each inference and each moment, and gives the figures at the end."""

    def __init__(self, points: Sequence[OperatingPoint]) -> None:
        self._frames = [point.frames for point in points]
        self._accuracy = [point.accuracy or 0.0 for point in points]
        self._counts = [0] * len(points)
        self._misses = self._in_a_row = self._burst = self._longest = 0
        self._switches = 0
        self._last: int | None = None
        self._decisions_us: deque[float] = deque(maxlen=_DECISIONS_KEPT)
        # (time, energy, allowance) at the end of each period of the last window.
        self._window: deque[tuple[float, float, float]] = deque()
        self._block: tuple[float, float, float] | None = None
        self._allowed_j = 0.0
        self._over_j = 0.0
        self._excess: float | None = None

    def inference(self, index: int, missed: bool, decision_us: float) -> None:
        """Count an inference with `points[index]`."""
        self._counts[index] += 1
        self._decisions_us.append(decision_us)
        if index != self._last:
            self._switches += self._last is not None
            self._last = index
        if missed:
            self._misses += 1
            self._in_a_row += self._burst > 0
            self._burst += 1
            if self._burst > self._longest:
                self._longest = self._burst
        else:
            self._burst = 0

    def energy(self, begin: float, end: float, energy_j: float, power_w: float | None) -> None:
        """Note what was drawn.

        Args:
            begin: of a period, which is the end of the one before.
            end: of it.
            energy_j: since the start of the run until `end`.
            power_w: the budget in this period.
        """
        if power_w is None:
            self._window.clear()
            return
        self._allowed_j += power_w * (end - begin)
        now = (end, energy_j, self._allowed_j)
        window = self._window
        window.append(now)
        if len(window) == 1:
            self._block = now
        if self._block is not None and end - self._block[0] >= WINDOW_S - 1e-6:
            drawn_j, allowed_j = energy_j - self._block[1], now[2] - self._block[2]
            self._over_j += max(0.0, drawn_j - allowed_j)
            self._block = now
        while len(window) > 1 and end - window[1][0] >= WINDOW_S - 1e-6:
            window.popleft()
        if end - window[0][0] >= WINDOW_S - 1e-6:
            drawn_j, allowed_j = energy_j - window[0][1], now[2] - window[0][2]
            self._excess = max(self._excess or 0.0, drawn_j / allowed_j - 1)

    def figures(self, length_s: float, energy_j: float, limits: Limits) -> Figures:
        """Return the figures.

        Args:
            length_s: of the run.
            energy_j: drawn in it.
            limits: at its end, for the battery.
        """
        if energy_j == 0:  # a trace without power
            self._excess = None
        elif limits.battery_j is not None:
            self._over_j = max(0.0, energy_j - limits.battery_j)
            self._excess = self._over_j / limits.battery_j
        count = sum(self._counts)
        median_us, p99_us = np.quantile(self._decisions_us, (0.5, 0.99))
        return Figures(
            inferences=count,
            misses=self._misses,
            misses_in_a_row=self._in_a_row,
            longest_burst=self._longest,
            accuracy=float(np.dot(self._counts, self._accuracy)) / count,
            switches_per_min=self._switches / length_s * 60,
            share={t: n / count for t, n in zip(self._frames, self._counts, strict=True)},
            mean_power_w=energy_j / length_s if energy_j else None,
            over_j=self._over_j,
            excess=self._excess,
            decision_us=float(median_us),
            decision_p99_us=float(p99_us),
        )
