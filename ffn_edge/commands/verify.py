"""`ffn-edge verify`: it compares what export wrote with what the runtime opens, so it stands above.

Parse, call, print.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ffn_edge.bundle.known_answer import mean_of_steps, tolerance
from ffn_edge.cli import say
from ffn_edge.commands.engine_options import engine_options, take_engine_options
from ffn_edge.commands.option_types import Number, UserPath, Whole, signature_option
from ffn_edge.errors import ExportError, counted
from ffn_edge.media.video_list import find_videos
from ffn_edge.runtime.engines.engine import (
    Engine,
    EngineOptions,
    Logits,
    OpenEngines,
    open_engines,
    precisions_in_words,
)
from ffn_edge.runtime.stream.clip_buffer import Frames

if TYPE_CHECKING:
    from ffn_edge.bundle.bundle import Bundle
    from ffn_edge.bundle.signature import PublicKey
    from ffn_edge.export.verify import EngineToVerify
    from ffn_edge.network.checkpoint import Checkpoint

Infer = Callable[[Frames], Logits]


@click.command(short_help="Compare PyTorch, graph, composition and engine.")
@click.argument("bundle", type=UserPath(file_okay=False))
@click.option(
    "--checkpoint",
    type=UserPath(exists=True, dir_okay=False),
    help="What the bundle was exported from: its network is compared too.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    help="A video, a folder of them, a pattern in quotes, or a *.txt list; may be repeated. Left "
    "out, synthetic clips.",
)
@click.option(
    "--clips",
    type=Whole(1, 10_000),
    help="How many clips to compare on, at each frame count.  [default: 8; in INT8 256]",
)
@click.option(
    "--tolerance",
    type=Number(),
    help="Of PyTorch against the graph, relative; left out, 1e-4, or by the weights: fp16 1e-2, "
    "int8 0.2.",
)
@click.option(
    "--labels",
    is_flag=True,
    help="With --precision int8: each --source is a list with labels; measure the accuracy, and, "
    "of 128 clips or more, keep it in the bundle.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Open the engines for streams in place of those for clips, and compare T steps of each.",
)
@signature_option
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    bundle: str,
    checkpoint: str | None,
    sources: tuple[str, ...],
    clips: int | None,
    tolerance: float | None,
    labels: bool,
    stream: bool,
    signed_by: PublicKey | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare PyTorch, graph, composition and engine.

    For each frame count, the checkpoint's network in PyTorch, the bundle's graph in ONNX Runtime,
    the same graph with weights composed beforehand and TensorRT's engine, where there is one,
    must give the same logits; of a causal network, the steps of a stream must, too. In INT8 logits
    differ: the most probable class must be float32's on 98 % of the clips, within two standard
    errors.

    \b
    Examples:
      ffn-edge verify bundle --checkpoint runs/first/best.pt --source clips/test.txt
      ffn-edge verify bundle --source street.mp4 --source park.mp4 --json
      ffn-edge verify bundle --backend tensorrt                 # on the device
      ffn-edge verify bundle --backend tensorrt --stream        # what build --stream has built
      ffn-edge verify bundle --precision int8 --source val.txt --labels --clips 1000
    """
    engines = dataclasses.replace(take_engine_options(options), stream=stream)
    if engines.precision == "int8":
        if checkpoint or tolerance:
            raise click.UsageError("--precision int8 takes no --checkpoint and no --tolerance.")
        _verify_int8(bundle, signed_by, sources, clips or 256, labels, engines, as_json)
        return
    if labels:
        raise click.UsageError("--labels is for --precision int8.")
    clips = clips or 8
    from ffn_edge.bundle.bundle import Bundle
    from ffn_edge.export.clips import clips_from_videos, synthetic_clips
    from ffn_edge.export.report import verify_fields, verify_table
    from ffn_edge.export.verify import verify as run

    opened = Bundle.load(bundle, signed_by)
    contract, frame_counts = opened.manifest.input, opened.manifest.frame_counts
    opened.graph_path(frame_counts[0], step=stream)  # raises for one that is not for streams
    if sources:
        videos = [video for source in sources for video in find_videos(source)]
        say(f"reading {counted(len(videos), 'video')}")
        clip_set = clips_from_videos(videos, contract, frame_counts, clips)
    else:
        clip_set = synthetic_clips(contract, frame_counts, clips)
    with ExitStack() as stack:
        found = run(
            opened,
            clip_set,
            checkpoint=_checkpoint(checkpoint) if checkpoint else None,
            engine=_engine(stack, opened, engines),
            tolerance=tolerance,
        )
    if as_json:
        click.echo(json.dumps(verify_fields(opened, clip_set, found)))
    else:
        from ffn_edge.terminal import Terminal

        Terminal().print(verify_table(opened, clip_set, found))
        if opened.manifest.quantized:
            say("its INT8 was not compared: --precision int8 --source LIST")
    failed = [str(each.frames) for each in found if not each.passed]
    if failed:
        raise ExportError(
            f"{opened.path} differs beyond the tolerance at {', '.join(failed)} frames",
            "was it exported from this checkpoint, by this release? Export it again.",
        )


