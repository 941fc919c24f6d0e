"""Which frame count to run next: pure functions of what was measured. No clock, no I/O.

A latency is split as `profiled base · slowdown · residual`. The slowdown is one number for all
frame counts, so that one observation updates every engine (ALERT, USENIX ATC 2020). The
residual's tail is the empirical quantile of the recent residuals, not a Gaussian's: latencies
have long tails, and their misses come in bursts.

Time is in seconds on any clock that does not go backwards; the caller passes it in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ffn_edge.errors import FfnEdgeError, FrameCountError

# How many residuals speak for the tail: 16 s at four inferences a second.
_RESIDUALS_KEPT = 64
# The share of a new observation in the slowdown, while the tail of the residuals explains it ...
_USUAL = 0.15
# ... and of what the tail does not explain: slow inferences come in bursts, so a single one is
# reason enough to step down, while no fast one is reason to step up at once. One observation
# counts as at most so many times the tail: a spike of any height is forgotten alike.
_SURPRISE, _LARGEST_SURPRISE = 0.7, 2.0
_EXPLAINED_QUANTILE = 0.95
# A step up that is undone within this time was a mistake: the next one waits twice as long, up
# to 2**4 times. This ends the flapping where the slowdown differs between frame counts.
_PROBATION_S = 10.0
_MOST_DOUBLINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """One engine.

    Attributes:
        frames: its frame count.
        base_ms: its profiled latency when nothing interferes.
        accuracy: of its sub-network, in 0..1; None if it was not measured.
    """

    frames: int
    base_ms: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the user asks for.

    Attributes:
        latency_ms: the deadline of one inference; None is no deadline.
        quantile: the share of inferences that must keep it.
        frames: always run this frame count, whatever the deadline.
        dwell_s: how long a frame count is kept before a step up.
        margin: how far below the deadline the prediction must lie before a step up.

    Raises:
        FfnEdgeError: a value out of its range.
    """

    latency_ms: float | None = None
    quantile: float = 0.95
    frames: int | None = None
    dwell_s: float = 2.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        if self.latency_ms is not None and not 0 < self.latency_ms < math.inf:
            raise FfnEdgeError(
                f"a deadline is a positive number of milliseconds; got {self.latency_ms}",
                "for example --latency-ms 80, or leave it out for no deadline.",
            )
        if not 0 < self.quantile < 1:
            raise FfnEdgeError(
                f"a quantile lies between 0 and 1; got {self.quantile}",
                "0.95 keeps the deadline in 95 of 100 inferences.",
            )
        if self.dwell_s < 0 or not 0 <= self.margin < 1:
            raise FfnEdgeError(
                f"a dwell time is not negative and a margin lies in [0, 1); got "
                f"{self.dwell_s} s and {self.margin}",
                "the defaults are 2.0 s and 0.1.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known before an inference. `initial_state` makes the first, `observe` the next.

    Attributes:
        points: the engines, by ascending frame count.
        residuals: the latest latencies over their expectation, oldest first.
        slowdown: how much slower than profiled this machine is now.
        frames: the frame count of the last inference; None before the first.
        since: when that frame count was first used without a break.
        stepped_up: it was reached from fewer frames.
        failed_steps: how many steps up in a row were soon undone.
    """

    points: tuple[OperatingPoint, ...]
    residuals: tuple[float, ...] = (1.0,)
    slowdown: float = 1.0
    frames: int | None = None
    since: float = 0.0
    stepped_up: bool = False
    failed_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The frame count to run, why, and for every other one why not."""

    frames: int
    reason: str
    rejected: dict[int, str] = field(default_factory=dict)


def initial_state(points: Iterable[OperatingPoint], ratios: Iterable[float] = ()) -> State:
    """Return the state before the first inference.

    Args:
        points: the engines.
        ratios: profiled latencies over their base, of all engines together; they stand for the
            slowdown and the tail until enough is observed.
    """
    # Fewer frames are less work: where they were measured to be slower, something interfered.
    fastest_ms = math.inf
    monotonic = []
    for point in sorted(points, key=lambda point: -point.frames):
        fastest_ms = min(fastest_ms, point.base_ms)
        monotonic.append(dataclasses.replace(point, base_ms=fastest_ms))
    ordered = sorted(ratios) or [1.0]
    slowdown = ordered[len(ordered) // 2]
    # Evenly spaced order statistics keep the distribution when there are too many.
    kept = min(len(ordered), _RESIDUALS_KEPT)
    spread = (ordered[int((i + 0.5) * len(ordered) / kept)] for i in range(kept))
    return State(
        points=tuple(reversed(monotonic)),
        residuals=tuple(ratio / slowdown for ratio in spread),
        slowdown=slowdown,
    )


def observe(state: State, frames: int, latency_ms: float, now: float) -> State:
    """Return the state after an inference with `frames` frames that took `latency_ms`."""
    expected_ms = _point(state, frames).base_ms * state.slowdown
    residual = latency_ms / expected_ms
    tail = _empirical_quantile(state.residuals, _EXPLAINED_QUANTILE)
    if residual <= tail:
        slowdown = state.slowdown * (1 + _USUAL * (residual - 1))
    else:
        unexplained = min(residual / tail, _LARGEST_SURPRISE)
        slowdown = state.slowdown * (1 + _SURPRISE * (unexplained - 1))
    on_probation = state.stepped_up and now - state.since <= _PROBATION_S
    since, stepped_up, failed_steps = state.since, state.stepped_up, state.failed_steps
    if frames == state.frames:
        if stepped_up and not on_probation:
            failed_steps = 0
    else:
        since, stepped_up = now, state.frames is not None and frames > state.frames
        if on_probation and not stepped_up:
            failed_steps = min(failed_steps + 1, _MOST_DOUBLINGS)
    return dataclasses.replace(
        state,
        residuals=(*state.residuals, residual)[-_RESIDUALS_KEPT:],
        slowdown=slowdown,
        frames=frames,
        since=since,
        stepped_up=stepped_up,
        failed_steps=failed_steps,
    )


def decide(state: State, limits: Limits, now: float) -> Decision:
    """Choose the frame count of the next inference.

    The most accurate one that is predicted to keep the deadline. A step down is immediate; a
    step up needs a margin and a time of rest. Where nothing keeps the deadline, the fewest
    frames.

    Raises:
        FrameCountError: `limits.frames` is none of the engines'.
    """
    if limits.frames is not None:
        _point(state, limits.frames)
        why_not = f"{limits.frames} frames were asked for"
        return _decision(state, limits.frames, "asked for", {}, why_not)
    ranked = _by_accuracy(state.points)
    if limits.latency_ms is None:
        best = ranked[0].frames
        return _decision(
            state, best, "most accurate; no deadline is set", {}, f"less accurate than {best}"
        )

    tail = _empirical_quantile(state.residuals, limits.quantile)
    predicted_ms = {p.frames: p.base_ms * state.slowdown * tail for p in ranked}
    fits = [p.frames for p in ranked if predicted_ms[p.frames] <= limits.latency_ms]
    share = f"{limits.quantile * 100:g} %"
    rejected = {
        t: f"predicted {share} latency {ms:.3g} ms > {limits.latency_ms:g} ms"
        for t, ms in predicted_ms.items()
        if t not in fits
    }
    if not fits:
        fewest = state.points[0].frames
        predicted = rejected.pop(fewest)
        reason = f"nothing keeps the deadline, so the fewest frames: {predicted}"
        return _decision(state, fewest, reason, rejected, "")

    chosen = fits[0]
    if state.frames in fits:
        # Every frame count before the current one in `fits` would be a step up.
        wait_s = limits.dwell_s * 2**state.failed_steps - (now - state.since)
        bar_ms = limits.latency_ms * (1 - limits.margin)
        for t in fits:
            if t == state.frames:
                chosen = t
                break
            if predicted_ms[t] > bar_ms:
                rejected[t] = (
                    f"predicted {share} latency {predicted_ms[t]:.3g} ms > {bar_ms:.3g} ms, "
                    f"the bar for a step up"
                )
            elif wait_s > 0:
                rejected[t] = f"fits, but a step up waits {wait_s:.1f} s more"
            else:
                chosen = t
                break
    reason = f"predicted {share} latency {predicted_ms[chosen]:.3g} ms <= {limits.latency_ms:g} ms"
    return _decision(state, chosen, reason, rejected, f"fits, but is less accurate than {chosen}")


def _decision(
    state: State, frames: int, reason: str, rejected: dict[int, str], otherwise: str
) -> Decision:
    """Explain every other frame count: by `rejected` where it is there, else by `otherwise`."""
    others = {
        p.frames: rejected.get(p.frames, otherwise) for p in state.points if p.frames != frames
    }
    return Decision(frames=frames, reason=reason, rejected=others)


def _by_accuracy(points: tuple[OperatingPoint, ...]) -> list[OperatingPoint]:
    """Sort, best first: by accuracy (ties to fewer frames), or if any is unknown by frames."""
    accuracies = {p.frames: p.accuracy for p in points if p.accuracy is not None}
    if len(accuracies) == len(points):
        return sorted(points, key=lambda p: (-accuracies[p.frames], p.frames))
    return sorted(points, key=lambda p: -p.frames)


def _empirical_quantile(values: tuple[float, ...], quantile: float) -> float:
    """Return the smallest value that at least `quantile` of a next draw's chances lie below.

    ⌈(n + 1) · q⌉ of n, and not ⌈n · q⌉: the next draw may also exceed all that were seen.
    """
    rank = math.ceil((len(values) + 1) * quantile)
    return sorted(values)[min(rank, len(values)) - 1]


def _point(state: State, frames: int) -> OperatingPoint:
    for point in state.points:
        if point.frames == frames:
            return point
    served = ", ".join(str(point.frames) for point in state.points)
    raise FrameCountError(
        f"there are engines for {served} frames; {frames} was asked for", f"choose one of {served}."
    )
