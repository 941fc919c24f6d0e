"""A frame count added after training, or its statistics taken anew; nothing else changes by a bit.

    adapt         the shared weights and every other frame count are frozen. The new frame count's
                  norms and φ start from those of the nearest one, and learn from the highest
                  frame count's logits for the same video, as in training.
    recalibrate   the running mean and variance of batch norms are estimated from the clips of a
                  new camera. Nothing is learned.

Neither needs labels, and what a list says of them is not read. Nothing is written if it is not
finished, and the output's folder is tried before anything is learned.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.device.host_memory import keep_freed_memory
from ffn_edge.errors import CheckpointError, DataError, RecipeError
from ffn_edge.files.atomic import check_writable
from ffn_edge.frames import check_frame_counts
from ffn_edge.network import FrameFlexibleNetwork, build, family_of
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint, start_from
from ffn_edge.network.layers import SpecializedNorm, WeightAlteration
from ffn_edge.train.batches import Clips, VideoBatches
from ffn_edge.train.evaluate import evaluate_network
from ffn_edge.train.loading import model_inputs
from ffn_edge.train.moments import population_statistics
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.processes import (
    Processes,
    compute_dtype,
    join_processes,
    require_one_process,
    to_channels_last,
)
from ffn_edge.train.recipe import WARM_SHARE
from ffn_edge.train.step import Learner

# Measured on the demo's clips; see benchmarks/adaptation.py.
EPOCHS = 3
LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What was written, and what it was learned from.

    Attributes:
        output: the new checkpoint.
        frame_counts: that were added or recalibrated.
        videos: of the list.
        seconds: of learning, decoding included, the validation not.
        loss: the mean KL divergence from the teacher in the last epoch, in nats, by frame count;
            empty after recalibration.
        accuracy: of these frame counts; empty without a validation list.
        broken_videos: why each that could not be read could not.
    """

    output: str
    frame_counts: tuple[int, ...]
    videos: int
    seconds: float
    loss: dict[int, float]
    accuracy: dict[int, Accuracy]
    broken_videos: tuple[str, ...]


def adapt(
    checkpoint: str,
    output: str,
    frame_counts: Sequence[int],
    clips: Clips,
    *,
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    device: str | None = None,
) -> Adapted:
    """Add frame counts to a checkpoint, and write it as another.

    Args:
        checkpoint: a file.
        output: the file to write, atomically.
        frame_counts: to add, ascending.
        clips: what to learn from.
        epochs: passes over the list.
        learning_rate: of Adam, at first; it falls to zero along a cosine.
        device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.

    Raises:
        CheckpointError: the checkpoint cannot be read, serves one of the frame counts already, or
            holds nothing of its own for each; the output cannot be written.
        DataError: a list cannot be used, or too many of its videos are broken.
        RecipeError: a value that cannot be, several processes, or learning diverged.
    """
    require_one_process("adapt")
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise RecipeError(
            f"nothing is learned in {epochs} epochs at a learning rate of {learning_rate}",
            f"leave them out for {EPOCHS} and {LEARNING_RATE}.",
        )
    loaded = load_checkpoint(checkpoint)
    added = check_frame_counts(frame_counts)
    network = _with_frame_counts(loaded.network, added, checkpoint)
    teacher = max(loaded.network.frame_counts)
    batches = clips.batches(
        sorted({*added, teacher}),
        loaded.card,
        train=True,
        draw_frames=family_of(network.architecture).draw_frames,
    )

    def learn(processes: Processes) -> dict[int, float]:
        if processes.device.type == "cpu":
            keep_freed_memory()
        to_channels_last(network)
        return _distil(
            network, loaded.card, teacher, added, batches, epochs, learning_rate, processes
        )

    return _adapted(network, loaded.card, added, learn, clips, batches, output, device)


