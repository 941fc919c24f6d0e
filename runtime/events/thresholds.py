"""From labelled streams to the rules that keep a rate of false alarms. Pure.

What every frame count says of the same streams is taken together: one set of rules, with which
each of them keeps the rate.

Legend: C classes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.runtime.events.detector import Detector, Probabilities
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import NOTHING, EventRules
from ffn_edge.runtime.events.scoring import Score, Segment, Told, match, score

# Even steps of the logarithm of the odds, about.
_ONSETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.92, 0.95, 0.97, 0.985, 0.993, 0.997, 0.9985)
_OFFSET = 0.5  # of the onset
_LEAST_S = (0.0, 0.25, 0.5)
_MERGE_S = (0.0, 0.5, 1.0)
# What a longer least length or merge gap must save, in mistakes per segment, to be worth having.
_WORTH = 0.01
# Thresholds which cost so many mistakes more, per segment of the class, are as good.
_AS_GOOD = 0.02
# A false alarm's price in mistakes, until the rate is kept.
_PRICES = (0.0, *(1.5**power for power in range(21)), 1e6)
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
        rules: what to go by. A class without an onset has no event: nothing keeps the rate, or no
            event of it was found.
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

    said = np.stack([each.probabilities for each in answers])
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
    """Choose onsets for each class, and a least length and a merge gap if they are worth it.

    Of the thresholds that make about as few mistakes as the best, the middle one is taken, so that
    no single window decides. False alarms of all classes together keep the rate, at each frame
    count; of fewer hours than it takes for one alarm, there is none.

    Args:
        streams: each stream once for each frame count.
        classes: all of the network's, in their order.
        false_alarms_per_hour: how many there may be.
        nothing: the class that is no event.
        on_step: called with (passes done, passes in all).
    """
    names = [name for name in classes if name != nothing]
    tried = [EventRules(nothing=nothing, least_s=least_s) for least_s in _LEAST_S]
    steps = len(_ONSETS) * (len(_LEAST_S) + len(_MERGE_S) - 1)
    done = 0
    best: _Choice | None = None
    segments = sum(len(stream.segments) for stream in streams)
    while tried:
        base = tried.pop(0)
        options = []
        for onset in _ONSETS:
            options.append(_Pass(streams, classes, names, replace(base, onset=onset)))
            done += 1
            on_step(done, steps)
        choice = _choose(base, options, streams, classes, names, false_alarms_per_hour)
        if best is None or choice.mistakes < best.mistakes - _WORTH * segments:
            best = choice
        if not tried and base.merge_s == 0:
            tried = [replace(best.base, merge_s=merge_s) for merge_s in _MERGE_S[1:]]
    assert best is not None
    return best.learnt


class _Pass:
    """All streams with one onset: what each class would come to with it.

    Attributes:
        onset: the same for all classes.
        shifts: of the start and the end, by class.
        scores: by class and frame count, with these shifts.
    """

    def __init__(
        self,
        streams: Sequence[LabelledStream],
        classes: Sequence[str],
        names: Sequence[str],
        rules: EventRules,
    ) -> None:
        assert isinstance(rules.onset, float)
        self.onset = rules.onset
        plain = replace(rules, offset=_OFFSET * rules.onset, start_shift_s=0.0, end_shift_s=0.0)
        found = [find_events(stream.answers, classes, plain) for stream in streams]
        self.shifts = _shifts(found, streams, names)
        self.scores: dict[tuple[str, int], Score] = {}
        for told, stream in zip(found, streams, strict=True):
            shifted = [_shifted(each, *self.shifts[each.event.class_name]) for each in told]
            for name in names:
                scored = score(
                    [each for each in shifted if each.event.class_name == name],
                    [each for each in stream.segments if each.class_name == name],
                    stream.seconds,
                )
                key = (name, stream.frames)
                self.scores[key] = self.scores.get(key, Score()) + scored


def _shifts(
    found: Sequence[Sequence[Told]], streams: Sequence[LabelledStream], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return how much later the start and the end of each class are than they were found."""
    pairs = [
        pair
        for told, stream in zip(found, streams, strict=True)
        for pair in match(told, stream.segments, 0.0)
    ]
    starts = {name: [-_start_error(p) for p in pairs if p[1].class_name == name] for name in names}
    ends = {name: [-_end_error(p) for p in pairs if p[1].class_name == name] for name in names}
    return {name: (_median(starts, name), _median(ends, name)) for name in names}


def _median(errors: Mapping[str, Sequence[float]], name: str) -> float:
    mine = errors[name]
    if len(mine) < _FEW:
        mine = [each for others in errors.values() for each in others] or [0.0]
    return statistics.median(mine)


def _start_error(pair: tuple[Told, Segment]) -> float:
    return pair[0].event.start_s - pair[1].start_s


def _end_error(pair: tuple[Told, Segment]) -> float:
    return (pair[0].event.end_s or 0.0) - pair[1].end_s


def _shifted(told: Told, start_shift_s: float, end_shift_s: float) -> Told:
    """Return an event as the detector would tell of it with these shifts."""
    start_s = min(max(told.event.start_s + start_shift_s, 0.0), told.told_s)
    end_s = max((told.event.end_s or 0.0) + end_shift_s, start_s)
    return Told(replace(told.event, start_s=start_s, end_s=end_s), told.told_s)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was chosen, from where, and the mistakes that are made with it."""

    base: EventRules
    learnt: LearntEvents
    mistakes: int


def _choose(
    base: EventRules,
    options: Sequence[_Pass],
    streams: Sequence[LabelledStream],
    classes: Sequence[str],
    names: Sequence[str],
    per_hour: float,
) -> _Choice:
    """Choose an onset for each class: the dearer a false alarm, the fewer; as many as may be."""
    frames = sorted({stream.frames for stream in streams})
    for price in _PRICES:
        chosen = {name: _best(name, options, frames, price) for name in names}
        kept = {name: option for name, option in chosen.items() if option is not None}
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
    total = sum(by_frames.values(), Score())
    mistakes = total.segments + total.events - 2 * total.right
    return _Choice(base, LearntEvents(rules=rules, classes=by_class, frames=by_frames), mistakes)


def _best(name: str, options: Sequence[_Pass], frames: Sequence[int], price: float) -> _Pass | None:
    """Return the option for a class at a price of false alarms; None is to have no event of it."""
    scores = [sum((each.scores[name, t] for t in frames), Score()) for each in options]
    segments = scores[0].segments
    costs = [
        each.segments + each.events - 2 * each.right + price * each.false_alarms for each in scores
    ]
    least = min(costs)
    if segments == 0:
        # Nothing tells what it looks like: what was never a false alarm, if anything.
        quiet = [option for option, each in zip(options, scores, strict=True) if not each.events]
        return quiet[len(quiet) // 2] if quiet else None
    if least > segments:
        return None
    # The run of options around the best that are as good, and alarm no more.
    first = last = costs.index(least)
    alarms = scores[first].false_alarms

    def as_good(index: int) -> bool:
        return (
            0 <= index < len(options)
            and costs[index] <= least + max(1.0, _AS_GOOD * segments)
            and scores[index].false_alarms <= alarms
        )

    while as_good(first - 1):
        first -= 1
    while as_good(last + 1):
        last += 1
    return options[(first + last + 1) // 2]


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
