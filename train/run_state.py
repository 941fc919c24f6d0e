"""How far a training run has come, what a checkpoint holds to continue it, and how it ended."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import CheckpointError, counted
from ffn_edge.files import schema
from ffn_edge.files.schema import Count, NotNegative, Positive
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.network.pretrained import in_one_line
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.step import Learner

# A field that an older release did not know had its default.
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not MISSING}

# What may differ between a checkpoint's recipe and the one that continues it: where files lie, how
# fast it goes, and what is written of it. Everything else would make it another run.
FREE_ON_RESUME = {
    *("train_list", "val_list", "classes", "root", "weights", "start_from"),
    *("cache_gib", "cache_folder", "together", "max_broken_share"),
    *("validate_every", "checkpoint_minutes", "log_every", "patience"),
}

_START_ANEW = "start anew in another folder."
_log = logging.getLogger(__name__)


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's fields by name, with the short side that follows from the size."""
    return dataclasses.asdict(recipe) | {"short_side": recipe.scaled_to}


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """How far a run has come, and its validations so far.

    Attributes:
        step: optimiser steps done, in all.
        epoch: whole epochs done, with their validation.
        epoch_steps: of an epoch.
        epoch_step: done of the epoch in progress.
        stale: validations since the one with the best mean top-1.
    """

    step: Count = 0
    epoch: Count = 0
    epoch_steps: Positive
    epoch_step: Count = 0
    accuracy: dict[int, Accuracy] = field(default_factory=dict)
    best_mean_top1: float = -1.0
    stale: Count = 0
    seconds: NotNegative = 0.0
    cpu_seconds: NotNegative = 0.0

    @property
    def position(self) -> int:
        """Steps from the run's start, if every epoch had had as many as those to come."""
        return self.epoch * self.epoch_steps + self.epoch_step


def save_run(
    path: Path, learner: Learner, card: ModelCard, recipe: Recipe, state: RunState
) -> None:
    """Write a checkpoint to resume from.

    Raises:
        CheckpointError: see `save_checkpoint`.
    """
    training = {
        "recipe": fields_of(recipe),
        **dataclasses.asdict(state),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": None if learner.average is None else learner.average.state_dict(),
    }
    # Without the accuracy: that of the last validation is not that of these weights.
    save_checkpoint(path, learner.network, card, training)


def load_run(
    path: Path, learner: Learner, card: ModelCard, recipe: Recipe, epoch_steps: int
) -> RunState:
    """Read the checkpoint of a run, to continue it or to train it for more epochs.

    Where an epoch has another number of steps than it had, as videos were removed from the list or
    added, the share of the epoch in progress that is done stays done, and the learning rate is that
    of the share of the run.

    Args:
        path: of the checkpoint.
        learner: what is to go on as it was.
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
        before = schema.parse(RunState, _with_epoch(checkpoint.training, epoch_steps))
        then = DEFAULTS | schema.parse_fields(Recipe, saved.recipe)
    except (LookupError, TypeError, ValueError) as error:
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
    learner.network.load_state_dict(checkpoint.network.state_dict())
    try:
        learner.optimizer.load_state_dict(saved.optimizer)
        _check_shapes(learner.optimizer)
        learner.schedule.load_state_dict(saved.schedule)
        learner.scaler.load_state_dict(saved.scaler)
        if learner.average is not None:
            learner.average.load_state_dict(saved.average or {})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {in_one_line(error)}", _START_ANEW) from error
    return _to_go_on(before, learner, epoch_steps, then["epochs"], recipe.epochs)


def _to_go_on(
    before: RunState, learner: Learner, epoch_steps: int, epochs_then: int, epochs: int
) -> RunState:
    """Return the state in epochs of `epoch_steps`, and set the learning rate for all of them."""
    state = dataclasses.replace(
        before,
        epoch_steps=epoch_steps,
        epoch_step=round(before.epoch_step * epoch_steps / before.epoch_steps),
    )
    if epochs > epochs_then:
        _log.warning(
            "%d epochs instead of %d: from here on the learning rate is that of the longer "
            "schedule",
            epochs,
            epochs_then,
        )
    schedule = learner.schedule
    if epoch_steps != before.epoch_steps:
        _log.warning(
            "an epoch has %s instead of %d: the run goes on after %s and %s",
            counted(epoch_steps, "step"),
            before.epoch_steps,
            counted(state.epoch, "epoch"),
            counted(state.epoch_step, "step"),
        )
        schedule.last_epoch = state.position
    if epochs > epochs_then or epoch_steps != before.epoch_steps:
        # The checkpoint has the rate of another schedule.
        schedule._last_lr = [
            base * factor(schedule.last_epoch)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(learner.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate
    return state


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless what it keeps of each parameter is of that one's shape."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimiser is of another network")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What a checkpoint says of its training, beside its `RunState`."""

    recipe: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None


def _with_epoch(training: dict[str, Any], epoch_steps: int) -> dict[str, Any]:
    """Return what a checkpoint says, with the steps of its epoch, which release 0.1 did not save.

    They are as now where that can be, and else as if a whole number of epochs had been done.
    """
    if "epoch_steps" in training:
        return training
    step, epoch = training["step"], training["epoch"]
    done = step - epoch * epoch_steps
    if not 0 <= done <= epoch_steps:
        epoch_steps, done = max(1, step // max(1, epoch)), 0
    return {"epoch_steps": epoch_steps, "epoch_step": done, **training}
