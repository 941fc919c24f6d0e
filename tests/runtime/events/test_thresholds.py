"""Learning from labelled streams: what is kept, what is told, and that no one window decides."""

from __future__ import annotations

import numpy as np
import pytest

from ffn_edge.runtime.events.rules import EventRules, of_class
from ffn_edge.runtime.events.scoring import Segment
from ffn_edge.runtime.events.thresholds import (
    LabelledStream,
    LearntEvents,
    WindowAnswer,
    find_events,
    learn_rules,
    scores_with,
)

CLASSES = ("wave", "nod", "nothing")
HOUR_S = 3600.0


def stream(
    peaks: dict[tuple[float, str], float], *, waves: int = 20, seed: int = 0, frames: int = 8
) -> LabelledStream:
    """An hour in which each action lasts 2 s and is known 0.5 s early; and peaks of no action.

    Args:
        peaks: of when and which class what looks like an action has this probability.
        waves: how many there are of each class.
        seed: of the actions' times and of how sure the network is.
        frames: the frame count.
    """
    rng = np.random.default_rng(seed)
    times = 30 + np.arange(2 * waves) * 60.0 + rng.uniform(0, 20, 2 * waves)
    names = [CLASSES[i % 2] for i in range(2 * waves)]
    segments = tuple(Segment(t, t + 2, name) for t, name in zip(times.tolist(), names, strict=True))
    bumps = [(s.start_s - 0.5, s.class_name, float(rng.uniform(0.9, 0.999))) for s in segments]
    bumps += [(t, name, height) for (t, name), height in peaks.items()]
    middles = np.arange(1.0, HOUR_S, 0.5)
    given = np.full((len(middles), 3), 0.001)
    for start_s, name, height in bumps:
        inside = (middles >= start_s) & (middles <= start_s + 2)
        given[inside, CLASSES.index(name)] = height
    given[:, 2] = 1 - given[:, :2].sum(axis=1)
    answers = [
        WindowAnswer(t + 1, 2.0, frames, p) for t, p in zip(middles.tolist(), given, strict=True)
    ]
    return LabelledStream(frames, answers, segments, HOUR_S)


def alarms(number: int, name: str = "wave", height: float = 0.7) -> dict[tuple[float, str], float]:
    return {(1500.0 + 20 * i, name): height + 0.001 * i for i in range(number)}


def learn(*streams: LabelledStream, rate: float = 1.0) -> LearntEvents:
    return learn_rules(streams, CLASSES, false_alarms_per_hour=rate)


def onset(learnt: LearntEvents, name: str) -> float:
    return of_class(learnt.rules.onset, name, np.inf)


def test_thresholds_lie_above_false_alarms_and_below_actions() -> None:
    learnt = learn(stream(alarms(2, height=0.4)))
    assert 0.4 < onset(learnt, "wave") < 0.92
    assert learnt.frames[8].false_alarms == 0
    assert learnt.classes["wave"].f1 == 1.0
    assert "nothing" not in learnt.classes


def test_how_early_an_action_is_known_is_learnt() -> None:
    learnt = learn(stream({}))
    assert of_class(learnt.rules.start_shift_s, "wave", 0.0) == pytest.approx(0.5, abs=0.15)
    assert learnt.classes["wave"].start_error_s == pytest.approx(0.0, abs=0.15)


def test_one_lucky_window_moves_no_threshold_to_its_edge() -> None:
    plain = learn(stream({}))
    lucky = learn(stream({(1500.0, "wave"): 0.35}))
    assert onset(lucky, "wave") > 0.5
    assert abs(onset(lucky, "wave") - onset(plain, "wave")) < 0.2


def test_many_alarms_just_below_an_onset_tell_of_some_above() -> None:
    few, many = (learn(stream(alarms(number, height=0.4))) for number in (2, 16))
    # As they lie at odds of 2/3: once in 16 streams one lies at 16 times these, 0.914.
    assert onset(few, "wave") < 0.914 < onset(many, "wave")


def test_the_rate_is_kept_on_other_streams() -> None:
    def busy(seed: int) -> LabelledStream:
        """With 20 alarms an hour of odds of 1/2 or more, of which every half has twice as much."""
        rng = np.random.default_rng(1000 + seed)
        odds = 0.5 / rng.uniform(0, 1, 20)
        times, names = rng.uniform(100, 3500, 20), rng.choice(CLASSES[:2], 20)
        peaks = zip(times.tolist(), names.tolist(), (odds / (1 + odds)).tolist(), strict=True)
        return stream({(t, name): height for t, name, height in peaks}, seed=seed)

    false_alarms = 0
    for first in (0, 10):
        learnt = learn(busy(first), busy(first + 1))
        others = [busy(seed) for seed in range(first + 2, first + 10)]
        by_class, _ = scores_with(others, CLASSES, learnt.rules)
        false_alarms += sum(found.false_alarms for found in by_class.values())
    assert false_alarms <= 16  # in 16 hours


def test_a_class_that_no_threshold_keeps_has_no_events() -> None:
    learnt = learn(stream(alarms(60, "nod", 0.9999 - 0.06)), rate=0.5)
    assert onset(learnt, "nod") == np.inf
    assert onset(learnt, "wave") < 1
    assert learnt.frames[8].false_alarms_per_hour <= 0.5


def test_every_frame_count_keeps_the_rate() -> None:
    bad = stream(alarms(10, height=0.8), frames=4)
    learnt = learn(bad, *(stream({}, frames=8) for _ in range(4)))
    assert learnt.frames[4].false_alarms_per_hour <= 1.0


def test_a_class_that_never_happened_has_a_middle_onset_and_harms_no_other() -> None:
    one = stream({})
    segments = tuple(s for s in one.segments if s.class_name == "wave")
    answers = [each._replace(probabilities=each.probabilities * (1, 0, 1)) for each in one.answers]
    learnt = learn(LabelledStream(8, answers, segments, HOUR_S))
    assert learnt.classes["wave"].f1 == 1.0
    assert 0.5 < onset(learnt, "nod") < 0.99


def test_rules_are_for_the_detector_as_they_are() -> None:
    one = stream(alarms(3))
    learnt = learn(one)
    assert isinstance(learnt.rules, EventRules)
    told = find_events(one.answers, CLASSES, learnt.rules)
    assert len(told) == sum(found.events for found in learnt.classes.values())
