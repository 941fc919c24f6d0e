"""The figures of runs that are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ffn_edge.runtime.policy.interface import Limits, OperatingPoint, Setting
from ffn_edge.runtime.simulate.drive import Step
from ffn_edge.runtime.simulate.figures import Figures, Tally

POINTS = (
    OperatingPoint(frames=4, base_ms=20.0, accuracy=0.4),
    OperatingPoint(frames=8, base_ms=40.0, accuracy=0.6),
)


def figures(
    choices: list[int],
    misses: str = "",
    powers_w: list[float] | None = None,
    budgets_w: list[float | None] | None = None,
    limits: Limits = Limits(latency_ms=50.0),  # noqa: B008 - frozen
    points: Sequence[OperatingPoint] = POINTS,
) -> Figures:
    """Tally one inference a second; an x in `misses` is a miss."""
    tally = Tally(points)
    energy_j = 0.0
    for second, index in enumerate(choices):
        energy_j += powers_w[second] if powers_w else 1.0
        budget_w = budgets_w[second] if budgets_w else None
        tally.add(
            Step(
                index=index,
                begin_s=second,
                end_s=second + 1.0,
                latency_ms=60.0 if misses[second : second + 1] == "x" else 40.0,
                limits=replace(limits, power_w=budget_w),
                deadline_ms=limits.latency_ms,
                energy_j=energy_j,
                decision_us=10.0,
            )
        )
    return tally.figures()


def test_misses_bursts_and_their_chance_are_counted() -> None:
    found = figures([0] * 10, "x.xxx..xx.")
    assert (found.misses, found.longest_burst) == (6, 3)
    assert found.miss_rate == pytest.approx(0.6)
    assert found.miss_after_miss == pytest.approx(3 / 6)


def test_accuracy_share_and_switches_follow_from_the_choices() -> None:
    found = figures([0, 0, 1, 1, 1, 0])
    assert found.accuracy == pytest.approx(0.5)
    assert found.share == {4: 0.5, 8: 0.5}
    assert found.switches_per_min == pytest.approx(2 * 60 / 6)
    assert found.mean_power_w == pytest.approx(1.0)


def test_in_time_is_what_is_right_and_not_late() -> None:
    # Of 0.4, 0.6, 0.6, 0.4 the second and the last came too late.
    found = figures([0, 1, 1, 0], ".x.x")
    assert found.in_time == pytest.approx((0.4 + 0.6) / 4)
    assert found.accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("live", [True, False])
def test_in_a_stream_accuracy_is_of_its_time_and_not_of_its_frames(live: bool) -> None:
    streamed = Setting(points=POINTS).streamed(2.0, live=live)
    # Two seconds at each rate.
    found = figures([0] * 4 + [1] * 8, "...." + "xxxx....", points=streamed.points)
    assert found.accuracy == pytest.approx((0.4 + 0.6) / 2)
    assert found.in_time == pytest.approx((0.4 + 0.6 / 2) / 2)


def test_the_worst_window_of_ten_seconds_is_found() -> None:
    powers_w = [8.0] * 10 + [12.0] * 10 + [8.0] * 10
    found = figures([0] * 30, powers_w=powers_w, budgets_w=[10.0] * 30)
    assert found.excess == pytest.approx(0.2)


def test_what_is_saved_in_one_window_does_not_pay_for_another() -> None:
    # The first of the windows that are laid end to end begins with the end of the first second.
    powers_w = [1.0] + [12.0] * 10 + [2.0] * 10
    found = figures([0] * 21, powers_w=powers_w, budgets_w=[10.0] * 21)
    assert found.over_j == pytest.approx(20.0)


def test_a_lower_budget_counts_from_when_it_holds() -> None:
    powers_w = [10.0] * 20 + [5.0] * 20
    found = figures([0] * 40, powers_w=powers_w, budgets_w=[*[10.0] * 20, *[5.0] * 20])
    assert found.excess == pytest.approx(0.0)


def test_a_budget_kept_is_no_excess_and_none_asked_for_is_unknown() -> None:
    assert figures([0] * 30, budgets_w=[2.0] * 30).excess == 0.0
    assert figures([0] * 30).excess is None


def test_what_is_drawn_beyond_a_battery_counts() -> None:
    found = figures([0] * 100, limits=Limits(latency_ms=50.0, battery_j=80.0, until_s=100.0))
    assert found.over_j == pytest.approx(20.0)
    assert found.excess == pytest.approx(0.25)


def test_without_known_power_there_is_no_power_figure() -> None:
    found = figures([0] * 30, powers_w=[0.0] * 30, budgets_w=[2.0] * 30)
    assert found.mean_power_w is None
    assert found.excess is None
