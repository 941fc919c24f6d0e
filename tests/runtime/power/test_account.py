"""The account of energy: sums, gaps, and readings that cannot be true. No clock, no thread."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def test_between_two_readings_there_is_no_news_and_no_fault() -> None:
    account = filled(at(0.0, 4.0), at(0.1, 6.0))
    assert account.take(0.11) == (pytest.approx(5.0), pytest.approx(0.5), None)
    assert account.take(0.12) == (None, None, None)
    account.add(at(0.2, 8.0))
    assert account.take(0.21) == (pytest.approx(7.0), pytest.approx(0.7), None)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("rate_hz", [4, 10, 30])
def test_a_meter_that_speaks_once_a_second_is_heard_once_a_second(
    rate_hz: int, counts: bool
) -> None:
    def drawn_j(time_s: float) -> float:  # 5 W, and 9 W more each third second
        whole, rest = divmod(time_s, 3.0)
        return 5.0 * time_s + 9.0 * (whole + min(rest, 1.0))

    account = EnergyAccount()
    told, spoke = [], 0
    for step in range(60 * rate_hz + 1):
        now = step / rate_hz
        while spoke <= now:  # up to 0.2 s late, as a thread is
            late_s = 0.2 * (spoke % 5) / 4
            if spoke + late_s > now:
                break
            time_s = spoke + late_s
            mean_w = drawn_j(time_s) - drawn_j(time_s - 1) if spoke else 5.0
            account.add(at(time_s, mean_w, drawn_j(time_s) if counts else None))
            spoke += 1
        told.append(account.take(now))
    assert {each.fault for each in told[1:]} == {None}
    news = [each for each in told if each.energy_j is not None]
    assert len(news) == spoke - 1
    assert all((each.power_w is None) == (each.energy_j is None) for each in told)
    assert account.gap_s == 0.0
    sum_j = math.fsum(each.energy_j or 0.0 for each in told)
    assert sum_j == pytest.approx(account.energy_j)
    assert sum_j == pytest.approx(drawn_j(60.0), rel=1e-9 if counts else 0.03)


def test_one_reading_a_second_may_be_lost_and_more_are_a_fault() -> None:
    account = filled(at(0.0, 5.0), at(1.0, 5.0))
    assert account.take(3.4).fault is None
    account.add(at(3.4, 5.0))
    assert account.take(3.4) == (pytest.approx(5.0), pytest.approx(12.0), None)
    assert account.take(6.0).fault == "no reading for 2.6 s: the sensor does not answer"


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
    assert account.take(4.0).fault == "no reading for 3.0 s: the sensor does not answer"


def test_a_counter_that_stands_still_is_a_fault() -> None:
    account = filled(at(0.0, None, 1.0), at(0.5, None, 2.0))
    account.add(at(3.1, None, 2.0))
    assert account.take(3.1).fault == "no reading for 2.6 s: the counter stands at 2.000 J"


@pytest.mark.parametrize("wrong_j", [1.0, 1e9])
def test_a_counter_that_leaps_counts_on_from_there(wrong_j: float) -> None:
    account = filled(at(0.0, None, 5.0), at(0.1, None, 6.0))
    account.add(at(0.2, None, wrong_j))
    account.add(at(0.3, None, wrong_j + 2))
    assert account.energy_j == pytest.approx(3.0)
    assert (account.ignored, account.gap_s) == (1, pytest.approx(0.1))
    assert account.take(0.3).fault is None


def test_a_counter_that_keeps_leaping_is_a_fault() -> None:
    account = filled(at(0.0, None, 0.0), *(at(0.1 * n, None, n % 2 * 1e6) for n in range(1, 28)))
    fault = account.take(2.7).fault
    assert fault == "no reading for 2.7 s: the counter moved by 1e+06 J in 0.10 s"
    account.add(at(2.8, None, 1e6 + 1))
    assert account.take(2.8) == (pytest.approx(10.0), 1.0, None)


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


def worked(
    cores: Callable[[float], float],
    until_s: float,
    shown_w: Callable[[float], float] = lambda _: 4.16,
    period_s: float = 0.05,
) -> tuple[EnergyAccount, list[float]]:
    """Return an account of a machine that works so much, and when it was at fault."""
    account, faults = EnergyAccount(), []
    for step in range(round(until_s / period_s)):
        now = step * period_s
        account.worked_s += cores(now) * period_s
        account.add(at(now, shown_w(now)))
        if account.fault(now) is not None:
            faults.append(now)
    return account, faults


def test_a_sensor_that_hangs_while_the_work_changes_is_a_fault_until_it_moves() -> None:
    account, faults = worked(lambda now: 0.1 if now < 20 else 0.4, until_s=80)
    assert 20 + 30 < faults[0] <= 20 + 35
    assert account.fault(79.95) == "the sensor has shown exactly 4.160 W for 80 s"
    assert account.energy_j < 4.16 * 55  # what it shows later is not counted
    account.add(at(80.0, 4.2))
    assert account.take(80.0).fault is None


def test_a_sensor_that_hangs_under_even_work_is_a_fault_after_five_minutes() -> None:
    _, faults = worked(lambda now: 0.5, until_s=310)
    assert 300 <= faults[0] < 301


@pytest.mark.parametrize("period_s", [0.05, 1.0])
def test_an_idle_board_is_never_called_frozen(period_s: float) -> None:
    account, faults = worked(lambda now: 0.02 * (now % 60 < 5), until_s=3600, period_s=period_s)
    assert faults == []
    assert account.gap_s == 0.0
    assert account.energy_j == pytest.approx(4.16 * 3600, rel=1e-3)


def test_a_board_that_was_idle_for_an_hour_may_begin_to_work() -> None:
    def shown_w(now: float) -> float:  # a mean over a second that is shown once a second
        return 4.0 if now < 3601 else 9.0

    _, faults = worked(lambda now: 2.0 * (now >= 3600), until_s=3660, shown_w=shown_w)
    assert faults == []


@pytest.mark.parametrize("quantum_w", [0.04, 0.5])
def test_a_slow_and_coarse_sensor_under_uneven_work_is_no_freeze(quantum_w: float) -> None:
    def cores(now: float) -> float:  # inferences of 0.1 s, four times a second; more each minute
        return (1.0 + now // 60 % 2) * (now % 0.25 < 0.1)

    def shown_w(now: float) -> float:  # by the mean of the second before, once a second
        load_w = 3.0 * 0.4 * (1 + (math.floor(now) - 1) // 60 % 2)
        return round((4.0 + load_w) / quantum_w) * quantum_w

    _, faults = worked(cores, until_s=280, shown_w=shown_w)
    assert faults == []


def test_a_rail_or_a_register_that_moves_shows_that_the_sensor_lives() -> None:
    # Once a second: so often are the rails read that the total does not need.
    rails, registers = EnergyAccount(), EnergyAccount()
    for t in range(1000):
        rails.worked_s = registers.worked_s = 0.05 * max(0, t - 200)
        rails.add(at(t * 0.05, 4.16, rail_w=float(t // 20 % 2)))
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
    for step in range(4, 30):
        account.add(at(step * 0.1, wrong_w))
    assert account.take(2.9).fault == f"no reading for 2.6 s: it showed {wrong_w:.4g} W, " + (
        "which cannot be"
    )


def test_the_first_reading_may_be_wrong_too() -> None:
    account = filled(at(0.0, -5.0))
    assert account.take(0.0).fault == "it showed -5 W, which cannot be"
    account.add(at(0.2, 5.0))
    assert account.take(0.2) == (None, None, None)
