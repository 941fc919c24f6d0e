"""Whether adapting pays on the demo's long stream: the adaptive run beside every fixed frame count.

    python -m benchmarks.demo_stream demo [--repetitions 5] [--seconds 240]

`demo` is the folder that `ffn-edge demo` wrote. The bundle is profiled anew; then the adaptive run
and one for each frame count take turns over the stream, with the same deadline, while the demo's
load comes and goes. An answer is in time if it is right and not late. Wants a machine that does
nothing else; takes about five minutes on two cores.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import Action
from ffn_edge.demo.pipeline import (
    STREAM_SECONDS,
    TimelineRun,
    engine_options,
    limits_of_runs,
    rehearsed_deadline,
    run_on_stream,
)
from ffn_edge.runtime.profile.profile import profile_bundle

COLUMNS: dict[str, Callable[[TimelineRun], float]] = {
    "in time %": lambda run: 100 * run.in_time(),
    "idle %": lambda run: 100 * run.in_time(under_load=False),
    "under load %": lambda run: 100 * run.in_time(under_load=True),
    "right %": lambda run: 100 * statistics.fmean(run.correct),
    "missed %": lambda run: 100 * run.missed(),
    "idle %  ": lambda run: 100 * run.missed(under_load=False),
    "under load %  ": lambda run: 100 * run.missed(under_load=True),
    "mean frames": TimelineRun.mean_frames,
}


@click.command(help=__doc__)
@click.argument("demo", type=click.Path(path_type=Path))
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(6), default=STREAM_SECONDS, show_default=True,
    help="Of the stream, from its start.",
)  # fmt: skip
def main(demo: Path, repetitions: int, seconds: float) -> None:
    """Measure, and print a table."""
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    console.print(describe_machine())
    stream = demo / "stream.mp4"
    described = json.loads(stream.with_suffix(".json").read_text(encoding="utf-8"))
    actions = [Action(**each) for each in described["actions"] if each["end_s"] <= seconds]
    bundle = Bundle.load(demo / "bundle")
    profile = profile_bundle(bundle, engine_options(), runs=100)
    deadline_ms = rehearsed_deadline(bundle, stream, profile)
    limits = limits_of_runs(deadline_ms, profile.latencies["fp32"])
    runs: dict[str, list[TimelineRun]] = {name: [] for name in limits}
    begin = time.monotonic()
    for repetition in range(repetitions):
        for number in range(len(limits)):  # another one begins each time
            name = list(limits)[(number + repetition) % len(limits)]
            runs[name].append(run_on_stream(bundle, stream, actions, name, limits[name]))
    profiled = ", ".join(
        f"{t} frames {latency.median_ms:.2f} / {latency.quantile_ms(0.95):.2f} ms"
        for t, latency in profile.latencies["fp32"].items()
    )
    first = runs["adaptive"][0]
    console.print(
        f"profiled (median / 95 %): {profiled}; deadline {deadline_ms:.2f} ms\n"
        f"{repetitions} times {len(limits)} runs over {actions[-1].end_s:.0f} s of the stream, "
        f"{len(first.results)} inferences each, in {(time.monotonic() - begin) / 60:.1f} minutes"
    )
    # A file or a pipe has no width; a table that is folded to 80 columns cannot be read.
    wide = console if console.is_terminal else Console(width=140)
    wide.print(table(runs))
    ahead = [
        adaptive.in_time() > max(run.in_time() for run in fixed)
        for adaptive, *fixed in zip(*runs.values(), strict=True)
    ]
    console.print(f"the adaptive run was ahead of all others in {sum(ahead)} of {repetitions}")


def table(runs: dict[str, list[TimelineRun]]) -> Table:
    """Show what each came to."""
    found = Table(
        caption="mean over the runs ± their standard deviation; in time: right and not late"
    )
    found.add_column("run")
    for heading in COLUMNS:
        found.add_column(heading, justify="right")
    for name, each in runs.items():
        found.add_row(name, *(spread([value(run) for run in each]) for value in COLUMNS.values()))
    return found


def spread(values: list[float]) -> str:
    """Write the mean and the standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
