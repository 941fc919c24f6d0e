"""Recorded traces: written, read back, damaged, and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    Controller,
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from ffn_edge.runtime.simulate.drive import Step, drive
from ffn_edge.runtime.simulate.replay import Replay, replay
from ffn_edge.runtime.trace import Trace, TraceWriter, read_trace

SETTING = Setting(
    points=(
        OperatingPoint(frames=4, base_ms=20.0, accuracy=0.4, power_w=8.0),
        OperatingPoint(frames=8, precision="int8", base_ms=40.0, accuracy=0.6, power_w=10.0),
    ),
    ratios=(0.9, 1.0, 1.1),
    idle_w=5.0,
    period_s=0.25,
)
LIMITS = Limits(latency_ms=70.0, power_w=9.0)
LATER = Limits(latency_ms=30.0)
SECONDS = 10


def observations() -> list[Observation]:
    """Forty inferences with 8 frames, twice as slow as profiled in the second half."""
    seen = []
    for hop in range(4 * SECONDS):
        late = hop >= 2 * SECONDS
        ms = 80.0 if late else 40.0
        sensed = Sensed(
            power_w=2 * (5.0 + 10.0 * ms / 250.0),
            energy_j=1.0,
            temperature_c=50.5,
            over_current=int(hop == 30),
            fault="no reading for 3.2 s" if hop == 35 else None,
        )
        seen.append(
            Observation(
                frames=8,
                latency_ms=ms,
                now=1000.0 + hop / 4 + ms / 1e3,
                limits=LATER if late else LIMITS,
                sensed=sensed,
            )
        )
    return seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trace of `observations`."""
    file = tmp_path / "trace.jsonl"
    with TraceWriter(file) as writer:
        writer.begin(SETTING, LIMITS, {"bundle": "abc", "machine": {"cores": 6}})
        for observation in observations():
            writer.write(observation)
    return file


def damage(path: Path, number: int, change: Callable[[str], str]) -> None:
    """Change one line of a file, the first being 1."""
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines))


def with_field(name: str, value: object) -> Callable[[str], str]:
    return lambda line: json.dumps({**json.loads(line), name: value})


def test_a_trace_is_read_as_it_was_written(path: Path) -> None:
    trace = read_trace(path)
    assert trace.setting == replace(SETTING, points=list(SETTING.points))
    assert list(trace.observations) == observations()
    assert trace.conditions == {"bundle": "abc", "machine": {"cores": 6}}
    assert trace.broken == ()


def test_every_line_is_there_when_the_run_is_cut_off(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "trace.jsonl") as writer:
        writer.begin(SETTING, LIMITS, {})
        writer.write(observations()[0])
        assert len(read_trace(tmp_path / "trace.jsonl").observations) == 1


def test_a_trace_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "no").touch()
    with pytest.raises(FfnEdgeError, match="could not be written"):
        TraceWriter(tmp_path / "no" / "trace.jsonl").__enter__()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: line[: len(line) // 2], "line 3: "),
        (lambda line: "[1, 2]", "line 3: "),
        (lambda line: "null", "line 3: "),
        (with_field("frames", 16), "no engine for 16 frames"),
        (with_field("frames", 8.9), "frames is 8.9"),
        (with_field("over_current", float("inf")), "over_current is inf"),
        (with_field("ran", [[16, 3.0]]), "no engine for 16 frames"),
        (with_field("ran", [[8, -3.0]]), "ran[0][1] is -3"),
        (with_field("power_w", 10**400), "power_w is 1000"),
        (with_field("latency_ms", 0.0), "latency_ms is 0"),
        (with_field("latency_ms", float("nan")), "latency_ms is nan"),
        (with_field("latency_ms", "fast"), "latency_ms is 'fast'"),
        (with_field("now", 1.0), "time does not go forward"),
        (with_field("now", float("inf")), "now is inf"),
        (with_field("power_w", -3.0), "power_w is -3"),
        (with_field("temperature_c", -300.0), "temperature_c is -300"),
        (with_field("limits", {"latency_ms": -1.0}), "deadline is a positive number"),
        (lambda line: line.replace('"frames"', '"frame"'), "frames is missing"),
    ],
)
def test_a_broken_line_is_left_out_and_named(
    path: Path, change: Callable[[str], str], why: str
) -> None:
    damage(path, 3, change)
    trace = read_trace(path)
    assert len(trace.broken) == 1
    assert trace.broken[0].startswith("line 3: ") and why in trace.broken[0]
    assert len(trace.observations) == len(observations()) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: "", "is not a trace"),
        (lambda line: "{}", "is not a trace"),
        (with_field("schema_version", 2), "schema version 2"),
        (with_field("setting", {}), "damaged"),
        (with_field("limits", {"power_w": "little"}), "damaged"),
        (with_field("setting", {"points": []}), "no engine"),
    ],
)
def test_a_first_line_that_is_not_understood_is_refused(
    path: Path, change: Callable[[str], str], message: str
) -> None:
    damage(path, 1, change)
    with pytest.raises(FfnEdgeError, match=message) as caught:
        read_trace(path)
    assert "--record" in caught.value.hint


