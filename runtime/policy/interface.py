"""What every policy is told and what it answers. No clock, no I/O.

A policy is a pure function in three parts: `start` makes its first state, `observe` the state
after an inference, and `decide` picks the frame count of the next one. Time is in seconds on any
clock; the caller passes it in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol, TypeVar

from ffn_edge.bundle.bundle import Precision, standard_error
from ffn_edge.errors import FfnEdgeError, FrameCountError
from ffn_edge.files.schema import Above0, Between, Count, NotNegative, Positive, Share

StateT = TypeVar("StateT")

# Of a battery, this share is kept back: the sensors of power are no better than that.
_RESERVE = 0.01
# What is left to an inference that waited for longer than its deadline: nothing keeps it.
_LEAST_MS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """One engine.

    Attributes:
        frames: its frame count.
        precision: what it computes in.
        base_ms: its profiled latency when nothing interferes.
        accuracy: of its sub-network, in 0..1; None if it was not measured.
        clips: that it was measured on; None is not known, and then every difference counts.
        power_w: what it draws while it works, above the idle machine; None if it was not measured.
        period_s: in a stream, the time from one frame to the next at its rate; None elsewhere.
        live: whether a stream's frames come at that pace; of a file they wait for each other.
    """

    frames: Positive
    precision: Precision = "fp32"
    base_ms: Above0
    accuracy: Share | None = None
    clips: Count | None = None
    power_w: NotNegative | None = None
    period_s: NotNegative | None = None
    live: bool = True

    @property
    def pace_s(self) -> float | None:
        """In a live stream, the time between frames, within which it must be done; else None."""
        return self.period_s if self.live else None

    def deadline_ms(self, limits: Limits) -> float | None:
        """Return what an inference with it may take; None is no deadline."""
        return limits.deadline_ms(self.pace_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known before the first inference.

    Attributes:
        points: the engines.
        ratios: profiled latencies over their base, of all engines together; they stand for the
            slowdown and its tail until enough is observed. None known is `()`.
        idle_w: what the machine draws when no engine works; None if it was not measured.
        period_s: the time from the start of one inference to the next; 0 is back to back.
        switch_ms: how much longer the first inference after a switch takes.
    """

    points: Sequence[OperatingPoint]
    ratios: Sequence[Above0] = ()
    idle_w: NotNegative | None = None
    period_s: NotNegative = 0.0
    switch_ms: NotNegative = 0.0

    def period_of(self, point: OperatingPoint) -> float:
        """Return the time from the start of an inference with a point to that of the next."""
        return self.period_s if point.pace_s is None else point.pace_s

    def streamed(self, window_s: float, *, live: bool = True) -> Setting:
        """Return the same for a stream, where T frames a window of so many seconds are a rate."""
        points = [
            replace(point, period_s=window_s / point.frames, live=live) for point in self.points
        ]
        return replace(self, points=points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the user asks for.

        limits = ffn_edge.Limits(latency_ms=80, miss_rate=0.01)

    Attributes:
        latency_ms: the deadline of one inference; None is no deadline.
        miss_rate: the share of inferences that may miss it.
        frames: always run this frame count, whatever the other limits.
        most_frames: run no more than these, or in a cascade no more than they cost on average; or
            the fewest there are.
        power_w: the most that the machine may draw, on average over ten seconds; None is no limit.
        battery_j: the energy that must last ...
        until_s: ... to this time, on the clock of `now`.

    Raises:
        FfnEdgeError: a value out of its range.
    """

    latency_ms: float | None = None
    miss_rate: float = 0.05
    frames: int | None = None
    most_frames: int | None = None
    power_w: float | None = None
    battery_j: float | None = None
    until_s: float | None = None

    def __post_init__(self) -> None:
        for name, value, example in (
            ("a deadline", self.latency_ms, "--latency-ms 80"),
            ("a power budget", self.power_w, "--power-w 10"),
            ("a battery", self.battery_j, "--battery-wh 20 --until 18:00"),
        ):
            if value is not None and not 0 < value < math.inf:
                raise FfnEdgeError(
                    f"{name} is a positive number; got {value}",
                    f"for example {example}, or leave it out for no limit.",
                )
        if not 0 < self.miss_rate < 1:
            raise FfnEdgeError(
                f"a miss rate lies between 0 and 1; got {self.miss_rate}",
                "0.05 allows 5 of 100 inferences to miss the deadline.",
            )
        if (self.battery_j is None) != (self.until_s is None):
            raise FfnEdgeError(
                "a battery's energy and the time that it must last belong together",
                "--battery-wh 20 --until 18:00",
            )

    @property
    def needs_power(self) -> bool:
        """Whether the power must be known to keep them."""
        return self.power_w is not None or self.battery_j is not None

    def deadline_ms(self, pace_s: float | None) -> float | None:
        """Return what an inference may take: until the deadline, or the next frame of a stream.

        Args:
            pace_s: the time from one frame to the next; None is no stream.
        """
        if not pace_s:
            return self.latency_ms
        return min(pace_s * 1e3, self.latency_ms or math.inf)

    def after_waiting(self, waited_ms: float) -> Limits:
        """Return what is left of them for an inference that waited for others."""
        if self.latency_ms is None or not waited_ms:
            return self
        return replace(self, latency_ms=max(self.latency_ms - waited_ms, _LEAST_MS))

    def budget_w(self, spent_j: float, now: float) -> float | None:
        """Return the mean power that may be drawn from now on; None is no limit.

        Args:
            spent_j: of the battery, since the start.
            now: on the clock of `until_s`.
        """
        if self.battery_j is None or self.until_s is None:
            return self.power_w
        left_j = self.battery_j * (1 - _RESERVE) - spent_j
        left_w = max(0.0, left_j) / max(self.until_s - now, 1.0)
        return left_w if self.power_w is None else min(left_w, self.power_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensed:
    """What the sensors say at the end of an inference. None is not known.

    Attributes:
        power_w: mean power of the machine since the observation before; and
        energy_j: what it drew in that time.
        fault: why the power is not known, though it was asked for: no sensor, a stale one.
        temperature_c: of the hottest zone; and
        zones_c: of each, by name.
        headroom_c: how much warmer the zone that is nearest to its `hot` or `critical` trip point
            may get before the kernel slows the machine hard or shuts it down.
        clocks_mhz: of the GPU and the memory, where they are known.
        over_current: how many over-current events came since the observation before.
        throttled: what holds the clocks down now, in words.
    """

    power_w: NotNegative | None = None
    energy_j: NotNegative | None = None
    fault: str | None = None
    temperature_c: Annotated[float, Between(-273.15)] | None = None
    zones_c: Mapping[str, float] = field(default_factory=dict)
    headroom_c: float | None = None
    clocks_mhz: tuple[Above0, ...] = ()
    over_current: Count = 0
    throttled: str | None = None


NOTHING_SENSED = Sensed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """An inference that was made.

    Attributes:
        frames: the frame count that was decided.
        latency_ms: how long it took.
        now: when it ended.
        limits: that held when it was decided.
        sensed: what the sensors said at its end.
        ran: the engines that ran and their milliseconds, where it was not the one decided alone.
        source_frames: what was known of a stream's source when it was decided; see `Policy.decide`.
        pace_s: of the engine that was decided; see `OperatingPoint`.
    """

    frames: int
    latency_ms: float
    now: float
    limits: Limits
    sensed: Sensed = NOTHING_SENSED
    ran: tuple[tuple[int, float], ...] = ()
    source_frames: float | None = None
    pace_s: float | None = None

    @property
    def deadline_ms(self) -> float | None:
        """What it might take, by the limits and, in a stream, its rate; None is no deadline."""
        return self.limits.deadline_ms(self.pace_s)

    @property
    def missed(self) -> bool:
        """Whether it took longer than that."""
        return self.deadline_ms is not None and self.latency_ms > self.deadline_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The frame count to run, why, and for every other one why not.

    Attributes:
        frames: to run next.
        reason: in words, with the numbers.
        rejected: every other frame count and why it was not chosen.
        warning: a limit that cannot be kept, or is not known to be kept, and why.
        latencies_ms: what every frame count is predicted to take at most, with the chance of more
            that the decision takes; empty where the policy does not predict.
        barred: frame counts that must not run now, not even for a part of the clips.
        engine_w: what the engines may draw on average within the budget; None is no limit.
    """

    frames: int
    reason: str
    rejected: dict[int, str] = field(default_factory=dict)
    warning: str | None = None
    latencies_ms: Mapping[int, float] = field(default_factory=dict)
    barred: frozenset[int] = frozenset()
    engine_w: float | None = None


def fixed(points: Iterable[OperatingPoint], frames: int) -> Decision:
    """Return the decision for a frame count that was asked for.

    Raises:
        FrameCountError: it is none of the engines'.
    """
    others = {point.frames: f"{frames} frames were asked for" for point in points}
    if others.pop(frames, None) is None:
        served = ", ".join(map(str, others))
        raise FrameCountError(
            f"there are engines for {served} frames; {frames} was asked for",
            f"choose one of {served}.",
        )
    return Decision(frames=frames, reason="asked for", rejected=others)


class Policy(Protocol[StateT]):
    """A way to choose. It holds settings only; what it learns is in the state."""

    @property
    def name(self) -> str:
        """What people call it."""

    def start(self, setting: Setting) -> StateT:
        """Return the state before the first inference."""

    def observe(self, state: StateT, observation: Observation) -> StateT:
        """Return the state after an inference."""

    def decide(
        self, state: StateT, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the frame count of the next inference.

        Args:
            state: before it.
            limits: what to keep.
            now: on the clock of the observations.
            source_frames: how many frames a stream's source gives in the time of a window; None
                is not known, and of clips.

        Raises:
            FrameCountError: `limits.frames` is none of the engines'.
        """


class Controller:
    """A policy with its state: what the session and the simulator drive.

    Attributes:
        policy: what it drives.
        points: the engines, by frame count.
    """

    def __init__(self, policy: Policy[Any], setting: Setting) -> None:
        self.policy = policy
        self.points = {point.frames: point for point in setting.points}
        self._state = policy.start(setting)

    def decide(self, limits: Limits, now: float, source_frames: float | None = None) -> Decision:
        """Choose the frame count of the next inference. See `Policy.decide`."""
        return self.policy.decide(self._state, limits, now, source_frames)

    def observe(self, observation: Observation) -> None:
        """Learn from an inference."""
        self._state = self.policy.observe(self._state, observation)


def why_not_as_good(points: Iterable[OperatingPoint], frames: int, chosen: int) -> str:
    """Say why `frames`, which comes after `chosen` in `by_accuracy`, is not as good."""
    measured = {point.frames: (point.accuracy, point.clips) for point in points}
    (this, clips), (best, best_clips) = measured[frames], measured[chosen]
    if this is None or best is None or any(each is None for each, _ in measured.values()):
        return f"taken to be less accurate than {chosen}: not all accuracies were measured"
    if this == best:
        return f"no more accurate than {chosen}"
    if clips and best_clips:
        mean = (this * clips + best * best_clips) / (clips + best_clips)
        if best - this <= math.hypot(standard_error(mean, clips), standard_error(mean, best_clips)):
            return f"no more accurate than {chosen} within the validation's error"
    return f"less accurate than {chosen}"


def by_accuracy(points: Iterable[OperatingPoint]) -> list[OperatingPoint]:
    """Sort by `fitted_accuracies`, best first; by frames, if any accuracy is unknown.

    Ties go to more frames; where the clips are not known, to fewer.
    """
    listed = sorted(points, key=lambda point: point.frames)
    fitted = fitted_accuracies(listed)
    if fitted is None or all(point.clips for point in listed):
        listed.reverse()
    return listed if fitted is None else sorted(listed, key=lambda point: -fitted[point.frames])


def fitted_accuracies(points: Iterable[OperatingPoint]) -> dict[int, float] | None:
    """Return the accuracies to compare, by ascending frame count; None if one is unknown.

    Validation has an error, and more frames show more of an action: so more are taken to be at
    least as accurate, unless they were measured to be worse by more than the error. Compared are
    the accuracies of an isotonic regression over the frame counts, weighted by clips. A frame count
    that was measured more than a standard error below its fitted accuracy is left out of the fit,
    and counts as it was measured; so do all where the clips are not known.

    The error is that of independent clips. On the same clips, which is usual, differences are known
    better than that, and it takes more to rank a frame count below fewer.
    """
    listed = sorted(points, key=lambda point: point.frames)
    accuracy = {point.frames: point.accuracy for point in listed if point.accuracy is not None}
    clips = {point.frames: point.clips for point in listed if point.clips}
    if len(accuracy) < len(listed):
        return None
    if len(clips) < len(listed):
        return accuracy
    rising = list(accuracy)
    while True:
        fit = _isotonic([(accuracy[frames], clips[frames]) for frames in rising])
        fitted = dict(zip(rising, fit, strict=True))
        excess = {
            frames: (fitted[frames] - accuracy[frames])
            / standard_error(fitted[frames], clips[frames])
            for frames in rising
            if fitted[frames] > accuracy[frames]
        }
        worst = max(excess, key=excess.__getitem__, default=None)
        if worst is None or excess[worst] <= 1:
            return accuracy | fitted
        rising.remove(worst)


def _isotonic(measured: Sequence[tuple[float, int]]) -> list[float]:
    """Fit accuracies that do not fall to accuracies and clips, by the max-min formula."""

    def mean(first: int, last: int) -> float:
        pool = measured[first : last + 1]
        return sum(accuracy * clips for accuracy, clips in pool) / sum(clips for _, clips in pool)

    every = range(len(measured))
    return [
        max(min(mean(first, last) for last in every[at:]) for first in every[: at + 1])
        for at in every
    ]
