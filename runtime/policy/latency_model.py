"""How likely each engine is late now: from what was seen, not from a bell curve.

    latency = base of the engine · slowdown · error

One slowdown for all engines, so that one inference tells of every one (ALERT, USENIX ATC 2020). It
is the median since it last changed for good, or the latest alone where that is another: a burst, or
the first of a new level. Errors are kept as they were, apart for the two cases, and those of an
engine's own inferences count more for it: what slows one engine alone is in its errors.

Slowdowns and errors are kept as logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Inferences that are remembered, and in how many seconds one counts for 1/e: minutes of a clip's
# hop, since conditions change within that.
_KEPT, _MEMORY_S = 512, 90.0
# The slowdown is a median over that time; it has changed for good after three in a row beyond the
# usual errors, which are so many times the median one.
_CHANGED, _USUAL = 3, 4.5
# How fast the median error is learned, each inference, and what no clock resolves better than.
_LEARNED, _LEAST = 0.03, 0.005
# For an engine, an inference of its own counts as many times one of another.
_OWN = 30.0
# How many inferences stand for the profile.
_PROFILED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """What is known of the latencies.

    Attributes:
        base_ms: of each engine, as it was profiled.
        seen: of the last inferences, oldest first, (3, 512): the error of the slowdown that was
            expected, the slowdown over the base, and the kind of the inference before: 0 is a
            usual one, 1 a slow and -1 a fast one.
        weights: what each counts now for each engine, and for one that never ran, (engines + 1,
            512); 0 is none yet.
        level: the median slowdown since it last changed; and
        count: of how many inferences.
        odd: how many in a row were beyond it, negative below it.
        spread: the median of the errors' sizes.
        expected: the slowdown that is expected next.
        kind: of the latest inference.
        tail: the error that the share of misses that was asked for exceeds.
        observed: when the latest ended.
        clocks_mhz: of the GPU and the memory then.
    """

    base_ms: tuple[float, ...]
    seen: Floats
    weights: Floats
    level: float
    count: int = 0
    odd: int = 0
    spread: float
    expected: float
    kind: int = 0
    tail: float
    observed: float | None = None
    clocks_mhz: tuple[float, ...] = ()

    @classmethod
    def start(cls, base_ms: Sequence[float], ratios: Sequence[float]) -> LatencyModel:
        """Return what a profile tells: base latencies, and samples over their base."""
        ordered = np.log(np.sort(np.asarray(ratios or [1.0], dtype=np.float64)))
        level = float(np.median(ordered))
        # Evenly spaced order statistics keep the distribution.
        steps = (np.arange(_PROFILED) + 0.5) / _PROFILED * len(ordered)
        profiled = ordered[steps.astype(np.intp)]
        seen, weights = np.zeros((3, _KEPT)), np.zeros((len(base_ms) + 1, _KEPT))
        seen[0, -_PROFILED:], seen[1, -_PROFILED:] = profiled - level, profiled
        weights[:, -_PROFILED:] = 1.0
        return cls(
            base_ms=tuple(base_ms),
            seen=seen,
            weights=weights,
            level=level,
            count=_PROFILED,
            spread=max(_LEAST, float(np.median(np.abs(profiled - level)))),
            expected=level,
            tail=float(profiled[-1]) - level,
        )

    def expected_ms(self, index: int) -> float:
        """Return what an engine usually takes now."""
        return self.base_ms[index] * math.exp(self.level)

    def next_ms(self, index: int) -> float:
        """Return what the next is expected to take."""
        return self.base_ms[index] * math.exp(self.expected)

    def chances(self, room_ms: Floats) -> Floats:
        """Return the chance that each engine takes longer than its room.

        The mean of two answers: as errors were where the inference before was of the same kind;
        and as slowdowns were at any time, which knows levels that come and go.
        """
        room = np.log(np.maximum(room_ms, 1e-3) / self.base_ms)
        here = room - self.expected
        kinds, weights = self.seen[2], self.weights[:-1]
        # Both answers at once, (2, engines, 512).
        beyond = self.seen[:2, None] > np.array([here, room])[..., None]
        counted = np.array([weights * (kinds == self.kind), weights])
        late, every = (beyond * counted).sum(axis=2), counted.sum(axis=2)
        # Of a kind that was never seen before, one stands for all: it stays as it is.
        late[0] += here < 0
        every[0] += 1
        found: Floats = (late / every).mean(axis=0)
        return found

    def observe(
        self,
        now: float,
        usual_ms: float,
        latency_ms: float,
        *,
        index: int | None,
        miss_rate: float,
        clocks_mhz: tuple[float, ...] = (),
    ) -> LatencyModel:
        """Return the model after an inference.

        Args:
            now: when it ended.
            usual_ms: what ran takes as profiled.
            latency_ms: what it took.
            index: the engine that ran; None where it was several.
            miss_rate: the share of misses that is asked for.
            clocks_mhz: of the GPU and the memory; empty is not known.
        """
        seconds = 0.0 if self.observed is None else max(0.0, now - self.observed)
        slowdown = math.log(latency_ms / usual_ms)
        error = slowdown - self.expected
        seen = _shifted(self.seen, (error, slowdown, self.kind))
        weights = _shifted(self.weights, 1.0)
        weights[:, :-1] *= math.exp(-seconds / _MEMORY_S)
        if index is not None:
            weights[index, -1] = _OWN
        off = slowdown - self.level
        spread = self.spread * (1 + math.copysign(_LEARNED, abs(off) - self.spread))
        spread = max(spread, _LEAST)
        side = _side(off, _USUAL * spread)
        odd = self.odd + side if self.odd * side > 0 else side
        count = self.count + 1
        if clocks_mhz and self.clocks_mhz and not _are_alike(clocks_mhz, self.clocks_mhz):
            count, odd = 1, 0
        elif abs(odd) >= _CHANGED:
            count, odd = _CHANGED, 0
        lately = _KEPT - int(weights[-1].searchsorted(math.exp(-1)))
        count = min(count, max(lately, _CHANGED))
        level = float(np.partition(seen[1, -count:], count // 2)[count // 2])
        kind = _side(slowdown - level, _USUAL * spread)
        return replace(
            self,
            seen=seen,
            weights=weights,
            level=level,
            count=count,
            odd=odd,
            spread=spread,
            expected=slowdown if kind else level,
            kind=kind,
            # A step up for each beyond it, a smaller one down for each below, so that the share
            # beyond it is held (Gibbs and Candès, "Adaptive Conformal Inference Under
            # Distribution Shift", NeurIPS 2021).
            tail=self.tail + spread * ((error > self.tail) - miss_rate),
            observed=now,
            clocks_mhz=clocks_mhz or self.clocks_mhz,
        )


def _side(value: float, limit: float) -> int:
    """Return 0 within a limit, 1 above it and -1 below its negative."""
    return 0 if abs(value) <= limit else 1 if value > 0 else -1


def _shifted(values: Floats, latest: float | tuple[float, ...]) -> Floats:
    """Return the columns without the oldest, and with one more."""
    after = np.empty_like(values)
    after[:, :-1] = values[:, 1:]
    after[:, -1] = latest
    return after


def _are_alike(clocks: Sequence[float], others: Sequence[float]) -> bool:
    """Whether clocks are the same up to 5 %, as `Sensed` tells them."""
    return len(clocks) == len(others) and all(
        math.isclose(one, other, rel_tol=0.05) for one, other in zip(clocks, others, strict=True)
    )
