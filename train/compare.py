"""`ffn-edge compare`: train and evaluate methods under one recipe, over several seeds.

Every network is trained once, in `OUT/seed-<S>/<run>`, whichever methods use it; every method is
evaluated once. What is finished is kept, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ffn_edge.bundle.bundle import Accuracy, file_record, standard_error
from ffn_edge.errors import RecipeError, VideoError
from ffn_edge.files import schema
from ffn_edge.files.atomic import write_text
from ffn_edge.files.regular_file import read_bytes, read_text
from ffn_edge.files.schema import Count, NotNegative
from ffn_edge.files.text_file import MOST_LIST_BYTES
from ffn_edge.media.classes import read_classes
from ffn_edge.media.clips import read_checked_list
from ffn_edge.media.video_list import Video, images_in_folder, read_list
from ffn_edge.network import build
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.evaluate import evaluate_network
from ffn_edge.train.loop import BEST, LAST
from ffn_edge.train.methods import Answering, Method, MethodRun, method_of, train_run
from ffn_edge.train.processes import require_one_process
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.run_state import DEFAULTS, FREE_ON_RESUME, fields_of

RESULTS = "results.json"
_RUN = "run.json"
# The best epoch is one that was validated.
_FREE = FREE_ON_RESUME - {"validate_every"}
_log = logging.getLogger(__name__)
T = TypeVar("T")


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


def compared_methods(
    recipe: Recipe, methods: Sequence[str], frame_counts: Sequence[int] | None
) -> list[Method]:
    """Return what `compare` compares when it is given the same: each method once.

    Raises:
        NetworkError: the architecture does not take one of the frame counts.
        RecipeError: an unknown method, a recipe that is itself an ablation or draws its clips by
            another method, or several processes.
    """
    require_one_process("compare")
    for field in ("without", "sampling"):
        if getattr(recipe, field) != DEFAULTS[field]:
            raise RecipeError(
                f"{field} of the recipe is {getattr(recipe, field)!r}: it is no common ground",
                "name what is compared among the methods, such as without-sn or mixed.",
            )
    counts = tuple(frame_counts or recipe.frame_counts)
    chosen = [method_of(name, recipe, counts) for name in dict.fromkeys(methods)]
    build(recipe.architecture, 1, sorted({*counts, *recipe.frame_counts}))  # refuses a wrong T
    return chosen


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
) -> list[Score] | None:
    """Train what is not trained yet, evaluate, and write what was asked for to `results.json`.

    Args:
        recipe: what every method is trained with, but for what makes the method.
        folder: of the comparison.
        methods: of `ffn_edge.train.methods.ALL_METHODS`.
        seeds: each is a training of its own of every network. The same seed twice is once.
        frame_counts: the T to evaluate at; left out, the recipe's.
        test_list: labelled videos to evaluate on; "{seed}" in it becomes the seed. Left out, the
            validation list, on which each run's best epoch was chosen too.
        device: see `ffn_edge.train.loop.train`.
        workers: the same.

    Returns:
        The scores, method by method; None if the training was interrupted.

    Raises:
        DataError: a list cannot be used.
        NetworkError: see `compared_methods`.
        RecipeError: the same; or no test list, or the folder holds another recipe's runs.
    """
    chosen = compared_methods(recipe, methods, frame_counts)
    listed = test_list or recipe.val_list
    if listed is None:
        raise RecipeError("nothing says what to evaluate on", "give --test-list or --val-list.")
    seeds = list(dict.fromkeys(seeds))  # the same training twice would look like certainty
    test_lists = {seed: listed.replace("{seed}", str(seed)) for seed in seeds}
    lists = filter(None, (recipe.train_list, recipe.val_list, *test_lists.values()))
    bench = _Bench(
        folder=Path(folder),
        counts=tuple(frame_counts or recipe.frame_counts),
        test_lists=test_lists,
        videos={name: _checked_videos(recipe, name) for name in dict.fromkeys(lists)},
        device=device,
        workers=workers,
    )
    scores: dict[tuple[str, int], Score] = {}
    for seed in seeds:
        for method in chosen:
            _log.info("· %s, seed %d", method.name, seed)
            score = bench.score(method, seed)
            if score is None:
                return None
            scores[method.name, seed] = score
    ordered = [scores[method.name, seed] for method in chosen for seed in seeds]
    write_text(
        bench.folder / RESULTS, json.dumps([dataclasses.asdict(each) for each in ordered], indent=1)
    )
    return ordered


def mean_top1(scores: Sequence[Score], method: str, frames: int) -> Mean:
    """Return a method's top-1 at T = `frames` over its seeds, in [0, 1]."""
    found = [score.accuracy[frames] for score in scores if score.method == method]
    top1 = [accuracy.top1 for accuracy in found]
    if len(top1) > 1:
        return Mean(statistics.fmean(top1), statistics.stdev(top1) / math.sqrt(len(top1)))
    return Mean(top1[0], standard_error(top1[0], found[0].clips))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Where methods are trained and evaluated, and what on.

    Attributes:
        folder: of the comparison.
        counts: the T to evaluate at.
        test_lists: by seed.
        videos: what each list's videos are known by.
        device: see `compare`.
        workers: the same.
    """

    folder: Path
    counts: tuple[int, ...]
    test_lists: Mapping[int, str]
    videos: Mapping[str, str]
    device: str | None
    workers: int

    def score(self, method: Method, seed: int) -> Score | None:
        """Train and evaluate one method with one seed, as far as that is not done."""
        folder = self.folder / f"seed-{seed}"
        runs = [
            dataclasses.replace(run, recipe=run.recipe.replace(seed=seed)) for run in method.runs
        ]
        trained = []
        for run in runs:
            took = self._trained(run, folder)
            if took is None:
                return None
            trained.append(took)
        answering = [run for run in runs if run.name in method.answering]
        known = self._evaluated(method, answering, folder, self.test_lists[seed])
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

    def _trained(self, run: MethodRun, folder: Path) -> _Took | None:
        """Train a run as far as that is not done; return what it took, or None if interrupted.

        What was asked for stands beside the run from its beginning: a folder is never taken for the
        run of another recipe, of other videos, or of another start.
        """
        own, asked = folder / run.name, self._asked(run, folder)
        known = _read(_Begun, own / _RUN)
        if known is None or (known.took is None and not (own / LAST).is_file()):
            known = _Begun(asked)  # one that saved nothing, say of too short lists, binds to none
        before = asked | _as_read(DEFAULTS) | known.asked
        for name in asked:
            if before[name] != asked[name]:
                plain = f": {before[name]!r}, not {asked[name]!r}" * (name not in _CONTENTS)
                raise RecipeError(
                    f"{own} holds a run with another {name}{plain}",
                    "give what it was given, or name another folder for this comparison; nothing "
                    "was changed.",
                )
        if known.took is not None:
            return known.took
        write_text(own / _RUN, json.dumps({"asked": asked}, indent=1))
        result = train_run(
            run, own, others=folder, resume=True, device=self.device, workers=self.workers
        )
        if not result.finished:
            return None
        took = _Took(seconds=result.seconds, cpu_seconds=result.cpu_seconds)
        write_text(own / _RUN, json.dumps(dataclasses.asdict(_Begun(asked, took)), indent=1))
        return took

    def _asked(self, run: MethodRun, folder: Path) -> dict[str, Any]:
        """Return what makes a run this one: files by their contents, wherever they lie."""
        recipe, weights = run.recipe, run.recipe.weights
        start = recipe.start_from if run.after is None else folder / run.after / BEST
        fields = {name: value for name, value in fields_of(recipe).items() if name not in _FREE}
        contents = (
            self.videos.get(recipe.train_list or ""),
            self.videos.get(recipe.val_list or ""),
            recipe.classes and _content_of(recipe.classes),
            start and _content_of(start),
            # A file, or one of torchvision's names.
            _content_of(weights) if weights and Path(weights).is_file() else weights,
        )
        return _as_read(fields | dict(zip(_CONTENTS, contents, strict=True)))

    def _evaluated(
        self, method: Method, answering: Sequence[MethodRun], folder: Path, test_list: str
    ) -> _Evaluated:
        """Evaluate a method's networks, unless what was found before is of the same ones."""
        bests = {run.name: folder / run.name / BEST for run in answering}
        asked = {
            "videos": self.videos[test_list],
            "frames": list(self.counts),
            "networks": {name: _content_of(best) for name, best in bests.items()},
        }
        path = folder / f"{method.name}.json"
        known = _read(_Evaluated, path)
        if known is not None and known.asked == asked:
            return known
        networks = {}
        for run in answering:
            loaded = load_checkpoint(bests[run.name])
            networks[run.recipe.frame_counts[-1]] = loaded.network
        network, card = Answering(networks, ensemble=method.ensemble), loaded.card
        accuracy = evaluate_network(
            network,
            card,
            self.counts,
            list_file=test_list,
            root=answering[0].recipe.root,
            workers=self.workers,
            device=self.device,
            precision=answering[0].recipe.precision,
        )
        found = _Evaluated(
            asked=asked,
            parameters=network.num_parameters,
            bytes=network.num_bytes,
            gmacs={t: network.macs(t, card.size) / 1e9 for t in self.counts},
            accuracy={t: accuracy[t] for t in self.counts},
        )
        write_text(path, json.dumps(dataclasses.asdict(found), indent=1))
        return found


