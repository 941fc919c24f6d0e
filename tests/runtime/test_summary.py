"""What a run amounted to."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed
from ffn_edge.runtime.summary import Summary
from ffn_edge.terminal import Terminal


def result(
    elapsed_s: float,
    frames: int,
    latency_ms: float,
    energy_j: float | None = None,
    fault: str | None = None,
    limits: Limits = Limits(latency_ms=50.0),  # noqa: B008 - frozen
    pace_s: float | None = None,
) -> Result:
    return Result(
        time_s=elapsed_s,
        elapsed_s=elapsed_s,
        source="a.mp4",
        decision=Decision(frames=frames, reason=""),
        observation=Observation(
            frames=frames,
            latency_ms=latency_ms,
            now=elapsed_s,
            limits=limits,
            sensed=Sensed(energy_j=energy_j, fault=fault),
            pace_s=pace_s,
        ),
        engine_ms=latency_ms,
        device_ms=None,
        precision="fp32",
        overhead_ms=0.5,
        covers_s=2.0,
        top=(Prediction("red", 1.0),),
    )


def test_a_summary_counts_time_switches_and_misses() -> None:
    summary = Summary()
    for one in (
        result(1.0, 16, 80.0),
        result(1.25, 8, 40.0),
        result(1.5, 8, 41.0),
        result(2.5, 16, 45.0),
    ):
        summary.write(one)
    summary.skip("b.mp4", VideoError("b.mp4 is empty", "copy it again."))
    fields = summary.fields()
    assert {key: fields[key] for key in ("inferences", "switches", "misses")} == {
        "inferences": 4,
        "switches": 2,
        "misses": 1,
    }
    assert fields["deadline_ms"] == 50.0
    assert {frames: at["precision"] for frames, at in fields["frames"].items()} == {
        8: "fp32",
        16: "fp32",
    }
    assert fields["mean_overhead_ms"] == 0.5
    assert fields["skipped"] == ["b.mp4: b.mp4 is empty"]
    assert fields["frames"][16]["seconds"] == 0.25
    assert fields["frames"][8]["seconds"] == 1.25
    assert fields["frames"][16]["misses"] == 1
    json.dumps(fields)


def test_a_summary_tells_the_miss_rate_and_the_longest_burst() -> None:
    summary = Summary()
    for number, latency_ms in enumerate((60.0, 40.0, 60.0, 60.0, 60.0, 40.0, 60.0, 40.0)):
        summary.write(result(number / 4, 8, latency_ms))
    assert (summary.fields()["miss_rate"], summary.fields()["longest_burst"]) == (0.625, 3)


def test_a_summary_adds_the_energy_that_is_known() -> None:
    summary = Summary()
    assert summary.fields()["energy_j"] is None
    for number, energy_j in enumerate((None, 2.0, 4.0)):
        summary.write(result(number / 4, 8, 40.0, energy_j))
    # The first one's energy came with the second; while the sensor is away nothing is known.
    for number in range(3, 8):
        summary.write(result(number / 4, 8, 40.0, None, fault="gone"))
    fields = summary.fields()
    assert (fields["energy_j"], fields["energy_per_clip_j"]) == (6.0, 2.0)


def test_quantiles_are_right_to_a_hundredth_without_keeping_the_latencies() -> None:
    latencies = np.random.default_rng(0).lognormal(3.0, 0.5, 5000)
    summary = Summary()
    for number, latency_ms in enumerate(latencies):
        summary.write(result(float(number), 8, float(latency_ms)))
    at = summary.fields()["frames"][8]
    assert at["p50_ms"] == pytest.approx(np.quantile(latencies, 0.5), rel=0.01)
    assert at["p95_ms"] == pytest.approx(np.quantile(latencies, 0.95), rel=0.01)
    assert at["max_ms"] == pytest.approx(latencies.max(), rel=1e-3)


def test_the_table_shows_each_frame_count() -> None:
    summary = Summary()
    summary.write(result(0.0, 4, 20.0))
    summary.write(result(1.0, 16, 70.0))
    console = Terminal(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(summary.table())
    text = capture.get()
    assert "2 inferences · 1 switch · deadline 50 ms missed by 50.0%" in text
    assert "20.0 ms" in text
    assert "70.0 ms" in text


def test_a_name_with_brackets_is_shown_and_one_is_singular() -> None:
    summary = Summary()
    summary.write(result(1.0, 16, 80.0))
    summary.skip("q[/x] [hd].mp4", VideoError("it is empty"))
    console = Terminal(file=io.StringIO(), width=100)
    console.print(summary.table())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "q[/x] [hd].mp4: it is empty" in shown
    assert "1 inference ·" in shown


def test_what_was_skipped_shows_no_user_and_password() -> None:
    summary = Summary()
    summary.skip("rtsp:/me:hunter2@host/live", VideoError("no video"))
    assert "hunter2" not in str(summary.fields())


def test_of_a_stream_frames_interruptions_and_lost_states_are_told() -> None:
    summary = Summary()
    for number, restart in enumerate(("start", None, None, "start", "not finite", None)):
        one = result(number / 8, 16, 5.0, energy_j=0.5)
        summary.write(dataclasses.replace(one, restart=restart))
    fields = summary.fields()
    assert (fields["interruptions"], fields["not_finite"]) == (1, 1)
    assert fields["energy_per_frame_j"] == 0.5 and "energy_per_clip_j" not in fields
    console = Terminal(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(summary.table())
    text = " ".join(capture.get().split())
    assert text.startswith("6 frames") and "J a frame" in text
    assert "1 interruption · 1 state not finite" in text


def test_misses_of_a_stream_are_shown_without_a_deadline() -> None:
    for late, expected in ((True, "1"), (False, "–")):
        summary = Summary()
        for number in range(4):
            latency_ms = 300.0 if late and number == 2 else 40.0
            summary.write(result(number / 4, 8, latency_ms, limits=Limits(), pace_s=0.25))
        assert summary.fields()["misses"] == int(late)
        table = summary.table()
        assert list(table.columns[-1].cells) == [expected]
        assert ("25.0%" in str(table.title)) is late
