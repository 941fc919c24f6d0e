"""The laws that a board may live by beside the usual ones, and the scenarios that audit them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.simulation import scenarios
from benchmarks.simulation.board import (
    PERIOD_S,
    SYNTHETIC,
    Board,
    Clock,
    Profile,
    TimeSharing,
    Wait,
)
from benchmarks.simulation.run import simulate
from benchmarks.simulation.scenario import Scenario
from benchmarks.simulation.sensor import SensorSpec
from ffn_edge.runtime.policy.interface import (
    Controller,
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Setting,
)
from ffn_edge.runtime.simulate.drive import Step, drive
from tests.benchmarks.simulation.test_board import CALM, EXACT, board, latencies, shown

BASE_MS = [20.0, 38.0, 74.0]


class InTurn:
    """Runs the frame counts of a list, over and over, whatever happens."""

    name = "in turn"

    def __init__(self, *frames: int) -> None:
        self.frames = frames
        self.seen: list[Observation] = []

    def start(self, setting: Setting) -> int:  # noqa: D102
        return 0

    def observe(self, state: int, observation: Observation) -> int:  # noqa: D102
        self.seen.append(observation)
        return state + 1

    def decide(  # noqa: D102
        self, state: int, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        return Decision(frames=self.frames[state % len(self.frames)], reason="its turn")


def driven(made: Board, policy: InTurn, length_s: float = 60.0) -> list[Step]:
    return list(drive(made, Controller(policy, made.setting), length_s))


def test_a_wait_adds_the_same_to_every_frame_count() -> None:
    made = board(EXACT, replace(CALM, wait=Wait(least_ms=5.0, most_ms=30.0)))
    waits = []
    for seen in latencies(made, 200):
        added = [ms - base for ms, base in zip(seen, BASE_MS, strict=True)]
        assert added == pytest.approx([added[0]] * 3)
        waits.append(added[0])
    assert 5.0 <= min(waits) < 7.0 and 28.0 < max(waits) <= 30.0


def test_a_wait_comes_as_often_as_its_chance_says() -> None:
    made = board(EXACT, replace(CALM, wait=Wait(least_ms=5.0, most_ms=5.0, chance=0.3)))
    waited = Counter(round(seen[0] - 20.0) for seen in latencies(made, 4000))
    assert set(waited) == {0, 5}
    assert waited[5] / 4000 == pytest.approx(0.3, abs=0.03)


def test_time_sharing_interrupts_the_long_and_spares_the_short() -> None:
    points = (
        OperatingPoint(frames=2, base_ms=1.5, power_w=8.0),
        OperatingPoint(frames=16, base_ms=18.0, power_w=11.0),
    )
    made = board(
        replace(EXACT, points=points),
        replace(CALM, sharing=TimeSharing(own_ms=16.0, others_ms=15.0)),
    )
    few, most = zip(*latencies(made, 4000), strict=True)
    assert sorted(few)[2000] == 1.5
    assert sum(ms > 1.5 for ms in few) / 4000 == pytest.approx(1.5 / 16.0, abs=0.02)
    assert sum(most) / 4000 == pytest.approx(18.0 * (1 + 15.0 / 16.0), rel=0.02)
    assert min(most) == 18.0 + 15.0


def test_an_engine_draws_nothing_while_it_waits() -> None:
    made = board(EXACT, replace(CALM, wait=Wait(least_ms=20.0, most_ms=20.0)))
    made.begin(0.0)
    made.work(0, 0.04)
    assert made.energy_j == pytest.approx(0.04 * 5.0 + 0.02 * 9.0)
    made.rest(PERIOD_S)
    assert made.energy_j / PERIOD_S == pytest.approx(made.sustained_w()[0])


def test_each_engine_can_be_slower_by_itself() -> None:
    assert board(EXACT, replace(CALM, own=(2.2, 1.0, 0.9))).begin(0.0) == pytest.approx(
        [44.0, 38.0, 66.6]
    )
    assert board(EXACT, replace(CALM, own=(2.0, 1.0))).begin(0.0) == pytest.approx(
        [40.0, 57.0, 74.0]
    )


def test_a_load_draws_and_slows_nothing() -> None:
    made = board(EXACT, replace(CALM, load_w=2.0))
    assert made.begin(0.0) == BASE_MS
    made.rest(1.0)
    assert made.energy_j == pytest.approx(7.0)


def test_a_cold_engine_and_a_pause_cost_an_inference_more() -> None:
    phase = replace(CALM, duration_s=10.0, pause_s=3.0)
    made = board(replace(EXACT, cold_ms=5.0, wake_ms=30.0), phase)
    steps = driven(made, InTurn(4, 4, 8), length_s=11.0)
    seen = [step.latency_ms for step in steps]
    assert seen[:5] == pytest.approx([20.0, 20.0, 43.0, 25.0, 20.0])
    (after,) = [number for number, step in enumerate(steps) if step.begin_s == 10.0]
    cold_ms = 0.0 if steps[after - 1].index == steps[after].index else 5.0
    assert seen[after] == pytest.approx(BASE_MS[steps[after].index] + cold_ms + 30.0)


@pytest.mark.parametrize("shown", [True, False])
def test_a_clock_dwells_in_its_modes_and_may_be_shown(shown: bool) -> None:
    clock = Clock(mhz=(1300.0, 650.0), dwell_s=5.0, shown=shown)
    made = board(replace(EXACT, clocks=(clock,)), CALM)
    factors = []
    for hop in range(8000):
        factors.append(made.begin(hop * PERIOD_S)[0] / 20.0)
        assert made.sense(hop * PERIOD_S).clocks_mhz == ((1300.0 / factors[-1],) if shown else ())
    assert set(factors) == {1.0, 2.0}
    switches = sum(a != b for a, b in pairwise(factors))
    assert switches == pytest.approx(8000 * PERIOD_S / 5.0, rel=0.15)


def test_without_a_dwell_each_inference_draws_its_mode() -> None:
    clock = Clock(mhz=(1300.0, 1300.0, 650.0), dwell_s=0.0)
    made = board(replace(EXACT, clocks=(clock,)), CALM)
    slow = sum(seen[0] == 40.0 for seen in latencies(made, 3000))
    assert slow / 3000 == pytest.approx(1 / 3, abs=0.03)


def test_a_clock_slows_what_is_bound_by_it_and_saves_power() -> None:
    clocks = (
        Clock(mhz=(1000.0, 500.0), dwell_s=1e-6, bound=(1.0, 0.5, 0.0)),
        Clock(mhz=(3200.0,), dwell_s=1.0),
    )
    made = board(replace(EXACT, clocks=clocks), CALM)
    before_w = made.sustained_w()
    assert made.begin(0.0) == BASE_MS
    assert made.begin(PERIOD_S) == pytest.approx([40.0, 57.0, 74.0])  # it never stays
    assert made.sense(PERIOD_S).clocks_mhz == (500.0, 3200.0)
    assert made.sustained_w()[2] - 5.0 == pytest.approx((before_w[2] - 5.0) / 4)


def test_a_wrong_profile_tells_other_numbers_than_the_board_lives_by() -> None:
    told = Profile(
        latency=(0.7, 1.0, 1.5),
        power=(0.6, 1.0, 1.4),
        accuracy=(0.01, 0.0, -0.03),
        clips=400,
        idle=1.2,
        noise=0.1,
        period_s=0.5,
    )
    made = board(replace(EXACT, profile=told), CALM)
    points, setting = made.setting.points, made.setting
    assert [point.base_ms for point in points] == pytest.approx([14.0, 38.0, 111.0])
    assert [point.power_w for point in points] == pytest.approx([5.4, 10.0, 15.4])
    assert [point.accuracy for point in points] == pytest.approx([0.4385, 0.4820, 0.4779])
    assert {point.clips for point in points} == {400}
    assert (setting.idle_w, setting.period_s) == (6.0, 0.5)
    assert max(setting.ratios) > 1.2
    # And the board:
    assert made.points == SYNTHETIC.points
    assert made.begin(0.0) == BASE_MS
    assert made.next_s == PERIOD_S
    right = board(EXACT, CALM)
    assert made.sustained_w() == right.sustained_w()
    assert replace(EXACT, profile=told).budget_w(0.5) == EXACT.budget_w(0.5)


def test_the_camera_changes_its_rate_and_pauses_whatever_was_told() -> None:
    phases = (
        replace(CALM, duration_s=2.0, period_s=0.5),
        replace(CALM, duration_s=2.0, period_s=0.2, pause_s=0.9),
    )
    steps = driven(board(EXACT, *phases), InTurn(4), length_s=4.5)
    begins = [0.0, 0.5, 1.0, 1.5, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 4.0]
    assert [step.begin_s for step in steps] == pytest.approx(begins)


def test_what_was_late_goes_on_with_the_latest_frame() -> None:
    phase = replace(CALM, period_s=0.05)
    steps = driven(board(EXACT, phase), InTurn(16, 4), length_s=0.2)
    assert [step.begin_s for step in steps] == pytest.approx([0.0, 0.074, 0.1, 0.174])


def test_a_jittery_camera_keeps_its_mean() -> None:
    phase = replace(CALM, duration_s=1e3, period_jitter=0.3)
    begins = [step.begin_s for step in driven(board(EXACT, phase), InTurn(4), length_s=500.0)]
    gaps = [b - a for a, b in pairwise(begins)]
    assert min(gaps) >= 0.7 * PERIOD_S and max(gaps) <= 1.3 * PERIOD_S
    assert max(gaps) - min(gaps) > 0.5 * PERIOD_S
    assert sum(gaps) / len(gaps) == pytest.approx(PERIOD_S, rel=0.02)


def test_deadlines_jitter_about_the_phase_s_and_are_told_before_the_decision() -> None:
    policy = InTurn(4)
    driven(board(EXACT, replace(CALM, duration_s=1e3, deadline_jitter=0.25)), policy, 250.0)
    asked = [seen.limits.latency_ms or 0.0 for seen in policy.seen]
    assert 75.0 <= min(asked) < 80.0 and 120.0 < max(asked) <= 125.0
    assert sum(asked) / len(asked) == pytest.approx(100.0, rel=0.03)


def test_headroom_is_what_is_left_to_the_critical_trip_point() -> None:
    assert board(EXACT, CALM).sense(0.0).headroom_c is None
    made = board(replace(EXACT, critical_c=107.0), CALM)
    sensed = made.sense(0.0)
    assert sensed.temperature_c is not None
    assert sensed.headroom_c == 107.0 - sensed.temperature_c


@pytest.mark.parametrize("spec", [SensorSpec(rate_hz=1.0), SensorSpec(every_s=1.0)])
def test_a_sensor_of_one_hertz_speaks_once_a_second_of_the_mean_of_the_last(
    spec: SensorSpec,
) -> None:
    spec = replace(spec, mean_s=1.0, jitter_s=0.0, delay_s=0.0, noise=0.0, quantum_w=1e-6)
    # 4, 5, 6, 7 W, a quarter of a second each, and a watt more in each second.
    drawn_w = [4.0 + number % 4 + number // 4 for number in range(40)]
    changes = [(power_w, 0.25 * (number + 1)) for number, power_w in enumerate(drawn_w)]
    readings = shown(spec, changes)
    news = [b for a, b in pairwise(readings) if a[1] != b[1]]
    assert [time_s for time_s, _ in news] == pytest.approx([float(n) for n in range(1, 11)])
    assert [power_w for _, power_w in news] == pytest.approx([5.5 + n for n in range(10)], abs=1e-5)


def test_an_idle_board_repeats_a_coarse_reading() -> None:
    spec = SensorSpec(rate_hz=1.0, mean_s=1.0, noise=0.0, quantum_w=0.25)
    assert {power_w for _, power_w in shown(spec, [(5.1, 60.0)])} == {5.0}


def test_the_audit_has_scenarios_of_other_names_that_are_short() -> None:
    names = [each.name for each in (*scenarios.ALL, *scenarios.AUDIT)]
    assert len(set(names)) == len(names)
    assert all(scenarios.named(each.name) is each for each in scenarios.AUDIT)
    assert all(120.0 <= each.length_s <= 600.0 for each in scenarios.AUDIT)


@pytest.mark.parametrize("scenario", scenarios.AUDIT, ids=lambda each: each.name)
def test_the_audit_s_boards_are_the_same_whatever_is_chosen(scenario: Scenario) -> None:
    # Heat and cold engines follow from what was chosen, by their nature.
    spec = replace(scenario.spec(SYNTHETIC), throttle=(), cold_ms=0.0)
    frames = [point.frames for point in spec.points]
    course = replace(scenario, board=spec, length_s=min(scenario.length_s, 130.0))
    seen: list[dict[float, list[float]]] = []
    for chosen in (frames[:1], frames):
        made, latencies_ms = course.device(SYNTHETIC, 1, 0.05), {}
        for step in drive(made, Controller(InTurn(*chosen), made.setting), course.length_s):
            latencies_ms[step.begin_s] = made.latencies_ms
        seen.append(latencies_ms)
    shared = seen[0].keys() & seen[1].keys()
    assert len(shared) > 200
    assert all(seen[0][time_s] == seen[1][time_s] for time_s in shared)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", scenarios.AUDIT, ids=lambda each: each.name)
def test_the_audit_can_be_kept_by_who_knows(scenario: Scenario) -> None:
    figures = simulate(scenario, None, 1, 0.01).figures
    assert 600 < figures.inferences <= 2500
    assert figures.miss_rate <= 0.01
    assert figures.excess is None or figures.excess <= 0.02
