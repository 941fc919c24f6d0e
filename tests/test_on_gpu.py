"""`benchmarks/on_gpu.sh` without a GPU: the parts of its dry run that take seconds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.report import SKIPPED, Report
from benchmarks.gpu.wheels import joined
from benchmarks.simulation.interference import read_interference
from benchmarks.trace_figures import read_step

ROOT = Path(__file__).parents[1]


def test_a_dry_run_says_what_became_of_each_part(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "benchmarks/on_gpu.sh"), "--dry-run"]
    parts = ("capture", "power", "int8", "traces")
    process = subprocess.run(
        [*command, *parts],
        env={"PATH": "/usr/bin:/bin", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert "dry run" in summary
    for part in parts:
        assert f"| {part:<7} | pass " in summary
        assert "(dry run)" in (tmp_path / f"{part}.log").read_text()
    recorded = read_interference(tmp_path / "gpu-demo-compute.jsonl.gz")
    assert recorded.latency_ms.shape[1] == 3
    assert recorded.power_w is not None and set(recorded.power_w) == {100.0}
    step = read_step(tmp_path / "gpu-power-step.jsonl.gz")
    assert sorted({row.level for row in step}) == [0.0, 1.0]
    assert "Traceback" not in process.stderr  # a competitor that is let go of while it starts


def test_a_part_that_does_not_exist_is_refused() -> None:
    script = ["bash", str(ROOT / "benchmarks/on_gpu.sh"), "--dry-run", "tensorrt"]
    process = subprocess.run(script, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "no part tensorrt" in process.stderr


def test_one_failure_fails_a_report_and_skipping_all_is_no_success(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report("a part", dry_run=False)
    report.row("a first check", None, "for a reason")
    assert report.exit_code == SKIPPED
    report.row("a second check", True)
    assert report.exit_code == 0
    assert not report.run("a third check", lambda: f"{1 // 0}")
    assert report.exit_code == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {100}
    assert "ZeroDivisionError" in "".join(lines)


def test_a_wheel_in_parts_is_put_together(tmp_path: Path) -> None:
    for part, text in (("aa", b"first "), ("ab", b"second "), ("ac", b"third")):
        (tmp_path / f"one-1.0-py3-none-any.whl.part-{part}").write_bytes(text)
    folder = tmp_path / "joined"
    folder.mkdir()
    (path,) = joined(tmp_path, folder)
    assert path.name == "one-1.0-py3-none-any.whl"
    assert path.read_bytes() == b"first second third"
