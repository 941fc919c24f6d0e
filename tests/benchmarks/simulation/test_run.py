"""Runs, the oracle and the scenarios."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.simulation import scenarios
from benchmarks.simulation.baselines import named
from benchmarks.simulation.board import PERIOD_S, SYNTHETIC, BoardSpec, Phase
from benchmarks.simulation.oracle import Oracle
from benchmarks.simulation.run import simulate
from benchmarks.simulation.scenarios import Scenario
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, OperatingPoint, Setting

POINTS = SYNTHETIC.points
SHORT = [replace(each, length_s=60.0) for each in scenarios.ALL]


@dataclass
class Alternating:
    """Runs every frame count in turn, and notes what it is told."""

    name: str = "alternating"

    def __post_init__(self) -> None:
        self.seen: list[Observation] = []

    def start(self, setting: Setting) -> int:  # noqa: D102
        self.setting = setting
        return 0

    def observe(self, state: int, observation: Observation) -> int:  # noqa: D102
        self.seen.append(observation)
        return state + 1

    def decide(  # noqa: D102
        self, state: int, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        point = self.setting.points[state % len(self.setting.points)]
        return Decision(frames=point.frames, reason="its turn")


def latency_by_time(policy: Any, scenario: Scenario) -> dict[float, dict[int, float]]:
    run = simulate(scenario, policy, 1, 0.05)
    assert run.timeline is not None
    found: dict[float, dict[int, float]] = {}
    columns = (run.timeline.time_s, run.timeline.index, run.timeline.latency_ms)
    for time_s, index, latency_ms in zip(*columns, strict=True):
        found.setdefault(time_s, {})[index] = latency_ms
    return found


@pytest.mark.parametrize("scenario", SHORT, ids=lambda each: each.name)
def test_a_run_follows_from_its_seed(scenario: Scenario) -> None:
    first, again, other = (simulate(scenario, named("adaptive"), s, 0.01) for s in (3, 3, 4))
    assert first.timeline == again.timeline
    assert first.timeline != other.timeline


def test_all_policies_meet_the_same_board() -> None:
    scenario = Scenario(name="x", about="", phases=(Phase(duration_s=60.0),), length_s=60.0)
    mixed = latency_by_time(Alternating(), scenario)
    for index, point in enumerate(POINTS):
        alone = latency_by_time(named(f"static-{point.frames}"), scenario)
        shared = [time_s for time_s in mixed if index in mixed[time_s] and time_s in alone]
        assert len(shared) > 20
        assert all(mixed[time_s][index] == alone[time_s][index] for time_s in shared)


def test_a_static_policy_has_the_figures_of_its_engine() -> None:
    spec = BoardSpec(noise=0.0)
    calm = Phase(duration_s=60.0, spike_onset=0.0)
    scenario = Scenario(name="x", about="", phases=(calm,), length_s=60.0)
    figures = simulate(scenario, named("static-8"), 0, 0.01, spec=spec).figures
    assert figures.inferences == 240
    assert (figures.misses, figures.longest_burst, figures.switches_per_min) == (0, 0, 0.0)
    assert figures.miss_after_miss is None
    assert figures.accuracy == pytest.approx(0.4820)
    assert figures.share == {4: 0.0, 8: 1.0, 16: 0.0}
    assert figures.mean_power_w == pytest.approx(5.0 + 10.0 * 0.038 / PERIOD_S)
    assert figures.excess is None


def test_an_inference_longer_than_the_hop_is_followed_at_once() -> None:
    slow = (OperatingPoint(frames=4, base_ms=300.0, accuracy=0.5, power_w=10.0),)
    spec = BoardSpec(points=slow, noise=0.0)
    calm = Phase(duration_s=60.0, spike_onset=0.0, deadline=None)
    run = simulate(
        Scenario(name="x", about="", phases=(calm,), length_s=60.0),
        named("static-4"),
        0,
        0.01,
        spec=spec,
    )
    assert run.timeline is not None
    assert run.timeline.time_s[:4] == pytest.approx([0.0, 0.3, 0.6, 0.9])


def test_a_policy_is_told_the_limits_and_what_the_sensors_say() -> None:
    policy = Alternating()
    simulate(replace(scenarios.named("power"), length_s=30.0), policy, 0, 0.02)
    late = policy.seen[-1]
    assert late.limits.miss_rate == 0.02
    assert late.limits.power_w is not None
    assert late.sensed.power_w is not None and 5.0 < late.sensed.power_w < 10.0
    assert late.sensed.temperature_c is not None
    assert policy.setting.idle_w == SYNTHETIC.idle_w


def test_a_long_run_that_is_not_kept_has_the_figures_of_one_that_is() -> None:
    course = replace(scenarios.named("contention"), length_s=120.0)
    kept, bare = (simulate(course, named("static-8"), 0, 0.01, keep=keep) for keep in (True, False))
    assert bare.timeline is None
    assert replace(bare.figures, decision_us=0.0, decision_p99_us=0.0) == replace(
        kept.figures, decision_us=0.0, decision_p99_us=0.0, settling_s=None
    )


def test_the_oracle_never_misses_where_some_frame_count_could_keep_the_deadline() -> None:
    phases = (Phase(duration_s=60.0, spike_onset=0.05, contention=0.4),)
    scenario = Scenario(name="x", about="", phases=phases, length_s=300.0)
    run = simulate(scenario, None, 1, 0.01)
    fewest = latency_by_time(named("static-4"), scenario)
    assert run.timeline is not None
    columns = (run.timeline.time_s, run.timeline.latency_ms, run.timeline.deadline_ms)
    missed = {time_s for time_s, ms, deadline_ms in zip(*columns, strict=True) if ms > deadline_ms}
    assert all(fewest[time_s][0] > 1.35 * 74.0 for time_s in missed if time_s in fewest)
    assert len(missed) < 0.03 * len(run.timeline.time_s)


@pytest.mark.parametrize(
    ("limits", "frames"),
    [
        (Limits(), 16),
        (Limits(latency_ms=80.0), 16),
        (Limits(latency_ms=60.0), 8),
        (Limits(latency_ms=60.0, power_w=5.5), 4),
        (Limits(latency_ms=10.0), 4),
    ],
)
def test_the_oracle_takes_the_most_accurate_that_keeps_all_limits(
    limits: Limits, frames: int
) -> None:
    device = SimpleNamespace(
        setting=SYNTHETIC.setting(),
        latencies_ms=[20.0, 38.0, 74.0],
        sustained_w=lambda: [5.7, 6.5, 8.3],
        energy_j=0.0,
    )
    assert Oracle(device).decide(limits, 0.0).frames == frames  # type: ignore[arg-type]


def test_every_budget_lies_between_what_two_frame_counts_draw() -> None:
    drawn_w = [SYNTHETIC.budget_w(position) for position in (0.0, 0.5, 1.0)]
    for point, power_w in zip(POINTS, drawn_w, strict=True):
        assert point.power_w is not None
        assert power_w == pytest.approx(5.0 + point.power_w * point.base_ms / 250.0)
    assert SYNTHETIC.budget_w(1.1) == pytest.approx(1.1 * drawn_w[2])
    assert drawn_w[0] < SYNTHETIC.budget_w(0.25) < drawn_w[1] < SYNTHETIC.budget_w(0.75)


def test_contention_follows_the_protocol_of_approxdet() -> None:
    phases = scenarios.named("contention").phases
    assert [phase.contention for phase in phases] == [0.0, 0.2, 0.4, 0.6, 0.4, 0.2]
    assert {phase.duration_s * 30 for phase in phases} == {200.0}


def test_the_steps_of_a_scenario_are_where_its_phases_begin() -> None:
    assert scenarios.named("power").steps_s()[:3] == [60.0, 120.0, 180.0]
    assert scenarios.named("power").steps_s()[-1] == 540.0
    assert scenarios.named("steady").steps_s() == []


def test_an_unknown_scenario_is_refused_with_those_there_are() -> None:
    with pytest.raises(FfnEdgeError, match="steady, contention"):
        scenarios.named("stedy")


def test_in_a_stream_rates_differ_by_their_spacing_alone() -> None:
    spec = SYNTHETIC.streaming()
    assert {(point.base_ms, point.power_w) for point in spec.points} == {(74.0, 11.0)}
    assert [point.period_s for point in spec.points] == [0.5, 0.25, 0.125]
    drawn_w = [spec.budget_w(position) - spec.idle_w for position in (0.0, 0.5, 1.0)]
    assert drawn_w == pytest.approx([11.0 * 0.074 / spacing_s for spacing_s in (0.5, 0.25, 0.125)])


def test_a_rate_that_does_not_fit_is_missed_and_counts_for_no_more_than_its_time() -> None:
    busy = Phase(duration_s=60.0, deadline=None, contention=0.5)
    scenario = Scenario(name="busy", about="", phases=(busy,), length_s=60.0, streams=True)
    fast, ours, best = (
        simulate(scenario, policy, 1, 0.05).figures
        for policy in (named("static-16"), named("adaptive"), None)
    )
    assert fast.miss_rate > 0.9  # 148 ms are more than 125
    assert ours.miss_rate < 0.05 and ours.share[8] > 0.9
    assert best.accuracy == pytest.approx(POINTS[1].accuracy, abs=1e-3)
