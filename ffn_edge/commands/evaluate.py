"""`ffn-edge evaluate`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath, Whole
from ffn_edge.commands.training_options import FILE, LIST, machine_options


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--list", "list_file", required=True, type=LIST, help="List file of labelled videos.")
@click.option(
    "--root", type=UserPath(), help="Folder that the list's paths start from; else the list's own."
)
@click.option("--dataset", help="Facts of a data set; else those of the training's.")
@click.option("--frames", help="List or range: 2-20.  [default: those that were trained]")
@click.option("--batch-size", type=Whole(), default=16, show_default=True, help="Videos at a time.")
@machine_options
@click.option("--plot", type=UserPath(dir_okay=False), help="Write accuracy against cost here.")
@click.option(
    "--report",
    type=UserPath(written=True, dir_okay=False),
    help="Write a page here: which classes and clips it gets wrong, and what more frames mend.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    checkpoint: str,
    as_json: bool,
    plot: str | None,
    report: str | None,
    frames: str | None,
    **options: Any,
) -> None:
    """Measure accuracy at any frame count.

    A frame count that was not trained is served by the nearest sub-network.

    \b
    Examples:
      ffn-edge evaluate runs/first/best.pt --list data/test.txt --frames 2-20 --plot accuracy.png
      ffn-edge evaluate runs/first/best.pt --list data/test.txt --report page.html
      torchrun --nproc-per-node 4 -m ffn_edge evaluate runs/first/best.pt --list data/test.txt
    """
    from ffn_edge.files.figure import check_figure
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.evaluate import evaluate_checkpoint
    from ffn_edge.train.processes import is_first_process
    from ffn_edge.train.report import plot_accuracy, table_of

    if plot:
        check_figure(plot)
    counts = parse_frames(frames) if frames else None
    rows = evaluate_checkpoint(checkpoint, counts, report=report, **options)
    if not is_first_process():
        return
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        from ffn_edge.terminal import Terminal

        Terminal().print(table_of(rows))
    if plot:
        plot_accuracy({checkpoint: rows}, plot)
        say(f"wrote {plot}")
    if report:
        say(f"wrote {report}")
