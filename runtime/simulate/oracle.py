"""What could be had at best: a choice that knows what no policy can know."""

from __future__ import annotations

from collections.abc import Sequence

from ffn_edge.runtime.policy.interface import Limits, OperatingPoint, by_accuracy

NAME = "oracle"


class Oracle:
    """The most accurate frame count that keeps the limits; where none does, the fewest frames.

    It knows this inference's latency for every frame count, before it runs, spike or not; what
    each would draw on average (the true power, not the sensor's) were the present contention,
    clocks and heat to last; and the energy that was truly spent. It obeys no limit on switching.

    It does *not* plan: it keeps a power budget by one frame count at a time, where a policy may
    mix two that lie on either side of it; and it heats the board until it throttles.
    """

    def __init__(self, points: Sequence[OperatingPoint]) -> None:
        order = {point.frames: index for index, point in enumerate(points)}
        self._ranked = [order[point.frames] for point in by_accuracy(points)]

    def choose(
        self,
        limits: Limits,
        now: float,
        *,
        latencies_ms: Sequence[float],
        sustained_w: Sequence[float],
        spent_j: float,
    ) -> int:
        """Return the index of the point to run now."""
        budget_w = limits.budget_w(spent_j, now)
        for index in self._ranked:
            if limits.latency_ms is not None and latencies_ms[index] > limits.latency_ms:
                continue
            if budget_w is not None and sustained_w[index] > budget_w:
                continue
            return index
        return 0
