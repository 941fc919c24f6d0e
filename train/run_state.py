"""Where a training run stands, what a checkpoint holds to continue it, and how it ended."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import CheckpointError
from ffn_edge.files import schema
from ffn_edge.files.schema import Count, NotNegative, Positive
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.network.pretrained import in_one_line
from ffn_edge.train.recipe import Recipe

# A field that an older release did not know had its default.
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not MISSING}

# What may differ between a checkpoint's recipe and the one that continues it: where files lie, and
# how fast it goes. Everything else would make it another run.
FREE_ON_RESUME = {
    "train_list", "val_list", "classes", "root", "weights", "start_from", "cache_gib",
    "max_broken_share", "validate_every", "checkpoint_minutes", "together",
}  # fmt: skip


_START_ANEW = "start anew in another folder."


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's fields by name, with the short side that follows from the size."""
    return dataclasses.asdict(recipe) | {"short_side": recipe.scaled_to}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: with all its epochs, or interrupted with `last.pt` to resume from.

    `seconds` and `cpu_seconds`, of the first process, are those of the whole run, through all its
    interruptions; loader processes are not in the latter.
    """

    finished: bool
    steps: int
    accuracy: dict[int, Accuracy]
    best_mean_top1: float
    broken_videos: tuple[str, ...]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands, and its validations so far.

    Attributes:
        step: optimiser steps done, in all.
        epoch: whole epochs done, with their validation.
        epoch_steps: of an epoch.
        epoch_step: done of the epoch in progress.
    """

    step: int = 0
    epoch: int = 0
    epoch_steps: int
    epoch_step: int = 0
    accuracy: dict[int, Accuracy] = dataclasses.field(default_factory=dict)
    best_mean_top1: float = -1.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    fewer_epochs: int | None = None
    """Those that the run was to have before it was resumed with more."""
    other_epoch_steps: int | None = None
    """Those of an epoch before the run was resumed with another list."""

    @property
    def position(self) -> int:
        """Steps from the run's start, if every epoch had had as many as those to come."""
        return self.epoch * self.epoch_steps + self.epoch_step

    def result(self, *, finished: bool, broken: tuple[str, ...]) -> TrainResult:
        """Return how the run ended."""
        return TrainResult(
            finished,
            self.step,
            self.accuracy,
            self.best_mean_top1,
            broken,
            self.seconds,
            self.cpu_seconds,
        )


class Clock:
    """Counts a run's seconds on from where its state has them."""

    def __init__(self, state: RunState) -> None:
        self._started = time.monotonic() - state.seconds
        self._cpu_started = time.process_time() - state.cpu_seconds

    def timed(self, state: RunState) -> RunState:
        """Return the state with the time that the run has taken so far."""
        return dataclasses.replace(
            state,
            seconds=time.monotonic() - self._started,
            cpu_seconds=time.process_time() - self._cpu_started,
        )


