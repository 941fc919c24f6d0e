"""The detector: properties that hold whatever comes, and what single courses must give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from ffn_edge.runtime.events.detector import Detector
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules

CLASSES = ("wave", "nod", "nothing")
COVERS_S = 2.0
Course = Callable[[float], float]


def detector(**rules: object) -> Detector:
    ids = map(str, itertools.count())
    return Detector("door", CLASSES, EventRules(**rules), lambda: next(ids))  # type: ignore[arg-type]


def probabilities(wave: float, nod: float = 0.0) -> np.ndarray:
    return np.array([wave, nod, 1 - wave - nod])


def watch(
    found: Detector, windows: Iterable[tuple[float, np.ndarray]], covers_s: float = COVERS_S
) -> list[Event]:
    """All that is told, windows given by their middles; and the end."""
    told = [e for middle, p in windows for e in found.observe(middle + covers_s / 2, covers_s, p)]
    return told + found.end()


def waves(course: Course, hop_s: float = 0.25, until_s: float = 20.0) -> list:
    return [(t, probabilities(course(t))) for t in np.arange(1.0, until_s, hop_s)]


def spans(told: list[Event]) -> list[tuple[str, float, float]]:
    return [(e.class_name, e.start_s, e.end_s) for e in told if e.end_s is not None]


def bump(*middles: float, half_s: float = 1.0) -> Course:
    """Triangles of height 1, twice `half_s` wide."""
    return lambda t: max(max(0.0, 1 - abs(t - middle) / half_s) for middle in middles)


def check_order(told: list[Event]) -> None:
    """Every event begins once and ends once, and never are two open."""
    running: Event | None = None
    last_end_s = -1.0
    for event in told:
        if event.end_s is None:
            assert running is None
            assert event.start_s >= last_end_s
            running = event
        else:
            assert running is not None
            assert (running.id, running.start_s) == (event.id, event.start_s)
            assert event.end_s >= event.start_s
            assert 0 <= event.confidence <= event.peak <= 1
            last_end_s = event.end_s
            running = None
    assert running is None
    assert len({event.id for event in told}) == len(told) / 2


def test_an_event_lies_between_the_crossings_of_onset_and_offset() -> None:
    told = watch(detector(onset=0.6, offset=0.2), waves(bump(10.0)))
    (only,) = spans(told)
    assert only == ("wave", pytest.approx(9.6), pytest.approx(10.8))
    assert told[1].peak == pytest.approx(1.0)
    assert told[1].peak_s == pytest.approx(10.0)
    check_order(told)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_events_begin_once_and_end_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = detector(
        onset=float(rng.uniform(0.2, 0.9)),
        offset=float(rng.uniform(0, 0.9)),
        least_s=float(rng.choice([0, 0.3, 1])),
        merge_s=float(rng.choice([0, 0.6])),
        refractory_s=float(rng.choice([0, 1])),
    )
    told, time_s = [], 0.0
    logits = np.zeros(3)
    for _ in range(400):
        # Hops, now and then a gap, a late window, or an earlier time.
        time_s += rng.choice([0.25, 0.1, 5.0, -0.5, -30.0], p=[0.8, 0.15, 0.02, 0.02, 0.01])
        time_s = max(time_s, 0.0)
        logits = 0.8 * logits + rng.normal(0, 1.5, 3)
        each = np.exp(logits) / np.exp(logits).sum()
        told += found.observe(time_s, float(rng.choice([2.0, 1.0, 0.25])), each)
    told += found.end()
    opened: dict[str, Event] = {}
    closed: set[str] = set()
    for event in told:
        if event.end_s is None:
            assert event.id not in opened
            assert len(opened) == len(closed)  # never two at once
            opened[event.id] = event
        else:
            assert event.id in opened
            assert event.id not in closed
            assert event.end_s >= event.start_s == opened[event.id].start_s
            closed.add(event.id)
    assert set(opened) == closed
    assert opened


@pytest.mark.parametrize("hop_s", [0.05, 0.125, 0.25, 0.5])
def test_how_often_one_looks_moves_no_event(hop_s: float) -> None:
    course = bump(5.0, 9.0, 14.0, half_s=1.5)
    found = spans(watch(detector(onset=0.6, offset=0.2), waves(course, hop_s)))
    expected = [("wave", t - 0.6, t + 1.2) for t in (5.0, 9.0, 14.0)]
    for (name, start_s, end_s), (as_name, as_start_s, as_end_s) in zip(
        found, expected, strict=True
    ):
        assert name == as_name
        assert start_s == pytest.approx(as_start_s, abs=hop_s / 4)
        assert end_s == pytest.approx(as_end_s, abs=hop_s / 4)


def test_the_same_action_twice_is_two_events() -> None:
    assert len(spans(watch(detector(), waves(bump(5.0, 8.0))))) == 2


def test_two_peaks_are_two_events_though_the_valley_stays_above_the_offset() -> None:
    course = bump(5.0, 6.0)  # 0.5 between them
    told = watch(detector(onset=0.6, offset=0.2), waves(course))
    (first, second) = spans(told)
    assert first[2] == second[1] == pytest.approx(5.5, abs=0.01)
    check_order(told)


def test_a_ripple_parts_no_event() -> None:
    told = watch(detector(), waves(lambda t: 0.8 + 0.1 * np.sin(7 * t) if 5 < t < 12 else 0.0))
    assert len(spans(told)) == 1


def test_what_is_back_within_the_merge_gap_never_ended() -> None:
    course = bump(5.0, 7.0)
    assert len(spans(watch(detector(merge_s=0.0), waves(course)))) == 2
    told = watch(detector(onset=0.5, offset=0.5, merge_s=1.1), waves(course))
    assert spans(told) == [("wave", pytest.approx(4.5), pytest.approx(7.5))]
    assert len(spans(watch(detector(onset=0.5, offset=0.5, merge_s=0.9), waves(course)))) == 2


def test_what_is_too_short_is_never_told() -> None:
    course = bump(5.0)  # above a half for 1 s
    assert watch(detector(onset=0.5, offset=0.5, least_s=1.1), waves(course)) == []
    told = watch(detector(onset=0.5, offset=0.5, least_s=0.9), waves(course))
    assert spans(told) == [("wave", pytest.approx(4.5), pytest.approx(5.5))]


def test_the_same_action_waits_for_the_refractory_time() -> None:
    course = bump(5.0, 7.0)
    rules = {"onset": 0.5, "offset": 0.5}
    assert len(spans(watch(detector(**rules, refractory_s=2.1), waves(course)))) == 1
    told = watch(detector(**rules, refractory_s=1.5), waves(course))
    assert spans(told)[1] == ("wave", pytest.approx(7.0), pytest.approx(7.5))


def test_a_change_of_class_ends_one_event_and_begins_the_other() -> None:
    windows = [
        (t, probabilities(max(0.0, 1 - t / 10), min(1.0, t / 10))) for t in np.arange(0, 10, 0.25)
    ]
    told = watch(detector(onset=0.4, offset=0.1), windows)
    (first, second) = spans(told)
    assert (first[0], second[0]) == ("wave", "nod")
    assert first[2] == second[1] == pytest.approx(5.0, abs=1e-6)
    check_order(told)


def test_the_class_of_nothing_is_no_event() -> None:
    assert watch(detector(), waves(lambda t: 0.0)) == []
    assert len(spans(watch(detector(nothing="other"), waves(lambda t: 0.0)))) == 1


def test_a_class_without_an_onset_has_no_events() -> None:
    assert watch(detector(onset={"nod": 0.5}, offset={"nod": 0.3}), waves(bump(5.0))) == []


def test_a_late_window_says_nothing() -> None:
    windows = waves(bump(10.0))
    late = [*windows[:40], (windows[35][0], probabilities(0.0, 1.0)), *windows[40:]]
    assert watch(detector(), late) == watch(detector(), windows)


def test_a_gap_ends_what_goes_on() -> None:
    windows = [*waves(lambda t: 1.0, until_s=5.0), (20.0, probabilities(1.0))]
    told = watch(detector(), windows)
    newest_s = windows[-2][0] + COVERS_S / 2
    assert spans(told) == [("wave", 0.0, newest_s), ("wave", 19.0, 21.0)]
    check_order(told)


def test_an_earlier_time_begins_anew() -> None:
    windows = [*waves(lambda t: 1.0, until_s=9.0), *waves(lambda t: 1.0, until_s=5.0)]
    (first, second) = spans(watch(detector(), windows))
    assert first[1:] == (0.0, pytest.approx(9.75))
    assert second[1:] == (0.0, pytest.approx(5.75))


def test_shifts_move_start_and_end() -> None:
    rules = {"onset": 0.5, "offset": 0.5, "start_shift_s": 0.25, "end_shift_s": {"wave": -0.125}}
    assert spans(watch(detector(**rules), waves(bump(5.0)))) == [
        ("wave", pytest.approx(4.75), pytest.approx(5.375))
    ]
