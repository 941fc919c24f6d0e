"""ALERT: the published controller, for comparison.

Wan et al., "ALERT: Accurate Learning for Energy and Timeliness", USENIX ATC 2020, arXiv
1911.00119, section 3: one Kalman filter with adaptive process noise for a global slowdown ξ, a
second one for the idle power, and a Gaussian for the chance to keep the deadline. The original
also sets a power cap of the processor; here the frame count is all that can be set. The filters'
constants are the paper's as far as we know them, and were not compared with the authors' code.

The process noise has a floor of 0.1, which can be read in two ways. As a variance it makes ξ vary
by a third at least, which is cautious where latencies are steady: `alert`. As a standard deviation
it makes ξ vary by a tenth, a variance of 0.01: `alert-deviation`. `alert-fitted` takes the variance
of the profile instead, as a careful user would.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass
from typing import Literal

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

_MEASUREMENT_NOISE = 0.001  # R
_PROCESS_NOISE = 0.1  # Q(0), its floor, and the first variance
_FORGETTING = 0.3  # α
_FIRST_GAIN = 0.5  # K(0)
# Of the filter of the idle power: M(0), S and V.
_IDLE_VARIANCE, _IDLE_PROCESS_NOISE, _IDLE_MEASUREMENT_NOISE = 0.01, 0.0001, 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the filters know.

    Attributes:
        ranked: the engines, the most accurate first.
        setting: what was known at the start.
        floor: of the process noise.
        slowdown: the mean of ξ; and of the filter:
        variance: of ξ.
        noise: of the process, Q.
        gain: K.
        idle_w: the filtered idle power; and of its filter:
        idle_variance: M.
        observed: when the last inference ended.
        spent_j: joules since the start.
    """

    ranked: tuple[OperatingPoint, ...]
    setting: Setting
    floor: float
    slowdown: float = 1.0
    variance: float
    noise: float
    gain: float = _FIRST_GAIN
    idle_w: float
    idle_variance: float = _IDLE_VARIANCE
    observed: float | None = None
    spent_j: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """See the module.

    Attributes:
        noise: what the floor of the process noise is.
    """

    noise: Literal["variance", "deviation", "fitted"] = "variance"

    @property
    def name(self) -> str:
        """What people call it."""
        return "alert" if self.noise == "variance" else f"alert-{self.noise}"

    def start(self, setting: Setting) -> Filters:
        """Return the state before the first inference."""
        floor = _PROCESS_NOISE**2 if self.noise == "deviation" else _PROCESS_NOISE
        if self.noise == "fitted" and len(setting.ratios) > 1:
            floor = max(statistics.variance(setting.ratios), 1e-6)
        return Filters(
            ranked=tuple(by_accuracy(setting.points)),
            setting=setting,
            floor=floor,
            variance=floor,
            noise=floor,
            idle_w=setting.idle_w or 0.0,
        )

    def observe(self, state: Filters, observation: Observation) -> Filters:
        """Return the state after an inference: one step of each filter."""
        by_frames = {point.frames: point for point in state.ranked}
        ran = [
            (by_frames[frames], ms)
            for frames, ms in observation.ran or ((observation.frames, observation.latency_ms),)
        ]
        expected_ms = sum(point.base_ms for point, _ in ran)
        innovation = observation.latency_ms / expected_ms - state.slowdown
        noise = max(
            state.floor,
            _FORGETTING * state.noise + (1 - _FORGETTING) * (state.gain * innovation) ** 2,
        )
        variance = (1 - state.gain) * state.variance + noise
        gain = variance / (variance + _MEASUREMENT_NOISE)
        idle_w, idle_variance = state.idle_w, state.idle_variance
        power_w = observation.sensed.power_w
        if power_w is not None and all(point.power_w is not None for point, _ in ran):
            # What is not the engines' share of the period is the machine's.
            seen_w = power_w - sum((p.power_w or 0.0) * _busy(state, p, ms) for p, ms in ran)
            weight = idle_variance + _IDLE_PROCESS_NOISE
            weight /= weight + _IDLE_MEASUREMENT_NOISE
            idle_w += weight * (seen_w - idle_w)
            idle_variance = (1 - weight) * (idle_variance + _IDLE_PROCESS_NOISE)
        seconds = 0.0 if state.observed is None else max(0.0, observation.now - state.observed)
        return dataclasses.replace(
            state,
            slowdown=state.slowdown + gain * innovation,
            variance=variance,
            noise=noise,
            gain=gain,
            idle_w=idle_w,
            idle_variance=idle_variance,
            observed=observation.now,
            spent_j=state.spent_j + (power_w or 0.0) * seconds,
        )

    def decide(
        self, state: Filters, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the most accurate of those that keep the deadline and the mean power."""
        if limits.frames is not None:
            return fixed(state.ranked, limits.frames)
        budget_w = limits.budget_w(state.spent_j, now)
        deviation = math.sqrt(state.variance)
        rejected: dict[int, str] = {}
        safest = (-1.0, 0)
        for point in state.ranked:
            chance = 1.0
            deadline_ms = point.deadline_ms(limits)
            if deadline_ms is not None:
                spare = deadline_ms / point.base_ms - state.slowdown
                chance = 0.5 * (1 + math.erf(spare / deviation / math.sqrt(2)))
            power_w = 0.0
            if budget_w is not None and point.power_w is not None:
                busy = _busy(state, point, point.base_ms * state.slowdown)
                power_w = state.idle_w + point.power_w * busy
            in_budget = budget_w is None or power_w <= budget_w
            words = f"keeps the deadline with a chance of {chance:.4f}, {power_w:.3g} W"
            if chance >= 1 - limits.miss_rate and in_budget:
                others = {
                    p.frames: rejected.get(p.frames)
                    or why_not_as_good(state.ranked, p.frames, point.frames)
                    for p in state.ranked
                    if p.frames != point.frames
                }
                return Decision(frames=point.frames, reason=words, rejected=others)
            rejected[point.frames] = words
            safest = max(safest, (chance * in_budget, -point.frames))
        frames = -safest[1]
        reason = f"nothing keeps every limit; the safest {rejected.pop(frames)}"
        return Decision(frames=frames, reason=reason, rejected=rejected, warning=reason)


def _busy(state: Filters, point: OperatingPoint, latency_ms: float) -> float:
    period_s = state.setting.period_of(point)
    return min(1.0, latency_ms / 1e3 / period_s) if period_s else 1.0
