"""`ffn-edge import`."""

from __future__ import annotations

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath
from ffn_edge.commands.training_options import FILE


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--arch", required=True, help="The architecture it was trained as.")
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, dir_okay=False),
    help="File to write.",
)
@click.option("--classes", type=FILE, help="Class names, one per line, in the order of the labels.")
def import_(file: str, arch: str, output: str, classes: str | None) -> None:
    """Read a published checkpoint.

    One of the paper's code; or a plain TSM network of its authors or of mmaction2, which becomes a
    Frame Flexible Network for 4, 8 and 16 frames that all begin with its norms. It is loaded as
    plain tensors: a file with code in it is refused.

    \b
    Example:
      ffn-edge import ckpt.best.pth.tar --arch tsm_resnet50 --classes classes.txt -o model.pt
    """
    from ffn_edge.network.checkpoint import import_file

    network = import_file(file, arch, output, classes)
    frames = ", ".join(map(str, network.frame_counts))
    say(f"{output}: {arch}, {network.num_classes} classes, {frames} frames")
