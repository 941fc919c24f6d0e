"""`ffn-edge adapt`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import Number, UserPath, Whole
from ffn_edge.commands.training_options import FILE, LIST, machine_options


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--data",
    "list_file",
    type=LIST,
    required=True,
    help="List: `path`, or `path num_frames` for a frame folder; a label after it is not read.",
)
@click.option(
    "--root", type=UserPath(), help="Folder that the lists' paths start from; else their own."
)
@click.option("--dataset", help="Facts of a data set; else those of the training's.")
@click.option("--frames", help="Frame counts to add, such as 12, or to recalibrate: else all.")
@click.option("--recalibrate", is_flag=True, help="Estimate statistics only, for a new camera.")
@click.option("--val-list", type=LIST, help="List file of labelled videos to validate on.")
@click.option("--epochs", type=Whole(), help="Passes over the list.  [default: 3]")
@click.option(
    "--learning-rate",
    type=Number(),
    help="At the start; it falls to zero.  [default: 0.001]",
)
@click.option("--batch-size", type=Whole(), default=16, show_default=True, help="Videos at a time.")
@click.option(
    "--output", "-o", type=UserPath(written=True, dir_okay=False), help="Checkpoint to write."
)
@machine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def adapt(
    checkpoint: str,
    frames: str | None,
    recalibrate: bool,
    epochs: int | None,
    learning_rate: float | None,
    output: str | None,
    device: str | None,
    as_json: bool,
    **clips: Any,
) -> None:
    """Add a frame count to a trained network, or take its statistics anew.

    A new frame count learns its own norms and alteration from the answers of the highest one; all
    other tensors stay as they are, bit for bit. With --recalibrate nothing is learned: the running
    mean and variance of batch norms are estimated from the videos. Neither needs labels.

    The checkpoint is written beside the old one, as best-12.pt or best-recalibrated.pt for
    best.pt, or to --output. A file that exists is written over only if --output names it.
    `ffn-edge export --only 12 --into BUNDLE` takes the new frame count to a bundle.

    \b
    Examples:
      ffn-edge adapt runs/first/best.pt --frames 12 --data lists/train.txt --val-list lists/val.txt
      ffn-edge adapt runs/first/best.pt --recalibrate --data new_camera.txt
    """
    if recalibrate and (epochs is not None or learning_rate is not None):
        raise click.UsageError("--recalibrate learns nothing: no --epochs, no --learning-rate.")
    if not recalibrate and frames is None:
        raise click.UsageError("name the frame counts to add with --frames, or --recalibrate.")
    from ffn_edge.errors import CheckpointError
    from ffn_edge.frames import parse_frames
    from ffn_edge.train import adapt as adaptation
    from ffn_edge.train.batches import Clips

    counts = parse_frames(frames) if frames else None
    ending = "recalibrated" if recalibrate else "-".join(map(str, counts or ()))
    path = Path(checkpoint)
    written = output or str(path.with_name(f"{path.stem}-{ending}{path.suffix}"))
    if output is None and Path(written).exists():
        raise CheckpointError(f"{written} exists already", "-o FILE writes over it, or elsewhere.")
    try:
        if counts is None or recalibrate:
            result = adaptation.recalibrate(
                checkpoint, written, counts, Clips(**clips), device=device
            )
        else:
            result = adaptation.adapt(
                checkpoint,
                written,
                counts,
                Clips(**clips),
                epochs=epochs or adaptation.EPOCHS,
                learning_rate=learning_rate or adaptation.LEARNING_RATE,
                device=device,
            )
    except KeyboardInterrupt:
        say(f"stopped; {written} was not written")
        raise
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        click.echo(adaptation.summary(result))
    if unknown := [t for t in result.frame_counts if t not in result.accuracy]:
        say(
            f"the accuracy at {', '.join(map(str, unknown))} frames is not known: `run` will take "
            "more frames to be better; --val-list measures it"
        )
