"""The folder that `ffn-edge data scan` writes: lists, names of classes, and facts of the videos."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError
from ffn_edge.files.schema import Count, Format, NotNegative, Positive
from ffn_edge.media.classes import read_classes

REPORT, CLASSES = "report.json", "classes.txt"
SCHEMA_VERSION = 1
_FILES = {*("train.csv", "val.csv", "test.csv"), CLASSES, REPORT, "report.html"}
_HINT = "make it with `ffn-edge data scan VIDEOS -o FOLDER`."


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What of the videos decides how a network for them is trained.

    Attributes:
        dataset: its name in `ffn_edge.train.datasets.DATASETS`; "custom" for one's own.
        clips: by split, "train", "val" or "test", and class: how many lines it has.
        seconds: the lengths of the lines: of 10 %, the median, and of 90 %. None where all are
            folders of images, which have no times.
        fps: frames a second, the median; 0 if not known.
        short_side: of the frames, in pixels, the median.
        window_s: seconds that a clip may span: the median length, at most 10 s; None for folders
            of images.
        frame_counts: of a clip, as many as the videos have frames for.
        mirror: pairs of classes that become each other when left and right are swapped. None: do
            not mirror, since a class tells left from right and its partner is missing.
    """

    dataset: str
    clips: dict[str, dict[str, Count]]
    seconds: tuple[NotNegative, NotNegative, NotNegative] | None
    fps: NotNegative
    short_side: Count
    window_s: NotNegative | None
    frame_counts: tuple[Positive, ...]
    mirror: tuple[tuple[str, str], ...] | None

    def __post_init__(self) -> None:
        if not {"train", "val"} <= self.clips.keys():
            raise ValueError("clips have no train and val")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """A folder that can be trained on.

    Attributes:
        path: of it.
        classes: their names, in the order of the labels.
        facts: see `DataFacts`.
    """

    path: Path
    classes: tuple[str, ...]
    facts: DataFacts

    @property
    def paths(self) -> dict[str, str]:
        """Its lists and class file, as fields of a recipe."""
        return {
            "train_list": str(self.train_list),
            "val_list": str(self.val_list),
            "classes": str(self.path / CLASSES),
        }

    @property
    def train_list(self) -> Path:
        """The list to train on."""
        return self.path / "train.csv"

    @property
    def val_list(self) -> Path:
        """The list to validate on."""
        return self.path / "val.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    facts: DataFacts


_FORMAT = Format(
    cls=_Report,
    versions=(SCHEMA_VERSION,),
    kind="a report of `ffn-edge data scan`",
    hint=_HINT,
    hint_for_others="scan the videos again with this release.",
    error=DataError,
)


def read_data_folder(folder: str | os.PathLike[str]) -> DataFolder:
    """Read what `ffn-edge data scan` wrote.

    Raises:
        DataError: it is no such folder, lacks one of its files, or is of another release.
    """
    path = Path(folder)
    facts = _FORMAT.read(
        path / REPORT, missing=f"{path} is no folder of `ffn-edge data scan`: it has no {REPORT}"
    ).facts
    classes = read_classes(path / CLASSES)
    found = DataFolder(path=path, classes=tuple(classes), facts=facts)
    for split in facts.clips:
        if not (path / f"{split}.csv").is_file():
            raise DataError(f"{path} lacks its {split}.csv", _HINT)
    return found


def is_data_folder(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder looks as if a scan wrote it; nothing is read."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (REPORT, CLASSES))


def check_output(folder: Path) -> None:
    """Refuse a folder to write to that holds something else.

    Raises:
        DataError: it is no folder, or holds what no scan wrote.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "name another one with -o.")
    there = sorted(os.listdir(folder))
    others = [name for name in there if name not in _FILES]
    if others or (there and REPORT not in there):
        raise DataError(
            f"{folder} holds something else than a scan wrote: {(others or there)[0]}",
            "name another folder with -o.",
        )
