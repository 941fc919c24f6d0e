"""Recorded interference: the file, its replay, and the recorder on a made-up clock."""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import interference
from benchmarks.interference import REST_S, bursts, record
from benchmarks.simulation import scenarios
from benchmarks.simulation.baselines import named
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.interference import (
    TRACES,
    Conditions,
    Interference,
    Measured,
    MeasuredDevice,
    RecordedEngine,
    Round,
    read_interference,
    write_interference,
)
from benchmarks.simulation.run import simulate
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.interface import Sensed

CONDITIONS = Conditions(
    machine="a machine",
    load="none",
    period_s=0.25,
    engines=(
        RecordedEngine(frames=4, profiled_ms=(10.0, 11.0, 12.0), accuracy=0.5, power_w=8.0),
        RecordedEngine(frames=8, profiled_ms=(20.0, 24.0, 22.0), accuracy=0.6, power_w=9.0),
    ),
    idle_w=5.0,
)
ROUNDS = [
    Round(
        time_s=0.25 * number,
        level=0.0 if number < 4 else 0.5,
        latency_ms=(10.0 + number, 20.0 + 3 * number),
        power_w=6.0,
        clocks_mhz=(900.0 + number, 1600.0),
    )
    for number in range(8)
]


def recording(tmp_path: Path, conditions: Conditions = CONDITIONS) -> Interference:
    write_interference(tmp_path / "a.jsonl.gz", conditions, ROUNDS)
    return read_interference(tmp_path / "a.jsonl.gz")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = recording(tmp_path)
    assert (found.name, found.conditions) == ("a", CONDITIONS)
    assert found.latency_ms.shape == (8, 2)
    assert found.latency_ms[3].tolist() == [13.0, 29.0]
    assert found.time_s[-1] == 1.75 and found.level.tolist() == [0.0] * 4 + [0.5] * 4
    assert found.power_w is not None and found.power_w.tolist() == [6.0] * 8
    assert found.clocks_mhz[:, 0].tolist() == [900.0 + number for number in range(8)]


def test_the_same_rounds_are_the_same_bytes(tmp_path: Path) -> None:
    recording(tmp_path)
    first = (tmp_path / "a.jsonl.gz").read_bytes()
    recording(tmp_path)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == first


HEAD = json.dumps(
    {
        "schema_version": 1,
        "machine": "",
        "load": "",
        "period_s": 1.0,
        "engines": [{"frames": 4, "profiled_ms": [1.0]}, {"frames": 8, "profiled_ms": [2.0]}],
    }
)
FIRST = '{"time_s": 0.0, "level": 0.0, "latency_ms": [1.0, 2.0]}'