@dataclass(frozen=True, slots=True)
class RunParts:
    """Everything of a run that changes with each step, and so belongs into a checkpoint."""

    network: FrameFlexibleNetwork
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    average: AveragedModel | None

    def save(self, path: Path, card: ModelCard, recipe: Recipe, state: RunState) -> None:
        """Write a checkpoint to resume from."""
        training = {
            "recipe": fields_of(recipe),
            "step": state.step,
            "epoch": state.epoch,
            "epoch_steps": state.epoch_steps,
            "epoch_step": state.epoch_step,
            "accuracy": {t: dataclasses.asdict(a) for t, a in state.accuracy.items()},
            "best_mean_top1": state.best_mean_top1,
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        # Without the accuracy: that of the last validation is not that of these weights.
        save_checkpoint(path, self.network, card, training)

    def load(self, path: Path, card: ModelCard, recipe: Recipe, epoch_steps: int) -> RunState:
        """Read the checkpoint of a run, to continue it or to train it for more epochs.

        Where an epoch has another number of steps than it had, as videos were removed from the
        list or added, the share of the epoch in progress that is done stays done, and the learning
        rate is that of the share of the run.

        Args:
            path: of the checkpoint.
            card: of the network that is to be trained.
            recipe: what it is to be trained with.
            epoch_steps: the steps of an epoch.

        Raises:
            CheckpointError: no such file, or a run of another recipe or of other classes.
        """
        checkpoint = load_checkpoint(path)
        if checkpoint.training is None:
            raise CheckpointError(
                f"{path} holds a network without the state of its training",
                "it can be exported or evaluated, but not resumed.",
            )
        try:
            saved = schema.parse(_Training, checkpoint.training)
            then = DEFAULTS | schema.parse_fields(Recipe, saved.recipe)
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}", _START_ANEW) from error
        differ = [
            f"{name} was {then.get(name)!r}, is {now!r}"
            for name, now in fields_of(recipe).items()
            if name not in FREE_ON_RESUME and now != then.get(name)
            if name != "epochs" or now < then[name]
        ]
        classes = enumerate(itertools.zip_longest(checkpoint.card.classes, card.classes))
        differ += [f"class {i} was {was!r}, is {now!r}" for i, (was, now) in classes if was != now]
        if differ:
            raise CheckpointError(
                f"{path} is a run of another recipe: {'; '.join(differ[:3])}",
                "resume with the recipe and the class names it was started with, or start anew in "
                "another folder; only more epochs can be added.",
            )
        self.network.load_state_dict(checkpoint.network.state_dict())
        try:
            self.optimizer.load_state_dict(saved.optimizer)
            _check_shapes(self.optimizer)
            self.schedule.load_state_dict(saved.schedule)
            self.scaler.load_state_dict(saved.scaler)
            if self.average is not None:
                self.average.load_state_dict(saved.average or {})
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is damaged: {in_one_line(error)}", _START_ANEW
            ) from error
        steps_then, done = saved.epoch_of(epoch_steps)
        state = RunState(
            step=saved.step,
            epoch=saved.epoch,
            epoch_steps=epoch_steps,
            epoch_step=round(done * epoch_steps / steps_then),
            accuracy=saved.accuracy,
            best_mean_top1=saved.best_mean_top1,
            seconds=saved.seconds,
            cpu_seconds=saved.cpu_seconds,
            fewer_epochs=then["epochs"] if recipe.epochs > then["epochs"] else None,
            other_epoch_steps=steps_then if steps_then != epoch_steps else None,
        )
        if state.other_epoch_steps is not None:
            self.schedule.last_epoch = state.position
        if state.other_epoch_steps is not None or state.fewer_epochs is not None:
            self._follow_the_schedule()
        return state

    def _follow_the_schedule(self) -> None:
        """Set the learning rate to the schedule's own: the checkpoint has that of another."""
        schedule = self.schedule
        schedule._last_lr = [
            base * factor(schedule.last_epoch)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless what it keeps of each parameter is of that one's shape."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimiser is of another network")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What a checkpoint says of its training; see `RunState`."""

    recipe: dict[str, Any]
    step: Count
    epoch: Count
    epoch_steps: Positive | None = None
    epoch_step: Count = 0
    accuracy: dict[int, Accuracy]
    best_mean_top1: float
    seconds: NotNegative = 0.0
    cpu_seconds: NotNegative = 0.0
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None

    def epoch_of(self, epoch_steps: int) -> tuple[int, int]:
        """Return how many steps an epoch had, and how many of the one in progress were done.

        Release 0.1 did not save them: they are as now where that can be, and else as if a whole
        number of epochs had been done.
        """
        if self.epoch_steps is not None:
            return self.epoch_steps, self.epoch_step
        done = self.step - self.epoch * epoch_steps
        if 0 <= done <= epoch_steps:
            return epoch_steps, done
        return max(1, self.step // max(1, self.epoch)), 0
