"""Our policy: the most accurate frame count that keeps the deadline and the budget.

    latency = base · residual of the engine · slowdown · tail

- The *slowdown* is one number for all engines, so that one observation updates every one (ALERT,
  USENIX ATC 2020). Here it is a median of the last few, which a lone spike does not move. What
  is particular to an engine, its *residual*, is learned where a step up showed it.
- The *tail* comes from the data: one-step errors of the last minutes, with a generalised Pareto
  distribution beyond the rarest. Misses come in bursts, and a policy can only dodge what follows
  the first: so the tail is that of inferences which follow a usual one, and a *cooldown* answers
  the others. It drops at once to what would have kept the deadline with room to spare, and lets
  a frame count return when several inferences in a row would have kept it there.
- The share of misses is held by *feedback*: each miss lowers alpha, the chance of a miss that the
  next decisions take, and each hit raises it again (adaptive conformal inference, Gibbs and Candès,
  NeurIPS 2021). In a backlog of misses, the tail includes what came in bursts, too.
- Power is the profile plus what the machine draws beyond it, and a bucket of joules: see
  `power_model`. Where the power is not known, a power budget is kept by the fewest frames.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ffn_edge.bundle.bundle import Precision
from ffn_edge.runtime.policy.heat_model import HeatModel
from ffn_edge.runtime.policy.interface import (
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Setting,
    by_accuracy,
    fixed,
    why_not_as_good,
)
from ffn_edge.runtime.policy.latency_model import LatencyModel
from ffn_edge.runtime.policy.power_model import PowerModel

# In a burst, a frame count must have room for an inference that is so much slower still.
_HEADROOM = 1.5
# The feedback's step; the range of alpha, which is below zero in a backlog of misses (0.2 / 0.05:
# of four); and the least that decisions take for it.
_FEEDBACK, _LARGEST_ALPHA, _DEEPEST_BACKLOG, _LEAST_ALPHA = 0.05, 0.25, -0.2, 0.002
# Inferences in a row that must have kept the limits before a step up: where there is room to
# spare, and at most. A step up that is undone within some inferences was a mistake: the next one
# with as little room waits twice as long.
_PATIENCE, _MOST_PATIENCE = 3, 256
_ROOM, _PROBATION = 0.8, 30
# A step up takes this share of the chance of a miss, and keeps this margin below the limits.
_STEP_UP, _MARGIN = 0.5, 0.02
# After a step up, so many inferences tell of the engine rather than of the machine.
_UPDATES = 4
# A power that was not heard of for so long is not known; until then the model answers.
SILENCE_S = 3.0
# A stream's rate may be so many times what its source gives: cameras do not keep theirs exactly.
_SOURCE_TOLERANCE = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What is known of the engines before the first inference.

    Attributes:
        points: by ascending frame count.
        ranked: their indices, the most accurate first.
        periods_s: from one inference with each to the next; 0 is back to back.
        switch_ms: how much longer the first inference after a switch takes.
    """

    points: tuple[OperatingPoint, ...]
    ranked: tuple[int, ...]
    periods_s: tuple[float, ...]
    switch_ms: float

    def index_of(self, frames: int) -> int:
        """Return where the engine of a frame count stands."""
        return [point.frames for point in self.points].index(frames)

    def is_better(self, index: int, other: int) -> bool:
        """Whether an engine is more accurate than another."""
        return self.ranked.index(index) < self.ranked.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveState:
    """What is known before an inference. The tuples follow `engines.points`.

    Attributes:
        engines: what never changes.
        latency: how long each engine would take now.
        streaks: how many inferences in a row would have kept the deadline, at each frame count; 0
            is a cooldown.
        alpha: the chance of a miss that decisions take now, below zero for a backlog of misses;
            None before the first inference.
        current: the index of the last inference's engine; None before the first.
        since: how many inferences it has run without a break.
        stepped_up: it was reached from a less accurate one, of its own accord.
        patience: how long a streak a step up needs now.
        power: what the machine would draw.
        heat: how hot it is.
        fault: why the power is not known.
        alarm: why the last cooldown began.
    """

    engines: Engines
    latency: LatencyModel
    streaks: tuple[int, ...]
    alpha: float | None = None
    current: int | None = None
    since: int = 0
    stepped_up: bool = False
    patience: int = _PATIENCE
    power: PowerModel
    heat: HeatModel
    fault: str | None = None
    alarm: str = ""

    def power_w(self, index: int) -> float | None:
        """Return the mean power with an engine, from one inference to the next; None unknown."""
        engine_w, period_s = self.engines.points[index].power_w, self.engines.periods_s[index]
        if engine_w is None:
            return None
        busy = min(1.0, self.latency.expected_ms(index) / 1e3 / period_s) if period_s else 1.0
        return self.power.predicted_w(engine_w * busy)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """See the module."""

    name: str = field(default="adaptive", init=False)

    def start(self, setting: Setting) -> AdaptiveState:
        """Return the state before the first inference."""
        # Fewer frames are no more work in the same precision: where they were measured to be
        # slower, something interfered.
        fastest_ms: dict[Precision, float] = {}
        points = []
        for point in sorted(setting.points, key=lambda point: -point.frames):
            base_ms = min(fastest_ms.get(point.precision, math.inf), point.base_ms)
            fastest_ms[point.precision] = base_ms
            points.append(dataclasses.replace(point, base_ms=base_ms))
        points.reverse()
        frames = [point.frames for point in points]
        return AdaptiveState(
            engines=Engines(
                points=tuple(points),
                ranked=tuple(frames.index(point.frames) for point in by_accuracy(points)),
                periods_s=tuple(setting.period_of(point) for point in points),
                switch_ms=setting.switch_ms,
            ),
            latency=LatencyModel.start([point.base_ms for point in points], setting.ratios),
            streaks=(_MOST_PATIENCE,) * len(points),
            power=PowerModel(setting.idle_w or 0.0),
            heat=HeatModel(),
        )

    def observe(self, state: AdaptiveState, observation: Observation) -> AdaptiveState:
        """Return the state after an inference."""
        engines, limits, sensed = state.engines, observation.limits, observation.sensed
        index = engines.index_of(observation.frames)
        before = state.current
        switched = before is not None and index != before
        stepped_up, since, patience = state.stepped_up, state.since + 1, state.patience
        if switched or before is None:
            undone = stepped_up and since <= _PROBATION
            stepped_up = before is not None and engines.is_better(index, before)
            if undone and not stepped_up:
                patience = min(2 * patience, _MOST_PATIENCE)
            since = 1
        elif stepped_up and since == _PROBATION:
            patience = max(patience // 2, _PATIENCE)

        usual_ms, engine_j = _usual(state, observation)
        latency_ms = observation.latency_ms
        if switched:  # what the switch itself cost says nothing of the engine
            latency_ms = max(latency_ms - engines.switch_ms, usual_ms)
        updates_engine = stepped_up and since <= _UPDATES and not observation.ran
        alpha = limits.miss_rate if state.alpha is None else state.alpha
        latency = state.latency.observe(
            usual_ms,
            latency_ms,
            missed=observation.missed,
            updates_engine=index if updates_engine else None,
            has_backlog=alpha < 0,
        )
        if observation.deadline_ms is not None:
            # What the fewest frames alone missed, no other choice would have kept.
            had_choice = index > 0 or len(observation.ran) > 1
            alpha += _FEEDBACK * (limits.miss_rate - (observation.missed and had_choice))
        heat = state.heat.observe(observation.now, sensed.temperature_c)
        alarm = "the board reported over-current" if sensed.over_current else heat.alarm
        streaks = _streaks(state, observation, latency, alarm)
        return dataclasses.replace(
            state,
            latency=latency,
            streaks=streaks,
            alpha=min(max(alpha, _DEEPEST_BACKLOG), _LARGEST_ALPHA),
            current=index,
            since=since,
            stepped_up=stepped_up,
            patience=patience,
            power=state.power.observe(
                observation.now,
                sensed.power_w,
                engine_j / max(engines.periods_s[index], latency_ms / 1e3),
                limits.budget_w(state.power.spent_j, observation.now),
                saving_s=limits.saving_s(observation.now),
                switched=switched,
            ),
            heat=heat,
            fault=sensed.fault,
            alarm=alarm or _why_cooling(state, observation, streaks),
        )

    def decide(
        self, state: AdaptiveState, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the frame count of the next inference.

        A step down is immediate. A step up waits for several inferences in a row that would
        have kept the deadline, and needs a margin. See `Policy.decide`.

        Raises:
            FrameCountError: `limits.frames` is none of the engines'.
        """
        engines = state.engines
        points = engines.points
        if limits.frames is not None:
            decision = fixed(points, limits.frames)
            why_not = _why_behind(state, limits.frames, source_frames)
            return dataclasses.replace(decision, warning=why_not)
        budget_w = limits.budget_w(state.power.spent_j, now)
        if budget_w is not None and (why := _unknown_power(state)):
            return _fewest(state, f"the power is not known, so the fewest frames: {why}")
        alpha = limits.miss_rate if state.alpha is None else max(state.alpha, _LEAST_ALPHA)
        stay = (alpha, state.latency.tail(alpha))
        # Errors of a time that is over would keep it down for as long as it lasted.
        up = stay
        if state.current not in (None, engines.ranked[0]):
            up = (_STEP_UP * alpha, state.latency.tail_lately(_STEP_UP * alpha))
        rejected: dict[int, str] = {}
        chosen = why_chosen = None
        for index in engines.ranked:
            frames = points[index].frames
            if chosen is not None:
                rejected[frames] = why_not_as_good(points, frames, chosen)
                continue
            step_up = state.current is not None and engines.is_better(index, state.current)
            alpha_here, tail_here = up if step_up else stay
            demands = list(_demands(state, index, limits, alpha_here, tail_here, source_frames))
            if budget_w is not None:
                saving_j = budget_w * limits.saving_s(now) if step_up else 0.0
                demands.append(_power_demand(state, index, budget_w, saving_j))
            fits, words = _judge(state, index, demands, step_up)
            if fits:
                chosen, why_chosen = frames, words
            else:
                rejected[frames] = words
        if chosen is None or why_chosen is None:
            why = rejected[points[0].frames]
            asked = limits.latency_ms is not None or budget_w is not None
            what = "nothing keeps every limit" if asked else "no rate can be kept"
            return _fewest(state, f"{what}, so the fewest frames: {why}", rejected)
        return Decision(
            frames=chosen,
            reason=why_chosen,
            rejected=rejected,
            barred=frozenset(
                point.frames
                for index, point in enumerate(points)
                if index and state.streaks[index] == 0
            ),
            latencies_ms={
                point.frames: state.latency.expected_ms(index) * stay[1]
                for index, point in enumerate(points)
            },
            engine_w=None
            if budget_w is None
            else state.power.allowed_w(budget_w) - state.power.predicted_w(0.0),
        )


def _fewest(state: AdaptiveState, why: str, rejected: dict[int, str] | None = None) -> Decision:
    others = {p.frames: (rejected or {}).get(p.frames, why) for p in state.engines.points[1:]}
    return Decision(
        frames=state.engines.points[0].frames,
        reason=why,
        rejected=others,
        warning=why,
        barred=frozenset(others),
    )


class _Demand(NamedTuple):
    """What an engine would take of a limit: the share, and both in words."""

    share: float
    words: str
    limit: str


def _demands(
    state: AdaptiveState,
    index: int,
    limits: Limits,
    alpha: float,
    tail: float,
    source_frames: float | None,
) -> Iterator[_Demand]:
    """Yield what an engine would take of the deadline: its tail has the chance alpha of more.

    In a stream also what its rate would take of the source, and of several cameras the frames
    that this one may have.
    """
    point = state.engines.points[index]
    limit_ms = point.deadline_ms(limits)
    if limit_ms is not None:
        predicted_ms = state.latency.expected_ms(index) * tail
        if state.current is not None and index != state.current:
            predicted_ms += state.engines.switch_ms
        words = f"{100 * (1 - alpha):.4g} % latency {predicted_ms:.3g} ms"
        of_what = "" if limit_ms == limits.latency_ms else " between frames"
        yield _Demand(predicted_ms / limit_ms, words, f"{limit_ms:.4g} ms{of_what}")
    if index and limits.most_frames is not None and point.frames > limits.most_frames:
        yield _Demand(math.inf, f"{point.frames} frames", f"{limits.most_frames}, its share")
    if source_frames is not None and point.frames > _SOURCE_TOLERANCE * source_frames:
        given = f"{source_frames:.3g} that the source gives"
        yield _Demand(math.inf, f"{point.frames} frames a window", given)


def _why_behind(state: AdaptiveState, frames: int, source_frames: float | None) -> str | None:
    """Say why a stream cannot be followed at a rate that was asked for; None if it can."""
    index = state.engines.index_of(frames)
    # Whatever the user's limits are: the rate was asked for above them.
    demands = _demands(state, index, Limits(), 0.5, 1.0, source_frames)
    behind = [f"{words} > {limit}" for share, words, limit in demands if share > 1]
    if not behind:
        return None
    return f"the rate that was asked for cannot be kept: {', '.join(behind)}"


def _power_demand(state: AdaptiveState, index: int, budget_w: float, saving_j: float) -> _Demand:
    """Return what an engine would take of the budget.

    The first one beyond it may run as long as there are saved joules, once so many are saved: of
    two frame counts on either side of a battery's budget, both are used.
    """
    power_w = state.power_w(index)
    limit = f"{budget_w:.3g} W"
    if power_w is None:
        return _Demand(math.inf, "a power that was not profiled", limit)
    words, balance_j = f"{power_w:.3g} W", state.power.balance_j
    allowed_w = state.power.allowed_w(budget_w)
    if power_w > allowed_w and index and balance_j > 0 and balance_j >= saving_j:
        fewer_w = state.power_w(index - 1)
        if fewer_w is not None and fewer_w <= allowed_w:
            return _Demand(0.0, words, f"{limit} and {balance_j:.2g} J saved")
    if allowed_w < 0.99 * budget_w:
        limit = f"{allowed_w:.3g} W: {limit}, and {-balance_j:.2g} J overdrawn"
    return _Demand(power_w / allowed_w if allowed_w > 0 else math.inf, words, limit)


def _judge(
    state: AdaptiveState, index: int, demands: list[_Demand], step_up: bool
) -> tuple[bool, str]:
    """Say whether an engine may run now, and why or why not."""
    for share, words, limit in demands:
        if share > 1:
            return False, f"{words} > {limit}"
        if step_up and share > 1 - _MARGIN:
            return False, f"{words} is too close to {limit} for a step up"
    streak = state.streaks[index]
    if index and streak == 0:
        return False, f"cooldown: {state.alarm}"
    if step_up:
        has_room = all(demand.share <= _ROOM for demand in demands)
        wait = (_PATIENCE if has_room else state.patience) - min(streak, state.since)
        if wait > 0:
            return False, f"fits; a step up waits {wait} inferences more"
    kept = ", ".join(f"{words} <= {limit}" for _, words, limit in demands)
    return True, kept or "the most accurate that is not ruled out"


def _unknown_power(state: AdaptiveState) -> str | None:
    """Say why the power is not known; None if it is, or cannot be yet."""
    heard, observed = state.power.heard, state.power.observed
    if heard is None or observed is None or observed - heard <= SILENCE_S:
        return None
    return state.fault or f"not measured for {observed - heard:.1f} s"


def _usual(state: AdaptiveState, observation: Observation) -> tuple[float, float]:
    """Return how long what ran usually takes, in ms, and the joules that its engines drew."""
    usual_ms = engine_j = 0.0
    for frames, latency_ms in observation.ran or ((observation.frames, observation.latency_ms),):
        index = state.engines.index_of(frames)
        usual_ms += state.latency.usual_ms(index)
        engine_j += (state.engines.points[index].power_w or 0.0) * latency_ms / 1e3
    return usual_ms, engine_j


def _why_cooling(state: AdaptiveState, observation: Observation, streaks: tuple[int, ...]) -> str:
    """Say what the latest cooldown answers, where there is one."""
    seen = f"{observation.latency_ms:.3g} ms with {observation.frames} frames"
    if observation.missed:
        return f"a miss of {seen}"
    if any(now == 0 < before for now, before in zip(streaks, state.streaks, strict=True)):
        return f"after {seen}, more would have been late"
    return state.alarm


def _streaks(
    state: AdaptiveState, observation: Observation, latency: LatencyModel, alarm: str
) -> tuple[int, ...]:
    """Count on, for each engine, the inferences in a row that would have kept the deadline.

    After an alarm none has. After a miss that is one of a burst, or likely begins one, only those
    that had room for a slower one still. A lone miss, of the share that is allowed, counts for
    nothing.
    """
    if alarm:
        return (0,) * len(state.streaks)
    headroom = 1.0
    if observation.missed:
        if not (state.latency.in_trouble or latency.bursts_are_likely):
            return state.streaks
        headroom = _HEADROOM
    slower = latency.ratios[-1] * headroom
    limits_ms = [point.deadline_ms(observation.limits) for point in state.engines.points]
    return tuple(
        count + 1 if limit_ms is None or latency.usual_ms(index) * slower <= limit_ms else 0
        for index, (count, limit_ms) in enumerate(zip(state.streaks, limits_ms, strict=True))
    )
