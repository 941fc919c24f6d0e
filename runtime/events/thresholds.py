"""From labelled streams to the rules that keep a rate of false alarms, on others too. Pure.

What every frame count says of the same streams is taken together: one set of rules, with which
each of them keeps the rate.

Legend: C classes that are events.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.runtime.events.detector import Detector, Probabilities
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import NOTHING, EventRules
from ffn_edge.runtime.events.scoring import (
    LEAST_OVERLAP,
    Score,
    Segment,
    Told,
    match,
    overlap,
    score,
)

# In even steps of the logarithm of the odds.
_ODDS = np.exp(np.arange(-1.5, 7.1, 0.5))
_ONSETS = tuple(round(float(odds / (1 + odds)), 4) for odds in _ODDS)
_OFFSET = 0.5  # of the onset
_LEAST_S = (0.0, 0.25, 0.5, 0.75)
# What a longer least length must save, in mistakes per segment, to be worth that events are told
# of later.
_WORTH = 0.01
# Thresholds which cost so many mistakes more, per segment of the class, are as good.
_AS_GOOD = 0.02
# A false alarm's price in mistakes, until the rate is kept.
_PRICES = (0.0, *(1.25**power for power in range(-4, 42)), 1e6)
# So many starts tell how early a class is known; of fewer, all classes together do.
_FEW = 5


class WindowAnswer(NamedTuple):
    """What was said of one window; for the probabilities see `Detector.observe`."""

    time_s: float
    covers_s: float
    frames: int
    probabilities: Probabilities


@dataclass(frozen=True, slots=True)
class LabelledStream:
    """What one frame count said of a stream, and what happened in it.

    Attributes:
        frames: the frame count.
        answers: of its windows, in turn.
        segments: what happened.
        seconds: how long the stream is.
    """

    frames: int
    answers: Sequence[WindowAnswer]
    segments: Sequence[Segment]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntEvents:
    """Rules, and how they do on the streams that they were learnt from.

    Attributes:
        rules: what to go by. A class without an onset has no event: nothing keeps the rate.
        classes: the score of each, over all frame counts.
        frames: the score of each frame count, over all classes.
        still: the threshold of `Stillness` that costs no event, and
        left_out: the share of inferences that it leaves out, in 0..1; None where each costs one.
    """

    rules: EventRules
    classes: Mapping[str, Score]
    frames: Mapping[int, Score]
    still: float | None = None
    left_out: float | None = None

    @property
    def mistakes(self) -> int:
        """Segments that were not found, and events that are not right."""
        return sum(s.segments + s.events - 2 * s.right for s in self.frames.values())


def find_events(
    answers: Sequence[WindowAnswer], classes: Sequence[str], rules: EventRules
) -> list[Told]:
    """Return the events of a recorded stream, in the order of their ends."""
    if not answers:
        return []
    ids = map(str, itertools.count())
    detector = Detector("", classes, rules, lambda: next(ids))
    told_s: dict[str, float] = {}
    found = []
    time_s = 0.0

    def take(events: Iterable[Event]) -> None:
        for event in events:
            told_s.setdefault(event.id, time_s)
            if event.end_s is not None:
                found.append(Told(event, told_s[event.id]))

    said = np.concatenate([each.probabilities for each in answers]).reshape(len(answers), -1)
    quiet: npt.NDArray[np.bool_] = np.all(said < detector.onsets, axis=-1)
    # Most of a stream is idle: of it only the last window tells anything, unless the time since the
    # last event does.
    idle = quiet & np.append(quiet[1:], False) & (rules.refractory_s == 0)
    for answer, is_idle in zip(answers, idle.tolist(), strict=True):
        if is_idle and not detector.is_open:
            continue
        time_s = answer.time_s
        take(detector.observe(time_s, answer.covers_s, answer.probabilities))
    take(detector.end())
    return found


def learn_rules(
    streams: Sequence[LabelledStream],
    classes: Sequence[str],
    *,
    false_alarms_per_hour: float = 1.0,
    nothing: str = NOTHING,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> LearntEvents:
    """Choose onsets for each class, and a least length if it is worth it.

    False alarms of all classes together keep the rate: those that there were at each frame count,
    and those that other streams would have, on average. Of thresholds that make about as few
    mistakes as the best, the middle one is taken, so that no single window decides.

    Args:
        streams: each stream once for each frame count.
        classes: all of the network's, in their order.
        false_alarms_per_hour: how many there may be.
        nothing: the class that is no event.
        on_step: called with (passes done, passes in all).
    """
    names = [name for name in classes if name != nothing]
    options: dict[float, list[_Option]] = {least_s: [] for least_s in _LEAST_S}
    for done, onset in enumerate(_ONSETS, start=1):
        plain = EventRules(nothing=nothing, onset=onset, offset=_OFFSET * onset)
        found = [find_events(stream.answers, classes, plain) for stream in streams]
        for least_s, mine in options.items():
            long = [[each for each in told if _length_s(each) >= least_s] for told in found]
            mine.append(_Option(onset, long, streams, names))
        on_step(done, len(_ONSETS))
    best: LearntEvents | None = None
    for least_s, mine in options.items():
        base = EventRules(nothing=nothing, least_s=least_s)
        learnt = _choose(base, mine, streams, classes, names, false_alarms_per_hour)
        worth = _WORTH * sum(len(stream.segments) for stream in streams)
        if best is None or learnt.mistakes < best.mistakes - worth:
            best = learnt
    assert best is not None
    return best


def _length_s(told: Told) -> float:
    assert told.event.end_s is not None
    return told.event.end_s - told.event.start_s


class _Option:
    """What each class would come to with one onset, over all streams.

    Attributes:
        onset: the same for all classes.
        shifts: of the start and the end, by class.
        mistakes: segments that are not found, and events that are not right: int (C,).
        alarms: of the events, those that are false alarms: int (C,).
    """

    def __init__(
        self,
        onset: float,
        found: Sequence[Sequence[Told]],
        streams: Sequence[LabelledStream],
        names: Sequence[str],
    ) -> None:
        self.onset = onset
        pairs = [
            (told.event, truth)
            for events, stream in zip(found, streams, strict=True)
            for told, truth in match(events, stream.segments, 0.0)
        ]
        self.shifts = _shifts(pairs, names)
        right = (
            truth.class_name
            for event, truth in pairs
            if overlap(_shifted(event, *self.shifts[event.class_name]), truth) >= LEAST_OVERLAP
        )
        segments = (each.class_name for stream in streams for each in stream.segments)
        events = (told.event.class_name for each in found for told in each)
        counts = [
            np.array([counted[name] for name in names])
            for counted in map(Counter, (segments, events, right, (t.class_name for _, t in pairs)))
        ]
        self.mistakes = counts[0] + counts[1] - 2 * counts[2]
        self.alarms = counts[1] - counts[3]


def _shifts(
    pairs: Sequence[tuple[Event, Segment]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return how much later the start and the end of each class are than they were found."""
    late = {name: ([0.0] * 0, [0.0] * 0) for name in names}
    for event, truth in pairs:
        assert event.end_s is not None
        late[truth.class_name][0].append(truth.start_s - event.start_s)
        late[truth.class_name][1].append(truth.end_s - event.end_s)
    every = tuple([s for each in late.values() for s in each[i]] or [0.0] for i in range(2))
    return {
        name: (
            statistics.median(starts if len(starts) >= _FEW else every[0]),
            statistics.median(ends if len(ends) >= _FEW else every[1]),
        )
        for name, (starts, ends) in late.items()
    }


