"""A recorded trace as a device: other limits meet what was seen, at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import Controller, Limits, Observation, Sensed
from ffn_edge.runtime.simulate.drive import drive
from ffn_edge.runtime.simulate.figures import Figures, Tally
from ffn_edge.runtime.trace import Trace


def replay(trace: Trace, **changes: Any) -> Figures:
    """Return what our policy would have come to on a recorded run.

    Args:
        trace: what was recorded.
        changes: fields of `Limits` that hold instead of the recorded ones.

    Raises:
        FfnEdgeError: a limit is out of its range.
    """
    device = Replay(trace, changes)
    tally = Tally(device.setting.points)
    for step in drive(device, Controller(Adaptive(), device.setting), device.length_s):
        tally.add(step)
    return tally.figures()


class Replay:
    """A `SimulatedDevice` that is as slow, as hot and as power-hungry as the recorded one was.

    How much slower than its profile the engine was that ran holds for every engine at the same
    time. The power holds likewise: measured over expected, since it was told before. Where it was
    not measured, the last known factor holds; where the profile has no power, there is none here.

    Attributes:
        length_s: from the start of the first inference to the end of the last.
        latencies_ms: how long each frame count would take now.
    """

    next_s = None  # at the setting's pace

    def __init__(self, trace: Trace, changes: Mapping[str, Any]) -> None:
        """Start at the beginning of a trace.

        Args:
            trace: what was recorded.
            changes: fields of `Limits` that hold instead of the recorded ones.
        """
        self.setting = trace.setting
        if not trace.setting.period_s:  # a file: at the pace that was recorded
            self.setting = replace(trace.setting, period_s=_median_gap_s(trace))
        self.energy_j = 0.0
        self._observations = trace.observations
        first = trace.observations[0]
        self._begin_s = first.now - first.latency_ms / 1e3
        self.length_s = trace.observations[-1].now - self._begin_s
        self._changes = changes
        self._base_ms = {point.frames: point.base_ms for point in trace.setting.points}
        powers = [point.power_w for point in trace.setting.points]
        idle_w = trace.setting.idle_w
        self._idle_w = idle_w or 0.0
        self._engine_w = [power_w or 0.0 for power_w in powers]
        self._has_power = idle_w is not None and None not in powers
        self._factor = 1.0 if self._has_power else 0.0
        self._number = -1
        self._over_current = 0
        self._now = 0.0
        self._sensed_s = self._sensed_j = 0.0
        self._told_s, self._busy_mj = first.now, 0.0  # when the power was, and the engines' since
        self._next()

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""
        while self._number + 1 < len(self._observations) and self._start_s(self._number + 1) <= now:
            self._next()
        return self.latencies_ms

    def work(self, index: int, until: float) -> None:
        """Run the engine of `setting.points[index]` to a time."""
        self._draw(self._idle_w + self._engine_w[index], until)

    def rest(self, until: float) -> None:
        """Run no engine to a time."""
        self._draw(self._idle_w, until)

    def sense(self, now: float) -> Sensed:
        """Return what the sensors said then, but for the power, which follows from the engine."""
        seen = self._observations[self._number].sensed
        energy_j, elapsed = self.energy_j - self._sensed_j, now - self._sensed_s
        known = self._has_power and seen.power_w is not None
        if known or seen.fault is not None:  # else it is no news, and the next covers both
            self._sensed_j, self._sensed_s = self.energy_j, now
        over_current, self._over_current = self._over_current, 0
        return replace(
            seen,
            power_w=energy_j / elapsed if known else None,
            energy_j=energy_j if known else None,
            over_current=over_current,
        )

    def _draw(self, power_w: float, until: float) -> None:
        self.energy_j += self._factor * power_w * (until - self._now)
        self._now = until

    def _next(self) -> None:
        self._number += 1
        seen = self._observations[self._number]
        ran = seen.ran or ((seen.frames, seen.latency_ms),)
        slowdown = seen.latency_ms / sum(self._base_ms[frames] for frames, _ in ran)
        self.latencies_ms = [point.base_ms * slowdown for point in self.setting.points]
        self._over_current += seen.sensed.over_current
        self.limits = self._shifted(seen.limits)
        self.source_frames = seen.source_frames
        if self._has_power and self._number > 0:
            self._learn_power(seen, ran)

    def _learn_power(self, seen: Observation, ran: Sequence[tuple[int, float]]) -> None:
        engine_w = dict(zip(self._base_ms, self._engine_w, strict=True))
        gap_ms = (seen.now - self._observations[self._number - 1].now) * 1e3
        self._busy_mj += sum(engine_w[frames] * min(ms, gap_ms) for frames, ms in ran)
        power_w = seen.sensed.power_w
        expected_w = self._idle_w + self._busy_mj / 1e3 / (seen.now - self._told_s)
        if power_w is not None and expected_w > 0:
            self._factor = power_w / expected_w
        if power_w is not None or seen.sensed.fault is not None:
            self._told_s, self._busy_mj = seen.now, 0.0

    def _start_s(self, number: int) -> float:
        seen = self._observations[number]
        return seen.now - seen.latency_ms / 1e3 - self._begin_s

    def _shifted(self, limits: Limits) -> Limits:
        """Put limits on this clock, which begins with the trace."""
        until_s = None if limits.until_s is None else limits.until_s - self._begin_s
        return replace(limits, **{"until_s": until_s, **self._changes})


def _median_gap_s(trace: Trace) -> float:
    """Return the time from the start of one inference to the next; 0 if there is but one."""
    starts = [seen.now - seen.latency_ms / 1e3 for seen in trace.observations]
    return median([max(0.0, after - before) for before, after in pairwise(starts)] or [0.0])