def _checkpoint(path: str) -> Checkpoint:
    from ffn_edge.network.checkpoint import load_checkpoint  # needs PyTorch

    return load_checkpoint(path)


def _engine(stack: ExitStack, bundle: Bundle, options: EngineOptions) -> EngineToVerify | None:
    """Open the engines, unless they are ONNX Runtime's, which runs the graph anyway."""
    from ffn_edge.export.verify import EngineToVerify

    if options.backend == "onnxruntime":
        return None
    engines = stack.enter_context(open_engines(bundle, options))
    if engines.backend.name == "onnxruntime":
        say(f"the graph itself is what runs here: {engines.backend.reason}")
        return None
    return EngineToVerify(
        name=f"{engines.backend.name} {precisions_in_words(engines.precisions)}"
        + (" steps" if options.stream else ""),
        tolerances={
            frames: tolerance(bundle.manifest, frames, precision)
            for frames, precision in engines.precisions.items()
        },
        infer=_of_clips(engines, options),
    )


def _of_clips(engines: OpenEngines, options: EngineOptions) -> dict[int, Infer]:
    """Return what classifies clips, by frame count; with engines for streams, from the start."""

    def by_steps(engine: Engine, clips: Frames) -> Logits:
        engine.restart()
        return mean_of_steps(engine.infer, clips)

    if options.stream:
        return {frames: partial(by_steps, engine) for frames, engine in engines.items()}
    return {frames: engine.infer for frames, engine in engines.items()}


def _verify_int8(
    path: str,
    signed_by: PublicKey | None,
    sources: tuple[str, ...],
    count: int,
    labels: bool,
    options: EngineOptions,
    as_json: bool,
) -> None:
    """Compare what runs in INT8 here with the float32 graph; with labels, keep what was found."""
    from ffn_edge.bundle.bundle import ENOUGH_CLIPS, MANIFEST, Bundle, standard_error
    from ffn_edge.export.bundle_files import add_int8
    from ffn_edge.export.quantize import LEAST_AGREEMENT, compare_int8
    from ffn_edge.export.report import quantized_fields, quantized_summary, quantized_table
    from ffn_edge.files.atomic import check_writable
    from ffn_edge.media.clips import read_checked_list, spread
    from ffn_edge.media.video_list import Video, find_videos
    from ffn_edge.progress import progress
    from ffn_edge.terminal import Terminal

    if not sources:
        raise click.UsageError("--precision int8 is compared on clips: --source val.txt, or alike.")
    bundle = Bundle.load(path, signed_by)
    if labels:
        check_writable(bundle.path / MANIFEST)
    videos: list[Video] = []
    for source in sources:
        if labels:
            videos += read_checked_list(source, classes=bundle.manifest.classes)
        else:
            videos += find_videos(source)
    with (
        open_engines(bundle, options) as engines,
        progress(Terminal(stderr=True), "comparing") as show,
    ):
        found = compare_int8(
            bundle,
            _of_clips(engines, options),
            spread(videos, count),
            labels=labels,
            on_step=lambda what, done, total: show(done, total),
        )
    if as_json:
        click.echo(json.dumps(quantized_fields(bundle, found)))
    else:
        Terminal().print(quantized_table(bundle, found))
    if labels and min(each.compared_on for each in found.values()) >= ENOUGH_CLIPS:
        say(quantized_summary(add_int8(bundle, found), graphs=False))
    else:
        say(f"the bundle stays as it is: --labels, and {ENOUGH_CLIPS} clips, would be kept in it")
    # Few clips say little: only what they show beyond two standard errors counts.
    error = standard_error(LEAST_AGREEMENT, min(each.compared_on for each in found.values()))
    least = LEAST_AGREEMENT - 2 * error
    failed = [str(frames) for frames, each in found.items() if each.agreement < least]
    if failed:
        raise ExportError(
            f"{bundle.path} in INT8 answers otherwise than float32 at {', '.join(failed)} frames",
            "`ffn-edge quantize` it with more clips of what it sees; or run it in float32.",
        )
