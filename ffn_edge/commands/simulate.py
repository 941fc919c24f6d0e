"""`ffn-edge simulate`: parse, call the library, print."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from ffn_edge.bundle.bundle import Precision
from ffn_edge.commands.option_types import Number, UserPath
from ffn_edge.errors import FfnEdgeError, counted
from ffn_edge.runtime.simulate.figures import Figures
from ffn_edge.runtime.simulate.replay import replay
from ffn_edge.runtime.trace import read_trace
from ffn_edge.terminal import Terminal

_log = logging.getLogger(__name__)


@click.command(short_help="Replay a recorded run under other limits.")
@click.option(
    "--trace",
    "trace_path",
    type=UserPath(dir_okay=False, path_type=Path),
    required=True,
    help="What `ffn-edge run --record` wrote.",
)
@click.option("--latency-ms", type=Number(), help="The deadline, instead of the recorded one.")
@click.option("--power-w", type=Number(), help="The power budget, instead of the recorded one.")
@click.option(
    "--miss-rate",
    "miss_rates",
    default="0.01,0.05",
    show_default=True,
    help="The shares of inferences that may miss the deadline.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def simulate(
    trace_path: Path,
    latency_ms: float | None,
    power_w: float | None,
    miss_rates: str,
    as_json: bool,
) -> None:
    """Replay a recorded run under other limits.

    The code that chooses is the one that runs on the device; it meets the slowdown, the heat and
    the power of the recorded run. Beside it stands each frame count alone.

    \b
    Examples:
      ffn-edge run bundle --source 0 --record trace.jsonl
      ffn-edge simulate --trace trace.jsonl --latency-ms 60
    """
    trace = read_trace(trace_path)
    if trace.broken:
        left_out = counted(len(trace.broken), "broken line")
        _log.warning("%s: left out %s; %s", trace_path, left_out, trace.broken[0])
    asked = {"latency_ms": latency_ms, "power_w": power_w}
    changes = {name: value for name, value in asked.items() if value is not None}
    alone = {f"static-{each.frames}": {"frames": each.frames} for each in trace.setting.points}
    found = {
        rate: {
            name: replay(trace, **changes, **frames, miss_rate=rate)
            for name, frames in {**alone, "adaptive": {}}.items()
        }
        for rate in parse_shares(miss_rates)
    }
    if as_json:
        click.echo(json.dumps({"scenarios": {trace.name: _fields(found)}}))
    else:
        precisions = {f"static-{each.frames}": each.precision for each in trace.setting.points}
        Terminal().print(_table(trace.name, found, precisions))


def parse_shares(text: str) -> list[float]:
    """Read shares such as "0.01,0.05", each once."""
    try:
        rates = list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise FfnEdgeError(
            f"miss rates are numbers between 0 and 1; got {text!r}", "--miss-rate 0.01,0.05"
        )
    return rates


def _table(
    name: str, found: dict[float, dict[str, Figures]], precisions: dict[str, Precision]
) -> Table:
    table = Table(
        title=name,
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        caption="burst: most misses in a row;  in time: right and not late;  10 s %: the largest "
        "excess of any ten seconds over the power budget",
    )
    table.add_column("policy", no_wrap=True)
    frames = next(iter(next(iter(found.values())).values())).share
    for heading in (
        "misses %",
        "burst",
        "accuracy %",
        "in time %",
        "power W",
        "10 s %",
        "switches/min",
        f"% at {'/'.join(map(str, frames))}",
    ):
        table.add_column(heading, justify="right")
    for miss_rate, by_policy in found.items():
        table.add_section()
        table.add_row(f"target {miss_rate:.3g}", style="bold")
        for policy, figures in by_policy.items():
            table.add_row(
                f"  {policy} {precisions.get(policy, '')}",
                f"{100 * figures.miss_rate:.2f}",
                str(figures.longest_burst),
                f"{100 * figures.accuracy:.2f}",
                f"{100 * figures.in_time:.2f}",
                "–" if figures.mean_power_w is None else f"{figures.mean_power_w:.2f}",
                "–" if figures.excess is None else f"{100 * figures.excess:.1f}",
                f"{figures.switches_per_min:.1f}",
                "/".join(f"{100 * share:.0f}" for share in figures.share.values()),
            )
    return table


def _fields(found: dict[float, dict[str, Figures]]) -> dict[str, Any]:
    """Return what `--json` prints of a trace: miss rate, policy, figures and shares."""
    return {
        f"{miss_rate:g}": {
            policy: {"mean": _known(figures), "share": figures.share}
            for policy, figures in by_policy.items()
        }
        for miss_rate, by_policy in found.items()
    }


def _known(figures: Figures) -> dict[str, float]:
    derived = {"miss_rate": figures.miss_rate, "miss_after_miss": figures.miss_after_miss}
    named = {**asdict(figures), **derived}
    del named["share"]
    return {name: value for name, value in named.items() if value is not None}
