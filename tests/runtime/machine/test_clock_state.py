"""Clocks that flicker are a state. No clock of the wall."""

from __future__ import annotations

import pytest

from ffn_edge.runtime.machine.clock_state import ClockState


def seen(state: ClockState, until_s: float, *clocks: tuple[float, ...], at_s: float = 0.0) -> None:
    """Show clocks in turns, twenty times a second, to a time."""
    for step in range(round((until_s - at_s) * 20)):
        state.add(at_s + step / 20, clocks[step % len(clocks)])


def test_a_clock_that_falls_between_inferences_is_the_one_at_work() -> None:
    state, told = ClockState(), set()
    for second in range(20):
        idle, work = (306.0, 3199.0), (918.0, 3199.0)
        seen(state, second + 1, work, *[idle] * (second % 10), at_s=second)
        told.add(state.at_work_mhz())
    assert told == {(918.0, 3199.0)}


def test_a_rise_shows_at_once_and_a_fall_after_a_second() -> None:
    state = ClockState()
    seen(state, 2.0, (510.0,))
    state.add(2.0, (918.0,))
    assert state.at_work_mhz() == (918.0,)
    seen(state, 2.95, (510.0,), at_s=2.05)
    assert state.at_work_mhz() == (918.0,)
    seen(state, 3.1, (510.0,), at_s=3.0)
    assert state.at_work_mhz() == (510.0,)


def test_a_clock_that_wanders_by_less_than_five_percent_stays() -> None:
    state, told = ClockState(), set()
    for second, mhz in enumerate((1980.0, 1965.0, 1935.0, 1995.0, 1905.0)):
        seen(state, second + 1, (mhz, 2619.0), at_s=second)
        told.add(state.at_work_mhz())
    assert told == {(1980.0, 2619.0)}
    seen(state, 7.0, (1800.0, 2619.0), at_s=5.0)
    assert state.at_work_mhz() == (1800.0, 2619.0)


@pytest.mark.parametrize("known", [(918.0,), (918.0, 3199.0)])
def test_clocks_that_are_no_longer_told_are_unknown(known: tuple[float, ...]) -> None:
    state = ClockState()
    assert state.at_work_mhz() == ()
    seen(state, 1.0, known, ())
    assert state.at_work_mhz() == known
    seen(state, 3.0, (), at_s=1.0)
    assert state.at_work_mhz() == ()
    seen(state, 4.0, (918.0,), at_s=3.0)
    assert state.at_work_mhz() == (918.0,)
