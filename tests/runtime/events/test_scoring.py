"""Scores against what one can compute by hand."""

from __future__ import annotations

import pytest

from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.scoring import Segment, Told, overlap, score


def told(start_s: float, end_s: float, name: str = "wave", confidence: float = 0.9) -> Told:
    event = Event(
        id=str(start_s), source="door", class_name=name, start_s=start_s, end_s=end_s,
        confidence=confidence, peak=1.0, peak_s=start_s,
    )  # fmt: skip
    return Told(event, start_s + 1)


def test_overlap_is_what_both_take_over_what_either_takes() -> None:
    assert overlap(told(0, 4).event, Segment(2, 6, "wave")) == pytest.approx(2 / 6)
    assert overlap(told(0, 1).event, Segment(2, 3, "wave")) == 0.0


def test_f1_false_alarms_and_errors() -> None:
    segments = [Segment(10, 12, "wave"), Segment(20, 22, "wave"), Segment(30, 32, "nod")]
    found = [
        told(10.5, 12),  # right: 1.5 of 2
        told(21.5, 24),  # 0.5 of 4: touches, but is not right
        told(50, 51),  # a false alarm
        told(30, 32),  # of the wrong class: one, too
    ]
    result = score(found, segments, seconds=1800)
    assert (result.right, result.events, result.segments) == (1, 4, 3)
    assert result.f1 == pytest.approx(2 / 7)
    assert result.false_alarms_per_hour == 4.0
    assert result.start_errors_s == (0.5, 1.5)
    assert result.start_error_s == 1.0
    assert result.delay_s == 2.0


def test_a_second_event_of_one_segment_is_a_false_alarm() -> None:
    segments = [Segment(10, 12, "wave")]
    found = [told(10, 11.4, confidence=0.5), told(10.6, 12, confidence=0.8)]
    result = score(found, segments, seconds=60)
    assert (result.right, result.false_alarms) == (1, 1)
    assert result.start_errors_s == (pytest.approx(0.6),)  # the more confident one is it


def test_scores_add_up() -> None:
    one = score([told(0, 1)], [Segment(0, 1, "wave")], 1800)
    both = one + score([told(5, 6)], [], 1800)
    assert (both.f1, both.false_alarms_per_hour) == (pytest.approx(2 / 3), 1.0)


def test_nothing_found_of_nothing_is_no_mistake() -> None:
    assert score([], [], 60).f1 == 1.0
