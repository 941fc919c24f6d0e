"""The training loop: from a recipe to checkpoints, in one pass from top to bottom."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from ffn_edge.errors import DataError, RecipeError, counted
from ffn_edge.media.classes import read_classes
from ffn_edge.network import build, family_of
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint, start_from
from ffn_edge.signals import ending_signals, on_signals
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.evaluate import evaluate
from ffn_edge.train.loading import (
    Batch,
    BrokenVideos,
    Loader,
    ResumableSampler,
    to_model_input,
)
from ffn_edge.train.log import RunLog
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss
from ffn_edge.train.optimizer import (
    average_of,
    learning_rate_factor,
    make_optimizer,
    take_step,
)
from ffn_edge.train.processes import (
    Processes,
    autocast_to,
    compute_dtype,
    join_processes,
    keep_freed_memory,
    to_channels_last,
)
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.run_state import Clock, RunParts, RunState, TrainResult
from ffn_edge.train.sampling import clips_of_step, sampled_frame_counts, trained_frame_counts
from ffn_edge.train.step import Order, backward

LAST, BEST = "last.pt", "best.pt"


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
) -> TrainResult:
    """Train the recipe's network; write `last.pt`, `best.pt`, `metrics.jsonl`, TensorBoard events.

    SIGTERM and Ctrl-C save `last.pt` after the step in progress and end the run. A run that was
    killed continues from its last checkpoint with the same data, order and randomness: on a CPU
    with a fixed number of threads its loss curve equals the uninterrupted one; with a number that
    is measured as it goes (see `ffn_edge.device.cpu_threads`), to rounding.

    Args:
        recipe: what to train; its data paths must be set.
        output: the run's folder.
        resume: continue from `last.pt` in the folder. With more epochs than it was to have, the
            learning rate follows the longer schedule from there on; with videos removed from the
            list or added, see `RunParts.load`.
        device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.
        workers: data-loader processes per training process; 0 decodes in the training process.

    Raises:
        RecipeError: no data paths, the folder holds a run and `resume` is not set, another process
            trains in it, or the batch does not divide over the processes.
        CheckpointError: nothing to resume from, or a run of another recipe or of other classes; a
            full disk.
        DataError: the lists cannot be used, or too many videos are broken.
        NetworkError: the network diverged in such a way that it gives no answers.
    """
    folder = Path(output)
    if (folder / LAST).exists() and not resume:
        raise RecipeError(
            f"{folder} holds a run already",
            "continue it with --resume, or name another folder; nothing was changed.",
        )
    with join_processes(device) as processes:
        if processes.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(recipe.seed)  # every process starts from the same weights

        # Data.
        classes = read_classes(recipe.data_path("classes"))
        train_set = _dataset(recipe, classes, training=True)
        val_set = _dataset(recipe, classes, training=False)
        micro_batch = _micro_batch(recipe, processes)
        rank, world_size = processes.rank, processes.world_size
        sampler = ResumableSampler(
            len(train_set), seed=recipe.seed, rank=rank, world_size=world_size
        )
        loader = Loader(train_set, sampler, batch_size=micro_batch, workers=workers)
        val_loader = Loader(
            val_set,
            ResumableSampler(len(val_set), shuffle=False, rank=rank, world_size=world_size),
            batch_size=micro_batch,
            workers=workers,
        )
        broken = BrokenVideos(len(train_set), recipe.max_broken_share)
        broken_val = BrokenVideos(len(val_set), recipe.max_broken_share)
        steps_per_epoch = len(sampler) // (micro_batch * recipe.accumulate)
        if steps_per_epoch == 0:
            raise RecipeError(
                f"{len(train_set)} training videos do not fill one batch of {recipe.batch_size}",
                "lower batch_size.",
            )

        # Network, objective, optimiser.
        family = family_of(recipe.architecture)
        card = ModelCard(
            classes=classes,
            size=recipe.size,
            short_side=recipe.scaled_to,
            mean=family.mean,
            std=family.std,
            dataset=recipe.dataset,
        )
        network = build(
            recipe.architecture,
            len(classes),
            trained_frame_counts(recipe),
            # A resumed run takes its weights from the checkpoint; the image weights may be gone.
            weights=None if resume else recipe.weights,
            dropout=recipe.dropout,
            without=recipe.without,
        )
        if recipe.start_from is not None and not resume:
            start_from(network, load_checkpoint(recipe.start_from).network)
        network = network.to(processes.device)
        if recipe.channels_last:
            to_channels_last(network)
        if recipe.sync_norm and processes.world_size > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        distils = "td" not in recipe.without
        objective = MultiFrequencyLoss(
            recipe.distillation_weight if distils else 0.0,
            label_smoothing=recipe.label_smoothing,
            supervise_all=recipe.supervise_all or not distils,
        )
        optimizer = make_optimizer(network, recipe)
        schedule = LambdaLR(
            optimizer, lambda step: learning_rate_factor(recipe, step, steps_per_epoch)
        )
        dtype = compute_dtype(recipe.precision, processes.device, network)
        autocast = autocast_to(dtype, processes.device)
        # Only float16 needs scaled gradients; a disabled scaler passes everything through.
        scaler = torch.amp.GradScaler(processes.device.type, enabled=dtype is torch.float16)
        order = _order(recipe, processes, dtype)
        average = average_of(network, recipe.ema_decay) if recipe.ema_decay is not None else None
        forward: Any = network
        if processes.world_size > 1:
            forward = DistributedDataParallel(forward)
        step_measured, validation_measured = processes.measured(), processes.measured()

        # Where to start.
        parts = RunParts(network, optimizer, schedule, scaler, average)
        state = RunState(epoch_steps=steps_per_epoch)
        if resume:
            state = parts.load(folder / LAST, card, recipe, steps_per_epoch)
        total_steps = state.step + recipe.epochs * steps_per_epoch - state.position
        clock = Clock(state)
        stop = threading.Event()  # is read between steps
        with (
            RunLog(folder, total_steps, state.step, state.epoch, processes.first) as log,
            on_signals(stop.set, *ending_signals(), once=False),
        ):
            if state.fewer_epochs is not None:
                log.note(
                    f"{recipe.epochs} epochs instead of {state.fewer_epochs}: from here on the "
                    "learning rate is that of the longer schedule"
                )
            if state.other_epoch_steps is not None:
                log.note(
                    f"an epoch has {counted(steps_per_epoch, 'step')} instead of "
                    f"{state.other_epoch_steps}: the run goes on after "
                    f"{counted(state.epoch, 'epoch')} and {counted(state.epoch_step, 'step')}"
                )
            if absent := sorted(set(range(len(classes))) - {v.label for v in train_set.videos}):
                log.note(
                    f"there is no training video of {counted(len(absent), 'class', 'classes')} of "
                    f"{len(classes)}, such as {classes[absent[0]]!r}, class {absent[0]}"
                )
            saved_at = time.monotonic()

            def save(state: RunState) -> RunState:
                nonlocal saved_at
                log.flush()
                state = clock.timed(state)
                if processes.first:
                    parts.save(folder / LAST, card, recipe, state)
                processes.barrier()
                saved_at = time.monotonic()
                return state

            def unreadable() -> tuple[str, ...]:
                reasons = processes.gather((*broken.reasons, *broken_val.reasons))
                for reason in reasons:
                    log.note(f"skipped: {reason}")
                return reasons

            for epoch in range(state.epoch, recipe.epochs):
                sampler.start(epoch, state.epoch_step * micro_batch * recipe.accumulate)
                batches = iter(loader)
                while state.epoch_step < steps_per_epoch:
                    # Dropout depends on the step and not on what came before: a resumed run
                    # draws the same, on every process its own.
                    torch.manual_seed(_seed(recipe.seed, state.step, processes.rank))
                    network.train()
                    sums: dict[str, Any] = {}
                    for part in range(recipe.accumulate):
                        batch = next(batches)
                        broken.add(batch)
                        if not len(batch.labels):
                            raise DataError(
                                f"not one video of a batch can be read: {batch.broken[0]}",
                                "check the disk, then continue with --resume.",
                            )
                        clips = {
                            t: to_model_input(
                                clip.to(processes.device, non_blocking=True), card.mean, card.std
                            )
                            for t, clip in clips_of_step(
                                recipe, batch.clips, state.step, part * world_size + rank
                            ).items()
                        }
                        target = batch.labels.to(processes.device, non_blocking=True)
                        last_part = part == recipe.accumulate - 1
                        with step_measured(), _gradient_sync(forward, last_part):
                            terms = backward(
                                forward,
                                clips,
                                target,
                                objective,
                                order=order,
                                autocast=autocast,
                                scale=lambda loss: scaler.scale(loss / recipe.accumulate),
                            )
                        _add_terms(sums, terms, recipe.accumulate)
                    if recipe.clip_gradient is not None:
                        # Gradients are scaled under float16; clip what the optimiser will see.
                        scaler.unscale_(optimizer)
                        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_gradient)
                    rate = schedule.get_last_lr()[0]
                    take_step(optimizer, schedule, scaler)
                    optimizer.zero_grad(set_to_none=True)
                    if average is not None:
                        average.update_parameters(network)
                    values = {name: _number(value) for name, value in sums.items()}
                    if not math.isfinite(values["loss"]):
                        kept = (folder / LAST).exists()
                        raise RecipeError(
                            f"the loss is {values['loss']} at step {state.step}",
                            "lower learning_rate or set clip_gradient"
                            + ("; last.pt holds the run before." if kept else "."),
                        )
                    log.step(state.step, epoch, {**values, "learning_rate": rate})
                    state = dataclasses.replace(
                        state, step=state.step + 1, epoch_step=state.epoch_step + 1
                    )
                    if processes.any(stop.is_set()):
                        state = save(state)
                        log.note(f"stopped at step {state.step}; continue with --resume")
                        return state.result(finished=False, broken=unreadable())
                    if processes.any(time.monotonic() - saved_at > 60 * recipe.checkpoint_minutes):
                        state = save(state)

                # End of the epoch: validate, keep the best by the mean over frame counts. A run
                # stopped before this is done does it when it is resumed.
                if (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.epochs:
                    evaluated: Any = network if average is None else average.module
                    processes.broadcast(evaluated.buffers())
                    accuracy = evaluate(
                        evaluated,
                        _until(stop, broken_val.watch(val_loader), processes),
                        recipe.frame_counts,
                        card,
                        device=processes.device,
                        autocast=autocast,
                        reduce=processes.sum,
                        measured=validation_measured,
                    )
                    if processes.any(stop.is_set()):
                        state = save(state)
                        log.note(f"stopped at step {state.step}; continue with --resume")
                        return state.result(finished=False, broken=unreadable())
                    log.validation(
                        state.step - 1,
                        epoch,
                        {str(t): dataclasses.asdict(value) for t, value in accuracy.items()},
                    )
                    mean = sum(value.top1 for value in accuracy.values()) / len(accuracy)
                    best = mean > state.best_mean_top1
                    state = dataclasses.replace(
                        state,
                        accuracy=accuracy,
                        best_mean_top1=max(mean, state.best_mean_top1),
                    )
                    if best and processes.first:
                        scored = dataclasses.replace(card, accuracy=accuracy)
                        save_checkpoint(folder / BEST, evaluated, scored)
                state = dataclasses.replace(state, epoch=epoch + 1, epoch_step=0)
                state = save(state)
            return state.result(finished=True, broken=unreadable())


def _seed(seed: int, step: int, rank: int) -> int:
    """Return a seed of its own for each step of each process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1


