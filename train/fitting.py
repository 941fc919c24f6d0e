"""A recipe that fits the videos, the machine and the time: which network, how large, how long.

    data folder ──> facts ──┐
    machine ─── a step each ┼──> recipe, a reason for each choice ──> recipe.py, to be edited
    time ───────────────────┘        ▲ epochs: from the first real steps

What can be measured is measured here, on this machine: a step of each network that comes into
question, and then steps with videos, decoding and all.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model_weights  # type: ignore[import-untyped]

from ffn_edge.errors import DataError, RecipeError, counted
from ffn_edge.files.atomic import write_text
from ffn_edge.train.data_folder import DataFolder
from ffn_edge.train.loading import Batch, model_inputs
from ffn_edge.train.loop import LAST, Run, check_new, make_card, make_learner
from ffn_edge.train.processes import Processes, join_processes, require_one_process
from ffn_edge.train.recipe import FITTED, PATHS, Recipe

_log = logging.getLogger(__name__)

DEFAULT_TIME_S = {"cpu": 20 * 60.0, "cuda": 2 * 3600.0}
_WEIGHTS = "IMAGENET1K_V1"
_MANY_CLIPS = 50_000  # a ResNet learns from nothing
_UNEVEN = 1.5  # the largest class over the smallest, from where each is drawn equally often
_MOST_BATCH, _LEAST_BATCH = 32, 4
_LEAST_STEPS = 12  # of an epoch: few clips are learned by many steps
_MEMORY_SHARE = 0.7  # of a GPU's, for clips
_VALIDATIONS = 25  # of a run, at most
_PROBED = {"cpu": 4, "cuda": 16}  # clips of a step that only shows what it costs
_TRIED_S, _TRIED_STEPS = 15.0, 40  # with videos, to see how fast training goes
_FORWARD = 1 / 3  # of a training step's time
_UNCHOSEN = 10**9  # epochs, which nobody asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A network that may be chosen.

    Attributes:
        architecture: its name.
        size: of its frames, in pixels.
        steps: with fewer than the first, a smaller network does better; more than the second gain
            nothing.
        devices: that it may be trained on.
        trained: how: from image weights, or from nothing.
        reason: to choose it.
    """

    architecture: str
    size: int
    steps: tuple[int, int]
    devices: tuple[str, ...]
    trained: dict[str, Any]
    reason: str

    @property
    def pretrained(self) -> bool:
        """Whether it starts from image weights."""
        return "weights" in self.trained


