"""ALERT as published: its filter step by step, its choice by a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.simulation.alert import Alert
from ffn_edge.runtime.policy.interface import Limits, Observation, Sensed, Setting


def test_the_first_step_of_the_filter_is_the_published_one(setting: Callable[..., Setting]) -> None:
    policy = Alert()
    state = policy.observe(
        policy.start(setting()),
        Observation(frames=8, latency_ms=60.0, now=0.06, limits=Limits()),
    )
    # y = 1.5 - 1; Q = max(0.1, 0.3 · 0.1 + 0.7 · (0.5 · 0.5)²); σ² = (1 - 0.5) · 0.1 + Q
    noise = max(0.1, 0.03 + 0.7 * 0.25**2)
    variance = 0.05 + noise
    assert state.variance == pytest.approx(variance)
    assert state.slowdown == pytest.approx(1 + variance / (variance + 0.001) * 0.5)


def test_the_chance_is_that_of_a_gaussian(setting: Callable[..., Setting]) -> None:
    policy = Alert()
    state = policy.start(setting())
    # 8 frames: (80 / 40 - 1) / √0.1 = 3.16 deviations; 16 frames: none.
    decision = policy.decide(state, Limits(latency_ms=80, miss_rate=0.01), 0.0)
    assert decision.frames == 8
    chance = 0.5 * (1 + math.erf(1 / math.sqrt(0.1) / math.sqrt(2)))
    assert f"{chance:.4f}" in decision.reason
    assert "chance of 0.5000" in decision.rejected[16]


def test_a_power_budget_rules_out_what_draws_more(setting: Callable[..., Setting]) -> None:
    policy = Alert()
    state = policy.start(setting())
    # 4 W idle, 10 W for 80 of 250 ms: 7.2 W; 9 W for 40 ms: 5.44 W.
    decision = policy.decide(state, Limits(power_w=6.0), 0.0)
    assert (decision.frames, list(decision.rejected)) == (8, [16, 4])


def test_the_idle_power_is_learned(setting: Callable[..., Setting]) -> None:
    policy = Alert()
    state = policy.start(setting())
    for number in range(20):
        state = policy.observe(
            state,
            Observation(
                frames=8,
                latency_ms=40.0,
                now=number / 4,
                limits=Limits(),
                sensed=Sensed(power_w=7.44),
            ),
        )
    assert state.idle_w == pytest.approx(6.0, abs=0.05)


def test_where_nothing_keeps_the_limits_the_safest_runs(setting: Callable[..., Setting]) -> None:
    policy = Alert()
    decision = policy.decide(policy.start(setting()), Limits(latency_ms=5), 0.0)
    assert decision.frames == 4
    assert decision.warning


def test_the_published_noise_has_two_readings_and_the_profile_gives_a_third(
    setting: Callable[..., Setting],
) -> None:
    made = replace(setting(), ratios=(0.9, 1.0, 1.1))
    assert Alert("variance").start(made).variance == pytest.approx(0.1)
    assert Alert("deviation").start(made).variance == pytest.approx(0.01)
    assert Alert("fitted").start(made).variance == pytest.approx(0.01)
    assert Alert("fitted").start(replace(made, ratios=(0.98, 1.02))).variance < 0.001


def test_several_engines_in_one_inference_are_compared_with_their_sum(
    setting: Callable[..., Setting],
) -> None:
    policy = Alert()
    state = policy.observe(
        policy.start(setting()),
        Observation(
            frames=8, latency_ms=60.0, now=0.06, limits=Limits(), ran=((4, 20.0), (8, 40.0))
        ),
    )
    assert state.slowdown == pytest.approx(1.0)
