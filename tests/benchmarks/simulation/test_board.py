"""The simulated board against what its physics and its seed promise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulation.board import PERIOD_S, SYNTHETIC, Board, BoardSpec, Phase
from benchmarks.simulation.draws import Draws, generators
from benchmarks.simulation.sensor import SensorSpec, SimulatedSensor
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.power.account import EnergyAccount

CALM = Phase(duration_s=60.0, spike_onset=0.0)
EXACT_SENSOR = SensorSpec(jitter_s=0.0, noise=0.0, quantum_w=1e-6, delay_s=0.0)
EXACT = BoardSpec(noise=0.0, sensor=EXACT_SENSOR)


def board(spec: BoardSpec, *phases: Phase, seed: int = 0) -> Board:
    limits = [Limits(latency_ms=100.0 + number) for number in range(len(phases))]
    return Board(spec, phases, limits, seed)


def latencies(made: Board, hops: int) -> list[list[float]]:
    return [made.begin(hop * PERIOD_S) for hop in range(hops)]


def test_the_same_seed_is_the_same_board_and_another_is_not() -> None:
    first, again, other = (board(SYNTHETIC, Phase(duration_s=60.0), seed=s) for s in (1, 1, 2))
    expected = latencies(first, 50)
    assert latencies(again, 50) == expected
    assert latencies(other, 50) != expected


def test_latency_depends_on_the_time_and_not_on_what_ran_before() -> None:
    busy, lazy = (board(SYNTHETIC, Phase(duration_s=600.0, spike_onset=0.05)) for _ in range(2))
    for hop in range(400):
        seen = busy.begin(hop * PERIOD_S)
        busy.work(2, hop * PERIOD_S + 0.1)
        busy.rest((hop + 1) * PERIOD_S)
        if hop % 7 == 0:  # six hops of seven are skipped, as by long inferences
            assert lazy.begin(hop * PERIOD_S) == seen


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_random_numbers_do_not_depend_on_the_chunks_they_are_drawn_in(chunk: int) -> None:
    def drawn(length: int) -> list[float]:
        uniform, normal = generators(5, 2)
        of = [Draws(uniform.random, length), Draws(normal.standard_normal, length)]
        return [draws.at(index) for index in range(0, 2000, 3) for draws in of]

    assert drawn(chunk) == drawn(4096)


def test_without_noise_a_latency_is_the_profiled_one() -> None:
    assert board(EXACT, CALM).begin(0.0) == [20.0, 38.0, 74.0]


def test_contention_slows_all_by_the_share_left_and_the_most_frames_a_little_more() -> None:
    few, some, most = board(EXACT, replace(CALM, contention=0.6)).begin(0.0)
    assert some == pytest.approx(38.0 / 0.4)
    assert few / 20.0 < some / 38.0 < most / 74.0 < 1.05 * some / 38.0


def test_drift_hits_the_most_frames_alone() -> None:
    assert board(EXACT, replace(CALM, drift=1.5)).begin(0.0) == pytest.approx([20.0, 38.0, 111.0])


def test_phases_come_in_turn_with_their_limits_and_begin_anew() -> None:
    made = board(EXACT, replace(CALM, memory=1.0), replace(CALM, memory=1.48))
    seen = []
    for now in (0.0, 59.9, 60.0, 119.9, 120.0):
        seen.append((round(made.begin(now)[0], 6), made.limits.latency_ms))
    assert seen == [(20.0, 100.0), (20.0, 100.0), (29.6, 101.0), (29.6, 101.0), (20.0, 100.0)]


def test_a_miss_of_the_most_frames_is_followed_by_another_in_74_of_100() -> None:
    made = board(EXACT, replace(CALM, spike_onset=0.01), seed=3)
    missed = np.array([ms[2] > 99.9 for ms in latencies(made, 100_000)])
    again = missed[1:][missed[:-1]].mean()
    assert again == pytest.approx(0.74, abs=0.03)  # about 2000 misses: standard error 0.01


def test_profiled_ratios_are_the_noise() -> None:
    spec = replace(EXACT, ratios=(0.9, 1.0, 1.3))
    seen = {round(ms[0] / 20.0, 9) for ms in latencies(board(spec, CALM), 200)}
    assert seen == {0.9, 1.0, 1.3}
    assert spec.setting().ratios == (0.9, 1.0, 1.3)


def test_temperature_follows_the_analytic_step_response() -> None:
    made = board(EXACT, CALM)
    start_c = 25.0 + 4.5 * 5.0
    assert made.temperature_c == pytest.approx(start_c)
    made.begin(0.0)
    for step in range(1, 41):
        made.work(2, float(step))
    power_w = 5.0 + 11.0
    final_c = 25.0 + 4.5 * power_w
    expected = final_c + (start_c - final_c) * math.exp(-40.0 / 40.0)
    assert made.temperature_c == pytest.approx(expected)


def test_energy_is_power_times_time() -> None:
    made = board(EXACT, replace(CALM, contention=0.2))
    made.begin(0.0)
    made.work(1, 0.1)
    made.rest(0.25)
    idle_w = 5.0 + 0.2 * 4.0
    assert made.energy_j == pytest.approx(0.25 * idle_w + 0.1 * 0.8 * 10.0)


def test_sustained_power_is_what_is_drawn_in_the_long_run() -> None:
    made = board(EXACT, replace(CALM, duration_s=100.0))
    for hop in range(400):
        now = hop * PERIOD_S
        ms = made.begin(now)
        made.work(1, now + ms[1] / 1e3)
        made.rest(now + PERIOD_S)
    assert made.energy_j / 100.0 == pytest.approx(made.sustained_w()[1])


def test_heat_lowers_the_clocks_step_by_step_and_cooling_raises_them_with_hysteresis() -> None:
    made = board(EXACT, replace(CALM, duration_s=1e6, ambient_c=60.0))
    made.begin(0.0)
    assert made.throttle_step == 0
    now, steps = 0.0, []
    while made.throttle_step < 3 and now < 600.0:
        now += 1.0
        made.work(2, now)
        made.begin(now)
        steps.append((made.throttle_step, made.temperature_c))
    assert [
        min(c for step, c in steps if step == n) >= trip
        for n, trip in ((1, 85.0), (2, 90.0), (3, 95.0))
    ] == [True] * 3
    assert made.begin(now)[0] == pytest.approx(20.0 / 0.5)
    assert made.sense(now).throttled == "heat: clocks at 50%"
    while made.throttle_step == 3 and now < 900.0:
        now += 0.5
        made.rest(now)
        made.begin(now)
    assert 91.0 < made.temperature_c < 92.0  # 95 - 3


def test_throttled_clocks_save_power_but_no_time() -> None:
    hot = board(EXACT, replace(CALM, ambient_c=70.0))
    before_w = hot.sustained_w()[2]
    hot.begin(0.0)
    assert hot.throttle_step == 1
    assert hot.begin(0.0)[2] > 74.0
    assert hot.sustained_w()[2] < before_w


def shown(spec: SensorSpec, changes: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What a sensor shows while the power is each first value until each second."""
    readings: list[tuple[float, float]] = []

    class Noting(EnergyAccount):
        __slots__ = ()

        def add(self, reading) -> None:  # type: ignore[no-untyped-def]
            readings.append((reading.time_s, reading.total_w))

    sensor = SimulatedSensor(spec, Noting(), tuple(generators(0, 2)))
    for power_w, until in changes:
        sensor.advance(power_w, until)
    return readings


