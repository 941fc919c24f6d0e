"""How good events are, against what happened: F1, false alarms an hour, and how late they come.

Of the events of one class, the most confident one takes the segment that it overlaps most, then
the next one takes of the others, as ActivityNet's evaluation does it. An event that overlaps no
segment that is left by then is a false alarm.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ffn_edge.runtime.events.event import Event

LEAST_OVERLAP = 0.5  # of an event that is right


class Segment(NamedTuple):
    """What happened, in seconds of its stream."""

    start_s: float
    end_s: float
    class_name: str


class Told(NamedTuple):
    """An event that has ended, and the time of the newest frame when its beginning was told."""

    event: Event
    told_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Events against segments; scores of several streams add up.

    Attributes:
        segments: how many there were.
        events: how many were found.
        right: those that match a segment of their class with an overlap of half or more.
        false_alarms: those that match none of their class at all.
        seconds: how long it all took.
        start_errors_s: from when something began to when it is said to have begun, of each event
            that is no false alarm; negative where that is too early.
        end_errors_s: the same of the end.
        delays_s: from when it began to the newest frame when that was told.
    """

    segments: int = 0
    events: int = 0
    right: int = 0
    false_alarms: int = 0
    seconds: float = 0.0
    start_errors_s: tuple[float, ...] = ()
    end_errors_s: tuple[float, ...] = ()
    delays_s: tuple[float, ...] = ()

    def __add__(self, other: Score) -> Score:
        return Score(
            segments=self.segments + other.segments,
            events=self.events + other.events,
            right=self.right + other.right,
            false_alarms=self.false_alarms + other.false_alarms,
            seconds=self.seconds + other.seconds,
            start_errors_s=self.start_errors_s + other.start_errors_s,
            end_errors_s=self.end_errors_s + other.end_errors_s,
            delays_s=self.delays_s + other.delays_s,
        )

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, in 0..1; 1 where there is nothing to find."""
        return 2 * self.right / both if (both := self.segments + self.events) else 1.0

    @property
    def false_alarms_per_hour(self) -> float:
        """Their rate; 0 of no time."""
        return 3600 * self.false_alarms / self.seconds if self.seconds else 0.0

    @property
    def start_error_s(self) -> float | None:
        """The median of how far the start is off."""
        return statistics.median(map(abs, self.start_errors_s)) if self.start_errors_s else None

    @property
    def delay_s(self) -> float | None:
        """The median of how long after its beginning an event was told of."""
        return statistics.median(self.delays_s) if self.delays_s else None


def score(told: Sequence[Told], segments: Sequence[Segment], seconds: float) -> Score:
    """Compare the events of one stream with what happened in it."""
    touching = match(told, segments, 0.0)
    return Score(
        segments=len(segments),
        events=len(told),
        right=len(match(told, segments, LEAST_OVERLAP)),
        false_alarms=len(told) - len(touching),
        seconds=seconds,
        start_errors_s=tuple(each.event.start_s - truth.start_s for each, truth in touching),
        end_errors_s=tuple(_end_s(each.event) - truth.end_s for each, truth in touching),
        delays_s=tuple(each.told_s - truth.start_s for each, truth in touching),
    )


def match(
    told: Sequence[Told], segments: Sequence[Segment], least: float
) -> list[tuple[Told, Segment]]:
    """Pair events with segments of their class which they overlap by `least` or more, but not 0."""
    free: dict[str, list[Segment]] = {}
    for segment in segments:
        free.setdefault(segment.class_name, []).append(segment)
    pairs = []
    for each in sorted(told, key=lambda each: -each.event.confidence):
        event = each.event
        mine = free.get(event.class_name, [])
        best = max(mine, key=_overlap_with(event), default=None)
        if best is not None and (found := overlap(event, best)) >= least and found > 0:
            mine.remove(best)
            pairs.append((each, best))
    return pairs


def _overlap_with(event: Event) -> Callable[[Segment], float]:
    return lambda segment: overlap(event, segment)


def overlap(event: Event, segment: Segment) -> float:
    """Return the time that both take over the time that either takes, in 0..1."""
    end_s = _end_s(event)
    both_s = min(end_s, segment.end_s) - max(event.start_s, segment.start_s)
    either_s = max(end_s, segment.end_s) - min(event.start_s, segment.start_s)
    return max(both_s, 0.0) / either_s if either_s > 0 else 0.0


def _end_s(event: Event) -> float:
    assert event.end_s is not None
    return event.end_s
