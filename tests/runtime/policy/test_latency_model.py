"""What is expected of latencies, and how likely an inference is late, from what was seen."""

from __future__ import annotations

import copy
import random
from dataclasses import asdict

import numpy as np
import pytest

from ffn_edge.runtime.policy.latency_model import LatencyModel

BASE_MS = (20.0, 40.0, 80.0)


def started(*ratios: float) -> LatencyModel:
    return LatencyModel.start(BASE_MS, ratios)


def after(
    model: LatencyModel,
    *slowdowns: float,
    index: int | None = 1,
    seconds: float = 0.25,
    clocks_mhz: tuple[float, ...] = (),
) -> LatencyModel:
    """Return the model after inferences of an engine, so many times slower than profiled."""
    for slowdown in slowdowns:
        usual_ms = BASE_MS[1 if index is None else index]
        model = model.observe(
            (model.observed or 0.0) + seconds,
            usual_ms,
            usual_ms * slowdown,
            index=index,
            miss_rate=0.05,
            clocks_mhz=clocks_mhz,
        )
    return model


def chances(model: LatencyModel, room: float) -> list[float]:
    """Return each engine's chance to take more than so many times what was profiled."""
    found: list[float] = model.chances(room * np.array(BASE_MS)).tolist()
    return found


def expected(model: LatencyModel) -> list[float]:
    return [model.expected_ms(index) for index in range(len(BASE_MS))]


def test_before_anything_was_seen_the_profiles_distribution_holds() -> None:
    model = started(*(1 + number / 1000 for number in range(1000)))
    assert expected(model) == pytest.approx([1.5 * ms for ms in BASE_MS], rel=0.01)
    for share in (0.1, 0.5, 0.9):
        assert chances(model, 1 + share) == pytest.approx([1 - share] * 3, abs=0.04)


def test_without_samples_the_base_is_expected() -> None:
    assert expected(started()) == pytest.approx(list(BASE_MS))
    assert chances(started(), 1.01) == [0.0] * 3
    assert min(chances(started(), 0.99)) > 0.9


def test_one_slowdown_is_expected_of_all_engines() -> None:
    model = after(started(), *[2.0] * 5, index=0)
    assert expected(model) == pytest.approx([2 * ms for ms in BASE_MS])


@pytest.mark.parametrize("level", [1.5, 4.0, 0.6])
def test_a_level_that_stays_is_learned_in_three_inferences(level: float) -> None:
    usual = after(started(*[1.0] * 50), *[1.0] * 200)
    model = after(usual, *[level] * 3)
    assert expected(model) == pytest.approx([level * ms for ms in BASE_MS])
    assert expected(after(model, *[1.0] * 3)) == pytest.approx(list(BASE_MS))


def test_a_lone_spike_of_any_height_moves_no_level() -> None:
    usual = after(started(), *[1.0] * 40)
    assert expected(after(usual, 500.0)) == pytest.approx(list(BASE_MS))


def test_after_a_slow_inference_the_next_is_taken_to_be_as_slow_until_one_is_not() -> None:
    usual = after(started(), *[1.0] * 40)
    assert max(chances(usual, 1.4)) < 0.05
    assert min(chances(after(usual, 1.5), 1.4)) > 0.5
    assert max(chances(after(usual, 1.5, 1.0), 1.4)) < 0.2


def test_bursts_that_were_seen_to_end_at_once_are_not_feared() -> None:
    # A slow inference is always alone: after one, the next is as usual.
    model = after(started(), *([1.0] * 9 + [1.5]) * 40)
    assert max(chances(model, 1.4)) < 0.2


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_chance_is_the_share_that_was_seen_and_no_bell_curve(share: float) -> None:
    draw = random.Random(0)
    model = after(started(), *(1.5 if draw.random() < share else 1.0 for _ in range(600)))
    model = after(model, 1.0)
    assert chances(model, 1.4) == pytest.approx([share] * 3, abs=0.05)
    assert max(chances(model, 1.6)) < 0.02


def test_what_slows_one_engine_alone_is_its_own_chance() -> None:
    model = after(started(), *[1.0] * 40)
    for _ in range(10):
        model = after(model, 1.4, index=2)
        model = after(model, *[1.0] * 9)
    least, middle, most = chances(model, 1.3)
    assert most > 0.5
    assert max(least, middle) < 0.2


def test_levels_that_come_and_go_are_remembered() -> None:
    model = started()
    for _ in range(5):
        model = after(model, *[1.0] * 40, *[1.8] * 40)
    model = after(model, *[1.0] * 20)
    assert expected(model) == pytest.approx(list(BASE_MS))
    assert min(chances(model, 1.5)) > 0.1
    # Minutes later that was long ago.
    assert max(chances(after(model, *[1.0] * 400), 1.5)) < 0.15


def test_another_clock_is_a_new_level_at_once() -> None:
    model = after(started(), *[1.0] * 40, clocks_mhz=(900.0, 2000.0))
    assert expected(after(model, 1.3, clocks_mhz=(910.0, 2000.0)))[0] == pytest.approx(20.0)
    assert expected(after(model, 1.3, clocks_mhz=(600.0, 2000.0)))[0] == pytest.approx(26.0)
    # A sensor that is silent for once says nothing of the clocks.
    silent = after(model, 1.0)
    assert expected(after(silent, 1.3, clocks_mhz=(600.0, 2000.0)))[0] == pytest.approx(26.0)


@pytest.mark.parametrize("miss_rate", [0.01, 0.05, 0.2])
def test_at_most_is_exceeded_in_the_share_that_was_asked_for(miss_rate: float) -> None:
    draw, beyond, model = random.Random(1), [], started()
    for number in range(4500):
        latency_ms = 40.0 * draw.lognormvariate(0, 0.1)
        beyond.append(latency_ms > model.at_most_ms(1))
        model = model.observe(number / 4, 40.0, latency_ms, index=1, miss_rate=miss_rate)
    # The first two minutes are for learning.
    assert np.mean(beyond[500:]) == pytest.approx(miss_rate, rel=0.3)


def test_several_engines_at_once_are_nobodys_own() -> None:
    model = after(started(), *[1.0] * 40, *[1.5] * 2, index=None)
    assert len(set(chances(model, 1.4))) == 1


def test_observing_leaves_the_model_as_it_was() -> None:
    model = after(started(1.0, 1.1), *[1.0, 1.3] * 20)
    before = copy.deepcopy(model)
    one, other = (after(each, 1.4, 1.0, index=2) for each in (model, before))
    chances(model, 1.2)
    np.testing.assert_equal(asdict(model), asdict(before))
    np.testing.assert_equal(asdict(one), asdict(other))


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1e9])
def test_time_that_stands_still_goes_back_or_leaps_is_taken_as_it_comes(seconds: float) -> None:
    model = after(started(1.0), *[1.0] * 40)
    later = after(model, 1.0, 1.0, 1.0, seconds=seconds)
    assert expected(later) == pytest.approx(list(BASE_MS))
    assert all(0 <= chance <= 1 for chance in chances(later, 1.2))


def test_what_is_remembered_does_not_grow() -> None:
    model = after(started(*[1.0] * 2000), *[1.0] * 2000)
    assert {
        len(each) for each in (model.slowdowns, model.errors, model.kinds, model.ran, model.weights)
    } == {512}
