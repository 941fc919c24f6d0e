"""What a network answered to labelled clips at each frame count, and what that tells.

Legend: N clips, T frame counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Accuracy

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Of being chance, below which a difference is called one.
LEVEL = 0.05
# Fewer clips that changed can never be told from chance: 2/2^5 > 0.05.
LEAST_CHANGED = 6
_BINS = 10
_Z = 1.96  # of a normal distribution, 95 % lie within so many standard deviations


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answers to N clips at T frame counts: a few bytes a clip, however many classes.

    Attributes:
        frame_counts: ascending, T of them.
        indices: of the clips in their list, int64 (N,), ascending. Those not read are missing.
        labels: int64 (N,).
        classes: the most probable class, int64 (N, T).
        among5: whether the label is among the five most probable, bool (N, T).
        confidence: the probability of `classes`, float64 (N, T).
        of_label: the probability of the label, float64 (N, T).
    """

    frame_counts: tuple[int, ...]
    indices: Integers
    labels: Integers
    classes: Integers
    among5: npt.NDArray[np.bool_]
    confidence: Floats
    of_label: Floats

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class is the label: bool (N, T)."""
        found: npt.NDArray[np.bool_] = self.classes == self.labels[:, None]
        return found

    def accuracy(self) -> dict[int, Accuracy]:
        """Return the accuracy at each frame count; there must be a clip."""
        top1, top5 = self.right.mean(0), self.among5.mean(0)
        return {
            frames: Accuracy(top1=float(top1[at]), top5=float(top5[at]), clips=len(self))
            for at, frames in enumerate(self.frame_counts)
        }

    def at(self, frame_counts: Sequence[int]) -> Answers:
        """Return the answers at some of the frame counts."""
        columns = [self.frame_counts.index(frames) for frames in frame_counts]
        return dataclasses.replace(
            self,
            frame_counts=tuple(frame_counts),
            classes=self.classes[:, columns],
            among5=self.among5[:, columns],
            confidence=self.confidence[:, columns],
            of_label=self.of_label[:, columns],
        )

    def changes(self) -> Changes:
        """Return how many clips the highest frame count gets right that the lowest does not."""
        low, high = self.right[:, 0], self.right[:, -1]
        return Changes(int((high & ~low).sum()), int((low & ~high).sum()))

    def confusion(self, num_classes: int) -> Integers:
        """Return clips by frame count, label and answer: int64 (T, classes, classes)."""
        size = num_classes**2
        return np.stack(
            [
                np.bincount(self.labels * num_classes + column, minlength=size)
                for column in self.classes.T
            ]
        ).reshape(-1, num_classes, num_classes)

    def confused(self) -> list[Confused]:
        """Return each wrong answer to a label that was ever given: the most frequent first.

        In the order of the highest frame count, then of all together.
        """
        counts: dict[tuple[int, int], list[int]] = {}
        for at, column in enumerate(self.classes.T):
            wrong = column != self.labels
            pairs = zip(self.labels[wrong].tolist(), column[wrong].tolist(), strict=True)
            for pair, clips in Counter(pairs).items():
                counts.setdefault(pair, [0] * len(self.frame_counts))[at] = clips
        found = [Confused(label, answer, tuple(each)) for (label, answer), each in counts.items()]
        return sorted(found, key=lambda each: (each.clips[-1], sum(each.clips)), reverse=True)

    def needing_frames(self) -> list[PairOfClasses]:
        """Return every pair of classes that is confused at the lowest or the highest frame count.

        The first is that whose confusion falls most.
        """
        low, high = (self._pairs(at) for at in (0, -1))
        gained, lost, before, after = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
        right = self.right
        for pairs, other_is_right, changed, confused in (
            (low, right[:, -1], gained, before),
            (high, right[:, 0], lost, after),
        ):
            confused.update(pairs[pairs >= 0].tolist())
            changed.update(pairs[(pairs >= 0) & other_is_right].tolist())
        keys = list(before | after)
        changes = [Changes(gained[key], lost[key]) for key in keys]
        chances = corrected([change.chance for change in changes], map(Changes.can_tell, changes))
        width = self._width
        found = [
            PairOfClasses(*divmod(key, width), before[key], after[key], change, chance)
            for key, change, chance in zip(keys, changes, chances, strict=True)
        ]
        return sorted(found, key=lambda pair: (pair.before - pair.after, pair.before), reverse=True)

    def calibration(self) -> list[Calibration]:
        """Return how probabilities and accuracy agree, at each frame count."""
        return [
            _calibration(confidence, right)
            for confidence, right in zip(self.confidence.T, self.right.T, strict=True)
        ]

    def most_wrong(self, number: int) -> list[int]:
        """Return up to so many of 0..N-1: clips that the highest frame count is wrong about.

        The surest wrong answer is first.
        """
        wrong = np.flatnonzero(~self.right[:, -1])
        sureness = self.confidence[wrong, -1] - self.of_label[wrong, -1]
        chosen: list[int] = wrong[np.argsort(-sureness, kind="stable")][:number].tolist()
        return chosen

    @property
    def _width(self) -> int:
        return int(max(self.labels.max(initial=0), self.classes.max(initial=0))) + 1

    def _pairs(self, at: int) -> Integers:
        """Return a number of label and wrong answer, whichever is which; -1 where right: (N,)."""
        answers = self.classes[:, at]
        lower, upper = np.minimum(self.labels, answers), np.maximum(self.labels, answers)
        return np.where(lower == upper, -1, lower * self._width + upper)


@dataclass(frozen=True, slots=True)
class Changes:
    """Clips that more frames turn right, and those that they turn wrong."""

    gained: int
    lost: int

    @property
    def chance(self) -> float:
        """How probable so uneven a split is by chance: McNemar's test, exact and two-sided."""
        changed, rarer = self.gained + self.lost, min(self.gained, self.lost)
        log_all = changed * math.log(2) - math.lgamma(changed + 1)
        tail = math.fsum(
            math.exp(-log_all - math.lgamma(k + 1) - math.lgamma(changed - k + 1))
            for k in range(rarer + 1)
        )
        return min(1.0, 2 * tail)

    def can_tell(self) -> bool:
        """Whether so many clips changed that some split of them would be more than chance."""
        return self.gained + self.lost >= LEAST_CHANGED


