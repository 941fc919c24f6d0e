"""Operating points, and a loop that plays scripted latencies to a policy: no clock, no engine."""

from __future__ import annotations

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

    decisions: list[Decision] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    misses: list[bool] = field(default_factory=list)

    @property
    def frames(self) -> list[int]:
        """The frame count of each inference."""
        return [decision.frames for decision in self.decisions]

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
    the time, `sense(frames, now, latency_ms)` what the sensors say.
    """

    def play(
        policy: Policy[object],
        limits: Limits | Callable[[float], Limits],
        seconds: float,
        slowdown: Callable[[int, float], float] = lambda frames, now: 1.0,
        *,
        start: Setting | None = None,
        sense: Callable[[int, float, float], Sensed] = lambda *_: NOTHING_SENSED,
    ) -> Played:
        controller = Controller(policy, start or new_setting())
        played = Played()
        for number in range(round(seconds / PERIOD_S)):
            now = number * PERIOD_S
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
            played.decisions.append(decision)
            played.latencies_ms.append(latency_ms)
            played.misses.append(observation.missed)
        return played

    return play
