"""`ffn-edge export` and `build`: parse, call, print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from click.core import ParameterSource

from ffn_edge.tensorrt_api import Target


def _say(message: str) -> None:
    """Report progress on stderr: stdout is for results."""
    click.echo(message, err=True)


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False))
@click.option("--output", "-o", type=click.Path(file_okay=False), help="Bundle to write.")
@click.option("--into", type=click.Path(file_okay=False), help="Bundle to add --only to.")
@click.option("--only", help="Frame counts to add or replace there, such as 12; all else stays.")
@click.option("--frames", help="Frame counts to export, such as 4,8; left out, all trained ones.")
@click.option(
    "--weights-dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Shared weights as float32, or as float16: half the size. Arithmetic is float32.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Clips per inference."
)
@click.option("--classes", help="Class names, one per line; left out, the checkpoint's own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def export(
    context: click.Context,
    checkpoint: str,
    output: str | None,
    into: str | None,
    only: str | None,
    frames: str | None,
    weights_dtype: str,
    batch: int,
    classes: str | None,
    as_json: bool,
) -> None:
    """Fold a checkpoint into a bundle.

    A bundle is a folder: one weight file, one small ONNX graph per frame count, a manifest. What
    stood at the output stays whole until the new bundle takes its place.

    With --only and --into, frame counts of the checkpoint are added to a bundle, or replaced in
    it. Its weight file and other graphs stay as they are; what is printed is all that has to be
    copied to where the bundle is deployed, the manifest last.

    \b
    Examples:
      ffn-edge export runs/first/best.pt -o bundle
      ffn-edge export runs/first/best.pt -o bundle --frames 4,8 --weights-dtype fp16
      ffn-edge export runs/first/best-12.pt --only 12 --into bundle
    """
    _check_destination(context)
    import dataclasses

    from ffn_edge.classes import read_classes
    from ffn_edge.export.bundle_update import update_bundle
    from ffn_edge.export.bundle_writer import export_bundle
    from ffn_edge.export.report import export_fields, export_table
    from ffn_edge.frames import parse_frames
    from ffn_edge.network.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    card = loaded.card
    if classes:
        card = dataclasses.replace(card, classes=read_classes(classes))
    if into and only:
        update = update_bundle(loaded.network, card, into, parse_frames(only), progress=_say)
        click.echo(update.to_json() if as_json else update.to_text())
        return
    assert output is not None
    bundle = export_bundle(
        loaded.network,
        card,
        output,
        frame_counts=parse_frames(frames) if frames else None,
        weights_dtype=weights_dtype,
        batch=batch,
        progress=_say,
    )
    if as_json:
        click.echo(json.dumps(export_fields(bundle)))
    else:
        from rich.console import Console

        Console().print(export_table(bundle))


def _check_destination(context: click.Context) -> None:
    """Raise a UsageError unless a new bundle is asked for, or an addition to one."""
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if "output" not in given and not {"into", "only"} <= given:
        raise click.UsageError("write a bundle with -o, or add to one with --only and --into.")
    if given & {"into", "only"} and given & {"output", "frames", "weights_dtype", "batch"}:
        raise click.UsageError(
            "--only and --into take the rest from the bundle: no -o, --frames, --weights-dtype "
            "or --batch."
        )


_SHIFTS = {"KiB": 10, "MiB": 20, "GiB": 30}


def _size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Read a number of bytes: 256MiB or 1GiB."""
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)\s*(KiB|MiB|GiB)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; write 256MiB or 1GiB")
    return int(match[1]) << _SHIFTS[match[2]]


@click.command(short_help="Build TensorRT engines, on the device.")
@click.argument("bundle", type=click.Path(file_okay=False))
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of the engines; with fp16, normalisation and logits stay float32.",
)
@click.option(
    "--workspace",
    callback=_size,
    metavar="SIZE",
    help="The most scratch memory of one layer, such as 512MiB.  [default: a quarter of the "
    "free memory, at most 1GiB]",
)
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "rtx"]),
    default="tensorrt",
    show_default=True,
    help="TensorRT, or TensorRT-RTX for RTX graphics cards.",
)
@click.option(
    "--refit",
    type=click.Choice(["identical", "any"]),
    default="identical",
    show_default=True,
    help="For this bundle's weights at full speed, or for weights that will change.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FFN_EDGE_CACHE",
    help="Where engines are kept.  [default: ~/.cache/ffn-edge]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def build(
    bundle: str,
    precision: str,
    workspace: int | None,
    target: Target,
    refit: str,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Build TensorRT engines, on the device.

    Once for each device: an engine fits one TensorRT version on one GPU architecture. Engines
    that were built before are used again, whatever --workspace says. They hold no weights (but
    for RTX engines that are built without a GPU); `ffn-edge run` fills them from the bundle's
    weight file.

    \b
    Examples:
      ffn-edge build bundle
      ffn-edge build bundle --precision fp32 --workspace 256MiB
      ffn-edge build bundle --target rtx
    """
    from rich.console import Console
    from rich.progress import Progress

    from ffn_edge.bundle import Bundle
    from ffn_edge.export.build_report import (
        BuildProgress,
        build_fields,
        build_summary,
        build_table,
    )
    from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
    from ffn_edge.plan_cache import PlanCache

    options = BuildOptions(
        target=target, precision=precision, refit=refit, workspace_bytes=workspace
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        built = build_plans(
            Bundle.load(bundle),
            PlanCache(cache),
            options,
            say=_say,
            progress=BuildProgress(bar),
        )
    if as_json:
        click.echo(json.dumps(build_fields(built)))
    else:
        Console().print(build_table(built))
        click.echo(build_summary(built))
