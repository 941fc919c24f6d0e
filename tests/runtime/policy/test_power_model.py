"""The correction of the profiled power, the account of joules, and turns between two engines."""

from __future__ import annotations

import math

import pytest

from ffn_edge.runtime.policy.power_model import PowerModel, in_turns


def started(idle_w: float = 4.0) -> PowerModel:
    return PowerModel(idle_w, (0.0, 0.0, 0.0))


def after(
    model: PowerModel,
    times: int,
    power_w: float | None,
    *,
    seconds: float = 0.25,
    budget_w: float | None = None,
    index: int | None = 1,
) -> PowerModel:
    """Return the model after inferences of an engine of 4 W."""
    for _ in range(times):
        now = 0.0 if model.observed is None else model.observed + seconds
        model = model.observe(now, power_w, 4.0, budget_w, index=index)
    return model


def test_what_the_machine_draws_beyond_the_profile_is_learned_to_a_tenth_of_a_watt() -> None:
    model = after(started(), 400, 11.0)
    assert model.predicted_w(4.0, 1) == pytest.approx(11.0, abs=0.1)
    # Of the others, that it is half the machine's and not the engine's alone.
    assert 9.0 < model.predicted_w(4.0, 0) <= 11.0


def test_a_profile_that_is_wrong_is_found_out_for_each_engine() -> None:
    profiled_w, drawn_w = (1.0, 2.0, 4.0), (1.4, 2.8, 5.6)
    model, now = started(), 0.0
    for number in range(60):
        index = number % 3
        for inference in range(20):
            now += 0.25
            model = model.observe(
                now,
                4.0 + drawn_w[index],
                profiled_w[index],
                None,
                index=index,
                switched=inference == 0,
            )
    found = [model.predicted_w(profiled_w[index], index) for index in range(3)]
    assert found == pytest.approx([4.0 + each for each in drawn_w], rel=0.03)


def test_noise_that_averages_out_is_no_rise() -> None:
    model = started()
    for number in range(4000):  # thirty a second
        model = model.observe(number / 30, 8.0 + (3.0 if number % 2 else -3.0), 4.0, None, index=1)
    assert model.predicted_w(4.0, 1) == pytest.approx(8.0, abs=0.25)


def test_what_is_measured_just_after_a_switch_says_nothing_of_the_engine() -> None:
    settled = after(started(), 8, 8.0)
    assert settled.observed is not None
    model = settled.observe(settled.observed + 0.25, 20.0, 4.0, None, index=1, switched=True)
    assert after(model, 4, 20.0).own_w == settled.own_w
    assert after(model, 12, 20.0).own_w[1] > settled.own_w[1]


def test_a_reading_tells_of_the_whole_time_since_the_one_before() -> None:
    model = after(started(), 41, None)  # ten seconds of 8 W, as is expected
    assert model.spent_j == pytest.approx(80.0)
    assert after(model, 1, 10.0).spent_j == pytest.approx(102.5)


def test_overdrawn_joules_lower_what_is_allowed_until_they_are_paid_back() -> None:
    model = after(started(), 9, 12.0, budget_w=10.0)  # 2 W too much for 2 s
    assert model.balance_j == pytest.approx(-4.0)
    fewer_w = model.allowed_w(10.0, of_battery=True)
    assert fewer_w == pytest.approx(10.0 - 4.0 / 10)
    paid = after(model, 8, 8.0, budget_w=10.0)
    assert paid.allowed_w(10.0, of_battery=True) == pytest.approx(10.0)


def test_saved_joules_cannot_be_hoarded() -> None:
    model = after(started(), 1000, 5.0, budget_w=10.0)
    assert 0 <= model.balance_j <= 1.0
    assert model.allowed_w(10.0, of_battery=False) < 10.0
    assert model.allowed_w(10.0, of_battery=True) < 10.2


def test_a_debt_that_could_not_be_paid_is_forgotten() -> None:
    model = after(started(), 4000, 12.0, budget_w=10.0)  # a quarter of an hour
    assert after(model, 100, 8.0, budget_w=10.0).balance_j >= 0


def test_without_a_budget_nothing_is_owed() -> None:
    overdrawn = after(started(), 20, 20.0, budget_w=10.0)
    assert overdrawn.balance_j < 0
    assert after(overdrawn, 1, 20.0).balance_j == 0.0


