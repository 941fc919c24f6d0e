"""How long each engine would take now: profiled, and corrected by what is seen.

    latency = base · residual of the engine · slowdown · error

The tuples follow the engines, by ascending frame count.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from ffn_edge.runtime.policy.tail import quantile

# How many errors speak for the tail: two minutes at four inferences a second.
_ERRORS_KEPT = 512
# Of a quantile the latest tell enough that hold, on average, so many beyond it.
_TELLING = 8
# The slowdown is the median of so many ratios: a level that changes shows after three.
_RATIOS_KEPT = 5
# An error beyond this quantile by this factor begins a burst, or goes on with one.
_USUAL_QUANTILE, _UNUSUAL = 0.9, 1.1
# Whether trouble is likely to be followed by more is learned, by this share each time, from a
# cautious start.
_BURST_UPDATE, _FIRST_BURST_CHANCE, _LIKELY = 0.2, 0.5, 0.3
# An engine's residual is learned by this share of an error that counts at most so much, since it
# may be a spike; and only where the slowdown was steady, or the engine would be blamed for the
# machine. What was learned fades, or nothing would ever try this engine again.
_UPDATE, _LARGEST_UPDATE, _STEADY, _FADING = 0.5, 1.3, 1.25, 0.01
_LARGEST_RESIDUAL = 1.8


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """What is known of the latencies.

    Attributes:
        base_ms: profiled, when nothing interferes.
        residuals: how much slower than profiled each engine is, apart from the slowdown.
        slowdown: how much slower than profiled this machine is now.
        ratios: the latest slowdowns seen, oldest first.
        errors: of the predicted slowdown, seen over predicted, oldest first; of inferences that
            followed a usual one, since the others can be foreseen.
        ordered: the same, ascending.
        in_trouble: the last inference missed, or its error was unusual; and
        burst_chance: how likely the same is then true of the next.
    """

    base_ms: tuple[float, ...]
    residuals: tuple[float, ...]
    slowdown: float
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    ordered: tuple[float, ...]
    in_trouble: bool = False
    burst_chance: float = _FIRST_BURST_CHANCE

    @classmethod
    def start(cls, base_ms: Sequence[float], ratios: Sequence[float]) -> LatencyModel:
        """Return what a profile tells: base latencies, and samples over their base."""
        ordered = sorted(ratios) or [1.0]
        slowdown = statistics.median(ordered)
        # Evenly spaced order statistics keep the distribution when there are too many.
        kept = min(len(ordered), _ERRORS_KEPT)
        errors = tuple(
            ordered[int((i + 0.5) * len(ordered) / kept)] / slowdown for i in range(kept)
        )
        return cls(
            base_ms=tuple(base_ms),
            residuals=(1.0,) * len(base_ms),
            slowdown=slowdown,
            ratios=(slowdown,),
            errors=errors,
            ordered=errors,
        )

    @property
    def bursts_are_likely(self) -> bool:
        """Whether trouble is likely to be followed by more."""
        return self.burst_chance > _LIKELY

    def usual_ms(self, index: int) -> float:
        """Return what an engine takes when nothing interferes."""
        return self.base_ms[index] * self.residuals[index]

    def expected_ms(self, index: int) -> float:
        """Return the latency that would be usual now."""
        return self.usual_ms(index) * self.slowdown

    def tail(self, chance: float) -> float:
        """Return the error that the next inference exceeds with a chance."""
        return quantile(self.ordered, 1 - chance)

    def tail_lately(self, chance: float) -> float:
        """Return the same of the latest errors alone, where they are another time's."""
        tail = self.tail(chance)
        latest = quantile(sorted(self.errors[-math.ceil(_TELLING / chance) :]), 1 - chance)
        return latest if _UNUSUAL * latest < tail else tail

    def observe(
        self,
        usual_ms: float,
        latency_ms: float,
        *,
        missed: bool,
        updates_engine: int | None,
        has_backlog: bool = False,
    ) -> LatencyModel:
        """Return the model after an inference.

        Args:
            usual_ms: what ran takes when nothing interferes.
            latency_ms: what it took.
            missed: whether that was more than the deadline.
            updates_engine: the engine whose residual this tells of; None is none.
            has_backlog: too many were missed: what comes in bursts counts for the tail, too.
        """
        ratio = latency_ms / usual_ms
        error = ratio / self.slowdown
        unusual = error > _UNUSUAL * quantile(self.ordered, _USUAL_QUANTILE)
        in_trouble = unusual or missed
        errors, ordered, burst_chance = self.errors, self.ordered, self.burst_chance
        if self.in_trouble:
            burst_chance += _BURST_UPDATE * (in_trouble - burst_chance)
        if has_backlog or not self.in_trouble:
            errors, ordered = _with_error(errors, ordered, error)
        residuals = self.residuals
        if updates_engine is not None and max(self.ratios) <= _STEADY * min(self.ratios):
            residuals = _with_update(residuals, updates_engine, error)
            ratio *= self.residuals[updates_engine] / residuals[updates_engine]
        ratios = (*self.ratios, ratio)[-_RATIOS_KEPT:]
        return LatencyModel(
            base_ms=self.base_ms,
            residuals=tuple([value + _FADING * (1 - value) for value in residuals]),
            slowdown=statistics.median(ratios),
            ratios=ratios,
            errors=errors,
            ordered=ordered,
            in_trouble=in_trouble,
            burst_chance=burst_chance,
        )


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


def _with_update(residuals: tuple[float, ...], index: int, error: float) -> tuple[float, ...]:
    """Return the residuals after an error that tells of one engine."""
    update = 1 + _UPDATE * (min(max(error, 1 / _LARGEST_UPDATE), _LARGEST_UPDATE) - 1)
    learned = min(max(residuals[index] * update, 1 / _LARGEST_RESIDUAL), _LARGEST_RESIDUAL)
    return (*residuals[:index], learned, *residuals[index + 1 :])
