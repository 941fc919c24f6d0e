"""The loop of a simulated run. It drives the code that runs on the device: `Controller`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed, Setting


class SimulatedDevice(Protocol):
    """What is driven: a recorded trace, or a simulated board."""

    @property
    def setting(self) -> Setting:
        """What a policy is told of it."""

    @property
    def limits(self) -> Limits:
        """What the user asks for since the latest `begin`."""

    @property
    def source_frames(self) -> float | None:
        """What a stream's source gives since the latest `begin`; see `Policy.decide`."""

    @property
    def next_s(self) -> float | None:
        """When the next inference may begin, since the latest `begin`; None is the setting's pace.

        A camera may change its rate, whatever the setting says.
        """

    @property
    def energy_j(self) -> float:
        """Truly drawn since the start; stays 0 where no power is known."""

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""

    def work(self, index: int, until: float) -> None:
        """Run the engine of `setting.points[index]` to a time."""

    def rest(self, until: float) -> None:
        """Run no engine to a time."""

    def sense(self, now: float) -> Sensed:
        """Return what the sensors say."""


class Chooser(Protocol):
    """What chooses: a `Controller`, or something that knows more."""

    def decide(self, limits: Limits, now: float, source_frames: float | None = None) -> Decision:
        """Choose the frame count of the next inference."""

    def observe(self, observation: Observation) -> None:
        """Learn from an inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One inference of a simulated run, and the rest until the next one.

    Attributes:
        index: which of `setting.points` ran.
        begin_s: when it began; and
        end_s: when the next one may.
        latency_ms: how long it took.
        limits: that held.
        deadline_ms: how long it might take; see `Observation`.
        energy_j: drawn from the start of the run to `end_s`.
        decision_us: how long deciding and observing took, for real.
    """

    index: int
    begin_s: float
    end_s: float
    latency_ms: float
    limits: Limits
    deadline_ms: float | None
    energy_j: float
    decision_us: float

    @property
    def missed(self) -> bool:
        """Whether it took longer than the deadline."""
        return self.deadline_ms is not None and self.latency_ms > self.deadline_ms


def drive(device: SimulatedDevice, chooser: Chooser, length_s: float) -> Iterator[Step]:
    """Let something choose on a device, for so long.

    The next inference begins at the next hop, or at once where one took longer than the hop. In a
    live stream the hop is the chosen rate's; else the device may say when it comes.
    """
    points = device.setting.points
    frames_of = [point.frames for point in points]
    index_of = {frames: index for index, frames in enumerate(frames_of)}
    clock = time.perf_counter
    now = 0.0
    while now < length_s:
        latencies_ms = device.begin(now)
        limits, source_frames, due = device.limits, device.source_frames, device.next_s
        start = clock()
        index = index_of[chooser.decide(limits, now, source_frames).frames]
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
            source_frames=source_frames,
            pace_s=points[index].pace_s,
        )
        start = clock()
        chooser.observe(observation)
        decision_s += clock() - start
        if due is None:
            # Half a microsecond of tolerance: multiples of the period are not exact in binary.
            period_s = device.setting.period_of(points[index])
            due = (math.floor(now / period_s + 5e-7) + 1) * period_s if period_s else end
        after = max(due, end)
        device.rest(after)
        yield Step(
            index=index,
            begin_s=now,
            end_s=after,
            latency_ms=latency_ms,
            limits=limits,
            deadline_ms=observation.deadline_ms,
            energy_j=device.energy_j,
            decision_us=decision_s * 1e6,
        )
        now = after
