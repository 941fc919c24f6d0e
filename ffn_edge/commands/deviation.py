"""`ffn-edge deviation`: parse, call, print."""

from __future__ import annotations

import json
from typing import Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath, Whole
from ffn_edge.commands.training_options import FILE, LIST, machine_options


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--list", "list_file", type=LIST, required=True, help="List file of labelled videos.")
@click.option(
    "--root", type=UserPath(), help="Folder that the list's paths start from; else the list's own."
)
@click.option("--frames", help="Two frame counts; else the lowest and the highest trained one.")
@click.option("--sub-network", type=Whole(), help="Let only this one serve both frame counts.")
@click.option("--layer", help="Whose channels --json holds; else the most deviating layer's.")
@click.option("--clips", type=Whole(), default=200, show_default=True, help="Videos to use.")
@click.option("--batch-size", type=Whole(), default=16, show_default=True, help="Videos at a time.")
@machine_options
@click.option("--plot", type=UserPath(dir_okay=False), help="Write .png, .svg or .pdf here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def deviation(
    checkpoint: str,
    frames: str | None,
    layer: str | None,
    plot: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how activations and output move with the frame count.

    The paper's Temporal Frequency Deviation: mean and standard deviation of what enters each
    norm, on the same videos at two frame counts. One sub-network serves both; where the network
    has two, each frame count is served by its own as well, which is what the second mends. Several
    processes of torchrun share the work.

    \b
    Example:
      ffn-edge deviation runs/first/best.pt --list data/test.txt --frames 4,16 --plot deviation.png
    """
    from ffn_edge.files.figure import check_figure
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.deviation import deviation_of_checkpoint
    from ffn_edge.train.deviation_report import json_of, plot_deviation, tables_of
    from ffn_edge.train.processes import is_first_process

    if plot:
        check_figure(plot)
    counts = parse_frames(frames) if frames else None
    found = deviation_of_checkpoint(checkpoint, counts, layer=layer, **options)
    if not is_first_process():
        return
    if as_json:
        click.echo(json.dumps(json_of(found, layer)))
    else:
        from ffn_edge.terminal import Terminal

        for table in tables_of(found):
            Terminal().print(table)
    if plot:
        plot_deviation(found, plot)
        say(f"wrote {plot}")
