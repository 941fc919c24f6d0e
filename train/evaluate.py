"""Accuracy of a network at any frame count, trained or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import DataError, NetworkError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.network.cost import count_macs
from ffn_edge.network.threads import Measured
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.loading import Batch, to_model_input
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

    `frame_counts` left out are the network's; `dataset` left out is the training's. For the rest,
    see `evaluate_network`.

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


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    frame_counts: Sequence[int],
    card: ModelCard,
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], None] = lambda counts: None,
    measured: Measured = nullcontext,
) -> dict[int, Accuracy]:
    """Measure top-1 and top-5 at each frame count; the nearest sub-network serves each.

    Args:
        network: a `FrameFlexibleNetwork`, or what answers like one, on `device`. Its mode is
            restored afterwards.
        batches: test batches, none empty, that hold each of `frame_counts`.
        frame_counts: the clip lengths T to measure.
        card: the normalisation.
        device: where to compute.
        autocast: the precision's context.
        reduce: sums the counts over processes, in place: int64 (frame counts, 4).
        measured: the context of each batch; see `ffn_edge.network.threads.thread_counts`.

    Raises:
        DataError: not one clip could be read.
        NetworkError: logits are not finite, and so no answers.
    """
    # Of clips: right, right among five, all, and those whose logits are numbers.
    counts = torch.zeros(len(frame_counts), 4, dtype=torch.int64, device=device)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                labels = batch.labels.to(device)
                with measured():
                    for row, frames in enumerate(frame_counts):
                        clip = to_model_input(batch.clips[frames].to(device), card.mean, card.std)
                        with autocast():
                            logits = network(clip).float()
                        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
                        counts[row, 0] += best[:, :1].sum()
                        counts[row, 1] += best.sum()
                        counts[row, 2] += len(labels)
                        counts[row, 3] += logits.isfinite().all(dim=1).sum()
    finally:
        network.train(training)
    reduce(counts)
    if not counts[0, 2]:
        raise DataError("not one clip could be evaluated", "check the list file and its videos.")
    accuracy = {}
    for frames, (top1, top5, clips, finite) in zip(frame_counts, counts.tolist(), strict=True):
        if finite < clips:
            raise not_finite(frames)
        accuracy[frames] = Accuracy(top1=top1 / clips, top5=top5 / clips, clips=clips)
    return accuracy


def not_finite(frames: int) -> NetworkError:
    """Return the error of logits, at T = `frames`, of which no answer can be read."""
    return NetworkError(
        f"at {frames} frames, the network's logits are infinite or no numbers",
        "its training diverged; take an earlier checkpoint.",
    )
