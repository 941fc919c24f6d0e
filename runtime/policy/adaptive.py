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
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ffn_edge.runtime.policy.interface import (
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Setting,
    by_accuracy,
    fixed,
)
from ffn_edge.runtime.policy.latency_model import LatencyModel
from ffn_edge.runtime.policy.power_model import PowerModel

# In a burst, a frame count must have room for an inference that is so much slower still.
_HEADROOM = 1.5
# The feedback's step, and how far it may raise the chance of a miss that a decision takes. Together
# they bound the misses beyond the share that was asked for: 0.25 / 0.05, so five, in any run.
_FEEDBACK, _LARGEST_CHANCE, _LEAST_CHANCE = 0.05, 0.25, 0.002
# Inferences in a row that must have kept the limits before a step up: where there is room to
# spare, and at most. A step up that is undone within some inferences was a mistake: the next one
# with as little room waits twice as long.
_PATIENCE, _MOST_PATIENCE = 3, 256
_ROOM, _PROBATION = 0.8, 30
# A step up takes this share of the chance of a miss, and keeps this margin below the limits.
_STEP_UP, _MARGIN = 0.5, 0.02
# After a step up, so many inferences tell of the engine rather than of the machine.
_LESSONS = 4
# Hotter than this the boards throttle (NVIDIA's boards from 95 °C or more); so many seconds ahead
# of it, the fewest frames.
_HOT_C, _AHEAD_S = 95.0, 10.0
_SLOPE_S = 3.0  # the time constant of the slope
# A power that was not heard of for so long is not known; until then the model answers.
_SILENCE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known before an inference. The tuples follow `points`.

    Attributes:
        points: the engines, by ascending frame count.
        ranked: their indices, the most accurate first.
        period_s: from one inference to the next; 0 is back to back.
        switch_ms: how much longer the first inference after a switch takes.
        latency: how long each engine would take now.
        clean: how many inferences in a row would have kept the deadline, at each frame count.
        chance: of a miss, that decisions take now; None before the first inference.
        current: the index of the last inference's engine; None before the first.
        since: how many inferences it has run without a break.
        stepped_up: it was reached from a less accurate one, of its own accord.
        patience: how many clean inferences a step up needs now.
        power: what the machine would draw.
        temperature_c: of the hottest zone, None unknown; and its slope.
        heating_c_s: °C a second.
        fault: why the power is not known.
        alarm: why the guard was last called.
    """

    points: tuple[OperatingPoint, ...]
    ranked: tuple[int, ...]
    period_s: float
    switch_ms: float
    latency: LatencyModel
    clean: tuple[int, ...]
    chance: float | None = None
    current: int | None = None
    since: int = 0
    stepped_up: bool = False
    patience: int = _PATIENCE
    power: PowerModel
    temperature_c: float | None = None
    heating_c_s: float = 0.0
    fault: str | None = None
    alarm: str = ""

    def power_w(self, index: int) -> float | None:
        """Return the mean power with an engine, from one inference to the next; None unknown."""
        engine_w = self.points[index].power_w
        if engine_w is None:
            return None
        busy = (
            min(1.0, self.latency.expected_ms(index) / 1e3 / self.period_s)
            if self.period_s
            else 1.0
        )
        return self.power.predicted_w(engine_w * busy)


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
        frames = [point.frames for point in points]
        return State(
            points=tuple(points),
            ranked=tuple(frames.index(point.frames) for point in by_accuracy(points)),
            period_s=setting.period_s,
            switch_ms=setting.switch_ms,
            latency=LatencyModel.start([point.base_ms for point in points], setting.ratios),
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

        usual_ms, engine_j = _usual(state, observation, index)
        latency_ms = observation.latency_ms
        if switched:  # what the switch itself cost says nothing of the engine
            latency_ms = max(latency_ms - state.switch_ms, usual_ms)
        teaches = stepped_up and since <= _LESSONS and not observation.ran
        latency = state.latency.observe(
            usual_ms, latency_ms, missed=observation.missed, teaches=index if teaches else None
        )
        rate = observation.limits.miss_rate
        chance = rate if state.chance is None else state.chance
        if observation.limits.latency_ms is not None:
            chance += _FEEDBACK * (rate - observation.missed)
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
            clean = _clean(state.clean, observation.limits, latency, 1.0)
        elif state.latency.in_trouble or latency.bursts_are_likely:
            clean = _clean(state.clean, observation.limits, latency, _HEADROOM)
        else:
            clean = state.clean  # a lone one, of the share that may miss
        return State(
            points=state.points,
            ranked=state.ranked,
            period_s=state.period_s,
            switch_ms=state.switch_ms,
            latency=latency,
            clean=clean,
            chance=min(max(chance, _LEAST_CHANCE), _LARGEST_CHANCE),
            current=index,
            since=since,
            stepped_up=stepped_up,
            patience=patience,
            power=state.power.observe(
                observation.now,
                sensed.power_w,
                state.power.predicted_w(engine_j / max(state.period_s, latency_ms / 1e3)),
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
        chance = limits.miss_rate if state.chance is None else state.chance
        rejected: dict[int, str] = {}
        chosen = why_chosen = None
        for index in state.ranked:
            frames = state.points[index].frames
            if chosen is not None:
                rejected[frames] = f"less accurate than {chosen}"
                continue
            step_up = state.current is not None and _is_better(state, index, state.current)
            chance_here = _STEP_UP * chance if step_up else chance
            demands = list(_demands(state, index, limits, chance_here, budget_w))
            fits, words = _judge(state, index, demands, step_up)
            if fits:
                chosen, why_chosen = frames, words
            else:
                rejected[frames] = words
        if chosen is None or why_chosen is None:
            why = rejected[state.points[0].frames]
            return _fewest(
                state, f"nothing keeps every limit, so the fewest frames: {why}", rejected
            )
        return Decision(
            frames=chosen,
            reason=why_chosen,
            rejected=rejected,
            latencies_ms={
                point.frames: state.latency.predicted_ms(index, chance)
                for index, point in enumerate(state.points)
            },
            engine_w=None
            if budget_w is None
            else state.power.allowed_w(budget_w) - state.power.predicted_w(0.0),
        )


def _fewest(state: State, why: str, rejected: dict[int, str] | None = None) -> Decision:
    others = {p.frames: (rejected or {}).get(p.frames, why) for p in state.points[1:]}
    return Decision(frames=state.points[0].frames, reason=why, rejected=others, warning=why)


class _Demand(NamedTuple):
    """What an engine would take of a limit: the share, and both in words."""

    share: float
    words: str
    limit: str


def _demands(
    state: State,
    index: int,
    limits: Limits,
    chance: float,
    budget_w: float | None,
) -> Iterator[_Demand]:
    """Yield what an engine would take of each limit, with so large a chance of more."""
    if limits.latency_ms is not None:
        predicted_ms = state.latency.predicted_ms(index, chance)
        if state.current is not None and index != state.current:
            predicted_ms += state.switch_ms
        words = f"{100 * (1 - chance):.4g} % latency {predicted_ms:.3g} ms"
        limit_ms = limits.latency_ms
        yield _Demand(predicted_ms / limit_ms, words, f"{limit_ms:g} ms")
    if budget_w is not None:
        power_w = state.power_w(index)
        if power_w is None:
            yield _Demand(math.inf, "its power was not profiled: any", f"{budget_w:.3g} W")
            return
        allowed_w, limit = state.power.allowed_w(budget_w), f"{budget_w:.3g} W"
        if allowed_w < budget_w:
            limit = f"{allowed_w:.3g} W: {limit}, and {-state.power.balance_j:.2g} J overdrawn"
        share = power_w / allowed_w if allowed_w > 0 else math.inf
        yield _Demand(share, f"{power_w:.3g} W", limit)


def _judge(state: State, index: int, demands: list[_Demand], step_up: bool) -> tuple[bool, str]:
    """Say whether an engine may run now, and why or why not."""
    for share, words, limit in demands:
        if share > 1:
            return False, f"{words} > {limit}"
        if step_up and share > 1 - _MARGIN:
            return False, f"{words} is too close to {limit} for a step up"
    clean = state.clean[index]
    if index and clean == 0:
        return False, f"guarded: {state.alarm}"
    if step_up:
        has_room = all(demand.share <= _ROOM for demand in demands)
        wait = (_PATIENCE if has_room else state.patience) - min(clean, state.since)
        if wait > 0:
            return False, f"fits; a step up waits {wait} inferences more"
    kept = ", ".join(f"{words} <= {limit}" for _, words, limit in demands)
    return True, kept or "the most accurate; there is no limit"


def _unknown_power(state: State, now: float) -> str | None:
    """Say why the power is not known; None if it is, or cannot be yet."""
    heard = state.power.heard
    if heard is None or now - heard <= _SILENCE_S:
        return None
    return state.fault or f"not measured for {now - heard:.1f} s"


def _usual(state: State, observation: Observation, index: int) -> tuple[float, float]:
    """Return how long what ran usually takes, in ms, and the joules that its engines drew."""
    usual_ms = engine_j = 0.0
    ran = observation.ran or ((observation.frames, observation.latency_ms),)
    for frames, latency_ms in ran:
        if frames != state.points[index].frames:
            index = next(i for i, p in enumerate(state.points) if p.frames == frames)
        usual_ms += state.latency.usual_ms(index)
        engine_j += (state.points[index].power_w or 0.0) * latency_ms / 1e3
    return usual_ms, engine_j


def _is_better(state: State, index: int, other: int) -> bool:
    return state.ranked.index(index) < state.ranked.index(other)


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
    clean: tuple[int, ...], limits: Limits, latency: LatencyModel, headroom: float
) -> tuple[int, ...]:
    """Count on, for each engine, the inferences in a row that would have kept the deadline."""
    limit_ms = limits.latency_ms
    if limit_ms is None:
        return tuple(count + 1 for count in clean)
    slower = latency.ratios[-1] * headroom
    return tuple(
        count + 1 if latency.usual_ms(index) * slower <= limit_ms else 0
        for index, count in enumerate(clean)
    )
