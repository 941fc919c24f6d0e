"""Our policy: the frame count that is worth most, where a miss has a price.

    worth of a frame count = accuracy · (1 - chance to be late) - price · chance to be late

- The *chance* comes from what was seen: see `latency_model`.
- The *price* holds the share of misses. Each inference earns the share that is allowed, each miss
  costs one; the less of that credit is left, the dearer is a miss: a queue of debts and a penalty
  on what makes them, as in conformal Lyapunov optimisation (Binucci, Simeone and Banelli, arXiv
  2503.00486). While the debt stays above its end, no more are missed than earned and a constant,
  whether or not the chances are right (docs/adaptive.md says where it does not). With credit left a
  miss costs just what it is: a wrong answer.
- In a *burst* the chance of the next miss is that of inferences after a slow one; and the engine
  that missed waits, for longer if it missed as soon as it was back.
- Whether an engine became faster is seen by *trying* it alone. It is tried where it would be in
  time if it took a fifth less than expected, while the credit is full, or where nothing else is in
  time: so a profile that is wrong is found out, at the price of a miss that is allowed.
- A *power budget* is kept by the mean: see `power_model`. Where the power is not known, by the
  fewest frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ffn_edge.runtime.policy.interface import (
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Setting,
    by_accuracy,
    fitted_accuracies,
    fixed,
    why_not_as_good,
)
from ffn_edge.runtime.policy.latency_model import LatencyModel
from ffn_edge.runtime.policy.power_model import PowerModel, in_turns

# Misses that may be saved for later; and that may be owed.
_CREDIT, _DEBT = 3.0, 10.0
# Without credit, a miss costs this share of what the most frames gain while it is earned again.
_PRICE = 0.08
# Of engines that are as accurate as validation can tell, the one that `by_accuracy` prefers likely
# is so much better.
_LIKELY = 0.005
# An engine that missed waits so long.
_WAIT_S = 0.2
# One that missed as soon as it was back waits so long; and one is tried for so long, so long after
# it last ran, if it were in time in so much less.
_TRIAL_S, _LESS = 20.0, 0.2
# Where every engine is late with more than this chance, none waits and any may be tried.
_LIKELY_LATE = 0.5
# So near to a trip point that slows the machine hard or turns it off, it is kept cool.
_HOT_C = 3.0
# A stream's rate may be so many times what its source gives: cameras do not keep theirs exactly.
_SOURCE_TOLERANCE = 1.1
# What is told of an engine's pace: the second fastest of the last intervals, so that a camera that
# became faster counts soon, and one long inference does not.
_PACES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveState:
    """What is known before an inference. The tuples follow `points`.

    Attributes:
        points: the engines, by ascending frame count.
        worth: how accurate each is, or is taken to be.
        periods_s: from one inference with each to the next; 0 is back to back.
        switch_ms: how much longer the first inference after a switch takes.
        latency: how long each would take.
        power: what the machine would draw.
        credit: misses that may be made, or are owed.
        current: the index of the last inference's engine; None before the first.
        last_ran: when each last did.
        waits_until: when each may run again.
        trial_until: how long the current one is tried; in the past if it is not.
        paces: the latest intervals between inferences, as shares of what was told.
        alarm: why the fewest frames must run now; empty if they need not.
        fault: why the power is not known.
    """

    points: tuple[OperatingPoint, ...]
    worth: tuple[float, ...]
    periods_s: tuple[float, ...]
    switch_ms: float
    latency: LatencyModel
    power: PowerModel
    credit: float
    current: int | None = None
    last_ran: tuple[float, ...]
    waits_until: tuple[float, ...]
    trial_until: float = -math.inf
    paces: tuple[float, ...] = ()
    alarm: str = ""
    fault: str | None = None

    @property
    def most_gain(self) -> float:
        """What the most accurate engine is worth above the least."""
        return max(self.worth) - min(self.worth)

    @property
    def latencies_ms(self) -> dict[int, float]:
        """What each frame count takes at most; see `Decision`."""
        longer = math.exp(self.latency.expected + self.latency.tail)
        return {point.frames: point.base_ms * longer for point in self.points}

    def index_of(self, frames: int) -> int:
        """Return where the engine of a frame count stands."""
        return [point.frames for point in self.points].index(frames)

    def power_w(self, index: int) -> float | None:
        """Return the mean power with an engine, from one inference to the next; None unknown."""
        engine_w = self.points[index].power_w
        if engine_w is None:
            return None
        period_s = self.periods_s[index]
        if period_s and self.paces:
            period_s *= sorted(self.paces)[min(1, len(self.paces) - 1)]
        busy = min(1.0, self.latency.expected_ms(index) / 1e3 / period_s) if period_s else 1.0
        return self.power.predicted_w(engine_w * busy, index)

    def rooms_ms(self, limits: Limits) -> NDArray[np.float64] | None:
        """Return what an inference with each engine may take; None is no deadline for any."""
        rooms = [point.deadline_ms(limits) for point in self.points]
        if all(room is None for room in rooms):
            return None
        return np.array([math.inf if room is None else room for room in rooms])


@dataclass(frozen=True, slots=True)
class Adaptive:
    """See the module."""

    name: str = field(default="adaptive", init=False)

    def start(self, setting: Setting) -> AdaptiveState:
        """Return the state before the first inference."""
        points = tuple(sorted(setting.points, key=lambda point: point.frames))
        never = (-math.inf,) * len(points)
        return AdaptiveState(
            points=points,
            worth=_worth(points),
            periods_s=tuple(setting.period_of(point) for point in points),
            switch_ms=setting.switch_ms,
            latency=LatencyModel.start([point.base_ms for point in points], setting.ratios),
            power=PowerModel(setting.idle_w or 0.0, (0.0,) * len(points)),
            credit=1.0,
            last_ran=never,
            waits_until=never,
        )

    def observe(self, state: AdaptiveState, observation: Observation) -> AdaptiveState:
        """Return the state after an inference."""
        limits, sensed, now = observation.limits, observation.sensed, observation.now
        index, before = state.index_of(observation.frames), state.current
        switched = before is not None and index != before
        ran = observation.ran or ((observation.frames, observation.latency_ms),)
        parts = [(state.index_of(frames), ms) for frames, ms in ran]
        last = parts[-1][0]
        alone = last if len(parts) == 1 else None
        usual_ms = sum(state.points[part].base_ms for part, _ in parts)
        latency_ms = observation.latency_ms
        if switched:  # what the switch itself cost says nothing of the engine
            latency_ms = max(latency_ms - state.switch_ms, min(latency_ms, usual_ms))
        latency = state.latency.observe(
            now,
            usual_ms,
            latency_ms,
            index=alone,
            miss_rate=limits.miss_rate,
            clocks_mhz=sensed.clocks_mhz,
        )
        credit, missed, deadline_ms = state.credit, observation.missed, observation.deadline_ms
        waits_until, trial_until = state.waits_until[last], state.trial_until
        if switched:
            is_up = before is not None and state.worth[index] > state.worth[before]
            trial_until = now + _TRIAL_S if is_up else -math.inf
        if deadline_ms is not None:
            # What no engine would have kept is nobody's mistake.
            missed &= any(
                latency.next_ms(each) <= (point.deadline_ms(limits) or math.inf)
                for each, point in enumerate(state.points)
            )
            credit += limits.miss_rate - missed
            if missed and latency_ms > deadline_ms:  # not by the switch alone
                waits_until = now + (_TRIAL_S if switched else _WAIT_S)
                trial_until = -math.inf
        observed = state.power.observed
        interval_s = 0.0 if observed is None else max(0.0, now - observed)
        period_s = state.periods_s[index]
        engine_j = 1e-3 * sum((state.points[part].power_w or 0.0) * ms for part, ms in parts)
        power = state.power.observe(
            now,
            sensed.power_w,
            engine_j / (interval_s or max(period_s, latency_ms / 1e3)),
            limits.budget_w(state.power.spent_j, now),
            index=alone,
            switched=switched,
        )
        paces = state.paces
        if interval_s and period_s:
            paces = (*paces, interval_s / period_s)[-_PACES:]
        return replace(
            state,
            latency=latency,
            power=power,
            credit=min(max(credit, -_DEBT), _CREDIT),
            current=index,
            last_ran=_with(state.last_ran, last, now),
            waits_until=_with(state.waits_until, last, waits_until),
            trial_until=trial_until,
            paces=paces,
            alarm=_alarm(observation),
            fault=sensed.fault,
        )

    def decide(
        self, state: AdaptiveState, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the frame count of the next inference. See `Policy.decide`.

        Raises:
            FrameCountError: `limits.frames` is none of the engines'.
        """
        points = state.points
        if limits.frames is not None:
            decision = fixed(points, limits.frames)
            return replace(decision, warning=_why_behind(state, limits.frames, source_frames))
        if state.alarm:
            return _fewest(state, state.alarm)
        budget_w = limits.budget_w(state.power.spent_j, now)
        if budget_w is not None and (why := _unknown_power(state)):
            return _fewest(state, f"the power is not known, so the fewest frames: {why}")
        most_given = math.inf if source_frames is None else _SOURCE_TOLERANCE * source_frames
        reasons: dict[int, str] = {}
        for index, point in enumerate(points[1:], start=1):
            if limits.most_frames is not None and point.frames > limits.most_frames:
                reasons[index] = f"more than {limits.most_frames}, its share"
            elif point.frames > most_given:
                reasons[index] = f"more than the {source_frames:.3g} that the source gives"
        rooms_ms, chances = state.rooms_ms(limits), [0.0] * len(points)
        if rooms_ms is not None:
            if state.current is not None:
                rooms_ms = rooms_ms - state.switch_ms
                rooms_ms[state.current] += state.switch_ms
            chances = state.latency.chances(rooms_ms).tolist()
        value = _values(state, limits, chances)
        engine_w, is_over = None, False
        powers_w: Sequence[float | None] = ()
        if budget_w is not None:
            allowed_w = state.power.allowed_w(budget_w, of_battery=limits.power_w is None)
            engine_w = allowed_w - state.power.predicted_w(0.0)
            powers_w = [state.power_w(index) for index in range(len(points))]
            is_over = all(each_w is None or each_w > budget_w for each_w in powers_w)
            _rule_out_power(state, powers_w, value, reasons, allowed_w, now)
        barred = [index for index, until in enumerate(state.waits_until) if now < until]
        able = [index for index in range(len(points)) if index not in reasons]
        rested = [index for index in able if index not in barred]
        if any(chances[index] <= _LIKELY_LATE for index in rested):
            for index in able:
                if index in barred:
                    reasons[index] = f"late {now - state.last_ran[index]:.2g} s ago"
            able = rested
        chosen = best = max(able, key=value.__getitem__)
        hopeless, words = chances[best] > _LIKELY_LATE, ""
        if rooms_ms is not None:
            tried = _to_try(state, limits, rooms_ms, able, best, value, hopeless, now)
            if tried is not None:
                chosen, hopeless, words = tried, False, "tried: "
        for index in able:
            reasons[index] = _why_not(state, index, chosen, chances[index])
        del reasons[chosen]
        words += _reason(state, limits, chosen, chances[chosen], budget_w, powers_w)
        asked = limits.latency_ms is not None or budget_w is not None
        broken = "nothing keeps every limit" if asked else "no rate can be kept"
        is_starved = points[chosen].frames > most_given
        if is_starved:
            words += f"; more frames than the {source_frames:.3g} that the source gives"
        return Decision(
            frames=points[chosen].frames,
            reason=words,
            rejected={points[index].frames: why for index, why in reasons.items()},
            warning=f"{broken}: {words}" if hopeless or is_over or is_starved else None,
            barred=frozenset(points[index].frames for index in barred if index),
            latencies_ms=state.latencies_ms,
            engine_w=engine_w,
        )


