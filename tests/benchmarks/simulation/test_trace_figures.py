"""What is said of recorded traces, on ones whose figures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.simulation.interference import (
    TRACES,
    Conditions,
    Interference,
    RecordedEngine,
    write_lines,
)
from benchmarks.trace_figures import (
    MeterRow,
    explained,
    main,
    read_step,
    step_figures,
    trace_row,
)
from ffn_edge.errors import FfnEdgeError

BASE_MS = np.array([10.0, 20.0, 40.0])


def test_a_factor_is_told_from_a_wait() -> None:
    by_factor, by_wait = explained(np.outer([1.0, 1.5, 3.0], BASE_MS))
    assert by_factor == pytest.approx(1.0) and by_wait < 0.8
    by_factor, by_wait = explained(BASE_MS + np.array([[0.0], [5.0], [30.0]]))
    assert by_wait == pytest.approx(1.0) and by_factor < 0.8


def test_a_trace_says_how_engines_and_card_follow_the_load() -> None:
    level = np.tile(np.repeat([0.0, 0.5], 20), 5)
    recorded = Interference(
        name="made-up",
        conditions=Conditions(
            machine="none",
            load="made up",
            period_s=0.1,
            engines=(
                RecordedEngine(frames=4, profiled_ms=(10.0,)),
                RecordedEngine(frames=8, profiled_ms=(20.0,)),
            ),
        ),
        time_s=np.arange(200.0) / 10,
        level=level,
        latency_ms=np.outer(1 + level, [10.0, 20.0]),
        power_w=100 + 40 * np.roll(level, 3),
        clocks_mhz=np.outer(1900 - 100 * level, [1.0, 1.0]),
    )
    name, base, slower, explanation, _, fewest, card = trace_row(recorded)
    assert (name, base, fewest) == ("made-up", "4/8: 10/20", "100")
    assert slower == "50: 1.50/1.50 (1.5/1.5)"
    assert explanation == "100 / 90"
    assert card == "0: 100, 1900; 50: 120, 1850; W 0.30 s late; W news each 2000 ms"


def average_of_a_second() -> list[MeterRow]:
    """Return 100 W, 300 W for 4 s, 100 W, by a mean of a second and a counter of 8 a second."""
    rows = []
    for number in range(9 * 64):
        time_s = number / 64
        share = np.interp(time_s, [1.0, 2.0, 5.0, 6.0], [0.0, 1.0, 1.0, 0.0])
        rows.append(
            MeterRow(
                time_s=time_s,
                level=float(1.0 <= time_s < 5.0),
                power_w=float(100 + 200 * share),
                energy_j=float(number // 8),
            )
        )
    return rows


def test_an_average_of_a_second_takes_a_second_to_follow() -> None:
    said = step_figures(average_of_a_second())
    assert "100 → 300 → 100 W, 63 / 95 % after 0.64 / 0.95 s up, 0.64 / 0.95 s down" in said
    assert "counter: news each 125 ms" in said
    assert "instant" not in said


def test_a_meter_that_shows_no_step_follows_nothing() -> None:
    rows = [MeterRow(time_s=t, level=level, power_w=100.0) for t, level in enumerate([0, 1, 0])]
    assert step_figures(rows) == "average: 100 → 100 → 100 W"
    assert "neither" in step_figures([MeterRow(time_s=0.0, level=0.0)])


def test_a_broken_recording_of_the_meter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl.gz"
    write_lines(path, [{"schema_version": 1}, {"time_s": -1.0, "level": 0.0}])
    with pytest.raises(FfnEdgeError, match="time_s"):
        read_step(path)


def test_each_stored_trace_is_a_row_and_a_step_a_line(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl.gz"
    rows = [{"time_s": t, "level": level, "power_w": 9.0} for t, level in enumerate([0, 1, 0])]
    write_lines(path, [{"schema_version": 1}, *rows])
    stored = sorted(TRACES.glob("*.gz"))
    found = CliRunner().invoke(main, [*map(str, stored), str(path)], catch_exceptions=False)
    _, _, *lines, last = found.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [each.name.split(".")[0] for each in stored]
    assert "9 → 9 → 9 W" in last
