"""The training loop: from a recipe to checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ffn_edge.bundle.bundle import Accuracy, standard_error
from ffn_edge.device.host_memory import keep_freed_memory
from ffn_edge.errors import DataError, RecipeError, counted
from ffn_edge.media.video_list import Video
from ffn_edge.network import FrameFlexibleNetwork, build, family_of
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint, start_from
from ffn_edge.signals import ending_signals, on_signals
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.evaluate import evaluate
from ffn_edge.train.lists import training_lists
from ffn_edge.train.loading import Batch, BrokenVideos, Loader, ResumableSampler, model_inputs
from ffn_edge.train.log import RunLog
from ffn_edge.train.mixing import mixed, rand_augmented
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.optimizer import MovingAverage, freeze, learning_rate_factor, make_optimizer
from ffn_edge.train.processes import (
    Processes,
    compute_dtype,
    join_processes,
    to_channels_last,
)
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.run_state import RunState, TrainResult, load_run, save_run
from ffn_edge.train.sampling import clips_of_step, sampled_frame_counts, trained_frame_counts
from ffn_edge.train.step import Learner, Order
from ffn_edge.train.waiting import Waiting

LAST, BEST = "last.pt", "best.pt"
_log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
) -> TrainResult:
    """Train the recipe's network; write `last.pt`, `best.pt`, `metrics.jsonl`, TensorBoard events.

    SIGTERM and Ctrl-C save `last.pt` after the step in progress, with several processes after the
    next logged one, and end the run. A run that was killed continues from its last checkpoint with
    the same data, order and randomness: on a CPU with a fixed number of threads its loss curve
    equals the uninterrupted one; with a number that is measured as it goes (see
    `ffn_edge.device.cpu_threads`), to rounding.

    Args:
        recipe: what to train; its data paths must be set.
        output: the run's folder.
        resume: continue from `last.pt` in the folder. With more epochs than it was to have, the
            learning rate follows the longer schedule from there on; with videos removed from the
            list or added, see `load_run`.
        device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.
        workers: data-loader processes per training process; 0 decodes in the training process.

    Raises:
        RecipeError: no data paths, the folder holds a run and `resume` is not set, another process
            trains in it, the batch does not divide over the processes, or the loss diverged.
        CheckpointError: nothing to resume from, or a run of another recipe or of other classes; a
            full disk.
        DataError: the lists cannot be used, or too many videos are broken.
        NetworkError: the network diverged in such a way that it gives no answers.
    """
    folder = Path(output)
    if not resume:
        check_new(folder)
    with join_processes(device) as processes:
        run = Run(recipe, folder, processes, resume=resume, workers=workers)
        with run.record, on_signals(run.stop.set, *ending_signals(), once=False):
            for epoch in run.epochs():
                for batch in run.batches(epoch):
                    run.step(batch)
                    if run.should_log():
                        run.log()
                    if run.must_save():
                        run.save()
                if run.validates(epoch):
                    run.keep_best(epoch, run.validate())
            return run.result()


def check_new(folder: Path) -> None:
    """Raise a RecipeError if a folder holds a run."""
    if (folder / LAST).exists():
        raise RecipeError(
            f"{folder} holds a run already",
            "continue it with --resume, or name another folder; nothing was changed.",
        )


class Run:
    """One training run: what it learns from, what learns, and how far it has come.

    Attributes:
        stop: asks the run to end; is read between steps.
        stopping: whether it was asked to; processes agree on it.
        record: of the run; it holds the folder while it is open.
        state: how far it has come.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, processes: Processes, *, resume: bool, workers: int
    ) -> None:
        if processes.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(recipe.seed)  # every process starts from the same weights
        self.recipe, self.folder, self.processes = recipe, folder, processes
        self.stop, self.stopping = threading.Event(), False

        lists = training_lists(recipe)
        classes = lists.classes
        videos = _dataset(recipe, classes, lists.train, training=True)
        val_videos = _dataset(recipe, classes, lists.val, training=False)
        _warn_of_absent_classes(classes, videos)
        batch_size = _micro_batch(recipe, processes)
        self.videos_per_step = batch_size * recipe.accumulate  # of this process
        rank, world_size = processes.rank, processes.world_size
        self.sampler = ResumableSampler(
            len(videos),
            seed=recipe.seed,
            labels=[video.label for video in videos.videos] if recipe.balanced else None,
            rank=rank,
            world_size=world_size,
        )
        self.loader = Loader(videos, self.sampler, batch_size=batch_size, workers=workers)
        val_sampler = ResumableSampler(
            len(val_videos), shuffle=False, rank=rank, world_size=world_size
        )
        self.val_loader = Loader(val_videos, val_sampler, batch_size=batch_size, workers=workers)
        self._waiting = Waiting(recipe, processes.device)
        self.broken = BrokenVideos(len(videos), recipe.max_broken_share)
        self.val_broken = BrokenVideos(len(val_videos), recipe.max_broken_share)
        self.val_measured = processes.measured()
        self._chance = _chance(val_videos)
        epoch_steps = len(self.sampler) // self.videos_per_step
        if epoch_steps == 0:
            raise RecipeError(
                f"{len(videos)} training videos do not fill one batch of {recipe.batch_size}",
                "lower --batch-size.",
            )

        self.card = make_card(recipe, classes)
        self.learner = make_learner(recipe, len(classes), processes, epoch_steps, resume=resume)
        self.state = RunState(epoch_steps=epoch_steps)
        if resume:
            self.state = load_run(folder / LAST, self.learner, self.card, recipe, epoch_steps)
        steps_left = recipe.epochs * epoch_steps - self.state.position
        self.record = RunLog(
            folder,
            self.state.step + steps_left,
            self.state.step,
            self.state.epoch,
            processes.first,
            self.state.accuracy,
        )
        self._unlogged: list[tuple[float, dict[str, Tensor]]] = []  # learning rates, loss terms
        self._saved_at = time.monotonic()
        self._started = time.monotonic() - self.state.seconds
        self._cpu_started = time.process_time() - self.state.cpu_seconds

    def epochs(self) -> Iterator[int]:
        """Yield the epochs to train; save after each, be it whole or stopped."""
        while self.state.epoch < self.recipe.epochs and not (self.stopping or self.exhausted):
            yield self.state.epoch
            if not self.stopping:
                self.state = dataclasses.replace(
                    self.state, epoch=self.state.epoch + 1, epoch_step=0
                )
            self.save()

    @property
    def exhausted(self) -> bool:
        """Whether the recipe's patience is: too many validations have not been the best one."""
        patience = self.recipe.patience
        return patience is not None and self.state.stale >= patience

    def batches(self, epoch: int) -> Iterator[Iterable[Batch]]:
        """Yield what is left of the epoch's batches, each in its parts."""
        self.sampler.start(epoch, self.state.epoch_step * self.videos_per_step)
        parts = self._waiting.watch(self.loader)
        while self.state.epoch_step < self.state.epoch_steps and not self.stopping:
            yield itertools.islice(parts, self.recipe.accumulate)

    def step(self, batch: Iterable[Batch]) -> None:
        """Learn from a batch, without waiting for the device."""
        # Dropout depends on the step and not on what came before: a resumed run draws the same, on
        # every process its own.
        torch.manual_seed(_seed(self.recipe.seed, self.state.step, self.processes.rank))
        self.learner.network.train()
        rate = self.learner.schedule.get_last_lr()[0]
        terms = self.learner.step(self._inputs(part, of) for part, of in enumerate(batch))
        self._unlogged.append((float(rate), terms))
        self.state = dataclasses.replace(
            self.state, step=self.state.step + 1, epoch_step=self.state.epoch_step + 1
        )

    def should_log(self) -> bool:
        """Whether the last steps are to be logged: every `log_every`, and the last of an epoch."""
        is_last = self.state.epoch_step == self.state.epoch_steps
        return is_last or len(self._unlogged) >= self.recipe.log_every

    def log(self) -> None:
        """Log the steps since the last time. In the loop, only here the host awaits the device."""
        if not self._unlogged:
            return
        first = self.state.step - len(self._unlogged)
        columns = torch.stack([torch.stack([*terms.values()]) for _, terms in self._unlogged])
        for step, ((rate, terms), row) in enumerate(
            zip(self._unlogged, columns.tolist(), strict=True), start=first
        ):
            values = dict(zip(terms, row, strict=True))
            if not math.isfinite(values["loss"]):
                kept = (self.folder / LAST).exists()
                raise RecipeError(
                    f"the loss is {values['loss']} at step {step}",
                    "lower learning_rate or set clip_gradient"
                    + ("; last.pt holds the run before." if kept else "."),
                )
            self.record.step(step, self.state.epoch, {**values, "learning_rate": rate})
        self._unlogged.clear()

    def must_save(self) -> bool:
        """Whether a checkpoint is due. Several processes agree on it, and to stop, where they log.

        That takes one exchange, for which each waits for its device.
        """
        if self._unlogged and self.processes.world_size > 1:
            return False
        due = time.monotonic() - self._saved_at > 60 * self.recipe.checkpoint_minutes
        self.stopping, due = self.processes.any(self.stop.is_set(), due)
        return due and not self.stopping

    def save(self) -> None:
        """Write `last.pt`, and first the metrics that it stands for."""
        self.log()
        self.record.flush()
        self.state = dataclasses.replace(
            self.state,
            seconds=time.monotonic() - self._started,
            cpu_seconds=time.process_time() - self._cpu_started,
        )
        if self.processes.first:
            save_run(self.folder / LAST, self.learner, self.card, self.recipe, self.state)
        self.processes.barrier()
        self._saved_at = time.monotonic()

    def validates(self, epoch: int) -> bool:
        """Whether the epoch ends with a validation; a stopped run has it when it is resumed."""
        is_last = epoch + 1 == self.recipe.epochs
        return not self.stopping and (is_last or (epoch + 1) % self.recipe.validate_every == 0)

    def validate(self) -> dict[int, Accuracy]:
        """Return the accuracy by frame count; a stop makes it one of few clips."""
        self.processes.broadcast(self._evaluated.buffers())
        answers = evaluate(
            self._evaluated,
            self._until_stopped(self.val_broken.watch(self.val_loader)),
            self.recipe.frame_counts,
            self.card,
            processes=self.processes,
            autocast=self.learner.autocast,
            measured=self.val_measured,
        )
        (self.stopping,) = self.processes.any(self.stop.is_set())
        return answers.accuracy()

    def keep_best(self, epoch: int, accuracy: Mapping[int, Accuracy]) -> None:
        """Record a validation, unless it was stopped; keep the best by the mean over frame counts.

        Args:
            epoch: that was validated.
            accuracy: by frame count.
        """
        if self.stopping:
            return
        self.record.validation(self.state.step - 1, epoch, accuracy)
        mean = sum(value.top1 for value in accuracy.values()) / len(accuracy)
        if 2 * (epoch + 1) > self.recipe.epochs:  # until then many a schedule has only begun
            self._warn_of_chance(mean, max(value.clips for value in accuracy.values()))
        is_best = mean > self.state.best_mean_top1
        if is_best and self.processes.first:
            card = dataclasses.replace(self.card, accuracy=dict(accuracy))
            save_checkpoint(self.folder / BEST, self._evaluated, card)
        self.state = dataclasses.replace(
            self.state,
            accuracy=dict(accuracy),
            best_mean_top1=max(mean, self.state.best_mean_top1),
            stale=0 if is_best else self.state.stale + 1,
        )

    def _warn_of_chance(self, mean: float, clips: int) -> None:
        """Say once that a validation is no better than chance, if it is not."""
        # With more standard errors, ten clips of which nine are right would stand at chance, too.
        if mean > self._chance + standard_error(self._chance, clips) or self._chance == 1:
            return
        _log.warning(
            "validation stands at chance: top-1 is %s over %s, that of one answer for all %s; are "
            "the labels those of the videos, the learning rate too high or low, the videos enough?",
            f"{mean:.1%}",
            counted(clips, "clip"),
            f"{self._chance:.1%}",
        )
        self._chance = 1  # once

    def result(self) -> TrainResult:
        """Return how the run ended, and name what could not be read."""
        if self.stopping:
            _log.warning(
                "stopped at step %d; the same command with --resume continues", self.state.step
            )
        elif self.state.epoch < self.recipe.epochs:
            _log.info(
                "ended after %s of %d: the mean top-1 has not risen in %s; best.pt has the best",
                counted(self.state.epoch, "epoch"),
                self.recipe.epochs,
                counted(self.state.stale, "validation"),
            )
        mine = (*self.broken.reasons, *self.val_broken.reasons)
        broken = tuple(dict.fromkeys(itertools.chain(*self.processes.gather(mine))))
        for reason in broken:
            _log.warning("skipped: %s", reason)
        return TrainResult(
            finished=not self.stopping,
            steps=self.state.step,
            accuracy=self.state.accuracy,
            best_mean_top1=self.state.best_mean_top1,
            broken_videos=broken,
            seconds=self.state.seconds,
            cpu_seconds=self.state.cpu_seconds,
        )

    @property
    def _evaluated(self) -> FrameFlexibleNetwork:
        """What is validated and kept: the average, where there is one."""
        average = self.learner.average
        return self.learner.network if average is None else average.network

    def _inputs(self, part: int, batch: Batch) -> tuple[dict[int, Tensor], Tensor]:
        """Return a part's clips on the device, and what they are to be classified as."""
        self.broken.add(batch)
        if not len(batch.labels):
            raise DataError(
                f"not one video of a batch can be read: {batch.broken[0]}",
                "check the disk, then continue with --resume.",
            )
        number = part * self.processes.world_size + self.processes.rank
        recipe, step, device = self.recipe, self.state.step, self.processes.device
        clips = clips_of_step(recipe, batch.clips, step, number)
        if recipe.rand_augment:
            clips = {t: clip.to(device, non_blocking=True) for t, clip in clips.items()}
            clips = rand_augmented(clips, recipe.rand_augment)
        inputs = model_inputs(clips, self.card, device)
        labels = batch.labels.to(device, non_blocking=True)
        if recipe.mixup or recipe.cutmix:
            return mixed(recipe, inputs, labels, len(self.card.classes), step, number)
        return inputs, labels

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches until a signal comes; several processes end a validation together."""
        for batch in batches:
            yield batch
            if self.stop.is_set() and self.processes.world_size == 1:
                return


def _seed(seed: int, step: int, rank: int) -> int:
    """Return a seed of its own for each step of each process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1


