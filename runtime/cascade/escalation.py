"""A second look at what is hard: few frames first, and more where their answer is not sure.

Pure, like the policies: no clock, no I/O. `plan` picks the cascade for an inference, `accept`
says whether its first answer will do, `answer` joins what was computed, and `observe` learns.

    escalation = plan(calibration, costs, chosen=decision.frames, budget=..., fits=...)
    first = engines[escalation.first].infer(...)[0]
    sure = accept(escalation, state, first)
    second = None if sure else engines[escalation.second].infer(...)[0]
    state = observe(escalation, state, escalated=not sure)
    logits = answer(escalation, first, second)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ffn_edge.runtime.cascade.calibration import Calibration, Cascade
from ffn_edge.runtime.cascade.confidence import Floats, Logits, log_probabilities, margins
from ffn_edge.runtime.policy.interface import OperatingPoint

# By how much one inference moves the share that is aimed at. After n inferences of a cascade the
# share that was escalated is above the planned one by at most (1 + gain) / (gain n), whatever the
# clips: 5 points after 1000. A larger gain keeps it sooner, and lets the threshold wander more.
_GAIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """What to do for an inference, and what it should come to by the validation clips.

    Attributes:
        cascade: the two frame counts.
        temperature: of the first.
        share: of the clips to escalate, in 0..1.
        accuracy: of the answers, in 0..1.
        cost: of an inference, on average; in the unit of the costs that it was planned with.
    """

    cascade: Cascade
    temperature: float
    share: float
    accuracy: float
    cost: float

    @property
    def first(self) -> int:
        """The frame count to run."""
        return self.cascade.first

    @property
    def second(self) -> int:
        """The frame count to run after it, where it is not sure."""
        return self.cascade.second


@dataclass(frozen=True, slots=True)
class State:
    """What was learnt online: by how much to aim beside the planned share, for each cascade.

    The clips of a street are not the validation clips: the thresholds of these may escalate
    more of those than the budget allows, or fewer.
    """

    drift: Mapping[tuple[int, int], float] = field(default_factory=dict)


def costs_of(points: Sequence[OperatingPoint]) -> dict[int, float]:
    """Return what an inference costs, by frame count: joules above idle; or else, milliseconds.

    Costs are compared with each other only. Where a power was not measured, time stands for
    energy, as if every engine drew the same.
    """
    energies = {
        point.frames: point.power_w * point.base_ms / 1e3
        for point in points
        if point.power_w is not None and point.power_w > 0
    }
    if len(energies) == len(points):
        return energies
    return {point.frames: point.base_ms for point in points}


def plan(
    calibration: Calibration,
    costs: Mapping[int, float],
    *,
    chosen: int,
    budget: float,
    fits: Callable[[int, int], bool],
) -> Escalation | None:
    """Return the cascade that is better than `chosen` within the budget, or None if none is.

    Better is more accurate on the validation clips, and of equals cheaper.

    Args:
        calibration: of the bundle.
        costs: of an inference, by frame count, positive; cascades of others are left out.
        chosen: the frame count that would be run otherwise.
        budget: what an inference may cost on average, in the unit of `costs`. The cost of
            `chosen` asks for more accuracy at equal energy.
        fits: whether two frame counts, one after the other, keep the deadline.
    """
    best: Escalation | None = None
    mark = (-calibration.confidences[chosen].accuracy, costs[chosen])
    for cascade in calibration.cascades:
        first, second = cascade.first, cascade.second
        if first not in costs or second not in costs or costs[first] >= budget:
            continue
        row = cascade.best_within((budget - costs[first]) / costs[second])
        accuracy, share = cascade.accuracies[row], cascade.shares[row]
        cost = costs[first] + share * costs[second]
        if share > 0 and (-accuracy, cost) < mark and fits(first, second):
            mark = (-accuracy, cost)
            best = Escalation(
                cascade=cascade,
                temperature=calibration.confidences[first].temperature,
                share=share,
                accuracy=accuracy,
                cost=cost,
            )
    return best


def accept(escalation: Escalation, state: State, logits: Logits) -> bool:
    """Tell whether the first answer, (C,), is sure enough.

    Logits that are not numbers are accepted: a second look would not mend them.
    """
    aim = escalation.share + state.drift.get((escalation.first, escalation.second), 0.0)
    margin = float(margins(logits, escalation.temperature))
    return not margin < escalation.cascade.threshold_for(aim)


def observe(escalation: Escalation, state: State, *, escalated: bool) -> State:
    """Return the state after an inference: aim lower if it was escalated, and else higher.

    Integral control of a quantile, which assumes nothing of the clips (Gibbs and Candès,
    "Adaptive Conformal Inference Under Distribution Shift", 2021, Prop. 4.1). It never aims
    beyond the share that was useful on the validation clips: where all clips are easy, or where
    there was no time to escalate, the budget is not spent for its own sake.
    """
    cascade = (escalation.first, escalation.second)
    drift = state.drift.get(cascade, 0.0) + _GAIN * (escalation.share - escalated)
    most = escalation.cascade.useful_share - escalation.share
    return State({**state.drift, cascade: min(drift, most)})


def answer(escalation: Escalation, first: Logits, second: Logits | None) -> Floats:
    """Return the log-probabilities, (C,), of the first answer alone or of both."""
    if second is None:
        return log_probabilities(first / escalation.temperature)
    weight_first, weight_second = escalation.cascade.weights
    return log_probabilities(weight_first * first + weight_second * second)
