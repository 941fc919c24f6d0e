"""The account of energy: sums, gaps, and readings that cannot be true. No clock, no thread."""

from __future__ import annotations

import math

import pytest

from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.meter import PowerReading


def at(
    time_s: float, total_w: float | None = None, energy_j: float | None = None, rail_w: float = 0.0
) -> PowerReading:
    return PowerReading(time_s=time_s, total_w=total_w, rails_w={"A": rail_w}, energy_j=energy_j)


def filled(*readings: PowerReading) -> EnergyAccount:
    account = EnergyAccount()
    for reading in readings:
        account.add(reading)
    return account


def test_power_is_integrated_by_the_trapezoid_rule() -> None:
    # A ramp is exact, however unevenly it is read.
    account = filled(*(at(t, 10 + 4 * t) for t in (0.0, 0.1, 0.5, 0.6, 1.0)))
    assert account.energy_j == pytest.approx(12.0)
    assert account.power_w == 14.0
    assert account.take(1.0) == (pytest.approx(12.0), pytest.approx(12.0), None)


def test_what_is_taken_adds_up_to_the_total() -> None:
    account = EnergyAccount()
    taken = []
    for step in range(200):
        account.add(at(step * 0.05, 5 + math.sin(step)))
        if step % 7 == 0:
            taken.append(account.take(step * 0.05))
    taken.append(account.take(10.0))
    assert math.fsum(each.energy_j or 0.0 for each in taken) == pytest.approx(account.energy_j)


def test_between_two_readings_the_latest_power_holds() -> None:
    account = filled(at(0.0, 4.0), at(0.1, 6.0))
    assert account.take(0.11) == (pytest.approx(5.0), pytest.approx(0.5), None)
    assert account.take(0.12) == (6.0, None, None)


def test_a_counter_needs_no_more_than_differences() -> None:
    # The power between the readings does not matter, and neither does what they show of it.
    account = filled(at(0.0, 99.0, 100.0), at(0.5, 1.0, 103.0), at(1.0, 7.0, 110.0))
    assert account.take(1.0) == (10.0, 10.0, None)
    assert account.power_w == 7.0
    assert filled(at(0.0, None, 0.0), at(0.5, None, 2.0)).power_w == 4.0


def test_a_counter_that_moves_seldom_is_read_over_the_whole_time() -> None:
    account = EnergyAccount()
    for step in range(41):  # it moves each 100 ms, and is read each 25 ms
        account.add(at(step * 0.025, None, float(step // 4)))
        power_w, _, fault = account.take(step * 0.025)
        assert fault is None
        assert power_w is None or power_w == pytest.approx(10.0)
    assert account.energy_j == pytest.approx(10.0)
    assert account.take(3.0).fault == "no reading for 2.0 s: the sensor does not answer"


def test_a_counter_that_stands_still_is_a_fault() -> None:
    account = filled(at(0.0, None, 1.0), at(0.5, None, 2.0))
    account.add(at(1.6, None, 2.0))
    assert account.take(1.6).fault == "no reading for 1.1 s: the counter stands at 2.000 J"


@pytest.mark.parametrize("wrong_j", [1.0, 1e9])
def test_a_counter_that_leaps_counts_on_from_there(wrong_j: float) -> None:
    account = filled(at(0.0, None, 5.0), at(0.1, None, 6.0))
    account.add(at(0.2, None, wrong_j))
    account.add(at(0.3, None, wrong_j + 2))
    assert account.energy_j == pytest.approx(3.0)
    assert (account.ignored, account.gap_s) == (1, pytest.approx(0.1))
    assert account.take(0.3).fault is None


def test_a_counter_that_keeps_leaping_is_a_fault() -> None:
    account = filled(at(0.0, None, 0.0), *(at(0.1 * n, None, n % 2 * 1e6) for n in range(1, 16)))
    fault = account.take(1.5).fault
    assert fault == "no reading for 1.5 s: the counter moved by 1e+06 J in 0.10 s"
    account.add(at(1.6, None, 1e6 + 1))
    assert account.take(1.6) == (pytest.approx(10.0), 1.0, None)


def test_a_counter_knows_what_was_drawn_while_nobody_read_it() -> None:
    account = filled(at(0.0, None, 0.0), at(30.0, None, 300.0))
    assert (account.energy_j, account.gap_s) == (300.0, 0.0)


def test_no_energy_is_made_up_for_a_gap() -> None:
    account = filled(at(0.0, 10.0), at(0.5, 10.0))
    account.fail("it is gone")
    assert account.take(3.7) == (None, None, "no reading for 3.2 s: it is gone")
    account.add(at(4.0, 20.0))
    account.add(at(4.5, 20.0))
    assert account.take(4.5) == (20.0, 10.0, None)
    assert (account.energy_j, account.gap_s, account.failed) == (15.0, 3.5, 1)
    assert account.covered_s == 1.0


def test_before_the_first_reading_the_reason_is_told() -> None:
    account = EnergyAccount()
    assert account.take(0.0) == (None, None, "no reading yet")
    account.fail("there is no sensor")
    assert account.take(99.0) == (None, None, "there is no sensor")


def test_a_sensor_that_freezes_is_a_fault_until_it_moves() -> None:
    account = EnergyAccount()
    for step in range(721):
        account.add(at(step * 0.05, 4.16))
    assert account.take(36.0).fault == "the sensor has shown exactly 4.160 W for 36 s"
    assert account.energy_j < 4.16 * 30  # what it shows later is not counted
    account.add(at(36.05, 4.2))
    assert account.take(36.05).fault is None


def test_an_idle_board_whose_reading_repeats_for_seconds_is_no_freeze() -> None:
    account = filled(*(at(step * 0.05, 4.16) for step in range(590)))
    assert account.fault(29.45) is None
    assert account.gap_s == 0.0


def test_few_equal_readings_are_no_freeze() -> None:
    assert filled(*(at(2.0 * t, 4.16) for t in range(19))).fault(36.0) is None


def test_a_rail_or_a_register_that_moves_shows_that_the_sensor_lives() -> None:
    # Once a second: so often are the rails read that the total does not need.
    rails = filled(*(at(t * 0.05, 4.16, rail_w=float(t // 20 % 2)) for t in range(1000)))
    registers = EnergyAccount()
    for t in range(1000):
        shown = (5000, 800) if t // 20 % 2 else (4000, 1000)  # mV and mA of the same power
        registers.add(PowerReading(time_s=t * 0.05, total_w=4.0, rails_w={}, registers=shown))
    for account in (rails, registers):
        assert account.fault(49.95) is None
        assert account.gap_s == 0.0


@pytest.mark.parametrize("wrong_w", [-1.0, math.nan, math.inf, 2000.1])
def test_a_reading_that_cannot_be_true_is_ignored(wrong_w: float) -> None:
    account = filled(at(0.0, 10.0), at(0.1, wrong_w), at(0.2, 10.0), at(0.3, 10.0))
    assert (account.energy_j, account.ignored) == (pytest.approx(3.0), 1)
    assert account.gap_s == 0.0
    assert account.take(0.3).fault is None
    for step in range(4, 20):
        account.add(at(step * 0.1, wrong_w))
    assert account.take(1.9).fault == f"no reading for 1.6 s: it showed {wrong_w:.4g} W, " + (
        "which cannot be"
    )


def test_the_first_reading_may_be_wrong_too() -> None:
    account = filled(at(0.0, -5.0))
    assert account.take(0.0).fault == "it showed -5 W, which cannot be"
    account.add(at(0.2, 5.0))
    assert account.take(0.2) == (5.0, None, None)
