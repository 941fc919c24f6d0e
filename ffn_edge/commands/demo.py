"""`ffn-edge demo`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from ffn_edge.commands.option_types import UserPath, threads_option
from ffn_edge.commands.training_options import read_settings


@click.command(short_help="Show it all on rendered clips, with a report.")
@click.option(
    "--output",
    "-o",
    default="demo",
    show_default=True,
    type=UserPath(written=True, file_okay=False, path_type=Path),
    help="Folder for clips, checkpoints, bundle and report.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    callback=read_settings,
    help="NAME=VALUE of the recipe, as in train.",
)
@threads_option
def demo(output: Path, settings: dict[str, str]) -> None:
    """Show it all on rendered clips, with a report.

    Renders labelled clips (synthetic), trains a Frame Flexible Network and a naive one, exports,
    verifies, profiles, and runs adaptively while a background load comes and goes. Interrupted,
    it goes on where it was. The report is OUTPUT/report.html.

    \b
    Example:
      ffn-edge demo --output demo
    """
    from ffn_edge.terminal import Terminal

    say = Terminal(stderr=True).say
    say("· import PyTorch")  # seconds, and half a minute for the first time
    from ffn_edge.demo.page import write_page
    from ffn_edge.demo.pipeline import run_demo

    try:
        result = run_demo(output, say=say, settings=settings)
    except KeyboardInterrupt:
        say("stopped; give the same command again to go on from here")
        raise
    click.echo(write_page(result, output / "report.html"))
