"""`ffn-edge export` and `verify`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import click


def _say(message: str) -> None:
    """Report progress on stderr: stdout is for results."""
    click.echo(message, err=True)


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False))
@click.option(
    "--output", "-o", required=True, type=click.Path(file_okay=False), help="Bundle to write."
)
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
def export(
    checkpoint: str,
    output: str,
    frames: str | None,
    weights_dtype: str,
    batch: int,
    classes: str | None,
    as_json: bool,
) -> None:
    """Fold a checkpoint into a bundle.

    A bundle is a folder: one weight file, one small ONNX graph per frame count, a manifest. What
    stood at the output stays whole until the new bundle takes its place.

    \b
    Examples:
      ffn-edge export runs/first/best.pt -o bundle
      ffn-edge export runs/first/best.pt -o bundle --frames 4,8 --weights-dtype fp16
    """
    import dataclasses

    from ffn_edge.classes import read_classes
    from ffn_edge.export.bundle_writer import export_bundle
    from ffn_edge.export.report import export_fields, export_table
    from ffn_edge.frames import parse_frames
    from ffn_edge.network.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    card = loaded.card
    bundle = export_bundle(
        loaded.network,
        dataclasses.replace(card, classes=read_classes(classes)) if classes else card,
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


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False))
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    help="What the bundle was exported from: its network is compared too.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    help="A video file, or a *.txt list of them; may be repeated. Left out, synthetic clips.",
)
@click.option(
    "--clips",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many clips to compare on, at each frame count.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    help="Of PyTorch against the graph, relative; left out, 1e-4, or 1e-2 for fp16 weights.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    bundle: str,
    checkpoint: str | None,
    sources: tuple[str, ...],
    clips: int,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Compare PyTorch, graph and composition.

    For each frame count, the checkpoint's network in PyTorch, the bundle's graph in ONNX Runtime
    and the same graph with weights composed beforehand must give the same logits.

    \b
    Examples:
      ffn-edge verify bundle --checkpoint runs/first/best.pt --source clips/test.txt
      ffn-edge verify bundle --source street.mp4 --source park.mp4 --json
    """
    from ffn_edge.bundle import Bundle
    from ffn_edge.errors import ExportError
    from ffn_edge.export.clips import clips_from_videos, synthetic_clips
    from ffn_edge.export.report import verify_fields, verify_table
    from ffn_edge.export.verify import verify as run
    from ffn_edge.network.checkpoint import load_checkpoint
    from ffn_edge.video_list import videos_of

    opened = Bundle.load(bundle)
    loaded = load_checkpoint(checkpoint) if checkpoint else None
    contract, frame_counts = opened.manifest.input, opened.manifest.frame_counts
    if sources:
        videos = [video for source in sources for video in videos_of(Path(source))]
        _say(f"reading {len(videos)} videos")
        clip_set = clips_from_videos(videos, contract, frame_counts, clips)
    else:
        clip_set = synthetic_clips(contract, frame_counts, clips)
    found = run(opened, clip_set, checkpoint=loaded, tolerance=tolerance, progress=_say)
    if as_json:
        click.echo(json.dumps(verify_fields(opened, clip_set, found)))
    else:
        from rich.console import Console

        Console().print(verify_table(opened, clip_set, found))
    failed = [str(each.frames) for each in found if not each.passed]
    if failed:
        raise ExportError(
            f"{opened.path} differs beyond the tolerance at {', '.join(failed)} frames",
            "was it exported from this checkpoint, by this release? Export it again.",
        )
