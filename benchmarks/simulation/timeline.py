"""Every inference of a simulated run, and how soon a policy settles after a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.simulate.drive import Step

_SETTLED_S, _SETTLED_ACCURACY = 2.0, 0.01


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

    def append(self, step: Step, power_w: float, temperature_c: float | None) -> None:
        """Add an inference."""
        limits = step.limits
        self.time_s.append(step.begin_s)
        self.index.append(step.index)
        self.latency_ms.append(step.latency_ms)
        self.deadline_ms.append(math.nan if step.deadline_ms is None else step.deadline_ms)
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
