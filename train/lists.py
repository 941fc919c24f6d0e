"""What a recipe's lists come to: class names, and the videos of training and validation."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffn_edge.errors import DataError, counted
from ffn_edge.media.classes import ClassNames, read_classes
from ffn_edge.media.clips import read_checked_list
from ffn_edge.media.list_lines import list_lines
from ffn_edge.media.video_list import Video, label_of, natural_order
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.scan.split import split_by_group

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLists:
    """What a run is trained and validated on.

    Attributes:
        classes: their names, in the order of the labels.
        train: the videos to learn from.
        val: the videos to validate on.
    """

    classes: tuple[str, ...]
    train: tuple[Video, ...]
    val: tuple[Video, ...]


def training_lists(recipe: Recipe) -> TrainingLists:
    """Read a recipe's lists.

    Without a class file, the classes are the names that the training list gives as labels, or that
    the folders of its videos have where there is none; numbers are names, too, where nothing names
    them. Without a validation list, a fifth of each class is drawn by the recipe's seed; parts of
    one video stay on one side.

    Raises:
        RecipeError: the recipe names no training list.
        DataError: a list cannot be used, or a class has no name.
    """
    train_list, root = recipe.data_path("train_list"), recipe.root
    if recipe.classes is not None:
        classes = read_classes(recipe.classes)
    else:
        classes = classes_of(train_list, root)
    pattern = dataset_facts(recipe.dataset).frame_pattern
    read = partial(read_checked_list, classes=classes, root=root, frame_pattern=pattern)
    train = read(train_list)
    if recipe.val_list is not None:
        val = read(recipe.val_list)
        return TrainingLists(classes=classes, train=train, val=val)
    # From the root, so that the draw is the same wherever a run is started, or its data moved to.
    folder = train_list.parent if root is None else Path(root)
    names = [os.path.relpath(video.path, folder) for video in train]
    chosen = split_by_group([video.label for video in train], names, seed=recipe.seed)
    if not chosen:
        raise DataError(
            f"{train_list} has too few videos to keep some for validation",
            "give two of a class at least, or a --val-list.",
        )
    _log.info(
        "validating on %d of %s, drawn by seed %d",
        len(chosen),
        counted(len(train), "video"),
        recipe.seed,
    )
    return TrainingLists(
        classes=classes,
        train=tuple(video for i, video in enumerate(train) if i not in chosen),
        val=tuple(train[i] for i in sorted(chosen)),
    )


def classes_of(list_file: Path, root: str | None) -> ClassNames:
    """Return the names of the classes of a list; see `training_lists`.

    Raises:
        DataError: the list cannot be read, or names none.
    """
    folder = list_file.parent if root is None else Path(root)
    lines = [*list_lines(list_file, folder, labelled=True, form="`path label`")]
    labels = [label_of(line)[0] or line.path.parent.name for line in lines]
    if not labels:
        raise DataError(f"{list_file} lists no video", "write one a line: `path label`.")
    if not all(re.fullmatch(r"\d{1,6}", label) for label in labels):
        return ClassNames(sorted(set(labels), key=natural_order))
    numbers = [int(label) for label in labels]
    first = 1 if min(numbers) == 1 else 0
    names = {n: line.path.parent.name for n, line in zip(numbers, lines, strict=True)}
    by_folder = all(
        names[n] == line.path.parent.name for n, line in zip(numbers, lines, strict=True)
    )
    if by_folder and len(set(names.values())) == len(names):
        wanted = range(first, first + len(names))
        if sorted(names) == [*wanted]:
            return ClassNames([names[n] for n in wanted], first)
    # Without names, a label from 1 is the name "1" itself.
    return ClassNames(map(str, range(max(numbers) + 1)))
