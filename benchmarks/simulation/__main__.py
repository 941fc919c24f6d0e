"""`python -m benchmarks.simulation`: parse, compare, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.simulation import baselines, scenarios
from benchmarks.simulation.against import read_figures, write_figures
from benchmarks.simulation.board import SYNTHETIC, BoardSpec
from benchmarks.simulation.compare import OURS, Sweep, compare, frames_of, rows
from benchmarks.simulation.goals import judge
from benchmarks.simulation.interference import Measured
from benchmarks.simulation.oracle import NAME_LATE
from benchmarks.simulation.profiled import board_from_bundle
from benchmarks.simulation.recorded import Recording
from benchmarks.simulation.run import Workload
from benchmarks.simulation.scenario import Scenario
from benchmarks.simulation.tables import (
    goal_fields,
    goal_table,
    policy_fields,
    policy_table,
)
from ffn_edge.commands.option_types import Number, UserPath, Whole
from ffn_edge.commands.simulate import parse_shares
from ffn_edge.errors import FfnEdgeError, FrameCountError, counted
from ffn_edge.files.figure import check_figure
from ffn_edge.progress import progress
from ffn_edge.runtime.trace import read_trace
from ffn_edge.terminal import Terminal

_TABLE_WIDTH = 185


@click.command(short_help="Compare policies on a simulated board.")
@click.option(
    "--scenario",
    "scenario_names",
    default="all",
    show_default=True,
    help="Names with commas between: " + ", ".join(each.name for each in scenarios.ALL) + "; or "
    "audit, that the policy was developed on; held-out, that it never saw; or recorded, what was "
    "measured beside a load.",
)
@click.option(
    "--policy",
    "policy_names",
    default="all",
    show_default=True,
    help="Names with commas between: " + ", ".join(baselines.NAMES) + " or static-8.",
)
@click.option("--seeds", type=Whole(), default=20, show_default=True, help="Runs.")
@click.option(
    "--miss-rate",
    "miss_rates",
    default="0.01,0.05",
    show_default=True,
    help="The shares of inferences that may miss the deadline.",
)
@click.option("--hours", type=Number(), help="The length of a run.")
@click.option(
    "--profile",
    "bundle",
    type=UserPath(path_type=Path),
    help="Simulate the engines of this bundle, as they were profiled.",
)
@click.option(
    "--trace",
    "trace_path",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Replay what `ffn-edge run --record` wrote, instead of the scenarios.",
)
@click.option(
    "--plot",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Draw a run of each scenario, to PLOT with the scenario's name before the suffix.",
)
@click.option(
    "--goals",
    is_flag=True,
    help="Say which goals ours breaks, or those of --policy, against all the others.",
)
@click.option(
    "--against",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Keep the figures of all but ours in this file; what still holds there is not run again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def simulate(
    scenario_names: str,
    policy_names: str,
    seeds: int,
    miss_rates: str,
    hours: float | None,
    bundle: Path | None,
    trace_path: Path | None,
    plot: Path | None,
    goals: bool,
    against: Path | None,
    as_json: bool,
) -> None:
    """Compare policies on a simulated board.

    The code that chooses is the one that runs on the device; the board and its values are made
    up. Every policy meets the same noise. The oracle knows each latency beforehand.

    \b
    Examples:
      python -m benchmarks.simulation --scenario all --policy all --plot out.png
      python -m benchmarks.simulation --scenario spikes --policy adaptive,alert --seeds 5
      python -m benchmarks.simulation --trace trace.jsonl
      python -m benchmarks.simulation --scenario audit --goals --against rivals.json
    """
    console = Terminal(stderr=True)
    if plot is not None:
        check_figure(plot)
    spec = SYNTHETIC
    if bundle is not None:
        spec, note = board_from_bundle(bundle)
        if note:
            console.say(note)
    workloads = _workloads(scenario_names, hours)
    if trace_path is not None:
        if hours is not None or bundle is not None:
            raise click.UsageError("a trace has a length and engines of its own")
        trace = read_trace(trace_path)
        workloads, seeds = [Recording(trace)], 1  # nothing is random
        if trace.broken:
            console.say(
                f"{trace_path}: left out {counted(len(trace.broken), 'broken line')}; "
                f"{trace.broken[0]}"
            )
    if all(isinstance(workload, Measured) for workload in workloads):
        seeds = 1  # nothing is random
    named = _policies(policy_names, workloads, spec)
    judged = [OURS] if policy_names == "all" else named
    everyone = [name for name in _policies("all", workloads, spec) if name != NAME_LATE]
    sweep = Sweep(
        workloads=workloads,
        policies=list(dict.fromkeys([*everyone, *judged])) if goals else named,
        seeds=range(seeds),
        miss_rates=parse_shares(miss_rates),
        spec=spec,
        keep=hours is None,
    )
    known = {} if against is None else read_figures(against, sweep)
    with progress(console, "simulating") as show:
        results = compare(sweep, show, known)
    if against is not None:
        write_figures(against, sweep, results)
    if goals:
        verdicts = {
            (workload.name, rate, policy): judge(results, sweep, workload.name, rate, policy)
            for workload in workloads
            for rate in sweep.miss_rates
            for policy in judged
            if (workload.name, rate, policy) in results
        }
        fields, tables = goal_fields(verdicts, seeds), [goal_table(verdicts)]
    else:
        found = {
            workload.name: {
                rate: rows(results, sweep, workload.name, rate) for rate in sweep.miss_rates
            }
            for workload in workloads
        }
        fields = policy_fields(found, seeds)
        tables = [policy_table(workload, found[workload.name]) for workload in workloads]
    if as_json:
        click.echo(json.dumps(fields))
    else:
        # A table that is folded to 80 columns cannot be read.
        # In a narrow terminal its lines wrap, but nothing is lost.
        output = Terminal(width=_TABLE_WIDTH)
        for table in tables:
            output.print(table)
    if plot is not None:
        from benchmarks.simulation.plots import plot_workload

        for workload in workloads:
            path = plot.with_stem(f"{plot.stem}-{workload.name}")
            plot_workload(workload, path, spec=spec, miss_rate=sweep.miss_rates[0])
            console.say(f"wrote {path}")


def _workloads(names: str, hours: float | None) -> list[Workload]:
    sets: dict[str, Sequence[Scenario | Measured]] = {
        "all": scenarios.ALL,
        "audit": scenarios.AUDIT,
        "recorded": scenarios.RECORDED,
        "held-out": scenarios.HELD_OUT,
    }
    chosen = sets.get(names) or [scenarios.named(name) for name in dict.fromkeys(names.split(","))]
    if hours is None:
        return list(chosen)
    return [
        # A recording is as long as it is.
        replace(each, length_s=hours * 3600) if isinstance(each, Scenario) else each
        for each in chosen
    ]


def _policies(names: str, workloads: Sequence[Workload], spec: BoardSpec) -> list[str]:
    counts = {frames for workload in workloads for frames in frames_of(workload, spec)}
    served = [f"static-{frames}" for frames in sorted(counts)]
    if names == "all":
        return [*served, *reversed(baselines.NAMES), NAME_LATE]
    chosen = list(dict.fromkeys(names.split(",")))
    for name in chosen:
        if name != NAME_LATE:
            baselines.named(name)
        if name.startswith("static-") and name not in served:
            raise FrameCountError(
                f"no engine for {name.removeprefix('static-')} frames is simulated",
                f"choose one of {', '.join(served)}.",
            )
    return chosen


if __name__ == "__main__":
    try:
        simulate()
    except FfnEdgeError as error:
        raise SystemExit(str(error)) from error