def recalibrate(
    checkpoint: str,
    output: str,
    frame_counts: Sequence[int] | None,
    clips: Clips,
    *,
    device: str | None = None,
) -> Adapted:
    """Estimate the running statistics of a checkpoint's batch norms anew, and write it as another.

    They become those of all clips, which are taken as in testing; on the way to a deeper norm, each
    batch is normalised by its own. What the checkpoint knew of these frame counts' accuracy is
    dropped: it was that of other statistics.

    Args:
        checkpoint: a file.
        output: the file to write, atomically.
        frame_counts: whose statistics; None for all.
        clips: at least two.
        device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.

    Raises:
        CheckpointError: the checkpoint cannot be read, lacks one of the frame counts, or has no
            statistics of its own for each; the output cannot be written.
        DataError: a list cannot be used, or too many of its videos are broken.
        RecipeError: several processes.
    """
    require_one_process("adapt --recalibrate")
    loaded = load_checkpoint(checkpoint)
    network, card = loaded.network, loaded.card
    counts = network.frame_counts if frame_counts is None else check_frame_counts(frame_counts)
    if absent := sorted(set(counts) - set(network.frame_counts)):
        served = ", ".join(map(str, network.frame_counts))
        raise CheckpointError(
            f"{checkpoint} serves {served} frames; {absent[0]} was asked for",
            f"name some of {served}; without --recalibrate, {absent[0]} is added.",
        )
    _check_specialised(network, checkpoint)
    norms = [norm for t in counts for norm in _norms(network, t) if isinstance(norm, _BatchNorm)]
    if not norms:
        raise CheckpointError(
            f"a {network.architecture} has no batch norm, and so no statistics to recalibrate",
            "a new frame count is learned without --recalibrate.",
        )
    batches = clips.batches(counts, card, train=False)
    if len(batches.videos) < 2:
        raise DataError(
            f"{clips.list_file} lists one video", "statistics need two at least, better hundreds."
        )

    def learn(processes: Processes) -> dict[int, float]:
        _estimate(network, card, norms, counts, batches, processes)
        return {}

    known = {t: accuracy for t, accuracy in card.accuracy.items() if t not in counts}
    others = dataclasses.replace(card, accuracy=known)
    return _adapted(network, others, counts, learn, clips, batches, output, device)


def summary(adapted: Adapted) -> str:
    """Return what people read of a result, one line a frame count."""
    lines = []
    for frames in adapted.frame_counts:
        parts = [f"{frames} frames, {adapted.videos} videos, {adapted.seconds:.0f} s"]
        if frames in adapted.loss:
            parts.append(f"KL from the teacher {adapted.loss[frames]:.3f}")
        if frames in adapted.accuracy:
            parts.append(f"top-1 {adapted.accuracy[frames].top1:.1%}")
        lines.append("; ".join(parts))
    return "\n".join([*lines, adapted.output])


def _distil(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    teacher: int,
    added: Sequence[int],
    batches: VideoBatches,
    epochs: int,
    learning_rate: float,
    processes: Processes,
) -> dict[int, float]:
    """Teach the vectors of `added` the teacher's logits; return the losses of the last epoch."""
    # As in evaluation, but for the new norms, whose statistics follow the batches.
    network.eval().requires_grad_(False)
    norms = [norm for t in added for norm in _norms(network, t)]
    for norm in norms:
        norm.train()
    batch_norms = [norm for norm in norms if isinstance(norm, _BatchNorm)]
    learned = [parameter for t in added for parameter in _vectors(network, t)]
    for parameter in learned:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learned, lr=learning_rate)
    steps = epochs * len(batches)
    learner = Learner(
        network=network,
        objective=MultiFrequencyLoss(),
        warm_share=WARM_SHARE,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2),
        processes=processes,
        dtype=compute_dtype("auto", processes.device, network),
        teacher=teacher,
    )
    for epoch in range(epochs):
        # A running mean of few steps would still be the neighbour's.
        last = population_statistics(batch_norms) if epoch == epochs - 1 else nullcontext()
        with last:
            terms = [
                learner.step([(model_inputs(batch.clips, card, processes.device), batch.labels)])
                for batch in batches.epoch(f"epoch {epoch + 1} of {epochs}", epoch)
            ]
        means = {
            t: float(torch.stack([each[f"distillation/{t}"] for each in terms]).mean())
            for t in added
        }
        if not all(map(math.isfinite, means.values())):
            raise RecipeError(
                f"learning diverged in epoch {epoch + 1}: the loss is {means}",
                f"lower --learning-rate, which was {learning_rate}; nothing was written.",
            )
    return means


