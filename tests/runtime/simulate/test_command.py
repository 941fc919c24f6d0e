"""`ffn-edge simulate` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import Precision
from ffn_edge.commands.simulate import simulate
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.interface import Limits, Observation, OperatingPoint, Setting
from ffn_edge.runtime.trace import TraceWriter


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Forty inferences with 8 frames, as fast as profiled, under a deadline of 60 ms."""
    path = tmp_path / "walk.jsonl"
    points = [
        OperatingPoint(frames=frames, base_ms=5.0 * frames, accuracy=frames / 20)
        for frames in (4, 8, 16)
    ]
    limits = Limits(latency_ms=60.0)
    with TraceWriter(path) as writer:
        writer.begin(Setting(points=points, period_s=0.25), limits, {})
        for hop in range(40):
            writer.write(Observation(frames=8, latency_ms=40.0, now=hop / 4 + 0.04, limits=limits))
    return path


def call(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(simulate, words, catch_exceptions=False)


def test_our_policy_stands_beside_each_frame_count_alone(trace: Path) -> None:
    by_rate = json.loads(call("--trace", trace, "--json").stdout)["scenarios"]["walk"]
    assert list(by_rate) == ["0.01", "0.05"]
    found = by_rate["0.01"]
    assert list(found) == ["static-4", "static-8", "static-16", "adaptive"]
    assert found["static-16"]["mean"]["miss_rate"] == 1.0
    assert found["static-8"]["mean"]["accuracy"] == pytest.approx(0.4)
    assert found["adaptive"]["share"] == {"4": 0.0, "8": 1.0, "16": 0.0}
    table = call("--trace", trace).stdout
    assert "target 0.01" in table and "target 0.05" in table


@pytest.mark.parametrize(
    ("precision", "conditions", "shown"),
    [("int8", {}, "int8"), ("fp32", {"precision": "fp16"}, "fp16"), ("fp32", {}, "fp32")],
    ids=["its own", "of an earlier release, for all", "fp32"],
)
def test_the_table_names_the_precision_of_a_frame_count(
    precision: Precision, conditions: dict[str, str], shown: str, tmp_path: Path
) -> None:
    path = tmp_path / "walk.jsonl"
    points = [
        OperatingPoint(frames=4, base_ms=20.0),
        OperatingPoint(frames=8, precision=precision, base_ms=30.0),
    ]
    with TraceWriter(path) as writer:
        writer.begin(Setting(points=points), Limits(), conditions)
        writer.write(Observation(frames=8, latency_ms=30.0, now=1.0, limits=Limits()))
    found = json.loads(call("--trace", path, "--json").stdout)["scenarios"]["walk"]["0.01"]
    assert list(found) == ["static-4", "static-8", "adaptive"]
    assert f"static-8 {shown}" in call("--trace", path).stdout


def test_another_deadline_leads_to_other_frame_counts(trace: Path) -> None:
    found = call("--trace", trace, "--latency-ms", 30, "--miss-rate", 0.05, "--json").stdout
    adaptive = json.loads(found)["scenarios"]["walk"]["0.05"]["adaptive"]
    assert adaptive["share"]["4"] == 1.0


def test_broken_lines_are_left_out_and_told(trace: Path, caplog: pytest.LogCaptureFixture) -> None:
    trace.write_text(trace.read_text()[:-20])
    call("--trace", trace)
    assert "left out 1 broken line; line 41" in caplog.text


@pytest.mark.parametrize("rates", ["often", "1.5", ""])
def test_a_miss_rate_that_cannot_be_is_refused(rates: str, trace: Path) -> None:
    with pytest.raises(FfnEdgeError, match="miss rates"):
        call("--trace", trace, "--miss-rate", rates)
