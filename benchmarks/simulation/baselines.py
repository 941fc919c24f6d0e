"""What our policy is compared with, by name: ALERT, and what people write by hand.

Those by hand are a fixed frame count, thresholds with hysteresis and a PID controller. None of them
knows the engines' latencies: they climb and descend a ladder, from the fewest frames to the most
accurate. Their constants are the best of a grid, on the scenarios and seeds that ours was tuned on:
see `tuning`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from benchmarks.simulation.alert import Alert
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Policy,
    Setting,
    by_accuracy,
    fixed,
)

# Beside these there is static-T, for each frame count T.
NAMES = ("adaptive", "alert", "alert-deviation", "alert-fitted", "pid", "hysteresis")


@dataclass(frozen=True, slots=True)
class Static:
    """Always one frame count."""

    frames: int

    @property
    def name(self) -> str:
        """What people call it."""
        return f"static-{self.frames}"

    def start(self, setting: Setting) -> tuple[OperatingPoint, ...]:
        """Return the engines: there is nothing else to know."""
        fixed(setting.points, self.frames)
        return tuple(setting.points)

    def observe(
        self, state: tuple[OperatingPoint, ...], observation: Observation
    ) -> tuple[OperatingPoint, ...]:
        """Learn nothing."""
        return state

    def decide(
        self,
        state: tuple[OperatingPoint, ...],
        limits: Limits,
        now: float,
        source_frames: float | None = None,
    ) -> Decision:
        """Choose the one frame count."""
        return fixed(state, limits.frames or self.frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Where a policy stands.

    Attributes:
        rungs: the frame counts that are worth their cost, ascending.
        points: the engines.
        idle_w: what the machine draws when no engine works.
        rung: the index of the present one.
        load: the last inference's latency as a share of the deadline, or its power as a share of
            the budget, both above the idle machine, whichever is larger.
        calm: how many inferences in a row were far below the limits.
        total: of a PID controller, the sum of its errors; and
        error: the last one.
        spent_j: joules since the start.
        observed: when the last inference ended.
    """

    rungs: tuple[int, ...]
    points: tuple[OperatingPoint, ...]
    idle_w: float
    rung: int
    load: float = 0.0
    calm: int = 0
    total: float = 0.0
    error: float = 0.0
    spent_j: float = 0.0
    observed: float | None = None

    def decision(self, limits: Limits) -> Decision:
        """Return the decision for the present rung."""
        if limits.frames is not None:
            return fixed(self.points, limits.frames)
        frames = self.rungs[self.rung]
        reason = f"the last one took {self.load:.0%} of the limits"
        others = {p.frames: reason for p in self.points if p.frames != frames}
        return Decision(frames=frames, reason=reason, rejected=others)


def _ladder(setting: Setting) -> Ladder:
    best = by_accuracy(setting.points)[0].frames
    rungs = tuple(sorted(point.frames for point in setting.points if point.frames <= best))
    return Ladder(
        rungs=rungs,
        points=tuple(setting.points),
        idle_w=setting.idle_w or 0.0,
        rung=len(rungs) - 1,
    )


def _watched(state: Ladder, observation: Observation) -> Ladder:
    """Return the state with the load of an inference."""
    limits, power_w = observation.limits, observation.sensed.power_w
    (point,) = (each for each in state.points if each.frames == observation.frames)
    load = observation.latency_ms / (point.deadline_ms(limits) or math.inf)
    budget_w = limits.budget_w(state.spent_j, observation.now)
    if budget_w is not None and power_w is not None:
        load = max(load, (power_w - state.idle_w) / max(budget_w - state.idle_w, 0.001))
    seconds = 0.0 if state.observed is None else max(0.0, observation.now - state.observed)
    return dataclasses.replace(
        state,
        load=load,
        spent_j=state.spent_j + (power_w or 0.0) * seconds,
        observed=observation.now,
    )


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """Down when an inference takes more than `high` of a limit, up after `wait` below `low`."""

    name: str = field(default="hysteresis", init=False)
    # The best of high at 0.7 to 1.0, low at 30 to 60 % of it, and waits of 2 to 32 inferences.
    high: float = 0.95
    low: float = 0.38
    wait: int = 4

    def start(self, setting: Setting) -> Ladder:
        """Return the state before the first inference."""
        return _ladder(setting)

    def observe(self, state: Ladder, observation: Observation) -> Ladder:
        """Return the state after an inference: perhaps a rung further down or up."""
        state = _watched(state, observation)
        if state.load > self.high:
            return dataclasses.replace(state, rung=max(0, state.rung - 1), calm=0)
        calm = state.calm + 1 if state.load < self.low else 0
        if calm >= self.wait:
            return dataclasses.replace(
                state, rung=min(state.rung + 1, len(state.rungs) - 1), calm=0
            )
        return dataclasses.replace(state, calm=calm)

    def decide(
        self, state: Ladder, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the present rung."""
        return state.decision(limits)


@dataclass(frozen=True, slots=True)
class Pid:
    """A PID controller that holds the load at `setpoint` by a rung that need not be whole."""

    name: str = field(default="pid", init=False)
    # The best of the setpoints 0.35 to 0.75, the proportional gains 0.25, 0.5 and 1, and the
    # integral gains 0.01 to 0.2.
    setpoint: float = 0.55
    proportional: float = 0.5
    integral: float = 0.05
    derivative: float = 0.05

    def start(self, setting: Setting) -> Ladder:
        """Return the state before the first inference."""
        ladder = _ladder(setting)
        return dataclasses.replace(ladder, total=ladder.rung / self.integral)

    def observe(self, state: Ladder, observation: Observation) -> Ladder:
        """Return the state after an inference: one step of the controller."""
        state = _watched(state, observation)
        error = max(self.setpoint - state.load, -10.0)
        highest = len(state.rungs) - 1
        # The sum is held where the rung is within the ladder: else it would wind up.
        total = min(max(state.total + error, 0.0), highest / self.integral)
        output = (
            self.proportional * error
            + self.integral * total
            + self.derivative * (error - state.error)
        )
        rung = min(max(round(output), 0), highest)
        return dataclasses.replace(state, rung=rung, total=total, error=error)

    def decide(
        self, state: Ladder, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the present rung."""
        return state.decision(limits)


def named(name: str) -> Policy[Any]:
    """Return the policy that people call `name`.

    Raises:
        FfnEdgeError: there is none.
    """
    match name:
        case "adaptive":
            return Adaptive()
        case "alert":
            return Alert()
        case "alert-fitted":
            return Alert("fitted")
        case "alert-deviation":
            return Alert("deviation")
        case "pid":
            return Pid()
        case "hysteresis":
            return Hysteresis()
    kind, _, frames = name.partition("-")
    if kind == "static" and frames.isdecimal():
        return Static(int(frames))
    raise FfnEdgeError(
        f"there is no policy {name!r}", f"choose one of {', '.join(NAMES)} or static-8."
    )