def _dataset(
    recipe: Recipe,
    classes: Sequence[str],
    videos: Sequence[Video] | None = None,
    *,
    training: bool,
) -> VideoDataset:
    """Return videos as a recipe reads them; without `videos`, those of its own list."""
    facts = dataset_facts(recipe.dataset)
    if recipe.mirror is not None:
        facts = dataclasses.replace(facts, mirror=recipe.mirror)
    return VideoDataset(
        videos or recipe.data_path("train_list" if training else "val_list"),
        sampled_frame_counts(recipe) if training else recipe.frame_counts,
        classes=classes,
        facts=facts,
        root=recipe.root,
        train=training,
        draw_frames=family_of(recipe.architecture).draw_frames,
        size=recipe.size,
        short_side=recipe.scaled_to,
        window_s=recipe.window_s,
        seed=recipe.seed,
        scales=recipe.crop_scales,
        cache_bytes=int(recipe.cache_gib * 2**30),
        cache_folder=Path(recipe.cache_folder) if recipe.cache_folder else None,
    )


def _chance(videos: VideoDataset) -> float:
    """Return the best accuracy of one answer for all."""
    labels = [video.label for video in videos.videos]
    return max(Counter(labels).values()) / len(labels)


def _warn_of_absent_classes(classes: tuple[str, ...], videos: VideoDataset) -> None:
    if absent := sorted(set(range(len(classes))) - {video.label for video in videos.videos}):
        _log.warning(
            "there is no training video of %s of %d, such as %r, class %d",
            counted(len(absent), "class", "classes"),
            len(classes),
            classes[absent[0]],
            absent[0],
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


def make_card(recipe: Recipe, classes: tuple[str, ...]) -> ModelCard:
    """Return what a recipe's network is for."""
    family = family_of(recipe.architecture)
    return ModelCard(
        classes=classes,
        size=recipe.size,
        short_side=recipe.scaled_to,
        mean=family.mean,
        std=family.std,
        window_s=recipe.window_s,
        dataset=recipe.dataset,
    )


def make_learner(
    recipe: Recipe, num_classes: int, processes: Processes, epoch_steps: int, *, resume: bool
) -> Learner:
    """Return the recipe's network with what teaches it, as at the start of a run."""
    network = build(
        recipe.architecture,
        num_classes,
        trained_frame_counts(recipe),
        # A resumed run takes its weights from the checkpoint; the image weights may be gone.
        weights=None if resume else recipe.weights,
        dropout=recipe.dropout,
        without=recipe.without,
        causal=recipe.causal,
    )
    if recipe.start_from is not None and not resume:
        other = load_checkpoint(recipe.start_from).network
        start_from(network, other)
        if recipe.causal and not other.causal:
            _log.info(
                "starting from a network that looks both ways: channels that came from the next "
                "frame are no longer shifted"
            )
    freeze(network, recipe.freeze)
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
    dtype = compute_dtype(recipe.precision, processes.device, network)
    return Learner(
        network=network,
        objective=objective,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step, epoch_steps)),
        processes=processes,
        dtype=dtype,
        order=_order(recipe, processes, dtype),
        warm_share=recipe.warm_share,
        accumulate=recipe.accumulate,
        clip_gradient=recipe.clip_gradient,
        average=None if recipe.ema_decay is None else MovingAverage(network, recipe.ema_decay),
    )


def _order(recipe: Recipe, processes: Processes, dtype: torch.dtype) -> Order:
    """Choose the order of the frame counts' passes; all are equal to rounding.

    One after the other, backward pass included, is fastest and takes least memory: on a CPU in
    float32 (benchmarks/training_step.py) and on an H200 and an H100 in bfloat16
    (benchmarks/gpu/step.py). In half precision on a CPU each forward pass casts the weights anew,
    and one backward pass is faster; several processes exchange gradients once.
    """
    if recipe.together:
        return "together"
    is_cast = processes.device.type == "cpu" and dtype is not torch.float32
    return "joint" if processes.world_size > 1 or is_cast else "each"
