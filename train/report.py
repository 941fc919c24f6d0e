"""What `ffn-edge evaluate` reports: a table, a plot, rows for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from torch import nn

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.files.figure import save_figure
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.network.cost import count_macs
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.evaluate import evaluate
from ffn_edge.train.processes import autocast_to, compute_dtype, join_processes


@dataclass(frozen=True, slots=True)
class Row:
    """One frame count: which sub-network served it, its cost, correct clips out of all."""

    frames: int
    sub_network: int
    gmacs: float
    top1: float
    top5: float
    clips: int


def evaluate_checkpoint(
    checkpoint: str,
    frame_counts: Sequence[int] | None = None,
    *,
    list_file: str,
    root: str | None = None,
    dataset: str | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
    precision: str = "fp32",
) -> list[Row]:
    """Evaluate a checkpoint on a list of videos: one row per frame count.

    Each video is decoded once, for the union of all frame counts; left out, these are the
    network's. `dataset` names its facts; left
    out, they are those of the training's data set.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DataError: the list cannot be used, or too many of its videos are broken.
        NetworkError: its answers are no numbers.
    """
    loaded = load_checkpoint(checkpoint)
    network, card = loaded.network, loaded.card
    frame_counts = frame_counts or network.frame_counts
    if dataset is not None:
        card = dataclasses.replace(card, dataset=dataset)
    accuracy = evaluate_network(
        network,
        card,
        frame_counts,
        list_file=list_file,
        root=root,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
    )
    return [
        Row(
            frames,
            nearest_frame_count(frames, network.frame_counts),
            count_macs(network, frames, card.size) / 1e9,
            accuracy[frames].top1,
            accuracy[frames].top5,
            accuracy[frames].clips,
        )
        for frames in frame_counts
    ]


def evaluate_network(
    network: nn.Module,
    card: ModelCard,
    frame_counts: Sequence[int],
    *,
    list_file: str,
    root: str | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
    precision: str = "fp32",
) -> dict[int, Accuracy]:
    """Evaluate a network, or what answers like one, on a list of videos, with a progress bar.

    Args:
        network: takes clips (B, T, 3, H, W), normalised, of any of `frame_counts`.
        card: the network's classes and input, and its data set.
        frame_counts: the T to measure. Each video is decoded once for all of them.
        list_file: labelled videos.
        root: where the list's paths start; None for the list's folder.
        batch_size: videos at a time.
        workers: processes that decode; 0 decodes in this one.
        device: None for a GPU where there is one.
        precision: see `Recipe.precision`.

    Raises:
        DataError: the list cannot be used, or too many of its videos are broken.
        NetworkError: its answers are no numbers.
    """
    videos = videos_for(card, list_file, frame_counts, root=root)
    batches = VideoBatches(videos, batch_size=batch_size, workers=workers)
    with join_processes(device) as processes:
        dtype = compute_dtype(precision, processes.device, network)
        return evaluate(
            network.to(processes.device),
            batches.epoch("evaluating"),
            frame_counts,
            card,
            device=processes.device,
            autocast=autocast_to(dtype, processes.device),
            measured=processes.measured(),
        )


def table_of(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for the terminal."""
    table = Table()
    for heading in ("frames", "sub-network", "GMACs", "top-1", "top-5", "clips"):
        table.add_column(heading, justify="right")
    for row in rows:
        trained = row.frames == row.sub_network
        table.add_row(
            str(row.frames),
            str(row.sub_network),
            f"{row.gmacs:.3g}",
            f"{row.top1:.1%}",
            f"{row.top5:.1%}",
            str(row.clips),
            style="bold" if trained else None,
        )
    return table


def plot_accuracy(curves: Mapping[str, Sequence[Row]], path: str) -> None:
    """Write top-1 against frames and against GMACs, one line per checkpoint, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, rows in curves.items():
        top1 = [100 * row.top1 for row in rows]
        trained = [i for i, row in enumerate(rows) if row.frames == row.sub_network]
        for axis, x in (
            (axes[0], [row.frames for row in rows]),
            (axes[1], [row.gmacs for row in rows]),
        ):
            axis.plot(x, top1, marker="o", markevery=trained, label=name)
    axes[0].set(xlabel="frames", ylabel="top-1, % (dots: trained frame counts)")
    axes[1].set(xlabel="GMACs per clip")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    save_figure(figure, path, dpi=120)
