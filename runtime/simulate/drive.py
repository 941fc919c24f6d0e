"""The loop of a simulated run. It drives the code that runs on the device: `Controller`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ffn_edge.runtime.policy.interface import (
    Controller,
    Limits,
    Observation,
    Policy,
    Sensed,
    Setting,
)
from ffn_edge.runtime.simulate.board import SYNTHETIC, BoardSpec
from ffn_edge.runtime.simulate.metrics import Figures, Tally, Timeline, settling_s
from ffn_edge.runtime.simulate.oracle import Oracle


class Device(Protocol):
    """What is driven: a simulated board, or a recorded trace."""

    @property
    def setting(self) -> Setting:
        """What a policy is told of it."""

    @property
    def limits(self) -> Limits:
        """What the user asks for since the latest `begin`."""

    @property
    def energy_j(self) -> float:
        """Truly drawn since the start; stays 0 where no power is known."""

    @property
    def temperature_c(self) -> float | None:
        """Of now; None if it is not known."""

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""

    def work(self, index: int, until: float) -> None:
        """Run the engine of `setting.points[index]` to a time."""

    def rest(self, until: float) -> None:
        """Run no engine to a time."""

    def sense(self, now: float) -> Sensed:
        """Return what the sensors say."""


class Course(Protocol):
    """What is simulated: a scenario, or a recorded trace."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def length_s(self) -> float:
        """How long it is."""

    def device(self, spec: BoardSpec, seed: int, miss_rate: float) -> Device:
        """Return the device at its beginning, with limits that allow so many misses."""

    def steps_s(self) -> list[float]:
        """Return when something changes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a policy did on a course.

    Attributes:
        course: its name.
        policy: its name.
        setting: of the device.
        figures: what it comes to.
        timeline: every inference; None if it was not kept.
    """

    course: str
    policy: str
    setting: Setting
    figures: Figures
    timeline: Timeline | None


def simulate(
    course: Course,
    policy: Policy[Any] | None,
    seed: int,
    miss_rate: float,
    *,
    spec: BoardSpec = SYNTHETIC,
    keep: bool = True,
) -> Run:
    """Let a policy run a board.

    The next inference begins at the next hop, or at once where one took longer than the hop.

    Args:
        course: what the board meets.
        policy: what chooses; None is the oracle.
        seed: of the noise; two policies meet the same noise with the same seed.
        miss_rate: the share of inferences that may miss the deadline.
        spec: what the board is like.
        keep: keep every inference; without, memory does not grow with the length.
    """
    device = course.device(spec, seed, miss_rate)
    setting = device.setting
    controller = None if policy is None else Controller(policy, setting)
    oracle = Oracle(setting.points)
    frames_of = [point.frames for point in setting.points]
    index_of = {frames: index for index, frames in enumerate(frames_of)}
    tally = Tally(setting.points)
    timeline = Timeline() if keep else None
    clock = time.perf_counter
    period_s, length_s = setting.period_s, course.length_s

    now = 0.0
    while now < length_s:
        latencies_ms = device.begin(now)
        limits = device.limits
        energy_j = device.energy_j
        start = clock()
        if controller is not None:
            index = index_of[controller.decide(limits, now).frames]
        else:
            index = oracle.choose(
                limits,
                now,
                latencies_ms=latencies_ms,
                sustained_w=device.sustained_w(),
                spent_j=energy_j,
            )
        decision_s = clock() - start
        latency_ms = latencies_ms[index]
        end = now + latency_ms / 1e3
        device.work(index, end)
        observation = Observation(
            frames=frames_of[index],
            latency_ms=latency_ms,
            now=end,
            limits=limits,
            sensed=device.sense(end),
        )
        if controller is not None:
            start = clock()
            controller.observe(observation)
            decision_s += clock() - start
        # Half a microsecond of tolerance: multiples of the period are not exact in binary.
        due = (math.floor(now / period_s + 5e-7) + 1) * period_s if period_s else end
        after = max(due, end)
        device.rest(after)
        tally.inference(index, observation.missed, decision_s * 1e6)
        tally.energy(now, after, device.energy_j, limits.power_w)
        if timeline is not None:
            timeline.append(
                now,
                index,
                latency_ms,
                limits,
                power_w=(device.energy_j - energy_j) / (after - now),
                temperature_c=device.temperature_c,
            )
        now = after

    figures = tally.figures(now, device.energy_j, device.limits)
    if timeline is not None:
        figures = replace(
            figures, settling_s=settling_s(timeline, setting.points, [*course.steps_s(), now])
        )
    return Run(
        course=course.name,
        policy="oracle" if policy is None else policy.name,
        setting=setting,
        figures=figures,
        timeline=timeline,
    )
