"""`python -m benchmarks.simulation`: parse, compare, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from benchmarks.simulation import baselines, scenarios
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.compare import Row, Sweep, compare, rows
from benchmarks.simulation.profiled import board_from_bundle
from benchmarks.simulation.recorded import Recording
from benchmarks.simulation.run import Workload
from ffn_edge.commands.option_types import Number, UserPath, Whole
from ffn_edge.commands.simulate import parse_shares
from ffn_edge.errors import FfnEdgeError, FrameCountError, counted
from ffn_edge.files.figure import check_figure
from ffn_edge.progress import progress
from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.trace import read_trace
from ffn_edge.terminal import Terminal

_TABLE_WIDTH = 170


@click.command(short_help="Compare policies on a simulated board.")
@click.option(
    "--scenario",
    "scenario_names",
    default="all",
    show_default=True,
    help="Names with commas between: " + ", ".join(each.name for each in scenarios.ALL) + ".",
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
    points: Sequence[OperatingPoint] = spec.points
    if trace_path is not None:
        if hours is not None or bundle is not None:
            raise click.UsageError("a trace has a length and engines of its own")
        trace = read_trace(trace_path)
        workloads, seeds = [Recording(trace)], 1  # nothing is random
        points = trace.setting.points
        if trace.broken:
            console.say(
                f"{trace_path}: left out {counted(len(trace.broken), 'broken line')}; "
                f"{trace.broken[0]}"
            )
    sweep = Sweep(
        workloads=workloads,
        policies=_policies(policy_names, points),
        seeds=range(seeds),
        miss_rates=parse_shares(miss_rates),
        spec=spec,
        keep=hours is None,
    )
    with progress(console, "simulating") as show:
        results = compare(sweep, show)
    found = {
        workload.name: {
            rate: rows(results, sweep, workload.name, rate) for rate in sweep.miss_rates
        }
        for workload in workloads
    }
    if as_json:
        click.echo(json.dumps(_fields(found, seeds)))
    else:
        # A table that is folded to 80 columns cannot be read.
        # In a narrow terminal its lines wrap, but nothing is lost.
        output = Terminal(width=_TABLE_WIDTH)
        for workload in workloads:
            output.print(_table(workload, found[workload.name]))
    if plot is not None:
        from benchmarks.simulation.plots import plot_workload

        for workload in workloads:
            path = plot.with_stem(f"{plot.stem}-{workload.name}")
            plot_workload(workload, path, spec=spec, miss_rate=sweep.miss_rates[0])
            console.say(f"wrote {path}")


def _workloads(names: str, hours: float | None) -> list[Workload]:
    chosen = (
        scenarios.ALL
        if names == "all"
        else [scenarios.named(name) for name in dict.fromkeys(names.split(","))]
    )
    if hours is None:
        return list(chosen)
    return [replace(scenario, length_s=hours * 3600) for scenario in chosen]


def _policies(names: str, points: Sequence[OperatingPoint]) -> list[str]:
    served = [f"static-{point.frames}" for point in points]
    if names == "all":
        return [*served, *reversed(baselines.NAMES)]
    chosen = list(dict.fromkeys(names.split(",")))
    for name in chosen:
        baselines.named(name)
        if name.startswith("static-") and name not in served:
            raise FrameCountError(
                f"no engine for {name.removeprefix('static-')} frames is simulated",
                f"choose one of {', '.join(served)}.",
            )
    return chosen


def _table(workload: Workload, found: dict[float, list[Row]]) -> Table:
    """Lay out one scenario: the targets one below the other, the worst run in brackets."""
    table = Table(
        title=workload.name,
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        caption="in brackets the worst run, or the 99 % quantile of decisions;  * more than 1.5 "
        "times the target's misses, or 2 % above the budget, where the oracle keeps it\n"
        "burst: most misses in a row;  P(m|m): the chance that a miss follows a miss;  in time: "
        "right and not late;  regret: points in time below the oracle;  over J: joules beyond the "
        "budget;  10 s %: the largest excess of any ten seconds;  settling s: after a change",
    )
    frames = next(iter(found.values()))[0].share
    table.add_column("policy", no_wrap=True)
    for heading in (
        "misses %",
        "burst",
        "P(m|m)",
        "accuracy %",
        "in time %",
        "regret",
        "power W",
        "over J",
        "10 s %",
        "switches/min",
        "settling s",
        "decision µs",
        f"% at {'/'.join(map(str, frames))}",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for miss_rate, lines in found.items():
        table.add_section()
        table.add_row(f"target {miss_rate:.3g}", style="bold")
        for row in lines:
            table.add_row(*_cells(row), style="bold" if row.policy == "adaptive" else None)
    return table


def _cells(row: Row) -> list[str]:
    def cell(name: str, digits: int, scale: float = 1.0, *, worst: bool = True) -> str:
        if name not in row.mean:
            return "–"
        text = f"{scale * row.mean[name]:.{digits}f}"
        return f"{text} ({scale * row.worst[name]:.{digits}f})" if worst else text

    shares = "/".join(f"{100 * share:.0f}" for share in row.share.values())
    return [
        f"  {row.policy}",
        cell("miss_rate", 2, 100) + ("*" if row.too_many_misses else ""),
        cell("longest_burst", 1),
        cell("miss_after_miss", 2, worst=False),
        cell("accuracy", 2, 100, worst=False),
        cell("in_time", 2, 100, worst=False),
        cell("regret", 2, 100),
        cell("mean_power_w", 2, worst=False),
        cell("over_j", 1, worst=False),
        cell("excess", 1, 100) + ("*" if row.over_budget else ""),
        cell("switches_per_min", 1, worst=False),
        cell("settling_s", 1, worst=False),
        f"{cell('decision_us', 0, worst=False)} ({cell('decision_p99_us', 0, worst=False)})",
        shares,
    ]


def _fields(found: dict[str, dict[float, list[Row]]], seeds: int) -> dict[str, Any]:
    """Return what `--json` prints: scenario, miss rate, policy, figures."""
    return {
        "seeds": seeds,
        "scenarios": {
            workload: {
                f"{rate:g}": {row.policy: row.fields() for row in lines}
                for rate, lines in by_rate.items()
            }
            for workload, by_rate in found.items()
        },
    }


if __name__ == "__main__":
    try:
        simulate()
    except FfnEdgeError as error:
        raise SystemExit(str(error)) from error
