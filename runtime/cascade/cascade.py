"""A cascade in a run: few frames first, and more where their answer is not sure.

The pure parts, without a clock or I/O, come first: `plan` picks the cascade for an inference,
`is_sure` says whether its first answer will do, `join` makes one answer of what was computed, and
`corrected` learns from what was escalated. `CascadeController` keeps what was learnt, and asks the
policy's decision what can be afforded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ffn_edge.errors import EngineError
from ffn_edge.runtime.cascade.calibration import Calibration, Cascade
from ffn_edge.runtime.cascade.confidence import Floats, Logits, log_probabilities, margins
from ffn_edge.runtime.engines.engine import OpenEngines, precisions_in_words
from ffn_edge.runtime.policy.interface import Decision, Limits, OperatingPoint, Setting

_log = logging.getLogger(__name__)

# By how much one inference moves the share that is aimed at. After n inferences of a cascade the
# share that was escalated is above the planned one by at most (1 + gain) / (gain n), whatever the
# clips: 5 points after 1000. A larger gain keeps it sooner, and lets the threshold wander more.
_GAIN = 0.02

# By how much to aim beside the planned share, for each cascade. The clips of a street are not the
# validation clips: the thresholds of these may escalate more of those than the budget allows, or
# fewer.
Drift = Mapping[tuple[int, int], float]

# Runs a frame count and returns its logits, (C,), and how long it took, in ms.
Infer = Callable[[int], tuple[Logits, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePlan:
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
    def pair(self) -> tuple[int, int]:
        """The frame count to run, and the one to run after it where it is not sure."""
        return self.cascade.first, self.cascade.second


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
) -> CascadePlan | None:
    """Pick a cascade that is better than the chosen frame count; None if there is none.

    Better is more accurate on the validation clips, and of equals cheaper.

    Args:
        calibration: of the bundle.
        costs: of an inference, by frame count, positive; cascades of others are left out.
        chosen: the frame count that would be run otherwise.
        budget: what an inference may cost on average, in the unit of `costs`. The cost of
            `chosen` asks for more accuracy at equal energy.
        fits: whether two frame counts, one after the other, keep the deadline.
    """
    best: CascadePlan | None = None
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
            best = CascadePlan(
                cascade=cascade,
                temperature=calibration.confidences[first].temperature,
                share=share,
                accuracy=accuracy,
                cost=cost,
            )
    return best


def is_sure(plan: CascadePlan, drift: Drift, logits: Logits) -> bool:
    """Return whether the first answer, (C,), is sure enough.

    Logits that are not numbers are: more frames would not mend them.
    """
    aim = plan.share + drift.get(plan.pair, 0.0)
    margin = float(margins(logits, plan.temperature))
    return not margin < plan.cascade.threshold_for(aim)


def corrected(plan: CascadePlan, drift: Drift, *, escalated: bool) -> Drift:
    """Return the drift after an inference: aim lower if it was escalated, and else higher.

    Integral control of a quantile, which assumes nothing of the clips (Gibbs and Candès,
    "Adaptive Conformal Inference Under Distribution Shift", 2021, Prop. 4.1). It never aims
    beyond the share that was useful on the validation clips: where all clips are easy, or where
    there was no time to escalate, the budget is not spent for its own sake.
    """
    found = drift.get(plan.pair, 0.0) + _GAIN * (plan.share - escalated)
    return {**drift, plan.pair: min(found, plan.cascade.useful_share - plan.share)}


def join(plan: CascadePlan, first: Logits, second: Logits | None) -> Floats:
    """Return the log-probabilities, (C,), of the first answer alone or of both."""
    if second is None:
        return log_probabilities(first / plan.temperature)
    weight_first, weight_second = plan.cascade.weights
    return log_probabilities(weight_first * first + weight_second * second)


class CascadeController:
    """Answers each clip with one or two frame counts, within what the policy allows for one."""

    def __init__(self, calibration: Calibration, engines: OpenEngines, setting: Setting) -> None:
        """Begin with the thresholds of the validation clips.

        Raises an EngineError where one engine is open at a time.
        """
        if not engines.switch_is_free:
            raise EngineError(
                "a cascade needs all engines at once, and there is room for one",
                "leave out --escalate, or --resident one.",
            )
        learnt_in, running = calibration.precisions, engines.precisions
        if any(running.get(frames, each) != each for frames, each in learnt_in.items()):
            _log.warning(
                "the calibration was made in %s, and %s runs: `ffn-edge calibrate` again",
                precisions_in_words(learnt_in),
                precisions_in_words(running),
            )
        elif not learnt_in:  # else the thresholds were learnt from logits that are off alike
            for cascade in calibration.below_rounding(engines.logit_errors):
                _log.warning(
                    "whether %d frames look again after %d may follow from %s rounding alone. "
                    "`ffn-edge build --precision fp32` rounds less.",
                    cascade.second,
                    cascade.first,
                    engines.precisions[cascade.first],
                )
        self._calibration = calibration
        self._costs = costs_of(setting.points)
        self._is_energy = all(point.power_w for point in setting.points)
        self._period_s = setting.period_s
        self._drift: Drift = {}

    def answer(
        self, decision: Decision, limits: Limits, infer: Infer
    ) -> tuple[Logits, tuple[tuple[int, float], ...]]:
        """Run one engine or two; return logits, (C,), and what ran, each with its milliseconds."""
        found = None if limits.frames is not None else self._plan(decision, limits)
        if found is None:
            logits, latency_ms = infer(decision.frames)
            return logits, ((decision.frames, latency_ms),)
        frames, more_frames = found.pair
        first, first_ms = infer(frames)
        ran: tuple[tuple[int, float], ...] = ((frames, first_ms),)
        second = None
        is_late = (
            limits.latency_ms is not None
            and first_ms + decision.latencies_ms[more_frames] > limits.latency_ms
        )
        if not is_late and not is_sure(found, self._drift, first):
            second, second_ms = infer(more_frames)
            ran = (*ran, (more_frames, second_ms))
        self._drift = corrected(found, self._drift, escalated=second is not None)
        return join(found, first, second), ran

    def _plan(self, decision: Decision, limits: Limits) -> CascadePlan | None:
        budget = self._costs[decision.frames]
        if self._is_energy and decision.engine_w is not None and self._period_s:
            # Where the budget lies between two frame counts, there is more to spend than on one.
            budget = max(budget, decision.engine_w * self._period_s)

        def fits(first: int, second: int) -> bool:
            predicted_ms = decision.latencies_ms
            if {first, second} & decision.barred:
                return False
            if limits.latency_ms is None:
                return True
            if not predicted_ms:
                return False
            return predicted_ms[first] + predicted_ms[second] <= limits.latency_ms

        return plan(
            self._calibration, self._costs, chosen=decision.frames, budget=budget, fits=fits
        )
