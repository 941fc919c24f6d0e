"""What `python -m benchmarks.simulation` prints: tables, and the same as JSON."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from benchmarks.simulation.compare import OURS, Row
from benchmarks.simulation.goals import Verdict
from benchmarks.simulation.run import Workload

# By scenario, miss rate and policy.
Verdicts = dict[tuple[str, float, str], Verdict]


def policy_table(workload: Workload, found: dict[float, list[Row]]) -> Table:
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
        "budget;  10 s %: the largest excess of any ten seconds;  settling s: after a change\n"
        "oracle: the most in time;  oracle-late: the most accuracy, late as often as allowed",
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


def policy_fields(found: dict[str, dict[float, list[Row]]], seeds: int) -> dict[str, Any]:
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


def goal_table(verdicts: Verdicts) -> Table:
    """Lay out a line for each row: ours, the best rival, the oracle, and what is broken."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        caption=f"{_broken(verdicts)} of {len(verdicts)} rows break a goal\n"
        "in time: right and not late;  burst: most misses in a row, mean over the seeds;  10 s %: "
        "the largest excess of any ten seconds;  rival: the best in time of those that keep misses "
        "and budget\n"
        "broken:  misses: more than 1.5 times the target;  budget: 2 % beyond, both where the "
        "oracle keeps it;  bursts: more than 2, and than the rival's plus 1;  oracle: a point in "
        "time below it;  rival: 0.2 points and two standard errors below one that keeps the "
        "limits;  switches: more than 30 a minute, and than 1.5 times the calmest that adapts",
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


def goal_fields(verdicts: Verdicts, seeds: int) -> dict[str, Any]:
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


def _broken(verdicts: Verdicts) -> int:
    return sum(bool(verdict.broken) for verdict in verdicts.values())


def _number(row: Row, name: str, digits: int, scale: float = 1.0) -> str:
    return f"{scale * row.mean[name]:.{digits}f}" if name in row.mean else "–"