def test_unknown_power_counts_as_expected_and_is_no_debt() -> None:
    model = after(started(), 41, None, budget_w=8.0)
    assert model.balance_j == pytest.approx(0.0)
    assert model.spent_j == pytest.approx(80.0)
    assert model.predicted_w(4.0) == 8.0


@pytest.mark.parametrize(("interval_s", "known_s"), [(0.05, 3.0), (0.25, 3.0), (1.0, 3.0), (5, 15)])
def test_a_power_is_known_for_three_seconds_or_three_intervals_after_it_was_heard_of(
    interval_s: float, known_s: float
) -> None:
    model = after(started(), 100, 8.0, seconds=interval_s)
    silences = 0
    while model.silent_s is None and silences < 1000:
        model = after(model, 1, None)
        silences += 1
    assert silences / 4 == pytest.approx(known_s, abs=0.5)
    assert after(model, 1, 8.0).silent_s is None


def test_a_power_that_was_never_heard_of_becomes_unknown_too() -> None:
    assert started().silent_s is None
    assert after(started(), 8, None).silent_s is None
    assert after(started(), 20, None).silent_s is not None


@pytest.mark.parametrize("now", [0.1, -1e6])
def test_time_that_goes_backwards_adds_and_takes_nothing(now: float) -> None:
    model = after(started(), 4, 8.0, budget_w=8.0)
    again = model.observe(now, 8.0, 4.0, 8.0, index=1)
    assert (again.spent_j, again.balance_j) == (model.spent_j, model.balance_j)


def turns(power_w: list[float], worth: list[float], allowed_w: float) -> list[int]:
    """Return the best engine that may run, a hundred times in five seconds."""
    ran: list[int] = []
    for number in range(100):
        may_run = in_turns(power_w, worth, allowed_w, number / 20, ran[-1] if ran else None)
        ran.append(max((each for each in range(3) if may_run[each]), key=lambda each: worth[each]))
    return ran


def test_what_is_within_the_budget_may_run_always() -> None:
    assert in_turns([5.0, 6.0, 8.0], [0.5, 0.6, 0.7], 9.0, 3.0, None) == [True] * 3


def test_where_nothing_is_within_the_budget_what_draws_least_may() -> None:
    assert in_turns([6.0, 5.0, 8.0], [0.5, 0.6, 0.7], 4.0, 3.0, None) == [False, True, False]
    assert in_turns([5.0, math.inf, math.inf], [0.5, 0.6, 0.7], 4.0, 3.0, None) == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("allowed_w", [6.2, 7.0, 7.8])
def test_between_two_engines_the_budget_is_kept_by_both(allowed_w: float) -> None:
    ran = turns([5.0, 6.0, 8.0], [0.5, 0.6, 0.7], allowed_w)
    assert set(ran) == {1, 2}
    # One that runs is not cut short: up to a tenth of a turn longer, which the account takes back.
    assert allowed_w - 0.05 <= sum([5.0, 6.0, 8.0][each] for each in ran) / 100 <= allowed_w + 0.2
    assert ran == sorted(ran)  # one switch a turn


def test_a_turn_goes_to_the_engine_that_gains_most_for_its_power() -> None:
    # The last gains hardly more than the middle one, and draws twice as much.
    assert set(turns([5.0, 7.0, 12.0], [0.5, 0.7, 0.71], 6.0)) == {0, 1}
    # Here the middle one gains nothing.
    assert set(turns([5.0, 7.0, 9.0], [0.5, 0.5, 0.7], 6.0)) == {0, 2}


def test_a_power_that_is_not_known_gets_no_turn() -> None:
    assert set(turns([5.0, 6.0, math.inf], [0.5, 0.6, 0.7], 6.9)) == {1}


def test_a_turn_is_not_cut_short_by_a_small_error() -> None:
    # It has run two of its three seconds when the power is a little more than was known.
    power_w, worth = [5.0, 7.0, math.inf], [0.5, 0.6, 0.7]
    begun = [in_turns(power_w, worth, 6.2, now, None)[1] for now in (1.9, 2.1, 4.0)]
    assert begun == [False, True, True]
    for current, goes_on in ((1, True), (0, False)):
        assert in_turns(power_w, worth, 6.1 - 0.1, 2.2, current)[1] is goes_on
