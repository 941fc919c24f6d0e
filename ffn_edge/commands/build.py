"""`ffn-edge build`: export builds an engine, and the runtime opens it, so it stands above both.

Parse, call, print.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import get_args

import click

from ffn_edge.bundle.bundle import Precision
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.commands.option_types import UserPath, signature_option
from ffn_edge.device.tensorrt_api import Target

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
@click.argument("bundle", type=UserPath(file_okay=False))
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp16",
    show_default=True,
    help="Of the engines. With fp16, normalisation and logits stay float32; with int8, what "
    "`ffn-edge quantize` left in float is fp16.",
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
    "--stream",
    is_flag=True,
    help="Engines for the next frame of a stream, of a causal network, in place of those for "
    "clips.",
)
@click.option(
    "--cache",
    type=UserPath(file_okay=False, path_type=Path),
    envvar="FFN_EDGE_CACHE",
    help="Where engines are kept.  [default: ~/.cache/ffn-edge]",
)
@signature_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def build(
    bundle: str,
    precision: Precision,
    workspace: int | None,
    target: Target,
    refit: str,
    stream: bool,
    cache: Path | None,
    signed_by: PublicKey | None,
    as_json: bool,
) -> None:
    """Build TensorRT engines, on the device.

    Once for each device: an engine fits one TensorRT version on one model of GPU. Engines that
    were built before are used again, whatever --workspace says; on a Jetson in another power mode
    they are built anew. They hold no weights (but for RTX engines that are built without a GPU):
    `ffn-edge run` fills them from the bundle's weight file. Each is opened, filled and tried on
    the known clips before it is kept.

    \b
    Examples:
      ffn-edge build bundle
      ffn-edge build bundle --precision fp32 --workspace 256MiB
      ffn-edge build bundle --precision int8     # after ffn-edge quantize
      ffn-edge build bundle --target rtx
      ffn-edge build bundle --stream             # for ffn-edge run --stream
    """
    from rich.progress import Progress

    from ffn_edge.bundle.bundle import Bundle
    from ffn_edge.device.plan_cache import PlanCache
    from ffn_edge.export.report import BuildProgress, build_fields, build_summary, build_table
    from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
    from ffn_edge.runtime.engines.tensorrt_group import prove
    from ffn_edge.terminal import Terminal

    options = BuildOptions(
        target=target,
        precision=precision,
        refit=refit,
        workspace_bytes=workspace,
        stream=stream,
    )
    console = Terminal(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        opened = Bundle.load(bundle, signed_by)
        built = build_plans(
            opened,
            PlanCache(cache),
            options,
            prove=functools.partial(prove, bundle=opened),
            progress=BuildProgress(bar),
        )
    if as_json:
        click.echo(json.dumps(build_fields(built)))
    else:
        Terminal().print(build_table(built))
        click.echo(build_summary(built))
