"""Operating points, a board's power, and a loop that plays scripted latencies: no clock, no engine.

Everything here is synthetic.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from ffn_edge.runtime.policy.interface import (
    NOTHING_SENSED,
    Controller,
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Policy,
    Sensed,
    Setting,
)

BASE_MS = {4: 20.0, 8: 40.0, 16: 80.0}
ENGINE_W = {4: 8.0, 8: 9.0, 16: 10.0}
IDLE_W = 4.0
PERIOD_S = 0.25


@dataclass
class Played:
    """What a policy did: one entry an inference."""

    begun_s: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    misses: list[bool] = field(default_factory=list)

    @property
    def frames(self) -> list[int]:
        """The frame count of each inference."""
        return [decision.frames for decision in self.decisions]

    def between(self, begin_s: float, end_s: float) -> list[int]:
        """Return the frame counts of a part of the time."""
        pairs = zip(self.begun_s, self.frames, strict=True)
        return [frames for now, frames in pairs if begin_s <= now < end_s]

    def missed_between(self, begin_s: float, end_s: float) -> int:
        """Return how many were late in a part of the time."""
        pairs = zip(self.begun_s, self.misses, strict=True)
        return sum(missed for now, missed in pairs if begin_s <= now < end_s)

    @property
    def miss_rate(self) -> float:
        """The share that was late."""
        return sum(self.misses) / len(self.misses)

    @property
    def switches(self) -> int:
        """How often it changed."""
        return sum(a != b for a, b in pairwise(self.frames))

    @property
    def longest_burst(self) -> int:
        """The most misses in a row."""
        longest = run = 0
        for missed in self.misses:
            run = run + 1 if missed else 0
            longest = max(longest, run)
        return longest


class Board:
    """What a machine truly draws, and a meter of it: `play`'s `sense`."""

    def __init__(
        self,
        *,
        off: float = 1.0,
        beyond_w: Callable[[float], float] = lambda now: 0.0,
        every_s: float = 0.0,
        fault: Callable[[float], Sensed | None] = lambda now: None,
    ) -> None:
        """Start at time 0.

        Args:
            off: how many times more the engines draw than profiled.
            beyond_w: what everything else does.
            every_s: the meter speaks so often, with the mean of that time; 0 is at each inference.
            fault: what it says instead, if anything.
        """
        self._off, self._beyond_w, self._every_s, self._fault = off, beyond_w, every_s, fault
        self._times_s, self._joules = [0.0], [0.0]
        self._heard_s = 0.0

    def __call__(self, frames: int, now: float, latency_ms: float) -> Sensed:
        """Run an engine from `now` on, and say what the meter does at its end."""
        rest_w, end_s = IDLE_W + self._beyond_w(now), now + latency_ms / 1e3
        self._draw(rest_w, now)
        self._draw(rest_w + self._off * ENGINE_W[frames], end_s)
        said = self._fault(end_s)
        if said is not None:
            return said
        begin_s, shown_s = self._heard_s, end_s
        if self._every_s:
            shown_s = math.floor(end_s / self._every_s) * self._every_s
            begin_s = max(0.0, shown_s - self._every_s)
        if shown_s <= self._heard_s:
            return NOTHING_SENSED
        self._heard_s = shown_s
        return Sensed(power_w=self.mean_w(begin_s, shown_s))

    def mean_w(self, begin_s: float, end_s: float) -> float:
        """Return the true mean power."""
        return (self._until(end_s) - self._until(begin_s)) / (end_s - begin_s)

    def worst_w(self, begin_s: float, end_s: float, window_s: float = 10.0) -> float:
        """Return the highest mean of any ten seconds between two times."""
        steps = int((end_s - begin_s - window_s) / PERIOD_S) + 1
        begins = [begin_s + number * PERIOD_S for number in range(steps)]
        return max(self.mean_w(begin, begin + window_s) for begin in begins)

    def _draw(self, power_w: float, until_s: float) -> None:
        if until_s > self._times_s[-1]:
            self._joules.append(self._joules[-1] + power_w * (until_s - self._times_s[-1]))
            self._times_s.append(until_s)

    def _until(self, time_s: float) -> float:
        """Return the joules until a time; after the last inference the machine is idle."""
        after = bisect_right(self._times_s, time_s)
        begin_s, begin_j = self._times_s[after - 1], self._joules[after - 1]
        if after == len(self._times_s):
            return begin_j + (IDLE_W + self._beyond_w(begin_s)) * (time_s - begin_s)
        share = (time_s - begin_s) / (self._times_s[after] - begin_s)
        return begin_j + share * (self._joules[after] - begin_j)


Play = Callable[..., Played]


def new_setting(
    accuracy: dict[int, float] | None = None, ratios: tuple[float, ...] = (), switch_ms: float = 0
) -> Setting:
    return Setting(
        points=[
            OperatingPoint(
                frames=frames,
                base_ms=base_ms,
                accuracy=None if accuracy is None else accuracy[frames],
                power_w=ENGINE_W[frames],
            )
            for frames, base_ms in BASE_MS.items()
        ],
        ratios=ratios,
        idle_w=IDLE_W,
        period_s=PERIOD_S,
        switch_ms=switch_ms,
    )


@pytest.fixture
def setting() -> Callable[..., Setting]:
    """Make a setting of three engines."""
    return new_setting


@pytest.fixture
def play() -> Play:
    """Run a policy on scripted latencies, four inferences a second.

    `slowdown(frames, now)` is what a latency is multiplied with, `limits` may be a function of
    the time, `sense(frames, now, latency_ms)` what the sensors say, `period_s(now)` the time to
    the next inference.
    """

    def play(
        policy: Policy[object],
        limits: Limits | Callable[[float], Limits],
        seconds: float,
        slowdown: Callable[[int, float], float] = lambda frames, now: 1.0,
        *,
        start: Setting | None = None,
        sense: Callable[[int, float, float], Sensed] = lambda *_: NOTHING_SENSED,
        period_s: Callable[[float], float] = lambda now: PERIOD_S,
    ) -> Played:
        controller = Controller(policy, start or new_setting())
        played = Played()
        now = 0.0
        while now < seconds:
            here = limits(now) if callable(limits) else limits
            decision = controller.decide(here, now)
            latency_ms = BASE_MS[decision.frames] * slowdown(decision.frames, now)
            observation = Observation(
                frames=decision.frames,
                latency_ms=latency_ms,
                now=now + latency_ms / 1e3,
                limits=here,
                sensed=sense(decision.frames, now, latency_ms),
            )
            controller.observe(observation)
            played.begun_s.append(now)
            played.decisions.append(decision)
            played.latencies_ms.append(latency_ms)
            played.misses.append(observation.missed)
            now += max(period_s(now), latency_ms / 1e3)
        return played

    return play
