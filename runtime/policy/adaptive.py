"""Our policy: the most accurate frame count that keeps the deadline and the budget.

    latency = base · residual of the engine · slowdown · tail

- The *slowdown* is one number for all engines, so that one observation updates every one (ALERT,
  USENIX ATC 2020). Here it is a median of the last few, which a lone spike does not move. What
  is particular to an engine, its *residual*, is learned where a step up showed it.
- The *tail* comes from the data: one-step errors of the last minutes, with a generalised Pareto
  distribution beyond the rarest. Misses come in bursts, and a policy can only dodge what follows
  the first: so the tail is that of inferences which follow a usual one, and the *guard* answers
  the others. It drops at once to what would have kept the deadline with room to spare, and lets
  a frame count return when several inferences in a row would have kept it there.
- The share of misses is held by *feedback*: each miss lowers the chance that the next decisions
  take, each hit raises it again (adaptive conformal inference, Gibbs and Candès, NeurIPS 2021).
  In the long run the share is then met whatever the distribution, where the fewest frames can.
- Power is the profile plus what the machine draws beyond it, and a bucket of joules: see
  `power_model`. Where the power is not known, a power budget is kept by the fewest frames.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from ffn_edge.runtime.policy.interface import (
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Setting,
    by_accuracy,
    fixed,
)
from ffn_edge.runtime.policy.power_model import PowerModel
from ffn_edge.runtime.policy.tail import quantile

# How many errors speak for the tail: two minutes at four inferences a second.
_ERRORS_KEPT = 512
# The slowdown is the median of so many ratios: a level that changes shows after three.
_RATIOS_KEPT = 5
# An error beyond this quantile by this factor begins a burst, or goes on with one.
_USUAL_QUANTILE, _UNUSUAL = 0.9, 1.1
# Whether an unusual error is likely to be followed by another is learned, by this share each
# time, from a cautious start; the guard answers a lone miss only where it is.
_BURST_LESSON, _FIRST_BURST_CHANCE, _LIKELY = 0.2, 0.5, 0.3
# In a burst, a frame count must have room for an inference that is so much slower still.
_HEADROOM = 1.5
# The feedback's step, so that over a thousand inferences the share of misses is at most a tenth
# above what is asked for; and how far it may lower and raise the risk.
_FEEDBACK = 0.01
_LEAST_RISK, _LARGEST_RISK = 0.05, 8.0
_LARGEST_CHANCE = 0.2
# Inferences in a row that must have kept the limits before a step up: where there is room to
# spare, and at most. A step up that is undone within some inferences was a mistake: the next one
# with as little room waits twice as long.
_PATIENCE, _MOST_PATIENCE = 3, 256
_ROOM, _PROBATION = 0.8, 20
# How far below the limits the prediction must lie before a step up.
_MARGIN, _POWER_MARGIN = 0.04, 0.02
# After a step up, so many inferences teach the engine's residual, each by this share. What was
# learned fades while other engines run, or nothing would ever try this one again.
_LESSONS, _LESSON, _FADING = 4, 0.5, 0.002
_RESIDUALS = (0.6, 1.8)
# Hotter than this the boards throttle (NVIDIA's boards from 95 °C or more); so many seconds ahead
# of it, the fewest frames.
_HOT_C, _AHEAD_S = 95.0, 10.0
_SLOPE_S = 3.0  # the time constant of the slope
# A power that was not heard of for so long is not known.
_SILENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known before an inference. The tuples follow `points`.

    Attributes:
        points: the engines, by ascending frame count.
        ranked: their indices, the most accurate first.
        period_s: from one inference to the next; 0 is back to back.
        switch_ms: how much longer the first inference after a switch takes.
        slowdown: how much slower than profiled this machine is now.
        ratios: the latest slowdowns seen, oldest first.
        errors: of the predicted slowdown, seen over predicted, oldest first.
        ordered: the same, ascending.
        in_burst: the last inference missed, or its error was unusual; and
        burst_chance: how likely the same is then true of the next.
        residuals: how much slower than profiled each engine is, apart from the slowdown.
        clean: how many inferences in a row would have kept the deadline, at each frame count.
        risk: the chance of a miss that decisions take now, as a share of the miss rate.
        current: the index of the last inference's engine; None before the first.
        since: how many inferences it has run without a break.
        stepped_up: it was reached from a less accurate one, of its own accord.
        patience: how many clean inferences a step up needs now.
        power: see there.
        temperature_c: of the hottest zone, None unknown; and its slope.
        heating_c_s: °C a second.
        fault: why the power is not known.
        alarm: why the guard was last called.
    """

    points: tuple[OperatingPoint, ...]
    ranked: tuple[int, ...]
    period_s: float
    switch_ms: float
    slowdown: float
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    ordered: tuple[float, ...]
    in_burst: bool = False
    burst_chance: float = _FIRST_BURST_CHANCE
    residuals: tuple[float, ...]
    clean: tuple[int, ...]
    risk: float = 1.0
    current: int | None = None
    since: int = 0
    stepped_up: bool = False
    patience: int = _PATIENCE
    power: PowerModel
    temperature_c: float | None = None
    heating_c_s: float = 0.0
    fault: str | None = None
    alarm: str = ""

    def expected_ms(self, index: int) -> float:
        """Return the latency of an engine that would be usual now."""
        return self.points[index].base_ms * self.residuals[index] * self.slowdown

    def power_w(self, index: int, latency_ms: float | None = None) -> float | None:
        """Return the mean power with an engine, from one inference to the next; None unknown."""
        engine_w = self.points[index].power_w
        if engine_w is None:
            return None
        latency_s = (self.expected_ms(index) if latency_ms is None else latency_ms) / 1e3
        busy = min(1.0, latency_s / self.period_s) if self.period_s else 1.0
        return self.power.predicted_w(engine_w, busy)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """See the module."""

    name: str = field(default="adaptive", init=False)

    def start(self, setting: Setting) -> State:
        """Return the state before the first inference."""
        # Fewer frames are less work: where they were measured to be slower, something interfered.
        fastest_ms = math.inf
        points = []
        for point in sorted(setting.points, key=lambda point: -point.frames):
            fastest_ms = min(fastest_ms, point.base_ms)
            points.append(dataclasses.replace(point, base_ms=fastest_ms))
        points.reverse()
        ratios = sorted(setting.ratios) or [1.0]
        slowdown = statistics.median(ratios)
        # Evenly spaced order statistics keep the distribution when there are too many.
        kept = min(len(ratios), _ERRORS_KEPT)
        errors = tuple(ratios[int((i + 0.5) * len(ratios) / kept)] / slowdown for i in range(kept))
        frames = [point.frames for point in points]
        return State(
            points=tuple(points),
            ranked=tuple(frames.index(point.frames) for point in by_accuracy(points)),
            period_s=setting.period_s,
            switch_ms=setting.switch_ms,
            slowdown=slowdown,
            ratios=(slowdown,),
            errors=errors,
            ordered=errors,
            residuals=(1.0,) * len(points),
            clean=(_MOST_PATIENCE,) * len(points),
            power=PowerModel(setting.idle_w or 0.0),
        )

    def observe(self, state: State, observation: Observation) -> State:
        """Return the state after an inference."""
        index = next(i for i, p in enumerate(state.points) if p.frames == observation.frames)
        before = state.current
        switched = before is not None and index != before
        stepped_up, since, patience = state.stepped_up, state.since + 1, state.patience
        if switched or before is None:
            undone = stepped_up and since <= _PROBATION
            stepped_up = before is not None and _is_better(state, index, before)
            if undone and not stepped_up:
                patience = min(2 * patience, _MOST_PATIENCE)
            since = 1
        elif stepped_up and since == _PROBATION:
            patience = max(patience // 2, _PATIENCE)

        latency_ms = observation.latency_ms
        if switched:  # what the switch itself cost says nothing of the engine
            latency_ms = max(latency_ms - state.switch_ms, state.points[index].base_ms)
        ratio = latency_ms / (state.points[index].base_ms * state.residuals[index])
        error = ratio / state.slowdown
        errors, ordered = state.errors, state.ordered
        unusual = error > _UNUSUAL * quantile(ordered, _USUAL_QUANTILE)
        in_burst = unusual or observation.missed
        burst_chance = state.burst_chance
        if state.in_burst:
            burst_chance += _BURST_LESSON * (in_burst - burst_chance)
        else:
            errors, ordered = _with_error(errors, ordered, error)
        residuals = state.residuals
        if stepped_up and since <= _LESSONS:
            residuals = _with_lesson(residuals, index, error)
            ratio = latency_ms / (state.points[index].base_ms * residuals[index])
        ratios = (*state.ratios, ratio)[-_RATIOS_KEPT:]

        rate = observation.limits.miss_rate
        risk = state.risk + _FEEDBACK / rate * (rate - observation.missed)
        sensed = observation.sensed
        heating_c_s = _heating(state, observation)
        alarm = _alarm(observation, heating_c_s)
        if not alarm and observation.missed:
            said = f"a miss of {observation.latency_ms:.3g} ms with {observation.frames} frames"
        else:
            said = alarm or state.alarm
        if alarm:
            clean = (0,) * len(state.clean)
        elif not observation.missed:
            clean = _clean(state.clean, observation, state.points, residuals, ratio, 1.0)
        elif state.in_burst or burst_chance > _LIKELY:
            clean = _clean(state.clean, observation, state.points, residuals, ratio, _HEADROOM)
        else:
            clean = state.clean  # a lone one, of the share that may miss
        return State(
            points=state.points,
            ranked=state.ranked,
            period_s=state.period_s,
            switch_ms=state.switch_ms,
            slowdown=statistics.median(ratios),
            ratios=ratios,
            errors=errors,
            ordered=ordered,
            in_burst=in_burst,
            burst_chance=burst_chance,
            residuals=tuple(
                value if i == index else value + _FADING * (1 - value)
                for i, value in enumerate(residuals)
            ),
            clean=clean,
            risk=min(max(risk, _LEAST_RISK), _LARGEST_RISK),
            current=index,
            since=since,
            stepped_up=stepped_up,
            patience=patience,
            power=state.power.observe(
                observation.now,
                sensed.power_w,
                state.power_w(index, latency_ms) or 0.0,
                observation.limits.budget_w(state.power.spent_j, observation.now),
                switched=switched,
            ),
            temperature_c=sensed.temperature_c,
            heating_c_s=heating_c_s,
            fault=sensed.fault,
            alarm=said,
        )

    def decide(self, state: State, limits: Limits, now: float) -> Decision:
        """Choose the frame count of the next inference.

        A step down is immediate. A step up waits for several inferences in a row that would
        have kept the deadline, and needs a margin.

        Raises:
            FrameCountError: `limits.frames` is none of the engines'.
        """
        if limits.frames is not None:
            return fixed(state.points, limits.frames)
        budget_w = limits.budget_w(state.power.spent_j, now)
        if budget_w is not None and (why := _unknown_power(state, now)):
            return _fewest(state, f"the power is not known, so the fewest frames: {why}")
        chance = min(limits.miss_rate * state.risk, _LARGEST_CHANCE)
        tail = quantile(state.ordered, 1 - chance)
        rejected: dict[int, str] = {}
        chosen = why_chosen = None
        for index in state.ranked:
            frames = state.points[index].frames
            if chosen is not None:
                rejected[frames] = f"less accurate than {chosen}"
                continue
            demands = list(_demands(state, index, limits, chance, tail, budget_w))
            fits, words = _judge(state, index, demands)
            if fits:
                chosen, why_chosen = frames, words
            else:
                rejected[frames] = words
        if chosen is None or why_chosen is None:
            why = rejected[state.points[0].frames]
            return _fewest(
                state, f"nothing keeps every limit, so the fewest frames: {why}", rejected
            )
        return Decision(frames=chosen, reason=why_chosen, rejected=rejected)


def _fewest(state: State, why: str, rejected: dict[int, str] | None = None) -> Decision:
    others = {p.frames: (rejected or {}).get(p.frames, why) for p in state.points[1:]}
    return Decision(frames=state.points[0].frames, reason=why, rejected=others, warning=why)


def _demands(
    state: State,
    index: int,
    limits: Limits,
    chance: float,
    tail: float,
    budget_w: float | None,
) -> Iterator[tuple[float, float, str, str]]:
    """Yield what an engine would take of each limit: the share, the margin, both in words."""
    if limits.latency_ms is not None:
        predicted_ms = state.expected_ms(index) * tail
        if state.current is not None and index != state.current:
            predicted_ms += state.switch_ms
        words = f"{100 * (1 - chance):.4g} % latency {predicted_ms:.3g} ms"
        limit_ms = limits.latency_ms
        yield predicted_ms / limit_ms, _MARGIN, words, f"{limit_ms:g} ms"
    if budget_w is not None:
        power_w = state.power_w(index)
        if power_w is None:
            yield math.inf, 0.0, "its power was not profiled: any", f"{budget_w:.3g} W"
            return
        allowed_w, limit = state.power.allowed_w(budget_w), f"{budget_w:.3g} W"
        if allowed_w < budget_w:
            limit = f"{allowed_w:.3g} W: {limit}, and {-state.power.balance_j:.2g} J overdrawn"
        share = power_w / allowed_w if allowed_w > 0 else math.inf
        yield share, _POWER_MARGIN, f"{power_w:.3g} W", limit


def _judge(
    state: State, index: int, demands: list[tuple[float, float, str, str]]
) -> tuple[bool, str]:
    """Say whether an engine may run now, and why or why not."""
    for share, _, words, limit in demands:
        if share > 1:
            return False, f"{words} > {limit}"
    clean, current = state.clean[index], state.current
    if index and clean == 0:
        return False, f"guarded: {state.alarm}"
    if current is not None and _is_better(state, index, current):
        for share, margin, words, limit in demands:
            if share > 1 - margin:
                return False, f"{words} is too close to {limit} for a step up"
        has_room = all(share <= _ROOM for share, *_ in demands)
        wait = (_PATIENCE if has_room else state.patience) - min(clean, state.since)
        if wait > 0:
            return False, f"fits; a step up waits {wait} inferences more"
    kept = ", ".join(f"{words} <= {limit}" for _, _, words, limit in demands)
    return True, kept or "the most accurate; there is no limit"


def _unknown_power(state: State, now: float) -> str | None:
    """Say why the power is not known; None if it is, or cannot be yet."""
    heard = state.power.heard
    if heard is None or now - heard <= _SILENCE_S:
        return None
    return state.fault or f"not measured for {now - heard:.1f} s"


def _is_better(state: State, index: int, other: int) -> bool:
    return state.ranked.index(index) < state.ranked.index(other)


def _with_error(
    errors: tuple[float, ...], ordered: tuple[float, ...], error: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return both tuples with an error more, and without the oldest where they are full."""
    ascending = list(ordered)
    if len(errors) == _ERRORS_KEPT:
        del ascending[bisect_left(ascending, errors[0])]
        errors = errors[1:]
    insort(ascending, error)
    return (*errors, error), tuple(ascending)


def _with_lesson(residuals: tuple[float, ...], index: int, error: float) -> tuple[float, ...]:
    """Return the residuals after an error of an engine that was just stepped up to."""
    low, high = _RESIDUALS
    learned = min(max(residuals[index] * (1 + _LESSON * (error - 1)), low), high)
    return (*residuals[:index], learned, *residuals[index + 1 :])


def _heating(state: State, observation: Observation) -> float:
    """Return the slope of the hottest zone's temperature, in °C a second, smoothed."""
    now_c, before_c = observation.sensed.temperature_c, state.temperature_c
    if now_c is None or before_c is None or state.power.observed is None:
        return 0.0
    seconds = observation.now - state.power.observed
    if seconds <= 0:
        return state.heating_c_s
    share = min(1.0, seconds / _SLOPE_S)
    return state.heating_c_s + share * ((now_c - before_c) / seconds - state.heating_c_s)


def _alarm(observation: Observation, heating_c_s: float) -> str:
    """Say what calls for the fewest frames at once; nothing if all is well."""
    sensed = observation.sensed
    if sensed.over_current:
        return "the board reported over-current"
    hottest = sensed.temperature_c
    if hottest is not None and heating_c_s > 0 and hottest + heating_c_s * _AHEAD_S > _HOT_C:
        return f"at {hottest:.0f} °C and rising by {heating_c_s:.1f} °C/s, it would soon throttle"
    return ""


def _clean(
    clean: tuple[int, ...],
    observation: Observation,
    points: tuple[OperatingPoint, ...],
    residuals: tuple[float, ...],
    ratio: float,
    headroom: float,
) -> tuple[int, ...]:
    """Count on, for each engine, the inferences in a row that would have kept the deadline."""
    limit_ms = observation.limits.latency_ms
    if limit_ms is None:
        return tuple(count + 1 for count in clean)
    slower = ratio * headroom
    return tuple(
        count + 1 if point.base_ms * residual * slower <= limit_ms else 0
        for count, point, residual in zip(clean, points, residuals, strict=True)
    )