def _until(
    stop: threading.Event, batches: Iterator[Batch], processes: Processes
) -> Iterator[Batch]:
    """Yield batches until a signal asks to stop; several processes end a validation together."""
    for batch in batches:
        yield batch
        if stop.is_set() and processes.world_size == 1:
            return


def _dataset(recipe: Recipe, classes: tuple[str, ...], *, training: bool) -> VideoDataset:
    return VideoDataset(
        recipe.data_path("train_list" if training else "val_list"),
        sampled_frame_counts(recipe) if training else recipe.frame_counts,
        classes=classes,
        facts=dataset_facts(recipe.dataset),
        root=recipe.root,
        train=training,
        draw_frames=family_of(recipe.architecture).draw_frames,
        size=recipe.size,
        short_side=recipe.scaled_to,
        seed=recipe.seed,
        scales=recipe.crop_scales,
        cache_bytes=int(recipe.cache_gib * 2**30),
    )


def _micro_batch(recipe: Recipe, processes: Processes) -> int:
    """Return how many videos pass through the network at once in this process."""
    videos, rest = divmod(recipe.batch_size, recipe.accumulate * processes.world_size)
    if rest:
        raise RecipeError(
            f"batch_size {recipe.batch_size} does not divide over {processes.world_size} "
            f"processes in {recipe.accumulate} parts",
            "choose a multiple.",
        )
    return videos


