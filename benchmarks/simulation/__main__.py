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
from benchmarks.simulation.against import read_figures, write_figures
from benchmarks.simulation.board import SYNTHETIC, BoardSpec
from benchmarks.simulation.compare import OURS, Row, Sweep, compare, frames_of, rows
from benchmarks.simulation.goals import Verdict, judge
from benchmarks.simulation.profiled import board_from_bundle
from benchmarks.simulation.recorded import Recording
from benchmarks.simulation.run import Workload
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
    "audit, those that no policy was tuned on.",
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
    named = _policies(policy_names, workloads, spec)
    judged = [OURS] if policy_names == "all" else named
    everyone = _policies("all", workloads, spec)
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
        }
        if as_json:
            click.echo(json.dumps(_goal_fields(verdicts, seeds)))
        else:
            Terminal(width=_TABLE_WIDTH).print(_goal_table(verdicts))
        return
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
    sets = {"all": scenarios.ALL, "audit": getattr(scenarios, "AUDIT", ())}
    chosen = sets.get(names) or [scenarios.named(name) for name in dict.fromkeys(names.split(","))]
    if hours is None:
        return list(chosen)
    return [replace(scenario, length_s=hours * 3600) for scenario in chosen]


def _policies(names: str, workloads: Sequence[Workload], spec: BoardSpec) -> list[str]:
    counts = {frames for workload in workloads for frames in frames_of(workload, spec)}
    served = [f"static-{frames}" for frames in sorted(counts)]
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
            table.add_row(*_cells(row), style="bold" if row.policy == OURS else None)
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


_Verdicts = dict[tuple[str, float, str], Verdict]


def _goal_table(verdicts: _Verdicts) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        caption=f"{_broken(verdicts)} of {len(verdicts)} rows break a goal\n"
        "in time: right and not late;  rival: the best in time of those that keep the limits;  "
        "burst: most misses in a row, mean over the seeds;  goals: those of goals.py",
    )
    for heading in ("scenario", "target", "policy"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "misses %",
        "burst",
        "10 s %",
        "switches/min",
        "in time %",
        "rival",
        "in time %",
        "burst",
        "oracle",
        "broken",
    ):
        table.add_column(heading, justify="left" if heading in ("rival", "broken") else "right")
    for (workload, miss_rate, policy), verdict in verdicts.items():
        ours, rival = verdict.row, verdict.rival
        table.add_row(
            workload,
            f"{miss_rate:.3g}",
            policy,
            _number(ours, "miss_rate", 2, 100),
            _number(ours, "longest_burst", 1),
            f"{100 * ours.worst['excess']:.1f}" if "excess" in ours.worst else "–",
            _number(ours, "switches_per_min", 1),
            _number(ours, "in_time", 2, 100),
            "–" if rival is None else rival.policy,
            "–" if rival is None else _number(rival, "in_time", 2, 100),
            "–" if rival is None else _number(rival, "longest_burst", 1),
            _number(verdict.oracle, "in_time", 2, 100),
            ", ".join(verdict.broken),
            style="bold" if verdict.broken else None,
        )
    return table


def _goal_fields(verdicts: _Verdicts, seeds: int) -> dict[str, Any]:
    """Return what `--json` prints: of each row ours, the best rival, the oracle, what is broken."""
    return {
        "seeds": seeds,
        "rows": [
            {
                "scenario": workload,
                "miss_rate": miss_rate,
                "policy": policy,
                "figures": verdict.row.fields(),
                "rival": verdict.rival and verdict.rival.policy,
                "rival_figures": verdict.rival and verdict.rival.fields(),
                "oracle_figures": verdict.oracle.fields(),
                "broken": verdict.broken,
            }
            for (workload, miss_rate, policy), verdict in verdicts.items()
        ],
        "broken": _broken(verdicts),
    }


def _broken(verdicts: _Verdicts) -> int:
    return sum(bool(verdict.broken) for verdict in verdicts.values())


def _number(row: Row, name: str, digits: int, scale: float = 1.0) -> str:
    return f"{scale * row.mean[name]:.{digits}f}" if name in row.mean else "–"


if __name__ == "__main__":
    try:
        simulate()
    except FfnEdgeError as error:
        raise SystemExit(str(error)) from error