# What a run is known by beside the plain values of its recipe.
_CONTENTS = ("train_videos", "val_videos", "classes", "start_from", "weights")


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


def _content_of(path: str | Path) -> str:
    """Return a file's SHA-256."""
    try:
        return file_record(Path(path)).sha256
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}", "put it back.") from error


def _checked_videos(recipe: Recipe, list_file: str) -> str:
    """Return a hash of what a list says and of how large each of its videos is, once it is checked.

    Two lists may say the same, each of the videos in its own folder. To read the videos
    themselves would take as long as an epoch.
    """
    pattern = dataset_facts(recipe.dataset).frame_pattern
    if recipe.classes is not None:  # a bad list should not be found after all the training
        read_checked_list(
            list_file,
            classes=read_classes(recipe.classes),
            root=recipe.root,
            frame_pattern=pattern,
        )
    videos = read_list(list_file, classes=None, root=recipe.root)
    digest = hashlib.sha256(read_bytes(list_file, MOST_LIST_BYTES))
    for video in videos:
        digest.update(f" {_bytes_of(video, pattern)}".encode())
    return digest.hexdigest()


def _bytes_of(video: Video, frame_pattern: str | None) -> int | None:
    """Return the size of a video or of its first image; None if training will leave it out."""
    file = video.path
    try:
        if video.num_frames is not None and frame_pattern is not None:
            file /= frame_pattern % 1
        elif video.num_frames is not None:
            file = next(iter(images_in_folder(file)), file)
        return file.stat().st_size if file.is_file() else None
    except (OSError, VideoError):
        return None
