"""`ffn-edge compare`: train and evaluate methods under one recipe, over several seeds.

Every network is trained once, in `OUT/seed-<S>/<run>`, whichever methods use it; every method is
evaluated once. What is finished is kept, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ffn_edge.bundle.bundle import Accuracy, standard_error
from ffn_edge.demo.clips import render_clips
from ffn_edge.errors import RecipeError
from ffn_edge.files import schema
from ffn_edge.files.atomic import write_text
from ffn_edge.files.regular_file import read_text
from ffn_edge.files.schema import Count, NotNegative
from ffn_edge.media.classes import read_classes
from ffn_edge.media.clips import read_checked_list
from ffn_edge.network import build
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.identity import content_of, content_of_videos
from ffn_edge.train.loop import BEST, LAST
from ffn_edge.train.methods import Answering, Method, Run, method_of, train_run
from ffn_edge.train.processes import require_one_process
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.report import evaluate_network
from ffn_edge.train.run_state import DEFAULTS, FREE_ON_RESUME, fields_of

RESULTS = "results.json"
_RUN = "run.json"
T = TypeVar("T")
# Of the demo's clips: fewer to train on than the demo has, so that methods can be told apart. With
# 600, 16 frames alone learn the clips by heart before they learn what moves.
_TRAINING_CLIPS, _TEST_CLIPS = 1200, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One method with one seed.

    `accuracy` and `gmacs` are by T. `seconds` and `cpu_seconds` are those of all runs that the
    method needs, also where another method shares them.
    """

    method: str
    seed: int
    parameters: int
    bytes: int
    seconds: float
    cpu_seconds: float
    gmacs: dict[int, float]
    accuracy: dict[int, Accuracy]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error: over seeds, or with one seed over its clips."""

    value: float
    error: float


def compare(
    recipe: Recipe,
    folder: str | Path,
    methods: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    frame_counts: Sequence[int] | None = None,
    test_list: str | None = None,
    device: str | None = None,
    workers: int = 0,
    say: Callable[[str], None] = lambda message: None,
) -> list[Score] | None:
    """Train what is not trained yet, evaluate, and write what was asked for to `results.json`.

    Args:
        recipe: what every method is trained with, but for what makes the method. Where it is of
            the demo's clips and says no list, they are rendered, with fresh test clips for each
            seed.
        folder: of the comparison.
        methods: of `ffn_edge.train.methods.ALL_METHODS`.
        seeds: each is a training of its own of every network. The same seed twice is once.
        frame_counts: the T to evaluate at; left out, the recipe's.
        test_list: labelled videos to evaluate on; "{seed}" in it becomes the seed. Left out, the
            validation list, on which each run's best epoch was chosen too.
        device: see `ffn_edge.train.loop.train`.
        workers: the same.
        say: is told each step.

    Returns:
        The scores, method by method; None if the training was interrupted.

    Raises:
        DataError: a list cannot be used.
        NetworkError: the architecture does not take one of the frame counts.
        RecipeError: an unknown method, a recipe that is itself an ablation or draws its clips by
            another method, no test list, the folder holds another recipe's runs, or several
            processes.
    """
    require_one_process("compare")
    for field in ("without", "sampling"):
        if getattr(recipe, field) != DEFAULTS[field]:
            raise RecipeError(
                f"{field} of the recipe is {getattr(recipe, field)!r}: it is no common ground",
                "name what is compared among the methods, such as without-sn or mixed.",
            )
    folder = Path(folder)
    counts = tuple(frame_counts or recipe.frame_counts)
    seeds = list(dict.fromkeys(seeds))  # the same training twice would look like certainty
    for name in methods:  # what cannot be should not be found after minutes of rendering
        method_of(name, recipe, counts)
    build(recipe.architecture, 1, sorted({*counts, *recipe.frame_counts}))  # refuses a wrong T
    if recipe.dataset == "demo" and not (recipe.train_list or recipe.val_list or test_list):
        recipe, test_list = _with_demo_clips(recipe, folder / "clips", seeds, say)
    listed = test_list or recipe.val_list
    if listed is None:
        raise RecipeError("nothing says what to evaluate on", "give --test-list or --val-list.")
    test_lists = {seed: listed.replace("{seed}", str(seed)) for seed in seeds}
    pattern = dataset_facts(recipe.dataset).frame_pattern
    lists = [
        name
        for name in dict.fromkeys((recipe.train_list, recipe.val_list, *test_lists.values()))
        if name is not None
    ]
    if recipe.classes is not None:  # a bad list should not be found after all the training
        classes = read_classes(recipe.classes)
        for name in lists:
            read_checked_list(
                name, num_classes=len(classes), root=recipe.root, frame_pattern=pattern
            )
    videos = {name: content_of_videos(name, recipe.root, pattern) for name in lists}
    chosen = [method_of(name, recipe, counts) for name in dict.fromkeys(methods)]
    scores = []
    for seed in seeds:
        for method in chosen:
            say(f"{method.name}, seed {seed}")
            score = _score(
                method,
                seed,
                folder / f"seed-{seed}",
                counts,
                test_lists[seed],
                videos,
                device=device,
                workers=workers,
            )
            if score is None:
                return None
            scores.append(score)
    order = {method.name: place for place, method in enumerate(chosen)}
    scores.sort(key=lambda score: order[score.method])
    write_text(
        folder / RESULTS, json.dumps([dataclasses.asdict(score) for score in scores], indent=1)
    )
    return scores


def _with_demo_clips(
    recipe: Recipe, folder: Path, seeds: Sequence[int], say: Callable[[str], None]
) -> tuple[Recipe, str]:
    """Render the demo's clips where they are not yet.

    Returns:
        The recipe with their lists, and the test list with "{seed}" in it.
    """
    say("rendering the demo's clips")
    render_clips(folder / "train", train=_TRAINING_CLIPS, test=0)
    for seed in seeds:
        # Neither these nor their seeds were looked at when the recipe was chosen.
        render_clips(folder / f"test-{seed}", train=0, val=0, test=_TEST_CLIPS, seed=1000 + seed)
    lists = {name: str(folder / "train" / f"{name}.txt") for name in ("train", "val", "classes")}
    ready = recipe.replace(
        train_list=lists["train"], val_list=lists["val"], classes=lists["classes"]
    )
    return ready, str(folder / "test-{seed}" / "test.txt")


def _score(
    method: Method,
    seed: int,
    folder: Path,
    counts: tuple[int, ...],
    test_list: str,
    videos: Mapping[str, str],
    *,
    device: str | None,
    workers: int,
) -> Score | None:
    """Train and evaluate one method with one seed, as far as that is not done.

    `videos` is what each list's videos are known by.
    """
    runs = [dataclasses.replace(run, recipe=run.recipe.replace(seed=seed)) for run in method.runs]
    trained = []
    for run in runs:
        times = _trained(run, folder, videos, device=device, workers=workers)
        if times is None:
            return None
        trained.append(times)
    answering = [run for run in runs if run.name in method.answering]
    asked = {
        "videos": videos[test_list],
        "frames": list(counts),
        "networks": {run.name: content_of(folder / run.name / BEST) for run in answering},
    }
    path = folder / f"{method.name}.json"
    known = _read(_Evaluated, path)
    if known is None or known.asked != asked:
        network, card = _load(answering, folder, ensemble=method.ensemble)
        accuracy = evaluate_network(
            network,
            card,
            counts,
            list_file=test_list,
            root=answering[0].recipe.root,
            workers=workers,
            device=device,
            precision=answering[0].recipe.precision,
        )
        known = _Evaluated(
            asked=asked,
            parameters=network.num_parameters,
            bytes=network.num_bytes,
            gmacs={t: network.macs(t, card.size) / 1e9 for t in counts},
            accuracy={t: accuracy[t] for t in counts},
        )
        write_text(path, json.dumps(dataclasses.asdict(known), indent=1))
    return Score(
        method=method.name,
        seed=seed,
        parameters=known.parameters,
        bytes=known.bytes,
        seconds=sum(took.seconds for took in trained),
        cpu_seconds=sum(took.cpu_seconds for took in trained),
        gmacs=known.gmacs,
        accuracy=known.accuracy,
    )


def _trained(
    run: Run, folder: Path, videos: Mapping[str, str], *, device: str | None, workers: int
) -> _Took | None:
    """Train a run as far as that is not done; return what it took, or None if interrupted.

    What was asked for stands beside the run from its beginning: a folder is never taken for the
    run of another recipe, of other videos, or of another start.
    """
    recipe, own = run.recipe, folder / run.name
    fields = fields_of(recipe).items()
    values: dict[str, Any] = {k: v for k, v in fields if k not in FREE_ON_RESUME}
    values["validate_every"] = recipe.validate_every  # the best epoch is one that was validated
    start = recipe.start_from if run.after is None else folder / run.after / BEST
    weights = recipe.weights  # a file, or one of torchvision's names
    contents = {
        "train_videos": videos.get(recipe.train_list or ""),
        "val_videos": videos.get(recipe.val_list or ""),
        "classes": recipe.classes and content_of(recipe.classes),
        "start_from": start and content_of(start),
        "weights": content_of(weights) if weights and Path(weights).is_file() else weights,
    }
    asked = _as_read(values | contents)
    known = _read(_Begun, own / _RUN)
    if known is None or (known.took is None and not (own / LAST).is_file()):
        known = _Begun(asked=asked)  # one that saved nothing, say of too short lists, binds to none
    before = asked | _as_read(DEFAULTS) | known.asked
    for name, value in asked.items():
        if before[name] != value:
            plain = f": {before[name]!r}, not {value!r}" if name in values else ""
            raise RecipeError(
                f"{own} holds a run with another {name}{plain}",
                "give what it was given, or name another folder for this comparison; nothing was "
                "changed.",
            )
    if known.took is not None:
        return known.took
    write_text(own / _RUN, json.dumps({"asked": asked}, indent=1))
    result = train_run(run, own, others=folder, resume=True, device=device, workers=workers)
    if not result.finished:
        return None
    took = _Took(seconds=result.seconds, cpu_seconds=result.cpu_seconds)
    write_text(own / _RUN, json.dumps(dataclasses.asdict(_Begun(asked, took)), indent=1))
    return took


def _load(runs: Sequence[Run], folder: Path, *, ensemble: bool) -> tuple[Answering, ModelCard]:
    loaded = [load_checkpoint(folder / run.name / BEST) for run in runs]
    networks = {
        run.recipe.frame_counts[-1]: checkpoint.network
        for run, checkpoint in zip(runs, loaded, strict=True)
    }
    return Answering(networks, ensemble=ensemble), loaded[0].card


def mean_top1(scores: Sequence[Score], method: str, frames: int) -> Mean:
    """Return a method's top-1 at T = `frames` over its seeds, in [0, 1]."""
    found = [score.accuracy[frames] for score in scores if score.method == method]
    top1 = [accuracy.top1 for accuracy in found]
    if len(top1) > 1:
        return Mean(statistics.fmean(top1), statistics.stdev(top1) / math.sqrt(len(top1)))
    return Mean(top1[0], standard_error(top1[0], found[0].clips))


@dataclass(frozen=True, slots=True)
class _Took:
    seconds: NotNegative
    cpu_seconds: NotNegative


@dataclass(frozen=True, slots=True)
class _Begun:
    """What `run.json` says: what a run was asked for, and what it took once it was finished."""

    asked: dict[str, Any]
    took: _Took | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluated:
    """What a method was found to reach, and of what."""

    asked: dict[str, Any]
    parameters: Count
    bytes: Count
    gmacs: dict[int, NotNegative]
    accuracy: dict[int, Accuracy]


def _read(cls: type[T], path: Path) -> T | None:
    """Read what was written before; None if it is not there or not whole."""
    try:
        return schema.parse(cls, schema.load(read_text(path)))
    except (OSError, ValueError):
        return None


def _as_read(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as they are read back: with lists for tuples."""
    found: dict[str, Any] = schema.load(json.dumps(fields))
    return found