@dataclass(frozen=True, slots=True)
class Confused:
    """Clips of class `label` that were taken for `answer`, at each frame count."""

    label: int
    answer: int
    clips: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairOfClasses:
    """Two classes, and the clips of either that were taken for the other.

    Attributes:
        first: the number of a class.
        second: a higher one.
        before: clips confused at the lowest frame count.
        after: clips confused at the highest.
        changes: gained: confused at the lowest, right at the highest. Lost: the reverse.
        chance: of `changes`, corrected for how many pairs were looked at.
    """

    first: int
    second: int
    before: int
    after: int
    changes: Changes
    chance: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities are from the share of right answers.

    Attributes:
        bins: of those that hold a clip: mean probability, share that is right, clips.
        error: the expected calibration error: the mean over clips of the distance in their bin.
        by_chance: about the error that exact probabilities would show with so many clips.
        surplus: mean probability less the share that is right.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float
    by_chance: float
    surplus: float


def join(parts: Iterable[Answers]) -> Answers:
    """Return the answers of several processes, at the same frame counts, in their list's order."""
    parts = list(parts)
    order = np.argsort(np.concatenate([part.indices for part in parts]), kind="stable")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    names = ("indices", "labels", "classes", "among5", "confidence", "of_label")
    return Answers(parts[0].frame_counts, *map(joined, names))


def interval(share: float, clips: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of so many clips, by Wilson.

    Unlike ± 1.96 standard errors, it stays within [0, 1] and is no point where all are right.
    """
    centre = (share + _Z**2 / (2 * clips)) / (1 + _Z**2 / clips)
    half = math.sqrt(share * (1 - share) / clips + (_Z / (2 * clips)) ** 2)
    half *= _Z / (1 + _Z**2 / clips)
    return max(0.0, centre - half), min(1.0, centre + half)


def corrected(chances: Sequence[float], able: Iterable[bool]) -> list[float]:
    """Correct the chances of several tests for their number, by Holm.

    Args:
        chances: of each test.
        able: whether it could show anything. One that could not is not counted (Tarone, 1990).
    """
    tests = [at for at, each in enumerate(able) if each]
    found, least = [1.0] * len(chances), 0.0
    for done, at in enumerate(sorted(tests, key=chances.__getitem__)):
        least = max(least, min(1.0, (len(tests) - done) * chances[at]))
        found[at] = least
    return found


def _calibration(confidence: Floats, right: npt.NDArray[np.bool_]) -> Calibration:
    clips = len(right)
    bins = tuple(_bins(confidence, right))
    # Of n answers, each right with probability p, the share is p ± √(p(1 − p)/n), which is
    # normal enough, and the mean of a normal's distance is √(2/π) standard deviations.
    chance = sum(math.sqrt(2 / math.pi * p * (1 - p) * n) for p, _, n in bins)
    return Calibration(
        bins,
        error=sum(n * abs(share - p) for p, share, n in bins) / clips,
        by_chance=chance / clips,
        surplus=float(confidence.mean() - right.mean()),
    )


def _bins(confidence: Floats, right: npt.NDArray[np.bool_]) -> Iterator[tuple[float, float, int]]:
    edges = np.linspace(0, 1, _BINS + 1)
    edges[-1] = np.inf  # rounding can make a probability more than 1
    for low, high in pairwise(edges):
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            yield (
                min(1.0, float(confidence[inside].mean())),
                float(right[inside].mean()),
                int(inside.sum()),
            )
