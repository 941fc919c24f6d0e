"""What could be had at best: a choice that knows what no policy can know."""

from __future__ import annotations

from typing import Protocol

from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, by_accuracy
from ffn_edge.runtime.simulate.drive import SimulatedDevice

NAME = "oracle"


class KnownDevice(SimulatedDevice, Protocol):
    """A simulated device that tells what no real one can."""

    @property
    def latencies_ms(self) -> list[float]:
        """What the latest `begin` returned."""

    @property
    def temperature_c(self) -> float | None:
        """Of now; None if it is not known."""

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""


class Oracle:
    """The most accurate frame count that keeps the limits; where none does, the fewest frames.

    It knows this inference's latency for every frame count, before it runs, spike or not; what
    each would draw on average (the true power, not the sensor's) were the present contention,
    clocks and heat to last; and the energy that was truly spent. It obeys no limit on switching.

    It does *not* plan: it keeps a power budget by one frame count at a time, where a policy may
    mix two that lie on either side of it; and it heats the board until it throttles.
    """

    def __init__(self, device: KnownDevice) -> None:
        self._device = device
        points = device.setting.points
        self._points = points
        self._frames = [point.frames for point in points]
        order = {frames: index for index, frames in enumerate(self._frames)}
        self._ranked = [order[point.frames] for point in by_accuracy(points)]

    def decide(self, limits: Limits, now: float, source_frames: float | None = None) -> Decision:
        """Choose the frame count to run now."""
        latencies_ms, sustained_w = self._device.latencies_ms, self._device.sustained_w()
        budget_w = limits.budget_w(self._device.energy_j, now)
        for index in self._ranked:
            deadline_ms = self._points[index].deadline_ms(limits)
            if deadline_ms is not None and latencies_ms[index] > deadline_ms:
                continue
            if budget_w is not None and sustained_w[index] > budget_w:
                continue
            return Decision(frames=self._frames[index], reason="the best that keeps the limits")
        return Decision(frames=self._frames[0], reason="nothing keeps the limits")

    def observe(self, observation: Observation) -> None:
        """Learn nothing: all is known."""
