"""`ffn-edge export`: parse, call, print."""

from __future__ import annotations

import json
import os

import click
from click.core import ParameterSource

from ffn_edge.commands.option_types import UserPath, Whole
from ffn_edge.errors import printable


@click.command()
@click.argument("checkpoint", type=UserPath(exists=True), metavar="CHECKPOINT|BUNDLE")
@click.option(
    "--output", "-o", type=UserPath(written=True, file_okay=False), help="Bundle to write."
)
@click.option(
    "--into", type=UserPath(written=True, file_okay=False), help="Bundle to add --only to."
)
@click.option("--only", help="Frame counts to add or replace there, such as 12; all else stays.")
@click.option(
    "--triton",
    type=UserPath(written=True, file_okay=False),
    metavar="REPOSITORY",
    help="Write a BUNDLE's graphs as models of Triton Inference Server, one per frame count.",
)
@click.option("--frames", help="Frame counts to export, such as 4,8; left out, all trained ones.")
@click.option(
    "--weights-dtype",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Shared weights: with fp16 half the bytes, with int8 a quarter. Arithmetic is float32.",
)
@click.option("--batch", type=Whole(), default=1, show_default=True, help="Clips per inference.")
@click.option("--replace", is_flag=True, help="Even if -o holds frame counts that would be lost.")
@click.option(
    "--classes",
    type=UserPath(exists=True, dir_okay=False),
    help="Class names, one per line; left out, the checkpoint's own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def export(
    context: click.Context,
    checkpoint: str,
    output: str | None,
    into: str | None,
    only: str | None,
    triton: str | None,
    frames: str | None,
    weights_dtype: str,
    batch: int,
    replace: bool,
    classes: str | None,
    as_json: bool,
) -> None:
    """Fold a checkpoint into a bundle.

    A bundle is a folder: one weight file, one small ONNX graph per frame count, a manifest. What
    stood at the output stays whole until the new bundle takes its place; if both are the same, its
    profile and calibration stay.

    With --only and --into, frame counts of the checkpoint are added to a bundle, or replaced in
    it. Its weight file and other graphs stay as they are; what is printed is all that has to be
    copied to where the bundle is deployed, the manifest last.

    With --triton, the graphs of a bundle become models in a repository of Triton, with the
    configuration that serves them as they are, in float32.

    \b
    Examples:
      ffn-edge export runs/first/best.pt -o bundle
      ffn-edge export runs/first/best.pt -o bundle --frames 4,8 --weights-dtype int8
      ffn-edge export runs/first/best-12.pt --only 12 --into bundle
      ffn-edge export bundle --triton models
    """
    _check_destination(context)
    if triton:
        _export_triton(checkpoint, triton, as_json)
        return
    from ffn_edge.export.bundle_update import update_bundle
    from ffn_edge.export.bundle_writer import export_bundle
    from ffn_edge.export.report import export_fields, export_table
    from ffn_edge.frames import parse_frames
    from ffn_edge.media.classes import read_classes
    from ffn_edge.network.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    card = loaded.card
    if classes:
        card = card.renamed(read_classes(classes))
    if into and only:
        update = update_bundle(loaded.network, card, into, parse_frames(only))
        click.echo(update.to_json() if as_json else printable(update.to_text()))
        return
    assert output is not None
    bundle = export_bundle(
        loaded.network,
        card,
        output,
        frame_counts=parse_frames(frames) if frames else None,
        weights_dtype=weights_dtype,
        batch=batch,
        replace=replace,
    )
    if as_json:
        click.echo(json.dumps(export_fields(bundle)))
    else:
        from ffn_edge.terminal import Terminal

        Terminal().print(export_table(bundle))


def _export_triton(bundle: str, repository: str, as_json: bool) -> None:
    from ffn_edge.bundle.bundle import Bundle
    from ffn_edge.export.triton import export_triton

    names = export_triton(Bundle.load(bundle), repository)
    if as_json:
        click.echo(json.dumps({"path": repository, "models": names}))
    else:
        click.echo(printable("\n".join(os.path.join(repository, name) for name in names)))


def _check_destination(context: click.Context) -> None:
    """Raise a UsageError unless a new bundle is asked for, an addition to one, or its models."""
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    others = given - {"checkpoint", "triton", "as_json"}
    of_a_bundle = os.path.isdir(context.params["checkpoint"])
    if of_a_bundle != ("triton" in given) or (of_a_bundle and others):
        raise click.UsageError("--triton, and nothing besides, is for a BUNDLE.")
    if of_a_bundle:
        return
    if "output" not in given and not {"into", "only"} <= given:
        raise click.UsageError("write a bundle with -o, or add to one with --only and --into.")
    of_a_new_one = {"output", "frames", "weights_dtype", "batch", "replace"}
    if given & {"into", "only"} and given & of_a_new_one:
        raise click.UsageError(
            "--only and --into take the rest from the bundle: no -o, --frames, --weights-dtype, "
            "--batch or --replace."
        )