def _estimate(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    norms: Sequence[_BatchNorm],
    frame_counts: Sequence[int],
    batches: VideoBatches,
    processes: Processes,
) -> None:
    """Set the running mean and variance of `norms` to those of all clips."""
    network.eval()
    for norm in norms:
        norm.train()
    measured = processes.measured()
    with torch.no_grad(), population_statistics(norms):
        for batch in batches.epoch("recalibrating"):
            clips = model_inputs(batch.clips, card, processes.device)
            with measured():
                for frames in frame_counts:
                    network(clips[frames], frames)


def _adapted(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    frame_counts: tuple[int, ...],
    learn: Callable[[Processes], dict[int, float]],
    clips: Clips,
    batches: VideoBatches,
    output: str,
    device: str | None,
) -> Adapted:
    """Learn, validate where there is a list for it, and write the checkpoint."""
    if Path(output).is_dir():
        raise CheckpointError(
            f"{output} could not be written: it is a folder", "name a file with -o."
        )
    check_writable(output)  # while nothing is lost by it
    start = time.monotonic()
    with join_processes(device) as processes:
        network.to(processes.device)
        loss = learn(processes)
    seconds = time.monotonic() - start
    accuracy: dict[int, Accuracy] = {}
    if clips.val_list is not None:
        accuracy = evaluate_network(
            network,
            dataclasses.replace(card, dataset=clips.dataset or card.dataset),
            frame_counts,
            list_file=clips.val_list,
            root=clips.root,
            batch_size=clips.batch_size,
            workers=clips.workers,
            device=device,
        )
    known = dict(sorted((card.accuracy | accuracy).items()))
    save_checkpoint(output, network.cpu(), dataclasses.replace(card, accuracy=known))
    return Adapted(
        output=output,
        frame_counts=frame_counts,
        videos=len(batches.videos),
        seconds=seconds,
        loss=loss,
        accuracy=accuracy,
        broken_videos=batches.broken.reasons,
    )


def _with_frame_counts(
    network: FrameFlexibleNetwork, added: Sequence[int], checkpoint: str
) -> FrameFlexibleNetwork:
    """Return a network that serves `added` too, each with the vectors of the nearest as yet."""
    if present := sorted(set(added) & set(network.frame_counts)):
        raise CheckpointError(
            f"{checkpoint} has a sub-network for {present[0]} frames already",
            "--recalibrate estimates its statistics anew; or name another number of frames.",
        )
    _check_specialised(network, checkpoint)
    larger = build(
        network.architecture,
        network.num_classes,
        sorted({*network.frame_counts, *added}),
        without=network.without,
        causal=network.causal,
    )
    start_from(larger, network)
    return larger


def _check_specialised(network: FrameFlexibleNetwork, checkpoint: str) -> None:
    """Raise a CheckpointError unless frame counts share weights, and have norms of their own."""
    for part, meaning in (
        ("sn", "its frame counts share their norms"),
        ("ws", "its frame counts share no weights"),
    ):
        if part in network.without:
            raise CheckpointError(
                f"{checkpoint} was trained --without {part}: {meaning}",
                "give a checkpoint of the whole method.",
            )


def _norms(network: FrameFlexibleNetwork, frames: int) -> list[nn.Module]:
    """Return the norms that belong to one frame count."""
    return [m.norms[str(frames)] for m in network.modules() if isinstance(m, SpecializedNorm)]


def _vectors(network: FrameFlexibleNetwork, frames: int) -> list[nn.Parameter]:
    """Return what one frame count can learn: the affine of its norms, and φ."""
    affine = [parameter for norm in _norms(network, frames) for parameter in norm.parameters()]
    phi = [m.phi[str(frames)] for m in network.modules() if isinstance(m, WeightAlteration)]
    return affine + phi