def _order(recipe: Recipe, processes: Processes, dtype: torch.dtype) -> Order:
    """Choose the order of the frame counts' passes; all are equal to rounding.

    One after the other, backward pass included, is fastest and takes least memory: on a CPU in
    float32 (benchmarks/training_step.py) and on an H200 in bfloat16 (benchmarks/gpu/step.py). In
    half precision on a CPU each forward pass casts the weights anew, and one backward pass is
    faster; several processes exchange gradients once.
    """
    if recipe.together:
        return "together"
    is_cast = processes.device.type == "cpu" and dtype is not torch.float32
    return "joint" if processes.world_size > 1 or is_cast else "each"


@contextmanager
def _gradient_sync(forward: Any, enabled: bool) -> Iterator[None]:
    """Exchange gradients between processes only with the last part of a batch."""
    if enabled or not isinstance(forward, DistributedDataParallel):
        yield
    else:
        with forward.no_sync():
            yield


def _add_terms(sums: dict[str, Any], terms: LossTerms, parts: int) -> None:
    """Add one part's loss terms, each by frame count, without waiting for the device."""

    def add(into: dict[str, Any], name: str, value: Tensor) -> None:
        into[name] = into.get(name, 0) + value.detach() / parts

    add(sums, "loss", terms.total)
    add(sums, "cross_entropy", terms.cross_entropy)
    for kind in ("distillation", "extra_cross_entropy"):
        by_frames: dict[int, Tensor] = getattr(terms, kind)
        for frames, value in by_frames.items():
            add(sums.setdefault(kind, {}), str(frames), value)


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(inner) for name, inner in value.items()}
    return float(value)
