"""The correction of the profiled power, and the account of joules."""

from __future__ import annotations

import pytest

from ffn_edge.runtime.policy.power_model import PowerModel


def observed(model: PowerModel, times: int, power_w: float | None, **options: float) -> PowerModel:
    for _ in range(times):
        now = (model.observed or 0.0) + 0.25
        model = model.observe(
            now,
            power_w,
            4.0,
            options.get("budget_w"),
            saving_s=options.get("saving_s", 0.0),
            switched=bool(options.get("switched")),
        )
    return model


def test_what_the_machine_draws_beyond_the_profile_is_learned_to_the_last_watt() -> None:
    model = observed(PowerModel(4.0), 200, 11.0)
    assert model.predicted_w(4.0) == pytest.approx(11.0, abs=0.01)
    assert model.predicted_w(8.0) == pytest.approx(15.0, abs=0.01)


def test_more_power_than_expected_is_learned_faster_than_less() -> None:
    settled = observed(PowerModel(4.0), 20, 8.0)
    more = observed(settled, 4, 10.0).predicted_w(4.0) - 8.0
    less = 8.0 - observed(settled, 4, 6.0).predicted_w(4.0)
    assert more > 1.5
    assert less < 0.5


def test_noise_that_averages_out_is_no_rise() -> None:
    model = PowerModel(4.0)
    for number in range(4000):  # thirty a second
        now = number / 30
        power_w = 8.0 + (3.0 if number % 2 else -3.0)
        model = model.observe(now, power_w, 4.0, None, saving_s=0.0, switched=False)
    assert model.predicted_w(4.0) == pytest.approx(8.0, abs=0.25)


def test_what_is_measured_just_after_a_switch_teaches_nothing() -> None:
    model = observed(PowerModel(4.0), 1, 20.0, switched=1)
    assert observed(model, 4, 20.0).predicted_w(4.0) == 8.0
    assert observed(model, 8, 20.0).predicted_w(4.0) > 8.0


def test_overdrawn_joules_lower_what_is_allowed_until_they_are_paid_back() -> None:
    model = observed(PowerModel(4.0), 9, 12.0, budget_w=10.0)  # 2 W too much for 2 s
    assert model.balance_j == pytest.approx(-4.0)
    assert model.allowed_w(10.0) == pytest.approx(10.0 - 4.0 / 5)
    assert observed(model, 8, 8.0, budget_w=10.0).allowed_w(10.0) == pytest.approx(10.0)


def test_saved_joules_cannot_be_hoarded() -> None:
    model = observed(PowerModel(4.0), 1000, 5.0, budget_w=10.0, saving_s=6.0)
    assert model.balance_j == pytest.approx(60.0)  # six seconds of the budget
    assert model.allowed_w(10.0) == 10.0
    assert observed(PowerModel(4.0), 1000, 5.0, budget_w=10.0).balance_j == 0.0


def test_unknown_power_counts_as_expected_and_is_no_debt() -> None:
    model = observed(PowerModel(4.0), 41, None, budget_w=8.0)
    assert model.balance_j == pytest.approx(0.0)
    assert model.spent_j == pytest.approx(80.0)
    assert model.predicted_w(4.0) == 8.0


def test_time_that_goes_backwards_adds_and_takes_nothing() -> None:
    model = observed(PowerModel(4.0), 4, 8.0)
    again = model.observe(0.1, 8.0, 4.0, 8.0, saving_s=0.1, switched=False)
    assert again.spent_j == model.spent_j
