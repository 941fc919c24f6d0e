"""One device for several cameras: how many frames each may have at most.

Frames are given out one step at a time, each to the camera where it is worth most: what it gains
in accuracy, where the camera is in doubt, for what it takes of the processor's time and of the
power. Of a concave gain that is the best there is, but for the last step. No clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffn_edge.runtime.policy.interface import OperatingPoint, fitted_accuracies

# Of the processor's time, the rest is for reading cameras and for inferences that come at once.
TIME = 0.85
# What a step is worth to a camera that has no doubt; and to one whose scene is still.
_SURE, _STILL = 0.05, 0.01
# A doubling of the frames is worth so much where it gained no accuracy that was measured.
_MORE_FRAMES = 1e-3
# What was given out before stays until something is better by this share of it.
_BETTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a camera asks for.

    Attributes:
        hop_s: from one inference to the next.
        weight: how much its answers count.
        doubt: how unsure its answers are lately, in 0..1.
        still: whether nothing moves before it.
    """

    hop_s: float
    weight: float = 1.0
    doubt: float = 1.0
    still: bool = False

    @property
    def interest(self) -> float:
        """What a point of accuracy is worth here."""
        return self.weight * (_STILL if self.still else _SURE + self.doubt)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Shares of the processor's time and watts of the engines."""

    time: float = 0.0
    power_w: float = 0.0

    def fits(self, spare_w: float) -> bool:
        return self.time <= TIME and self.power_w <= spare_w


def allot(
    points: Sequence[OperatingPoint],
    claims: Mapping[str, Claim],
    *,
    slowdown: float = 1.0,
    spare_w: float = math.inf,
    before: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the most frames for each camera.

    Every camera has the fewest, whatever they take.

    Args:
        points: the engines; their power is known where `spare_w` is finite.
        claims: by camera.
        slowdown: how much slower than profiled they are now.
        spare_w: what the engines may draw on average.
        before: what was given out last, which stays unless it fits no more or another is better.
    """
    ordered = sorted(points, key=lambda point: point.frames)
    gains = _gains(ordered)
    found = dict.fromkeys(claims, 0)  # indices into `ordered`

    def taken(given: Mapping[str, int]) -> _Taken:
        time = power_w = 0.0
        for camera, index in given.items():
            point = ordered[index]
            busy = _busy(point, claims[camera], slowdown)
            time += busy
            power_w += busy * (point.power_w or 0.0)
        return _Taken(time, power_w)

    def worth(given: Mapping[str, int]) -> float:
        return sum(claims[camera].interest * gains[index] for camera, index in given.items())

    while True:
        here = taken(found)
        best: tuple[float, dict[str, int]] | None = None
        for camera, index in found.items():
            for higher in range(index + 1, len(ordered)):
                given = {**found, camera: higher}
                then = taken(given)
                gain = claims[camera].interest * (gains[higher] - gains[index])
                if gain <= 0 or not then.fits(spare_w):
                    continue
                cost = (then.time - here.time) / TIME
                if 0 < spare_w < math.inf:
                    cost += (then.power_w - here.power_w) / spare_w
                ratio = gain / cost if cost > 0 else math.inf
                if best is None or ratio > best[0]:
                    best = ratio, given
        if best is None:
            break
        found = best[1]
    if before is not None and before.keys() == claims.keys():
        by_frames = {point.frames: index for index, point in enumerate(ordered)}
        kept = {camera: by_frames.get(frames, 0) for camera, frames in before.items()}
        if taken(kept).fits(spare_w) and worth(found) <= (1 + _BETTER) * worth(kept):
            found = kept
    return {camera: ordered[index].frames for camera, index in found.items()}


def _busy(point: OperatingPoint, claim: Claim, slowdown: float) -> float:
    """Return the share of the time that an engine works for a camera."""
    seconds = point.base_ms / 1e3 * slowdown
    return seconds / (point.period_s or claim.hop_s)


def _gains(ordered: Sequence[OperatingPoint]) -> list[float]:
    """Return what each engine gains in accuracy over the fewest frames.

    Or what it is taken to gain, where that was not measured, or is less than validation can tell.
    """
    doublings = [math.log2(point.frames / ordered[0].frames) for point in ordered]
    accuracies = fitted_accuracies(ordered)
    if accuracies is None:
        return doublings
    least = accuracies[ordered[0].frames]
    return [
        accuracies[point.frames] - least + _MORE_FRAMES * doubled
        for point, doubled in zip(ordered, doublings, strict=True)
    ]