def _shifted(event: Event, start_shift_s: float, end_shift_s: float) -> Event:
    assert event.end_s is not None
    start_s = max(event.start_s + start_shift_s, 0.0)
    return replace(event, start_s=start_s, end_s=max(event.end_s + end_shift_s, start_s))


def _choose(
    base: EventRules,
    options: Sequence[_Option],
    streams: Sequence[LabelledStream],
    classes: Sequence[str],
    names: Sequence[str],
    per_hour: float,
) -> LearntEvents:
    """Choose an onset for each class: the dearer a false alarm, the fewer; as many as may be."""
    mistakes = np.stack([each.mistakes for each in options])  # (options, C)
    expected = _expected(np.stack([each.alarms for each in options]))
    segments = Counter(each.class_name for stream in streams for each in stream.segments)
    # Of a class that never happened nothing is known; it is worth as much as one that did once.
    worth = np.array([max(segments[name], 1) for name in names])
    may_be = per_hour * sum(stream.seconds for stream in streams) / 3600
    for price in _PRICES:
        costs = mistakes + price * expected
        least = costs.min(axis=0)
        as_good = costs <= least + np.maximum(1, _AS_GOOD * worth)
        chosen = {
            number: int((mine := np.flatnonzero(as_good[:, number]))[len(mine) // 2])
            for number in np.flatnonzero(least <= worth).tolist()
        }
        if sum(expected[option, number] for number, option in chosen.items()) > may_be:
            continue
        kept = {names[number]: options[option] for number, option in chosen.items()}
        rules = replace(
            base,
            onset={name: each.onset for name, each in kept.items()},
            offset={name: _OFFSET * each.onset for name, each in kept.items()},
            start_shift_s={name: round(each.shifts[name][0], 3) for name, each in kept.items()},
            end_shift_s={name: round(each.shifts[name][1], 3) for name, each in kept.items()},
        )
        by_class, by_frames = scores_with(streams, classes, rules)
        if all(each.false_alarms_per_hour <= per_hour for each in by_frames.values()):
            break
    return LearntEvents(rules=rules, classes=by_class, frames=by_frames)


def _expected(alarms: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return how many false alarms other streams may have, for counts of these: (options, C).

    Where probabilities hold, the share of what is false falls as the odds rise: so an alarm at a
    lower onset is one at a higher one, too, once in as many streams as its odds are higher.
    """
    expected = alarms * _ODDS[:, None]
    return np.asarray(np.maximum.accumulate(expected, axis=0) / _ODDS[:, None])


def scores_with(
    streams: Sequence[LabelledStream], classes: Sequence[str], rules: EventRules
) -> tuple[dict[str, Score], dict[int, Score]]:
    """Return how rules do on streams: for each class, and for each frame count."""
    by_class = {name: Score() for name in classes if name != rules.nothing}
    by_frames: dict[int, Score] = {}
    for stream in streams:
        told = find_events(stream.answers, classes, rules)
        whole = score(told, stream.segments, stream.seconds)
        by_frames[stream.frames] = by_frames.get(stream.frames, Score()) + whole
        for name in by_class:
            by_class[name] += score(
                [each for each in told if each.event.class_name == name],
                [each for each in stream.segments if each.class_name == name],
                stream.seconds,
            )
    return by_class, by_frames
