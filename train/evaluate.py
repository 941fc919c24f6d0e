"""Accuracy of a network at any frame count, trained or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import DataError, NetworkError
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.threads import Measured
from ffn_edge.train.loading import Batch, to_model_input


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
