"""`ffn-edge quantize`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ffn_edge.commands.option_types import UserPath, Whole, threads_option


@click.command(short_help="Add INT8 to a bundle, from clips of what it will see.")
@click.argument("bundle", type=UserPath(file_okay=False, path_type=Path))
@click.option(
    "--list",
    "list_file",
    type=UserPath(dir_okay=False, path_type=Path),
    required=True,
    help="A text file with one clip a line: `path`, or `path num_frames` for a frame folder; with "
    "a label behind it, too.",
)
@click.option(
    "--root",
    type=UserPath(file_okay=False, path_type=Path),
    help="What the list's paths are relative to.  [default: its folder]",
)
@click.option(
    "--clips",
    type=Whole(8),
    default=256,
    show_default=True,
    help="How many to take, spread over the list.",
)
@click.option("--labels", is_flag=True, help="Every line has a label: measure the accuracy, too.")
@click.option(
    "--method",
    type=click.Choice(["max", "percentile"]),
    default="percentile",
    show_default=True,
    help="The range of a tensor: up to the largest of its values, or of all but 1 in 100,000.",
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def quantize(
    bundle: Path,
    list_file: Path,
    root: Path | None,
    clips: int,
    labels: bool,
    method: str,
    as_json: bool,
) -> None:
    """Add INT8 to a bundle, from clips of what it will see.

    Each frame count gets a graph that computes in INT8 with the same weight file, so a few
    kilobytes are to be copied to where the bundle is deployed; no other file changes but the
    manifest. Layers that would lose too much accuracy stay float32, and the manifest says which.
    `ffn-edge run` then takes INT8 by itself where it is faster and labels showed that it loses at
    most half a point.

    \b
    Examples:
      ffn-edge quantize bundle --list val.txt --labels
      ffn-edge quantize bundle --list recordings.txt        # run takes it with --precision int8
    """
    from ffn_edge.bundle.bundle import MANIFEST
    from ffn_edge.export.quantize import QuantizeOptions, quantize_bundle
    from ffn_edge.export.report import quantized_fields, quantized_summary, quantized_table
    from ffn_edge.files.atomic import check_writable
    from ffn_edge.progress import progress
    from ffn_edge.terminal import Terminal

    check_writable(bundle / MANIFEST)
    options = QuantizeOptions(clips=clips, labels=labels, root=root, method=method)
    with progress(Terminal(stderr=True), "quantising") as show:
        found = quantize_bundle(
            bundle, list_file, options, on_step=lambda what, done, total: show(done, total)
        )
    if as_json:
        click.echo(json.dumps(quantized_fields(found, found.manifest.quantized)))
        return
    Terminal().print(quantized_table(found, found.manifest.quantized))
    click.echo(quantized_summary(found, graphs=True))
