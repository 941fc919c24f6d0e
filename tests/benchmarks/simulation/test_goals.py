"""Which goals a policy breaks, and figures that are kept from one comparison to the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.simulation import scenarios
from benchmarks.simulation.__main__ import simulate
from benchmarks.simulation.against import read_figures, write_figures
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.compare import Results, Sweep, compare
from benchmarks.simulation.goals import Verdict, judge
from benchmarks.simulation.run import RunFigures
from ffn_edge.errors import FfnEdgeError

STEADY = replace(scenarios.named("steady"), length_s=30.0)
FIGURES = RunFigures(
    inferences=1000,
    misses=0,
    misses_in_a_row=0,
    longest_burst=0,
    accuracy=0.5,
    in_time=0.5,
    switches_per_min=1.0,
    share={8: 1.0},
    mean_power_w=6.0,
    over_j=0.0,
    excess=0.0,
    decision_us=1.0,
    decision_p99_us=1.0,
    settling_s=None,
)


def verdict(
    ours: dict[str, Any], in_time: tuple[float, float] = (0.5, 0.5), **rival: Any
) -> Verdict:
    """Judge two seeds beside one rival and an oracle that are as `FIGURES` says, but for this."""
    sweep = Sweep(
        workloads=[STEADY],
        policies=["adaptive", "pid"],
        seeds=(0, 1),
        miss_rates=[0.01],
        spec=SYNTHETIC,
    )
    by_policy = {
        "adaptive": [replace(FIGURES, **ours)] * 2,
        "pid": [replace(FIGURES, **{"in_time": each, **rival}) for each in in_time],
        "oracle": [FIGURES] * 2,
    }
    results: Results = {
        ("steady", 0.01, policy): dict(enumerate(runs)) for policy, runs in by_policy.items()
    }
    return judge(results, sweep, "steady", 0.01, "adaptive")


@pytest.mark.parametrize(
    ("kept", "broken", "goal"),
    [
        ({"misses": 15}, {"misses": 16}, "misses"),
        ({"excess": 0.02}, {"excess": 0.021}, "budget"),
        ({"longest_burst": 2}, {"longest_burst": 3}, "bursts"),
        ({"switches_per_min": 30.0}, {"switches_per_min": 30.1}, "switches"),
    ],
)
def test_each_goal_has_its_bound(kept: dict[str, Any], broken: dict[str, Any], goal: str) -> None:
    assert verdict(kept).broken == ()
    assert verdict(broken).broken == (goal,)


def test_a_point_below_the_oracle_and_below_a_rival_are_two_goals() -> None:
    assert verdict({"in_time": 0.491}, in_time=(0.49, 0.49)).broken == ()
    assert verdict({"in_time": 0.489}, in_time=(0.49, 0.49)).broken == ("oracle",)
    assert verdict({"in_time": 0.497}).broken == ("rival (pid)",)


def test_a_rival_is_better_only_beyond_chance() -> None:
    # Ahead by 0.6 points on average, which two seeds do not show.
    assert verdict({"in_time": 0.494}, in_time=(0.494, 0.506)).broken == ()
    assert verdict({"in_time": 0.494}, in_time=(0.4995, 0.5005)).broken == ("rival (pid)",)


def test_a_rival_that_breaks_the_limits_is_none() -> None:
    assert verdict({"in_time": 0.497}, misses=16).rival is None
    assert verdict({"in_time": 0.497}, misses=16).broken == ()


def test_what_no_rival_does_better_is_allowed() -> None:
    assert verdict({"longest_burst": 6}, longest_burst=5).broken == ()
    assert verdict({"switches_per_min": 60.0}, switches_per_min=40.0).broken == ()


def test_kept_figures_are_those_of_the_run_and_not_of_another_scenario(tmp_path: Path) -> None:
    path = tmp_path / "rivals.json"
    sweep = Sweep(
        workloads=[STEADY],
        policies=["static-8", "adaptive"],
        seeds=range(2),
        miss_rates=[0.01],
        spec=SYNTHETIC,
    )
    assert read_figures(path, sweep) == {}
    found = compare(sweep, lambda *_: None)
    write_figures(path, sweep, found)
    kept = read_figures(path, sweep)
    assert set(kept) == {("steady", 0.01, "static-8"), ("steady", 0.01, "oracle")}
    assert all(found[key] == kept[key] for key in kept)
    longer = replace(STEADY, length_s=40.0)
    assert read_figures(path, replace(sweep, workloads=[longer])) == {}
    assert read_figures(path, replace(sweep, seeds=range(3))) == {}


def test_what_is_known_is_not_run_again() -> None:
    sweep = Sweep(
        workloads=[STEADY], policies=["pid"], seeds=[0], miss_rates=[0.01], spec=SYNTHETIC
    )
    known = {("steady", 0.01, "pid"): {0: replace(FIGURES, misses=7)}}
    found = compare(sweep, lambda *_: None, known)
    assert found["steady", 0.01, "pid"][0].misses == 7
    assert ("steady", 0.01, "oracle") in found


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rivals.json"
    path.write_text('{"steady": 3}')
    sweep = Sweep(workloads=[], policies=[], seeds=[], miss_rates=[], spec=SYNTHETIC)
    with pytest.raises(FfnEdgeError, match="figures"):
        read_figures(path, sweep)


def test_the_command_counts_rows_that_break_a_goal(tmp_path: Path) -> None:
    arguments = ["--scenario", "steady", "--goals", "--seeds", "1", "--hours", "0.01"]
    arguments += ["--against", str(tmp_path / "rivals.json")]
    shown = CliRunner().invoke(simulate, arguments, catch_exceptions=False).stdout
    assert "of 2 rows break" in shown
    again = CliRunner().invoke(simulate, [*arguments, "--json"], catch_exceptions=False).stdout
    found = json.loads(again)
    assert [row["miss_rate"] for row in found["rows"]] == [0.01, 0.05]
    assert found["broken"] == sum(bool(row["broken"]) for row in found["rows"])