def _worth(points: Sequence[OperatingPoint]) -> tuple[float, ...]:
    """Return how accurate the engines are, in `by_accuracy`'s order where they are as good.

    Where it was not measured, more frames are taken to be better.
    """
    accuracies = fitted_accuracies(points)
    if accuracies is None:
        doublings = [math.log2(point.frames / points[0].frames) for point in points]
        return tuple(0.5 + 0.1 * each / (doublings[-1] or 1.0) for each in doublings)
    place = {point.frames: number for number, point in enumerate(by_accuracy(points))}
    return tuple(
        accuracy
        + _LIKELY
        * sum(accuracies[other] == accuracy and place[other] > place[frames] for other in place)
        for frames, accuracy in accuracies.items()
    )


def _with(values: tuple[float, ...], index: int, value: float) -> tuple[float, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _alarm(observation: Observation) -> str:
    """Say why the machine must be spared; empty if it need not."""
    sensed = observation.sensed
    if sensed.over_current:
        return "the board reported over-current"
    if sensed.headroom_c is not None and sensed.headroom_c < _HOT_C:
        return f"{sensed.headroom_c:.1f} °C below the temperature that turns the machine off"
    return ""


def _unknown_power(state: AdaptiveState) -> str | None:
    """Say why the power is not known; None if it is, or cannot be yet."""
    silent_s = state.power.silent_s
    if silent_s is None:
        return None
    return state.fault or f"not measured for {silent_s:.1f} s"


def _rule_out_power(
    state: AdaptiveState,
    powers_w: Sequence[float | None],
    value: Sequence[float],
    reasons: dict[int, str],
    allowed_w: float,
    now: float,
) -> None:
    """Add what draws too much for now."""
    able_w = [
        math.inf if each_w is None or index in reasons else each_w
        for index, each_w in enumerate(powers_w)
    ]
    may_run = in_turns(able_w, value, allowed_w, now, state.current)
    for index, each_w in enumerate(powers_w):
        if index not in reasons and not may_run[index]:
            drawn = "a power that was not profiled" if each_w is None else f"{each_w:.3g} W"
            reasons[index] = f"{drawn} > {allowed_w:.3g} W"


def _values(state: AdaptiveState, limits: Limits, chances: Sequence[float]) -> list[float]:
    """Return what each engine is worth, by its chance to be late."""
    owed = max(0.0, 1 - state.credit / _CREDIT)
    price = _PRICE * owed * state.most_gain / limits.miss_rate
    return [
        worth * (1 - chance) - price * chance
        for worth, chance in zip(state.worth, chances, strict=True)
    ]


def _to_try(
    state: AdaptiveState,
    limits: Limits,
    rooms_ms: NDArray[np.float64],
    able: Sequence[int],
    best: int,
    value: Sequence[float],
    hopeless: bool,
    now: float,
) -> int | None:
    """Return the engine to run though it is not expected to be best; None is none."""
    may_miss = state.credit > _CREDIT - limits.miss_rate / 2 or hopeless
    candidates = [
        index
        for index in able
        if index != best
        and (
            now <= state.trial_until
            if index == state.current
            else may_miss and now - state.last_ran[index] > _TRIAL_S
        )
        and (hopeless or state.worth[index] > state.worth[best])
    ]
    if not candidates:
        return None
    # What the switch takes longer is a miss that is allowed, too.
    rooms_ms = rooms_ms + state.switch_ms
    hoped = _values(state, limits, state.latency.chances(rooms_ms * math.exp(_LESS)).tolist())
    candidates = [index for index in candidates if hoped[index] > value[best]]
    return min(candidates, key=lambda index: state.worth[index], default=None)


def _why_not(state: AdaptiveState, index: int, chosen: int, chance: float) -> str:
    """Say why an engine that is not ruled out does not run."""
    frames = state.points[chosen].frames
    if state.worth[index] <= state.worth[chosen]:
        return why_not_as_good(state.points, state.points[index].frames, frames)
    return f"late in {100 * chance:.3g} %"


def _reason(
    state: AdaptiveState,
    limits: Limits,
    index: int,
    chance: float,
    budget_w: float | None,
    powers_w: Sequence[float | None],
) -> str:
    """Say what an engine is expected to take of the limits."""
    kept = []
    room_ms = state.points[index].deadline_ms(limits)
    if room_ms is not None:
        expected_ms = state.latency.expected_ms(index)
        kept.append(f"{expected_ms:.3g} of {room_ms:.4g} ms, late in {100 * chance:.3g} %")
    if budget_w is not None:
        power_w = powers_w[index]
        drawn = "a power that was not profiled" if power_w is None else f"{power_w:.3g}"
        kept.append(f"{drawn} of {budget_w:.3g} W")
    return "; ".join(kept) or "the most accurate that is not ruled out"


def _fewest(state: AdaptiveState, why: str) -> Decision:
    others = [point.frames for point in state.points[1:]]
    return Decision(
        frames=state.points[0].frames,
        reason=why,
        rejected=dict.fromkeys(others, why),
        warning=why,
        barred=frozenset(others),
        latencies_ms=state.latencies_ms,
    )


def _why_behind(state: AdaptiveState, frames: int, source_frames: float | None) -> str | None:
    """Say why a stream cannot be followed at a rate that was asked for; None if it can."""
    index = state.index_of(frames)
    point, behind = state.points[index], []
    expected_ms = state.latency.expected_ms(index)
    if point.pace_s and expected_ms > point.pace_s * 1e3:
        behind.append(
            f"a frame takes {expected_ms:.3g} ms and comes every {point.pace_s * 1e3:.3g}"
        )
    if source_frames is not None and frames > _SOURCE_TOLERANCE * source_frames:
        behind.append(f"the source gives {source_frames:.3g} frames a window")
    return f"the rate that was asked for cannot be kept: {', '.join(behind)}" if behind else None
