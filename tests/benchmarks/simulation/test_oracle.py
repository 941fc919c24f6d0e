"""The oracle bounds what can be had: it mixes, spends, and is never behind."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.simulation import scenarios
from benchmarks.simulation.baselines import NAMES, named
from benchmarks.simulation.board import SYNTHETIC, Phase
from benchmarks.simulation.oracle import Oracle, least_price
from benchmarks.simulation.run import simulate
from benchmarks.simulation.scenarios import Scenario
from ffn_edge.runtime.policy.interface import Limits, OperatingPoint

CALM = Phase(duration_s=120.0, spike_onset=0.0)


def of_one_phase(phase: Phase, battery: float | None = None) -> Scenario:
    return Scenario(name="x", about="", phases=(phase,), length_s=120.0, battery=battery)


@pytest.mark.parametrize("position", [0.25, 0.6, 0.75])
def test_a_budget_is_spent_on_the_two_frame_counts_beside_it(position: float) -> None:
    budget_w = SYNTHETIC.budget_w(position)
    found = simulate(of_one_phase(replace(CALM, power=position)), None, 1, 0.01).figures
    assert found.mean_power_w == pytest.approx(budget_w, rel=0.003)
    assert found.excess is not None and found.excess < 0.003
    drawn_w = [SYNTHETIC.budget_w(at) for at in (0.0, 0.5, 1.0)]
    accuracies = [point.accuracy or 0.0 for point in SYNTHETIC.points]
    assert found.in_time == pytest.approx(np.interp(budget_w, drawn_w, accuracies), abs=0.001)


def test_spikes_are_saved_for_before_they_come() -> None:
    spiky = of_one_phase(Phase(duration_s=120.0, power=0.6, spike_onset=0.05))
    for seed in range(3):
        excess = simulate(spiky, None, seed, 0.01).figures.excess
        assert excess is not None and excess < 0.003


def test_a_battery_is_empty_at_the_end_and_not_before() -> None:
    scenario = of_one_phase(CALM, battery=0.6)
    found = simulate(scenario, None, 1, 0.01).figures
    assert found.over_j == 0.0
    assert found.mean_power_w == pytest.approx(SYNTHETIC.budget_w(0.6), rel=0.001)
    assert found.share[4] == 0.0 and found.share[8] > 0.5


@pytest.mark.parametrize("name", [each.name for each in scenarios.ALL])
def test_no_policy_that_keeps_the_budget_has_more_in_time(name: str) -> None:
    scenario = replace(scenarios.named(name), length_s=120.0)
    # In a stream its own choices decide when it chooses again, so it is no strict bound: it spends
    # to the last joule, and now and then takes the fewest frames for it.
    margin = 5e-3 if name == "stream" else 1e-4
    for seed in range(2):
        best = simulate(scenario, None, seed, 0.05, keep=False).figures
        for policy in (*NAMES, "static-4", "static-8", "static-16"):
            found = simulate(scenario, named(policy), seed, 0.05, keep=False).figures
            if (found.excess or 0.0) <= (best.excess or 0.0):
                assert found.in_time <= best.in_time + margin, policy


def test_a_frame_count_below_the_line_between_two_others_is_not_mixed_in() -> None:
    points = tuple(
        replace(point, accuracy=accuracy)
        for point, accuracy in zip(SYNTHETIC.points, (0.4, 0.41, 0.6), strict=True)
    )
    spec = replace(SYNTHETIC, points=points)
    found = simulate(of_one_phase(replace(CALM, power=0.75)), None, 1, 0.01, spec=spec).figures
    assert found.share[8] == 0.0
    assert 0.2 < found.share[16] < 0.9


def test_where_nothing_is_in_time_the_least_is_drawn() -> None:
    points = (
        OperatingPoint(frames=4, base_ms=30.0, accuracy=0.4),
        OperatingPoint(frames=8, base_ms=20.0, accuracy=0.5),
    )
    device = SimpleNamespace(
        setting=SimpleNamespace(points=points),
        latencies_ms=[30.0, 20.0],
        sustained_w=lambda: [7.0, 6.0],
    )
    oracle = Oracle(device)  # type: ignore[arg-type]
    assert oracle.decide(Limits(latency_ms=5.0), 0.0).frames == 8
    assert oracle.decide(Limits(latency_ms=25.0), 0.25).frames == 8


def test_the_least_price_is_found_whatever_its_size() -> None:
    for price in (0.0, 0.0002, 0.3, 50.0):
        assert least_price(lambda tried, price=price: tried >= price) == pytest.approx(  # type: ignore[misc]
            price, rel=1e-4, abs=1e-8
        )


def test_for_accuracy_alone_the_allowed_misses_are_spent_where_they_gain() -> None:
    # All but the fewest frames are late, and that they may be in one of twenty.
    scenario = of_one_phase(replace(CALM, deadline=0.35))
    found = simulate(scenario, None, 1, 0.05, late=True).figures
    few, most = SYNTHETIC.points[0].accuracy or 0.0, SYNTHETIC.points[-1].accuracy or 0.0
    assert found.misses == int(0.05 * found.inferences)
    assert found.accuracy == pytest.approx(0.95 * few + 0.05 * most, abs=1e-4)
    assert found.in_time == pytest.approx(0.95 * few, abs=1e-4)
