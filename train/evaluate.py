"""Accuracy of a network at any frame count, trained or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import DataError, NetworkError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.network.cost import count_macs
from ffn_edge.network.threads import Measured
from ffn_edge.train.answers import Answers, join
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.loading import Batch, to_model_input
from ffn_edge.train.processes import (
    Processes,
    autocast_to,
    compute_dtype,
    is_first_process,
    join_processes,
)


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
    report: str | None = None,
) -> list[Row]:
    """Evaluate a checkpoint on a list of videos: one row per frame count.

        for row in ffn_edge.evaluate("demo/ffn/best.pt", [2, 8], list_file="demo/clips/test.txt"):
            print(row.frames, row.top1, row.gmacs)

    `frame_counts` left out are the network's; `dataset` left out is the training's. `report` is a
    page to write; see `ffn_edge.train.evaluation_page`. For the rest, see `evaluate_network`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DataError: the list cannot be used, or too many of its videos are broken.
        NetworkError: its answers are no numbers.
        WriteError: the page cannot be written.
    """
    loaded = load_checkpoint(checkpoint)
    network, card = loaded.network, loaded.card
    frame_counts = frame_counts or network.frame_counts
    if dataset is not None:
        card = dataclasses.replace(card, dataset=dataset)
    videos = videos_for(card, list_file, frame_counts, root=root)
    answers, broken = _answer(network, card, videos, batch_size, workers, device, precision)
    rows = [
        Row(
            frames,
            nearest_frame_count(frames, network.frame_counts),
            count_macs(network, frames, card.size) / 1e9,
            accuracy.top1,
            accuracy.top5,
            accuracy.clips,
        )
        for frames, accuracy in answers.accuracy().items()
    ]
    if report is not None and is_first_process():
        from ffn_edge.train.evaluation_page import Evaluation, write_page

        folder = Path(list_file).parent if root is None else Path(root)
        found = Evaluation(
            checkpoint, list_file, card.classes, rows, answers, videos, folder, broken
        )
        write_page(found, report)
    return rows


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
    answers, _ = _answer(network, card, videos, batch_size, workers, device, precision)
    return answers.accuracy()


def _answer(
    network: nn.Module,
    card: ModelCard,
    videos: VideoDataset,
    batch_size: int,
    workers: int,
    device: str | None,
    precision: str,
) -> tuple[Answers, tuple[str, ...]]:
    """Return the answers to videos, and why some could not be read; see `evaluate_network`."""
    with join_processes(device) as processes:
        dtype = compute_dtype(precision, processes.device, network)
        batches = VideoBatches(videos, batch_size=batch_size, workers=workers, processes=processes)
        answers = evaluate(
            network.to(processes.device),
            batches.epoch("evaluating"),
            videos.frame_counts,
            card,
            processes=processes,
            autocast=autocast_to(dtype, processes.device),
            measured=processes.measured(),
        )
        return answers, batches.broken.reasons


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    frame_counts: Sequence[int],
    card: ModelCard,
    *,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    measured: Measured = nullcontext,
) -> Answers:
    """Collect the answers at each frame count; the nearest sub-network serves each.

    Args:
        network: a `FrameFlexibleNetwork`, or what answers like one, on the device of `processes`.
            Its mode is restored afterwards.
        batches: this process's share of the test batches, none empty, that hold each of
            `frame_counts`.
        frame_counts: the clip lengths T to measure, ascending.
        card: the normalisation.
        processes: that share the clips; each returns the answers to all of them.
        autocast: the precision's context.
        measured: the context of each batch; see `ffn_edge.network.threads.thread_counts`.

    Raises:
        DataError: not one clip could be read.
        NetworkError: logits are not finite, and so no answers.
    """
    device = processes.device
    indices: list[int] = []
    # Of every batch (B, T, 5): class, among five, its probability, the label's, whether a number.
    found = [torch.empty(0, len(frame_counts), 5, device=device)]
    labels = [torch.empty(0, dtype=torch.int64)]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                indices += batch.indices
                labels.append(batch.labels)
                of_batch = batch.labels.to(device)
                with measured():
                    columns = []
                    for frames in frame_counts:
                        clip = to_model_input(batch.clips[frames].to(device), card.mean, card.std)
                        with autocast():
                            logits = network(clip).float()
                        columns.append(_told(logits, of_batch))
                    found.append(torch.stack(columns, 1))
    finally:
        network.train(training)
    told = torch.cat(found).double().cpu().numpy()
    mine = Answers(
        tuple(frame_counts),
        np.array(indices, np.int64),
        torch.cat(labels).numpy(),
        told[..., 0].astype(np.int64),
        told[..., 1] > 0,
        *(np.where(told[..., 4] > 0, told[..., at], np.nan) for at in (2, 3)),
    )
    answers = join(processes.gather(mine))
    if not len(answers):
        raise DataError("not one clip could be evaluated", "check the list file and its videos.")
    for frames, confidence in zip(frame_counts, answers.confidence.T, strict=True):
        if np.isnan(confidence).any():
            raise not_finite(frames)
    return answers


def _told(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what `evaluate` keeps of logits (B, classes): float32 (B, 5)."""
    probabilities = logits.softmax(1)
    best = logits.topk(min(5, logits.shape[1])).indices
    first, label = best[:, :1], labels[:, None]
    return torch.cat(
        [
            first,  # float32 is exact up to 16 million classes
            (best == label).any(1, keepdim=True),
            probabilities.gather(1, first),
            probabilities.gather(1, label),
            logits.isfinite().all(1, keepdim=True),
        ],
        1,
    ).float()


def not_finite(frames: int) -> NetworkError:
    """Return the error of logits, at T = `frames`, of which no answer can be read."""
    return NetworkError(
        f"at {frames} frames, the network's logits are infinite or no numbers",
        "its training diverged; take an earlier checkpoint.",
    )
