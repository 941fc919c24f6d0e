"""What `ffn-edge deviation` reports: the measurement of a checkpoint as tables and JSON."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from ffn_edge.errors import DataError, FrameCountError, NetworkError, VideoError
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.deviation import Deviation, Pass, Shift, Statistics, measure, norm_layers
from ffn_edge.train.processes import join_processes


def deviation_of_checkpoint(
    checkpoint: str,
    frame_counts: Sequence[int] | None = None,
    *,
    list_file: str,
    layer: str | None = None,
    sub_network: int | None = None,
    root: str | None = None,
    clips: int | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
) -> Deviation:
    """Measure a checkpoint on a list of videos.

    Args:
        checkpoint: a file of `ffn-edge train` or `import`.
        frame_counts: two; left out, the network's lowest and highest.
        list_file: see `read_list`.
        layer: a layer that must exist, since it is to be shown.
        sub_network: see `measure`.
        root: the folder that the list's paths are relative to; the list's own if None.
        clips: use this many of the videos, chosen once at random; None for all. Videos shorter
            than the higher frame count are left out: their clips would repeat frames.
        batch_size: videos at a time.
        workers: processes that decode; 0 decodes in this one.
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        FrameCountError: not two frame counts, or no such sub-network.
        NetworkError: no norm, or no such layer.
        DataError: the list cannot be used, its videos are too short, or too many are broken.
    """
    loaded = load_checkpoint(checkpoint)
    network, card = loaded.network, loaded.card
    low, high = _two(frame_counts, network.frame_counts)
    if layer is not None:
        _check_layer(layer, list(norm_layers(network, network.frame_counts[-1])))
    videos = videos_for(card, list_file, (low, high), root=root)
    videos.videos = _choose(videos.videos, high, clips)
    batches = VideoBatches(videos, batch_size=batch_size, workers=workers)
    with join_processes(device) as processes:
        return measure(
            network.to(processes.device),
            batches.epoch("measuring"),
            low,
            high,
            card,
            device=processes.device,
            sub_network=sub_network,
            measured=processes.measured(),
        )


def tables_of(deviation: Deviation) -> list[Table]:
    """Return two tables for the terminal: of every layer, and of the output."""
    low, high = deviation.frame_counts
    layers = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title=f"What enters each norm, {deviation.clips} clips of {low} and of {high} frames",
        caption=f"Each cell: of μ, of σ. {low} to {high}: RMS over channels of "
        f"(μ{low} − μ{high})/σ{high}, mean of |ln σ{low}/σ{high}|. Mismatch: the same against the "
        "statistics that the norm holds. A by B: A frames, served by the sub-network of B frames.",
        caption_justify="left",
    )
    layers.add_column("layer", overflow="fold")
    columns: list[dict[str, Shift | None]] = []
    for comparison in deviation.comparisons:
        heading = f"{low} to {high}\n{textwrap.fill(comparison.name, 9)}"
        layers.add_column(heading, justify="right")
        columns.append({**comparison.shifts()})
    for one in deviation.passes:
        layers.add_column(f"mismatch\n{one.name}", justify="right")
        columns.append(one.mismatches())
    for name in columns[0]:
        layers.add_row(name, *(_cell(column[name]) for column in columns))
    layers.add_section()
    layers.add_row("mean", *(_cell(_mean(column.values())) for column in columns))

    outputs = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title="How far the output moves",
        caption=f"KL: of {low} from {high} frames, in nats, mean over clips.",
        caption_justify="left",
    )
    outputs.add_column("sub-network")
    for heading in ("same top-1", "KL", "|Δ logit|", f"top-1 at {low}", f"top-1 at {high}"):
        outputs.add_column(heading, justify="right")
    for comparison in deviation.comparisons:
        output = comparison.output
        outputs.add_row(
            comparison.name,
            f"{output.agreement:.1%}",
            f"{output.kl:.3g}",
            f"{output.logit:.3g}",
            f"{comparison.low.top1:.1%}",
            f"{comparison.high.top1:.1%}",
        )
    return [layers, outputs]


def json_of(deviation: Deviation, layer: str | None = None) -> dict[str, Any]:
    """Return the deviation ready for JSON, with the channels of one layer.

    Args:
        deviation: what to write.
        layer: whose channels; left out, the most deviating one's.
    """
    shown = layer or deviation.most_deviating
    return {
        "clips": deviation.clips,
        "comparisons": [
            {
                "low": _pass_fields(comparison.low),
                "high": _pass_fields(comparison.high),
                "output": dataclasses.asdict(comparison.output),
                "layers": {
                    name: dataclasses.asdict(moved) for name, moved in comparison.shifts().items()
                },
            }
            for comparison in deviation.comparisons
        ],
        "passes": [
            _pass_fields(one)
            | {
                "top1": one.top1,
                "mismatch": {
                    name: off and dataclasses.asdict(off) for name, off in one.mismatches().items()
                },
                "entering": _channel_fields(one.layers[shown].entering),
                "running": _channel_fields(one.layers[shown].running),
            }
            for one in deviation.passes
        ],
        "layer": shown,
    }


def _two(frame_counts: Sequence[int] | None, trained: Sequence[int]) -> tuple[int, int]:
    """Return the lower and the higher frame count to compare."""
    chosen = tuple(frame_counts or sorted({trained[0], trained[-1]}))
    if len(set(chosen)) != 2:
        raise FrameCountError(
            f"two different frame counts are compared; got {', '.join(map(str, chosen))}",
            "name two, such as --frames 4,16.",
        )
    return min(chosen), max(chosen)


def _check_layer(layer: str, names: Sequence[str]) -> None:
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise NetworkError(
            f"the network has no norm layer {layer!r}", f"did you mean {' or '.join(near)}?"
        )


def _choose(videos: Sequence[Video], frames: int, clips: int | None) -> tuple[Video, ...]:
    """Return up to `clips` of the videos that have as many frames, in the list's order."""
    chosen: list[int] = []
    # Lists are often in the order of the classes; the first lines, or every n-th, would be few.
    for index in np.random.default_rng(0).permutation(len(videos)).tolist():
        if len(chosen) == clips:
            break
        if _has_frames(videos[index], frames):
            chosen.append(index)
    if not chosen:
        raise DataError(
            f"no video of the list has {frames} frames",
            "compare lower frame counts; a shorter video would only repeat its frames.",
        )
    return tuple(videos[index] for index in sorted(chosen))


def _has_frames(video: Video, frames: int) -> bool:
    if video.num_frames is not None:
        return video.num_frames >= frames
    try:
        with VideoReader(video.path, threads=1) as reader:
            return reader.num_frames >= frames
    except (VideoError, OSError):
        return True  # the loader will report it


def _cell(moved: Shift | None) -> str:
    return "–" if moved is None else f"{moved.mean:.2f} {moved.std:.2f}"


def _mean(column: Iterable[Shift | None]) -> Shift | None:
    known = [moved for moved in column if moved is not None]
    if not known:
        return None
    count = len(known)
    return Shift(sum(moved.mean for moved in known) / count, sum(m.std for m in known) / count)


def _pass_fields(one: Pass) -> dict[str, Any]:
    return {"frames": one.frames, "sub_network": one.sub_network}


def _channel_fields(statistics: Statistics | None) -> dict[str, list[float]] | None:
    if statistics is None:
        return None
    return {"mean": statistics.mean.tolist(), "std": statistics.std.tolist()}
