"""What could be had at best: a choice that knows what no policy can know."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, OperatingPoint
from ffn_edge.runtime.simulate.drive import SimulatedDevice
from ffn_edge.runtime.simulate.figures import WINDOW_S

NAME, NAME_LATE = "oracle", "oracle-late"

# A budget is kept to this share: less than an inference's energy in ten seconds.
_ROUNDING = 0.001
# Prices vary so much from one inference to the next: where two frame counts are worth the same,
# some are of this one and some are of that.
_DITHER, _GOLDEN = 0.05, 0.618034
_HALVINGS = 14

# When an inference began, and what it drew beyond what is drawn on average.
Surprise = tuple[float, float]


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


def spent(gains: Sequence[tuple[float, float]], most: float) -> frozenset[float]:
    """Return the times when being late gains the most.

    Args:
        gains: what accuracy being late would add to each inference, and when that begins.
        most: the share of the inferences that may be late.
    """
    return frozenset(now for gain, now in sorted(gains)[len(gains) - int(most * len(gains)) :])


def true_points(device: KnownDevice) -> Sequence[OperatingPoint]:
    """Return a device's engines as they are, which may differ from what a policy is told."""
    points: Sequence[OperatingPoint] = getattr(device, "points", device.setting.points)
    return points


class Oracle:
    """Chooses what has the most in time: a bound for every policy that keeps the limits.

    It knows this inference's latency for every frame count, before it runs, spike or not, and
    takes the most accurate of those in time. Where none is, the least power is drawn.

    A power budget it keeps by the true energy, in any ten seconds. It mixes the two frame counts on
    either side of the budget, those that give the most for their power; it spends what a higher
    budget before has left, and saves what spikes will draw: it was run before, and knows them.
    A battery it empties exactly: a watt is worth the same accuracy at any time of the run, at a
    price that is found by running again and again (`least_price`).

    For accuracy as such, late or not, there is a second one, `oracle-late`: it spends the misses
    that are allowed where being late gains the most (`spent`).

    What it does not bound: heat, since it does not plan to stay cool, so that it heats a board
    until that throttles; what an engine that is cold, or an inference longer than the hop, costs
    the next ones; and whoever draws more than the budget. In a stream, where its own choices
    decide when it chooses again, single windows exceed the budget by up to a hundredth, and a
    policy that takes turns may have some tenths of a point more.
    """

    def __init__(
        self,
        device: KnownDevice,
        price: float = 0.0,
        foreseen: Sequence[Surprise] = (),
        late: frozenset[float] | None = None,
    ) -> None:
        """Be ready to run a device from its beginning.

        Args:
            device: what it knows.
            price: the accuracy that a watt is worth; see `least_price`.
            foreseen: the `surprises` of an earlier run of the same.
            late: the times when it may be late, and is where it must; None is never, and where it
                must be late it saves power.
        """
        self.surprises: list[Surprise] = []
        self.gains: list[tuple[float, float]] = []
        self._late = late
        self._device = device
        self._points = true_points(device)
        known = [point.accuracy for point in self._points if point.accuracy is not None]
        if len(known) < len(self._points):  # more frames are taken to be better
            known = [float(point.frames) for point in self._points]
        self._accuracies = known
        self._price = price
        self._count = 0
        # Time, energy, and what was allowed, at the begin of each inference of the last window.
        self._window: deque[tuple[float, float, float]] = deque()
        self._budget_w = self._chosen_w = 0.0
        self._foreseen_s = [time_s for time_s, _ in foreseen]
        self._foreseen_j = [0.0, *accumulate(joules for _, joules in foreseen)]

    def decide(self, limits: Limits, now: float, source_frames: float | None = None) -> Decision:
        """Choose the frame count to run now."""
        drawn_w = self._device.sustained_w()
        in_time = []
        for point, ms in zip(self._points, self._device.latencies_ms, strict=True):
            deadline_ms = point.deadline_ms(limits)
            in_time.append(deadline_ms is None or ms <= deadline_ms)
        accuracies = self._accuracies
        values = [each * kept for each, kept in zip(accuracies, in_time, strict=True)]
        self.gains.append((max(accuracies) - max(values), now))
        if self._late is not None and (now in self._late or not any(in_time)):
            values = accuracies
        worthwhile = _worthwhile(drawn_w, values)
        if limits.power_w is None:
            self._window.clear()
        else:
            worthwhile = self._within(limits.power_w, now, drawn_w, worthwhile)
        self._count += 1
        price = self._price * (1 + _DITHER * (2 * (self._count * _GOLDEN % 1) - 1))
        index = max(worthwhile, key=lambda i: values[i] - price * drawn_w[i])
        self._chosen_w = drawn_w[index]
        return Decision(frames=self._points[index].frames, reason="the most in time")

    def observe(self, observation: Observation) -> None:
        """Learn nothing: all is known."""

    def _within(
        self, budget_w: float, now: float, drawn_w: list[float], worthwhile: list[int]
    ) -> list[int]:
        """Return those of the worthwhile after which ten seconds can keep the budget."""
        window, energy_j = self._window, self._device.energy_j
        allowed_j = 0.0
        if window:
            before_s, before_j, before_allowed_j = window[-1]
            elapsed = now - before_s
            allowed_j = before_allowed_j + self._budget_w * elapsed
            self.surprises.append((before_s, energy_j - before_j - self._chosen_w * elapsed))
        self._budget_w = budget_w
        window.append((now, energy_j, allowed_j))
        while now - window[0][0] >= WINDOW_S:
            window.popleft()
        # What may be spent beyond the frame count that is just within the budget, were that one to
        # run in all that is left of each ten seconds.
        lower = max((n for n, i in enumerate(worthwhile) if drawn_w[i] <= budget_w), default=0)
        lower_w = drawn_w[worthwhile[lower]]
        ahead_j = self._foreseen_until(now)
        spare_j = min(
            allowed_j
            - then_allowed_j
            - (energy_j - then_j)
            + (budget_w - lower_w) * (then + WINDOW_S - now)
            - (self._foreseen_until(then + WINDOW_S) - ahead_j)
            for then, then_j, then_allowed_j in window
        )
        spare_j += _ROUNDING * budget_w * WINDOW_S
        setting, latencies_ms = self._device.setting, self._device.latencies_ms
        kept = [
            i
            for i in worthwhile[: lower + 2]
            if (drawn_w[i] - lower_w)
            * max(setting.period_of(self._points[i]), latencies_ms[i] / 1e3)
            <= spare_j
        ]
        return kept or worthwhile[:1]

    def _foreseen_until(self, time_s: float) -> float:
        return self._foreseen_j[bisect_left(self._foreseen_s, time_s)]


def _worthwhile(drawn_w: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indices on the concave hull of value over power, by rising power.

    No mix of others has more value for the same power than a mix of two neighbours of these.
    """
    hull: list[int] = []

    def gain(this: int, other: int) -> float:
        return (values[other] - values[this]) / (drawn_w[other] - drawn_w[this])

    for i in sorted(range(len(values)), key=lambda i: (drawn_w[i], -values[i])):
        if hull and values[i] <= values[hull[-1]]:
            continue
        while len(hull) > 1 and gain(hull[-2], hull[-1]) <= gain(hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def least_price(keeps: Callable[[float], bool]) -> float:
    """Return the lowest price at which a whole run keeps a limit, found by halving.

    Args:
        keeps: runs at a price, and tells whether the limit was kept.
    """
    if keeps(0.0):
        return 0.0
    low, high = 0.0, 0.001
    while not keeps(high) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