def test_a_trace_without_an_inference_is_refused(path: Path) -> None:
    path.write_text(path.read_text().splitlines()[0])
    with pytest.raises(FfnEdgeError, match="holds no inference"):
        read_trace(path)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FfnEdgeError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl")


def steps(trace: Trace, **changes: object) -> list[Step]:
    device = Replay(trace, changes)
    controller = Controller(Adaptive(), device.setting)
    return list(drive(device, controller, device.length_s))


def test_a_replay_slows_every_engine_as_the_recorded_one_was(path: Path) -> None:
    played = steps(read_trace(path), frames=4)
    assert [step.latency_ms for step in played] == pytest.approx([20.0] * 20 + [40.0] * 20)
    assert sum(step.missed for step in played) == 20  # of the second half's deadline of 30 ms


def test_other_limits_hold_from_beginning_to_end(path: Path) -> None:
    played = steps(read_trace(path), latency_ms=100.0, miss_rate=0.2)
    assert {(step.limits.latency_ms, step.limits.miss_rate) for step in played} == {(100.0, 0.2)}
    assert played[0].limits.power_w == 9.0  # as recorded
    with pytest.raises(FfnEdgeError, match="deadline"):
        replay(read_trace(path), latency_ms=-1.0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_ratios_that_cannot_be_are_refused(path: Path, ratio: float) -> None:
    setting = json.loads(path.read_text().splitlines()[0])["setting"]
    damage(path, 1, with_field("setting", {**setting, "ratios": [1.0, ratio]}))
    with pytest.raises(FfnEdgeError, match="damaged"):
        read_trace(path)


def test_a_second_look_is_replayed_as_the_two_engines_that_ran(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    with TraceWriter(file) as writer:
        writer.begin(SETTING, LIMITS, {})
        for seen in observations():
            # 20 and 40 ms as profiled: nothing was slower.
            writer.write(replace(seen, latency_ms=60.0, ran=((4, 20.0), (8, 40.0))))
    trace = read_trace(file)
    assert trace.observations[0].ran == ((4, 20.0), (8, 40.0))
    assert {round(step.latency_ms, 6) for step in steps(trace, frames=8)} == {40.0}


def test_a_file_is_replayed_at_the_pace_that_was_recorded(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    with TraceWriter(file) as writer:
        writer.begin(replace(SETTING, period_s=0.0), LIMITS, {})
        for seen in observations():
            writer.write(seen)
    assert replay(read_trace(file), frames=8).inferences == pytest.approx(
        len(observations()), abs=1
    )


def test_a_stream_of_a_file_is_so_too_and_keeps_its_rates(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    with TraceWriter(file) as writer:
        writer.begin(replace(SETTING, period_s=0.0).streamed(2.0, live=False), LIMITS, {})
        for seen in observations():
            writer.write(seen)
    trace = read_trace(file)
    assert [point.period_s for point in trace.setting.points] == [0.5, 0.25]
    assert {seen.pace_s for seen in trace.observations} == {None}
    assert [step.begin_s for step in steps(trace, frames=4)][:3] == pytest.approx([0.0, 0.25, 0.5])


def test_a_replay_draws_what_was_measured_over_what_was_expected(path: Path) -> None:
    energy_j = [step.energy_j for step in steps(read_trace(path), frames=8)]
    powers_w = [4 * (after - before) for before, after in pairwise(energy_j)]
    assert powers_w[5:15] == pytest.approx([2 * (5.0 + 10.0 * 0.16)] * 10)


def test_power_that_is_told_seldom_is_replayed_so_and_its_energies_add_up(tmp_path: Path) -> None:
    # 4 and 8 frames in turns: a mean over four inferences is of both.
    seen = []
    for hop in range(40):
        ms, frames = (40.0, 8) if hop % 2 else (20.0, 4)
        power_w = 2 * (5.0 + (10.0 * 40 + 8.0 * 20) / 500.0)
        sensed = Sensed(power_w=power_w, energy_j=power_w) if hop % 4 == 0 else Sensed()
        seen.append(
            Observation(
                frames=frames, latency_ms=ms, now=hop / 4 + 0.1, limits=LIMITS, sensed=sensed
            )
        )
    with TraceWriter(tmp_path / "trace.jsonl") as writer:
        writer.begin(SETTING, LIMITS, {})
        for each in seen:
            writer.write(each)
    device = Replay(read_trace(tmp_path / "trace.jsonl"), {})
    told, drawn_w = [], []
    for hop in range(40):
        before_j, now = device.energy_j, hop / 4
        ms = device.begin(now)
        device.work(1, now + ms[1] / 1e3)
        device.rest(now + 0.25)
        told.append(device.sense(now + 0.25))
        drawn_w.append((device.energy_j - before_j) / 0.25)
    news = [number for number, sensed in enumerate(told) if sensed.energy_j is not None]
    assert news == list(range(0, 40, 4))
    assert {sensed.fault for sensed in told} == {None}
    assert sum(sensed.energy_j or 0.0 for sensed in told[:37]) == pytest.approx(
        sum(drawn_w[:37]) * 0.25
    )
    assert drawn_w[10:30] == pytest.approx([2 * (5.0 + 10.0 * 40 / 250.0)] * 20)


def test_a_replay_senses_what_was_sensed(path: Path) -> None:
    device = Replay(read_trace(path), {})
    told = []
    for hop in range(40):
        now = hop / 4
        ms = device.begin(now)
        device.work(1, now + ms[1] / 1e3)
        told.append(device.sense(now + ms[1] / 1e3))
        device.rest(now + 0.25)
    assert [n for n, sensed in enumerate(told) if sensed.over_current] == [30]
    assert [n for n, sensed in enumerate(told) if sensed.fault] == [35]
    assert {sensed.temperature_c for sensed in told} == {50.5}


def test_a_trace_without_power_is_replayed_without(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "trace.jsonl") as writer:
        writer.begin(replace(SETTING, idle_w=None), LIMITS, {})
        for seen in observations():
            writer.write(replace(seen, sensed=Sensed(fault="no sensor")))
    figures = replay(read_trace(tmp_path / "trace.jsonl"))
    assert figures.mean_power_w is None
    assert figures.excess is None


def test_a_trace_tells_how_many_clips_an_accuracy_is_of(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    points = tuple(replace(point, clips=400) for point in SETTING.points)
    with TraceWriter(path) as writer:
        writer.begin(replace(SETTING, points=points), LIMITS, {})
        writer.write(observations()[0])
    assert [point.clips for point in read_trace(path).setting.points] == [400, 400]
    damage(path, 1, lambda line: line.replace('"accuracy": 0.4', '"accuracy": 40.0'))
    with pytest.raises(FfnEdgeError, match="accuracy"):
        read_trace(path)


def test_a_trace_from_before_precisions_were_told_is_in_float32(path: Path) -> None:
    assert [point.precision for point in read_trace(path).setting.points] == ["fp32", "int8"]
    head, *rest = path.read_text().splitlines()
    fields = json.loads(head)
    for point in fields["setting"]["points"]:
        del point["precision"]
    path.write_text("\n".join([json.dumps(fields), *rest]))
    assert [point.precision for point in read_trace(path).setting.points] == ["fp32", "fp32"]


def test_a_stream_is_replayed_with_each_rate_at_its_own_spacing(tmp_path: Path) -> None:
    streamed, file = SETTING.streamed(2.0), tmp_path / "trace.jsonl"
    with TraceWriter(file) as writer:
        writer.begin(streamed, LIMITS, {})
        for seen in observations():
            writer.write(replace(seen, source_frames=6.0))
    trace = read_trace(file)
    assert trace.setting == replace(streamed, points=list(streamed.points))
    assert trace.observations[0].source_frames == 6.0
    device = Replay(trace, {})
    chosen = [step.index for step in drive(device, Controller(Adaptive(), device.setting), 2.0)]
    assert set(chosen) == {0}  # 8 frames a window are more than the source gave, from the first on
    assert {(seen.frames, seen.pace_s) for seen in trace.observations} <= {(4, 0.5), (8, 0.25)}
    for frames in (4, 8):
        begun = [step.begin_s for step in steps(trace, frames=frames)]
        assert begun[:4] == pytest.approx([k * 2.0 / frames for k in range(4)])
