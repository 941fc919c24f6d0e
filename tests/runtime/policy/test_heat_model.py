"""When it is too hot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ffn_edge.runtime.policy.heat_model import HeatModel


def heated(celsius: Callable[[float], float], seconds: float) -> list[bool]:
    """Whether there was an alarm, four times a second; the sensor is read once a second."""
    model, alarms = HeatModel(), []
    for number in range(round(seconds * 4)):
        model = model.observe(number / 4, celsius(number // 4))
        alarms.append(bool(model.alarm))
    return alarms


def test_a_steep_rise_near_the_limit_is_an_alarm_ten_seconds_ahead() -> None:
    alarms = heated(lambda now: 60.0 + now, 34)
    first_s = alarms.index(True) / 4
    assert 24 <= first_s <= 29  # at 84 to 89 °C
    assert all(alarms[alarms.index(True) + 8 :])


@pytest.mark.parametrize(
    "celsius",
    [
        lambda now: 60.0 + 0.1 * now,
        lambda now: 45.0 if now < 10 else 72.0,  # a processor begins to work
        lambda now: 60.0 if now % 2 else 75.0,
        lambda now: 89.0 if now % 2 else 91.0,
        lambda now: 94.0,
    ],
)
def test_what_is_usual_is_no_alarm(celsius: Callable[[float], float]) -> None:
    assert not any(heated(celsius, 120))


def test_what_is_hot_is_an_alarm_however_steady() -> None:
    assert all(heated(lambda now: 96.0, 60))


def test_an_unknown_temperature_is_no_alarm_and_begins_anew() -> None:
    model = HeatModel().observe(0.0, 90.0).observe(1.0, 94.0)
    assert model.alarm
    assert not model.observe(2.0, None).alarm
    assert not model.observe(2.0, None).observe(3.0, 90.0).alarm


def test_time_that_goes_backwards_changes_nothing() -> None:
    model = HeatModel().observe(5.0, 80.0).observe(6.0, 81.0)
    assert model.observe(5.5, 90.0) == model
