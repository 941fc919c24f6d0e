"""Escalation in a session: few frames first, and more where their answer is not sure.

`escalation` has the pure parts; this keeps their state and asks the policy's decision what can be
afforded.
"""

from __future__ import annotations

from collections.abc import Callable

from ffn_edge.runtime.cascade import escalation
from ffn_edge.runtime.cascade.calibration import Calibration
from ffn_edge.runtime.cascade.confidence import Logits
from ffn_edge.runtime.policy.interface import Decision, Limits, Setting

# Runs a frame count and returns its logits, (C,), and how long it took, in ms.
Run = Callable[[int], tuple[Logits, float]]


class SecondLook:
    """Answers each clip with one or two frame counts, within what the policy allows for one."""

    def __init__(self, calibration: Calibration, setting: Setting) -> None:
        """Begin with the thresholds of the validation clips.

        Args:
            calibration: of the bundle.
            setting: the engines, and how often they run.
        """
        self._calibration = calibration
        self._costs = escalation.costs_of(setting.points)
        self._is_energy = all(point.power_w for point in setting.points)
        self._period_s = setting.period_s
        self._state = escalation.State()

    def answer(
        self, decision: Decision, limits: Limits, run: Run
    ) -> tuple[Logits, tuple[tuple[int, float], ...]]:
        """Run one engine or two.

        Returns:
            Logits, (C,); and what ran, each with its milliseconds.
        """
        plan = None if limits.frames is not None else self._plan(decision, limits)
        if plan is None:
            logits, latency_ms = run(decision.frames)
            return logits, ((decision.frames, latency_ms),)
        first, first_ms = run(plan.first)
        sure = escalation.accept(plan, self._state, first)
        late = (
            limits.latency_ms is not None
            and first_ms + decision.latencies_ms[plan.second] > limits.latency_ms
        )
        ran: tuple[tuple[int, float], ...] = ((plan.first, first_ms),)
        second = None
        if not sure and not late:
            second, second_ms = run(plan.second)
            ran = (*ran, (plan.second, second_ms))
        self._state = escalation.observe(plan, self._state, escalated=second is not None)
        return escalation.answer(plan, first, second), ran

    def _plan(self, decision: Decision, limits: Limits) -> escalation.Escalation | None:
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

        return escalation.plan(
            self._calibration, self._costs, chosen=decision.frames, budget=budget, fits=fits
        )