def test_the_sensor_answers_a_step_as_a_low_pass_does() -> None:
    readings = shown(replace(EXACT_SENSOR, filter_s=0.2), [(5.0, 1.0), (15.0, 2.0)])
    for time_s, power_w in readings:
        after = max(0.0, time_s - 1.0)
        assert power_w == pytest.approx(15.0 - 10.0 * math.exp(-after / 0.2), abs=1e-5)
    assert len(readings) == 41  # 20 a second, from 0 to 2 s


def test_a_delay_shifts_what_the_sensor_shows() -> None:
    changes = [(5.0, 1.01), (15.0, 3.0)]
    prompt, late = (
        shown(replace(EXACT_SENSOR, delay_s=delay_s), changes) for delay_s in (0.0, 0.5)
    )
    assert [power_w for _, power_w in late[10:]] == [power_w for _, power_w in prompt[:-10]]


def test_the_sensor_shows_multiples_of_its_quantum() -> None:
    readings = shown(SensorSpec(), [(7.3, 5.0)])
    assert len({power_w for _, power_w in readings}) > 3
    for _, power_w in readings:
        assert power_w / 0.04 == pytest.approx(round(power_w / 0.04))


def test_the_account_finds_the_energy_that_the_board_drew() -> None:
    made = board(SYNTHETIC, CALM)
    sensed_j = 0.0
    for hop in range(240):
        now = hop * PERIOD_S
        ms = made.begin(now)
        made.work(2, now + ms[2] / 1e3)
        made.rest(now + PERIOD_S)
        sensed_j += made.sense(now + PERIOD_S).energy_j or 0.0
    # Pulses of 74 ms that are sampled each 50 ms: what the sensor's filter leaves of them.
    assert sensed_j == pytest.approx(made.energy_j, rel=0.02)


@pytest.mark.parametrize(("state", "said"), [("gone", "does not answer"), ("frozen", "exactly")])
def test_a_sensor_that_fails_is_a_fault_and_comes_back(state: str, said: str) -> None:
    bad = replace(CALM, duration_s=60.0, sensor=state)  # type: ignore[arg-type]
    made = board(SYNTHETIC, replace(CALM, duration_s=10.0), bad)
    faults = {}
    for hop in range(320):
        now = hop * PERIOD_S
        index = 0 if now < 20 else 2  # a sensor that repeats is frozen only where the work changes
        ms = made.begin(now)
        made.work(index, now + ms[index] / 1e3)
        made.rest(now + PERIOD_S)
        faults[now] = made.sense(now + PERIOD_S).fault
    assert faults[9.5] is None
    assert said in (faults[69.5] or "")
    assert faults[79.5] is None
