"""The schedule of readings, on a clock of the tests."""

from __future__ import annotations

import pytest

from ffn_edge.runtime.power.schedule import Schedule


def kept(*rounds: tuple[float, float]) -> Schedule:
    """Rounds that begin and end at these times, on a schedule of 100 ms that starts at 10 s."""
    schedule = Schedule(0.1)
    schedule.start(10.0)
    for begin, end in rounds:
        schedule.begin(begin)
        schedule.end(end)
    return schedule


def test_rounds_that_take_their_time_do_not_shift_the_next() -> None:
    schedule = kept((10.0, 10.04), (10.11, 10.15), (10.2, 10.29))
    assert schedule.due_s == pytest.approx(10.3)
    assert schedule.missed == 0


def test_how_late_rounds_begin_is_told_on_average_and_at_worst() -> None:
    schedule = kept((10.0, 10.0), (10.13, 10.13), (10.23, 10.23), (10.3, 10.3))
    assert schedule.late_s == pytest.approx(0.015)
    assert schedule.latest_s == pytest.approx(0.03)


def test_a_round_that_takes_too_long_misses_those_that_were_due_meanwhile() -> None:
    schedule = kept((10.0, 10.35))
    assert (schedule.due_s, schedule.missed) == (pytest.approx(10.4), 3)


def test_nothing_is_late_before_the_first_round() -> None:
    assert (kept().late_s, kept().latest_s, kept().due_s) == (0.0, 0.0, 10.0)