@pytest.mark.parametrize(
    ("lines", "noun"),
    [
        ([], "recorded interference"),
        ([HEAD], "no round"),
        ([HEAD.replace('"schema_version": 1', '"schema_version": 2'), FIRST], "version"),
        ([HEAD.replace('"frames": 8', '"frames": 4'), FIRST], "ascend"),
        ([HEAD.replace("[2.0]", "[]"), FIRST], "no profiled latency"),
        ([HEAD, "{"], "line 2"),
        ([HEAD, FIRST.replace(", 2.0]", "]")], "2 engines"),
        ([HEAD, FIRST.replace("2.0]", "0]")], "latency_ms"),
        ([HEAD, FIRST.replace("2.0]", "NaN]")], "latency_ms"),
        ([HEAD, FIRST.replace('"level": 0.0', '"level": 1.5')], "level"),
        ([HEAD, FIRST.replace('"time_s": 0.0', '"time_s": 1.0')], "time"),
        ([HEAD, FIRST, FIRST], "line 3"),
        ([HEAD, FIRST, FIRST.replace("0.0", "1.0", 1)[:-1] + ', "power_w": 3.0}'], "sensors"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, lines: list[str], noun: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(FfnEdgeError, match=noun):
        read_interference(path)


def test_a_file_that_is_missing_cut_off_or_not_packed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with pytest.raises(FfnEdgeError, match="read"):
        read_interference(path)
    whole = gzip.compress(f"{HEAD}\n{FIRST}".encode())
    for content in (whole[:-12], f"{HEAD}\n{FIRST}".encode(), b""):
        path.write_bytes(content)
        with pytest.raises(FfnEdgeError, match="damaged"):
            read_interference(path)


def test_a_choice_meets_what_was_measured_of_it(tmp_path: Path) -> None:
    recorded = recording(tmp_path)
    workload = Measured(recorded=recorded, deadline=1.5)
    for index, policy in enumerate(("static-4", "static-8")):
        run = simulate(workload, named(policy), 0, 0.05)
        assert run.timeline is not None
        assert list(run.timeline.time_s) == recorded.time_s.tolist()
        assert list(run.timeline.latency_ms) == pytest.approx(recorded.latency_ms[:, index])
    limit_ms = 1.5 * np.quantile([20.0, 22.0, 24.0], 0.95)
    assert workload.device(SYNTHETIC, 0, 0.05).limits.latency_ms == pytest.approx(limit_ms)
    assert run.figures.misses == np.count_nonzero(recorded.latency_ms[:, 1] > limit_ms) > 0
    assert workload.steps_s() == [1.0]
    assert simulate(workload, None, 0, 0.05).figures.misses == 0  # the oracle's


def test_the_round_that_is_nearest_in_time_counts(tmp_path: Path) -> None:
    device = Measured(recorded=recording(tmp_path), deadline=None).device(SYNTHETIC, 0, 0.05)
    begun = {now: device.begin(now)[0] for now in (0.1, 0.13, 0.9, 1.7, 99.0)}
    assert begun == {0.1: 10.0, 0.13: 11.0, 0.9: 14.0, 1.7: 17.0, 99.0: 17.0}
    assert device.limits.latency_ms is None
    assert device.sense(100.0).clocks_mhz == (907.0, 1600.0)


def test_power_is_the_idle_machines_and_that_of_the_engine_that_works(tmp_path: Path) -> None:
    workload = Measured(recorded=recording(tmp_path), deadline=None)
    figures = simulate(workload, named("static-8"), 0, 0.05).figures
    busy = sum(each.latency_ms[1] for each in ROUNDS) / 1e3 / 2.0
    assert figures.mean_power_w == pytest.approx(5.0 + 9.0 * busy)
    device = workload.device(SYNTHETIC, 0, 0.05)
    assert device.sustained_w() == pytest.approx([5.0 + 8.0 * 0.04, 5.0 + 9.0 * 0.08])


def test_without_the_idle_machines_power_there_is_none(tmp_path: Path) -> None:
    recorded = recording(tmp_path, replace(CONDITIONS, idle_w=None))
    device = Measured(recorded=recorded, deadline=None).device(SYNTHETIC, 0, 0.05)
    device.work(1, 0.1)
    assert isinstance(device, MeasuredDevice)
    assert (device.sense(0.1).power_w, device.energy_j) == (None, 0.0)


def test_accuracies_may_be_given_for_a_network_that_was_not_trained(tmp_path: Path) -> None:
    workload = Measured(recorded=recording(tmp_path), deadline=None, accuracy={8: 0.9})
    points = workload.device(SYNTHETIC, 0, 0.05).setting.points
    assert [point.accuracy for point in points] == [0.5, 0.9]
    assert points[0].base_ms == pytest.approx(10.2)  # the 10 % quantile


@pytest.mark.parametrize("path", sorted(TRACES.glob("cpu-*.gz")), ids=lambda path: path.name)
def test_what_is_stored_is_small_and_replays_the_same(path: Path) -> None:
    assert path.stat().st_size < 100_000
    workload = Measured(recorded=read_interference(path), deadline=1.5)
    first, again = (simulate(workload, named("adaptive"), seed, 0.05) for seed in (0, 1))
    assert first.timeline == again.timeline
    assert workload.length_s > 170 and len(workload.steps_s()) > 10
    best, fewest = (simulate(workload, policy, 0, 0.05) for policy in (None, named("static-2")))
    assert best.figures.misses <= fewest.figures.misses


def test_traces_of_all_sizes_are_stored() -> None:
    names = {path.name for path in TRACES.glob("cpu-*.gz")}
    assert {name.split("-")[1] for name in names} == {"tiny", "middle", "large"}


@pytest.mark.parametrize("workload", scenarios.RECORDED, ids=lambda each: each.name)
def test_a_recorded_deadline_can_be_kept_and_leaves_a_choice(workload: Measured) -> None:
    frames = [engine.frames for engine in workload.recorded.conditions.engines]
    fixed = [simulate(workload, named(f"static-{each}"), 0, 0.01).figures for each in frames]
    best = simulate(workload, None, 0, 0.01).figures
    assert min(each.miss_rate for each in fixed) <= 0.01
    assert best.miss_rate <= 0.01
    assert best.in_time > max(each.in_time for each in fixed) + 0.005


def test_every_stored_trace_is_a_scenario() -> None:
    assert {each.name for each in scenarios.RECORDED} == {
        path.name.partition(".")[0] for path in TRACES.glob("*.gz")
    }
    assert all(scenarios.named(each.name) is each for each in scenarios.RECORDED)


@dataclass
class Machine:
    """A clock that engines and rests move on; the load makes engines slower."""

    now: float = 100.0
    level: float = 0.0
    levels: list[tuple[float, float]] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)

    def engine(self, frames: int) -> Any:  # noqa: D102
        def run() -> None:
            self.ran.append(frames)
            self.now += frames * 1e-3 * (1 + self.level)

        return run

    def set_level(self, level: float) -> None:  # noqa: D102
        self.levels.append((self.now - 100.0, level))
        self.level = level

    def sleep(self, seconds: float) -> None:  # noqa: D102
        assert seconds >= 0
        self.now += seconds

    def record(  # noqa: D102
        self, frames: tuple[int, ...], seconds: float, period_s: float
    ) -> list[Round]:
        return record(
            {each: self.engine(each) for each in frames},
            itertools.cycle(((0.0, 1.0), (0.5, 2.0))),
            self.set_level,
            seconds=seconds,
            period_s=period_s,
            sense=lambda: Sensed(power_w=7.123, clocks_mhz=(900.0,)),
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def test_every_engine_runs_once_a_round_in_another_order_beside_the_load() -> None:
    machine = Machine()
    rounds = machine.record((4, 8, 16), 3.0, 0.25)
    assert [each.time_s for each in rounds] == pytest.approx([0.25 * n for n in range(12)])
    assert [each.level for each in rounds] == [0.0] * 4 + [0.5] * 8
    assert np.array(machine.levels) == pytest.approx(np.array([(0.0, 0.0), (1.0, 0.5)]))
    assert rounds[0].latency_ms == pytest.approx((4.0, 8.0, 16.0))
    assert rounds[-1].latency_ms == pytest.approx((6.0, 12.0, 24.0))
    orders = {tuple(machine.ran[at : at + 3]) for at in range(0, len(machine.ran), 3)}
    assert len(orders) > 3 and all(sorted(order) == [4, 8, 16] for order in orders)
    assert rounds[0].power_w == 7.12 and rounds[0].clocks_mhz == (900.0,)


def test_a_round_that_is_late_is_not_made_up_for() -> None:
    rounds = Machine().record((100, 200), 2.0, 0.2)  # 0.3 to 0.45 s, and the rests
    steps_s = np.diff([each.time_s for each in rounds])
    assert steps_s.min() == pytest.approx(0.3 + 2 * REST_S)


def test_bursts_are_the_same_each_time() -> None:
    first, again = (list(itertools.islice(bursts(), 20)) for _ in range(2))
    assert first == again
    assert [level for level, _ in first] == [0.0, 1.0] * 10


def test_the_recorder_writes_what_the_simulator_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interference, "PROFILED", 10)
    output = tmp_path / "a.jsonl.gz"
    options = ["--network", "tsm_tiny", "--size", "32", "--frames", "2,4", "--pattern", "steps"]
    options += ["--hz", "25", "--seconds", "1", "--note", "a test", str(output)]
    result = CliRunner().invoke(interference.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = read_interference(output)
    assert [engine.frames for engine in found.conditions.engines] == [2, 4]
    assert all(len(engine.profiled_ms) == 10 for engine in found.conditions.engines)
    assert found.conditions.machine.endswith("a test")
    assert len(found.time_s) > 2 and found.power_w is None
