"""`ffn-edge profile` and `ffn-edge run`: parse, call the library, print."""

from __future__ import annotations

import functools
import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ffn_edge.bundle import Bundle
from ffn_edge.runtime.options import engine_options, take_engine_options
from ffn_edge.runtime.policy import Limits
from ffn_edge.runtime.profile import PROFILE, Profile, profile_bundle
from ffn_edge.runtime.run import RunOptions, run_session
from ffn_edge.runtime.sinks import JsonLines, LiveView, Sink
from ffn_edge.runtime.summary import Summary


@click.command(short_help="Measure each engine's latency here.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--runs", type=click.IntRange(min=1), default=50, show_default=True, help="Of each engine."
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def profile(bundle: Path, runs: int, as_json: bool, **options: Any) -> None:
    """Measure each engine's latency here.

    The distributions go to BUNDLE/profile.json, where `ffn-edge run` finds them.

    \b
    Example:
      ffn-edge profile bundle --runs 100 --threads 2
    """
    engines = take_engine_options(options)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("profiling", total=runs)
        measured = profile_bundle(
            Bundle.load(bundle), engines, runs=runs,
            on_round=lambda done: bar.update(task, completed=done),
            say=functools.partial(console.print, markup=False, highlight=False, soft_wrap=True),
        )  # fmt: skip
    click.echo(f"wrote {bundle / PROFILE}", err=True)
    if as_json:
        click.echo(measured.to_json(), nl=False)
    else:
        Console().print(_profile_table(measured))


@click.command(short_help="Recognise actions, adapting the frame count.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--source", required=True,
    help="A video file, a .txt file with one video path a line, or a camera's number.",
)  # fmt: skip
@click.option(
    "--latency-ms", type=click.FloatRange(min=0, min_open=True),
    help="The deadline of one inference.  [default: none]",
)  # fmt: skip
@click.option("--frames", type=int, help="Always this frame count, whatever the deadline.")
@click.option(
    "--quantile", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95,
    show_default=True, help="The share of inferences that must keep the deadline.",
)  # fmt: skip
@click.option(
    "--window", "window_s", type=float, default=2.0, show_default=True,
    help="The seconds that a clip spans.",
)  # fmt: skip
@click.option(
    "--hop", "hop_s", type=float, default=0.25, show_default=True,
    help="The seconds from one inference to the next.",
)  # fmt: skip
@click.option("--realtime", is_flag=True, help="Play a file at its own pace, as a camera would.")
@click.option("--max-seconds", type=float, default=math.inf, help="End after so much video.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Where the JSON lines go.  [default: stdout, unless it is a terminal]",
)
@click.option(
    "--annotate", type=click.Path(path_type=Path), help="Write the video with the results, as MP4."
)
@engine_options
@click.option(
    "--json", "as_json", is_flag=True,
    help="JSON lines even to a terminal, and the summary as a last one.",
)  # fmt: skip
def run(
    bundle: Path,
    source: str,
    latency_ms: float | None,
    frames: int | None,
    quantile: float,
    output: Path | None,
    annotate: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Recognise actions, adapting the frame count.

    Each inference runs the most accurate frame count that is predicted to keep the deadline; the
    choice is explained in each JSON line. Ctrl-C ends the run with a summary (exit code 0).

    \b
    Examples:
      ffn-edge run bundle --source clip.mp4 --latency-ms 80 --output lines.jsonl
      ffn-edge run bundle --source 0 --latency-ms 80            # a camera
      ffn-edge run bundle --source clip.mp4 --frames 8 --annotate out.mp4
    """
    console = Console(stderr=True)
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    summary = Summary(latency_ms)
    limits = Limits(latency_ms=latency_ms, quantile=quantile, frames=frames)
    loaded = Bundle.load(bundle)
    engines = take_engine_options(options)
    to_stdout = output is None and (as_json or not sys.stdout.isatty())
    try:
        with ExitStack() as stack:
            sinks: list[Sink] = []
            if output is not None or to_stdout:
                sinks.append(stack.enter_context(JsonLines(output or sys.stdout)))
            if console.is_terminal and not (to_stdout and sys.stdout.isatty()):
                sinks.append(stack.enter_context(LiveView(console, latency_ms)))
            run_session(
                loaded, source, limits, RunOptions(engines=engines, **options),
                summary=summary, sinks=sinks, annotate=annotate, say=say,
            )  # fmt: skip
    finally:  # a run that fails has inferences to tell of, too
        if summary.inferences:
            console.print(summary.table())
    if not summary.inferences:
        say("no inference: the source ended before the first window was full")
    if as_json:
        click.echo(json.dumps({"summary": summary.fields()}))


def _profile_table(measured: Profile) -> Table:
    where = measured.conditions
    table = Table(
        title="latency in ms",
        caption=f"{where.machine.cpu}, {where.threads} threads, "
        f"{where.backend} {where.backend_version} in {where.precision} on {where.device}",
    )
    table.add_column("frames", justify="right")
    for heading in next(iter(measured.latencies.values())).summary():
        table.add_column(heading, justify="right")
    for frames, latency in measured.latencies.items():
        table.add_row(str(frames), *(f"{ms:.2f}" for ms in latency.summary().values()))
    return table