_FROM_IMAGES: dict[str, Any] = {
    "weights": _WEIGHTS,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "dropout": 0.5,
    "supervise_all": True,
}
_FROM_NOTHING: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "schedule": "one_cycle",
    "label_smoothing": 0.05,
    "dropout": 0.0,
    "crop_scales": (1.0, 0.875),
    "supervise_all": True,
}
# From the most accurate to what any machine can train.
_CANDIDATES = (
    _Candidate(
        architecture="tsm_resnet50",
        size=224,
        steps=(200, 4000),
        devices=("cuda",),
        trained=_FROM_IMAGES,
        reason="the paper's network, the most accurate of those that the time allows",
    ),
    _Candidate(
        architecture="tsm_resnet18",
        size=224,
        steps=(200, 4000),
        devices=("cuda",),
        trained=_FROM_IMAGES,
        reason="half the work of ResNet-50, for which the time is too short",
    ),
    _Candidate(
        architecture="tsm_mobilenet_v3_small",
        size=160,
        steps=(300, 4000),
        devices=("cuda", "cpu"),
        trained=_FROM_IMAGES,
        reason="made for phones; the time is too short for a ResNet",
    ),
    _Candidate(
        architecture="tsm_tiny",
        size=112,
        steps=(600, 8000),
        devices=("cuda", "cpu"),
        trained=_FROM_NOTHING,
        reason="small enough to learn from few clips without weights that were trained before",
    ),
    _Candidate(
        architecture="tsm_tiny",
        size=64,
        steps=(0, 8000),
        devices=("cuda", "cpu"),
        trained=_FROM_NOTHING,
        reason="the smallest; the time is too short for another",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A recipe that may be chosen; its epochs are not.

    Attributes:
        recipe: it.
        reasons: of its fields, by name, why they are as they are.
        steps: see `_Candidate`.
    """

    recipe: Recipe
    reasons: dict[str, str]
    steps: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What one clip of a step takes: seconds, and bytes of a GPU's memory of so many."""

    clip_s: float
    clip_bytes: float
    device_bytes: float


def candidates(
    data: DataFolder, *, time_s: float, kind: str, device: str | None
) -> Iterator[Fitted]:
    """Yield recipes for videos that were scanned, from the most accurate to what is quickest.

    Those whose arithmetic alone would take too long are left out, but not the last.

    Args:
        data: what `ffn-edge data scan` wrote.
        time_s: that training may take.
        kind: of the device, "cpu" or "cuda".
        device: the device, such as "cuda:1"; None for a GPU where there is one.
    """
    clips = sum(data.facts.clips["train"].values())
    lacking = False
    for candidate in _CANDIDATES:
        trained = dict(candidate.trained)
        if kind not in candidate.devices:
            continue
        if candidate.pretrained and not _has_weights(candidate.architecture):
            lacking = True
            del trained["weights"]
            if clips < _MANY_CLIPS:
                continue
        recipe = _recipe(candidate, trained, data)
        with join_processes(device) as processes:
            cost = _cost(recipe, len(data.classes), processes)
        if cost is None and candidate is _CANDIDATES[-1]:
            raise RecipeError(
                f"there is no memory left on {processes.device} for training",
                "end what else runs on it.",
            )
        if cost is None:
            continue
        most = min(clips // _LEAST_STEPS, _MEMORY_SHARE * cost.device_bytes / cost.clip_bytes)
        batch = min(_MOST_BATCH, max(min(_LEAST_BATCH, clips), 2 ** int(math.log2(max(1.0, most)))))
        if cost.clip_s * batch * candidate.steps[0] > time_s:
            continue
        power = 0.5 if recipe.optimizer == "adamw" else 1.0
        rate = recipe.learning_rate * (batch / _MOST_BATCH) ** power
        yield Fitted(
            recipe=recipe.replace(batch_size=batch, learning_rate=float(f"{rate:.2g}")),
            reasons=_reasons(candidate, data, batch, lacking_weights=lacking),
            steps=candidate.steps,
        )


def _recipe(candidate: _Candidate, trained: dict[str, Any], data: DataFolder) -> Recipe:
    facts = data.facts
    sizes = facts.clips["train"].values()
    paths: dict[str, Any] = {**data.paths}
    return Recipe(
        architecture=candidate.architecture,
        dataset=facts.dataset,
        frame_counts=facts.frame_counts,
        size=candidate.size,
        window_s=facts.window_s,
        mirror=facts.mirror if facts.dataset == "custom" else None,
        balanced=max(sizes) >= _UNEVEN * min(sizes),
        epochs=_UNCHOSEN,
        **trained,
        **paths,
    )


def _reasons(
    candidate: _Candidate, data: DataFolder, batch: int, *, lacking_weights: bool
) -> dict[str, str]:
    """Say why each field is as it is."""
    facts = data.facts
    sizes = facts.clips["train"]
    by_size = sorted(sizes, key=sizes.__getitem__)
    few, many = by_size[0], by_size[-1]
    scale = f"{few!r} has {sizes[few]}, {many!r} {sizes[many]}"
    mirror = "left and right may be swapped: no class's name speaks of a side"
    if facts.mirror is None:
        mirror = "never swap left and right: a class's name has a side, and its partner is missing"
    elif facts.mirror:
        mirror = "swapping left and right makes one class of the other"
    weights = "of ImageNet, by torchvision" if candidate.pretrained else "none for this network"
    if lacking_weights:
        weights = (
            "torchvision's could not be downloaded, and --weights FILE takes one; with it a larger "
            "network would do better on few clips"
        )
    window = "the median length of the clips: what `run` looks at, too"
    if facts.window_s is None:
        window = "folders of images have no times: a clip is all of one"
    reasons = {
        "architecture": candidate.reason,
        "size": f"of the {facts.short_side} pixels that the videos' short side has",
        "frame_counts": "as many as the clips have frames for",
        "weights": weights,
        "window_s": window,
        "mirror": mirror,
        "balanced": f"draws each class equally often: {scale}"
        if max(sizes.values()) >= _UNEVEN * min(sizes.values())
        else f"the classes are of a size: {scale}",
        "batch_size": "more helps little"
        if batch == _MOST_BATCH
        else f"{_LEAST_STEPS} steps an epoch, as far as clips and memory allow",
        "learning_rate": "for this batch size",
        "supervise_all": "every frame count learns the labels, too: a short run leaves no time to "
        "wait for the teacher",
        "schedule": "TSM's for pre-trained weights falls in steps; this one is shorter"
        if candidate.pretrained
        else "a rise and a long fall, for a network that starts from nothing",
    }
    if facts.dataset != "custom":
        del reasons["mirror"]  # the data set's own
    return reasons


def _has_weights(architecture: str) -> bool:
    """Whether torchvision's image weights are on this machine, or can be downloaded."""
    url: str = get_model_weights(architecture.removeprefix("tsm_"))[_WEIGHTS].url
    if os.path.isfile(os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))):
        return True
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
            return True
    except (OSError, HTTPException):
        return False


def _cost(recipe: Recipe, num_classes: int, processes: Processes) -> _Cost | None:
    """Measure a step of random clips; None if it does not fit into the device's memory."""
    device, probed = processes.device, _PROBED[processes.device.type]
    on_gpu = device.type == "cuda"
    learner = make_learner(
        recipe.replace(weights=None), num_classes, processes, epoch_steps=1, resume=False
    )
    card = make_card(recipe, tuple(map(str, range(num_classes))))
    shape = (recipe.size, recipe.size, 3)
    clips = {
        t: torch.randint(256, (probed, t, *shape), dtype=torch.uint8) for t in recipe.frame_counts
    }
    labels = torch.zeros(probed, dtype=torch.int64, device=device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    try:
        for _ in range(3):
            start = time.perf_counter()
            learner.step([(model_inputs(clips, card, device), labels)])
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return None
    return _Cost(
        clip_s=min(times) / probed,
        clip_bytes=torch.cuda.max_memory_allocated(device) / probed if on_gpu else 1.0,
        device_bytes=torch.cuda.mem_get_info(device)[1] if on_gpu else math.inf,
    )


def fit_to_data(
    data: DataFolder,
    output: str | Path,
    change: Callable[[Recipe], Recipe],
    *,
    time_s: float | None,
    device: str | None,
    workers: int,
) -> Recipe:
    """Fit a recipe and its epochs, tell why, and write it as `recipe.py` in the run's folder.

    Args:
        data: what `ffn-edge data scan` wrote.
        output: the run's folder.
        change: makes of the recipe what the user has asked for.
        time_s: that training may take; None for 20 minutes on a CPU and 2 hours on a GPU.
        device: see `ffn_edge.train.loop.train`.
        workers: the same.

    Raises:
        DataError: there is nothing to train or to validate on.
        FfnEdgeError: the folder holds a run, several processes were started, or the run cannot
            start; see `ffn_edge.train.loop.train`.
    """
    began = time.monotonic()
    require_one_process("train --data")
    check_all_new(Path(output))
    if len(data.classes) < 2:
        raise DataError(
            f"{data.path} has one class, and nothing to tell it from",
            "add videos of what is not it, and scan again.",
        )
    for split in ("train", "val"):
        if not sum(data.facts.clips[split].values()):
            raise DataError(
                f"{data.path} has no clip in its {split}.csv",
                "a class needs two recordings, one to validate on: add some and scan again.",
            )
    with join_processes(device) as processes:
        kind = processes.device.type
    time_s = DEFAULT_TIME_S[kind] if time_s is None else time_s
    for fitted in candidates(data, time_s=time_s, kind=kind, device=device):
        recipe, reasons = change(fitted.recipe), dict(fitted.reasons)
        for field in dataclasses.fields(Recipe):
            if getattr(recipe, field.name) != getattr(fitted.recipe, field.name):
                reasons[field.name] = "as asked for"
        if recipe.epochs != _UNCHOSEN:
            break
        left_s = time_s - (time.monotonic() - began)
        pace = pace_of(recipe, device=device, workers=workers)
        recipe = with_time(recipe, pace, left_s, most_steps=fitted.steps[1])
        reasons["epochs"] = pace.said(recipe)
        if recipe.epochs * pace.steps >= fitted.steps[0]:
            break
    path = Path(output) / FITTED
    clips = sum(data.facts.clips["train"].values())
    title = (
        f"Fitted to {counted(clips, 'clip')} of {counted(len(data.classes), 'class', 'classes')} "
        "by `ffn-edge train --data`."
    )
    write_recipe(path, recipe, reasons, title=title)
    for name in ("architecture", "weights", "batch_size", "epochs"):
        _log.info("%s %s: %s", name, getattr(recipe, name), reasons[name])
    _log.info("all choices with their reasons, to be edited: %s", path)
    return recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a run goes.

    Attributes:
        steps: of an epoch.
        step_s: of one, decoding and all.
        validation_s: of a validation.
    """

    steps: int
    step_s: float
    validation_s: float

    def total_s(self, recipe: Recipe) -> float:
        """Return how long a recipe's epochs will take."""
        validations = -(-recipe.epochs // recipe.validate_every)
        return recipe.epochs * self.steps * self.step_s + validations * self.validation_s

    def said(self, recipe: Recipe) -> str:
        """Say how long they will take, and by what."""
        return (
            f"about {_minutes(self.total_s(recipe))}: {counted(self.steps, 'step')} an epoch, of "
            f"{self.step_s:.2g} s as the first ones showed"
        )


def pace_of(recipe: Recipe, *, device: str | None, workers: int) -> Pace:
    """Train a recipe for some seconds, and throw away what was learned.

    Raises:
        FfnEdgeError: the run cannot start; see `ffn_edge.train.loop.train`.
    """
    with join_processes(device) as processes, tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder), processes, resume=False, workers=workers)
        step_s = _step_s(run)
        batches = len(run.val_loader)
        return Pace(
            steps=run.state.epoch_steps,
            step_s=step_s,
            validation_s=batches / recipe.accumulate * step_s * _FORWARD,
        )


def with_time(
    recipe: Recipe, pace: Pace, time_s: float, *, most_steps: int | None = None
) -> Recipe:
    """Return a recipe with as many epochs as a time allows, and not too many validations.

    Args:
        recipe: any.
        pace: of its training.
        time_s: the time.
        most_steps: no more steps, or little more; None for any number.
    """
    epoch_s = pace.steps * pace.step_s
    # With a validation after each, or as many as there are at most.
    epochs = max(
        1,
        int(time_s / (epoch_s + pace.validation_s)),
        int((time_s - _VALIDATIONS * pace.validation_s) / epoch_s),
    )
    if most_steps is not None:
        epochs = min(epochs, -(-most_steps // pace.steps))
    found = recipe.replace(
        epochs=epochs,
        validate_every=max(recipe.validate_every, math.ceil(epochs / _VALIDATIONS)),
        step_epochs=tuple(round(step * epochs / recipe.epochs) for step in recipe.step_epochs),
        warmup_epochs=min(recipe.warmup_epochs, epochs / 10),
    )
    if pace.total_s(found) > 1.1 * time_s:
        _log.warning("%s; less time was given", pace.said(found))
    return found


def check_all_new(folder: Path) -> None:
    """Raise a RecipeError if a folder holds a run, or those of a method."""
    for last in (folder / LAST, *folder.glob(f"*/{LAST}")):
        check_new(last.parent)


def _batches(run: Run) -> Iterator[Iterable[Batch]]:
    """Yield the batches of one epoch after the other: few videos give only few in the first."""
    for epoch in itertools.count():
        run.state = dataclasses.replace(run.state, epoch_step=0)
        yield from run.batches(epoch)


def _step_s(run: Run) -> float:
    """Train for some seconds, and return how long a step takes once the first are over."""
    device = run.processes.device
    times = [time.perf_counter()]
    for batch in _batches(run):
        run.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        if (len(times) > 4 and times[-1] - times[0] > _TRIED_S) or len(times) > _TRIED_STEPS:
            break
    # The first steps have the loaders' start in them, and on a CPU try numbers of threads.
    later = times[len(times) // 2 - 1 :]
    return (later[-1] - later[0]) / (len(later) - 1)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def write_recipe(path: Path, recipe: Recipe, reasons: dict[str, str], *, title: str) -> None:
    """Write a recipe as a Python file, to be read and edited: each choice with its reason.

    Paths are written as they are seen from the file's folder.

    Raises:
        WriteError: the folder cannot be written.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    lines = [
        f'"""{title}',
        "",
        "What is left out is as `ffn_edge.train.recipe.Recipe` says. To train with it as you edit "
        "it:",
        "",
        f"    ffn-edge train {path.name} -o ANOTHER_FOLDER",
        '"""',
        "",
        "from ffn_edge.train.recipe import Recipe",
        "",
        "recipe = Recipe(",
    ]
    for name, default in defaults.items():
        value = getattr(recipe, name)
        if name in PATHS and value is not None and (name != "weights" or os.path.isfile(value)):
            # Of a folder that is a link, ".." is that of what it leads to.
            folder, file = os.path.split(value)
            folder = os.path.relpath(os.path.realpath(folder), os.path.realpath(path.parent))
            value = os.path.join(folder, file)
        if value != default or name in reasons:
            if name in reasons:
                lines += [f"    # {line}" for line in textwrap.wrap(reasons[name], 92)]
            lines.append(f"    {name}={value!r},")
    write_text(path, "\n".join([*lines, ")", ""]))
