"""Lists of videos: tables with parts of recordings, and our own lists in text."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.errors import DataError, counted
from ffn_edge.media.classes import read_classes
from ffn_edge.media.list_lines import ListLine, list_lines, names_videos
from ffn_edge.media.video_list import VIDEO_SUFFIXES, counts_from_one, label_of
from ffn_edge.train.scan.folders import Folder, Placed, placed
from ffn_edge.train.scan.found import Found, Line, split_of

_TRIED = 50  # lines of a text, to tell a list from anything else
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt", "categories.txt")


@dataclass(slots=True)
class Index:
    """The videos of a source by their names, for lists that name them by these alone.

    Attributes:
        folder: the path of the source.
        walked: returns what is in it; is asked only where a list does not give whole paths.
        listed: the paths of videos that lists name.
    """

    folder: str
    walked: Callable[[], Folder]
    listed: set[str] = field(default_factory=set)
    _by_name: dict[str, Placed | None] = field(default_factory=dict)

    def find(self, name: str, *, folder: str = "") -> Placed | None:
        """Return the video of a file name, with another suffix or none; None if there is none.

        Args:
            name: of the file, or of the folder of images.
            folder: of those that have one name, the one in the folder with this name.
        """
        if not self._by_name:
            for video in placed(self.walked()):
                base = os.path.basename(video.path)
                # The folder of "video/rgb" has the name of the video beside its parts.
                around = os.path.basename(os.path.dirname(video.path))
                stem = base if video.is_folder else os.path.splitext(base)[0]
                for key in {base, stem, f"{around}/{base}", f"{around}/{stem}"}:
                    # A name that several have says nothing.
                    self._by_name[key] = None if key in self._by_name else video
        stem, suffix = os.path.splitext(name)
        keys = (f"{folder}/{name}", name, stem if suffix.lower() in VIDEO_SUFFIXES else name)
        found = next(filter(None, map(self._by_name.get, keys)), None)
        if found is not None:
            self.listed.add(found.path)
        return found

    def say_unlisted(self, found: Found) -> None:
        """Note how many videos no list names."""
        videos = placed(self.walked())
        others = [video.path for video in videos if video.path not in self.listed]
        if others:
            found.say(
                "unlisted",
                f"{counted(len(others), 'video')} in no list, or without a label there: left out",
                others,
            )


def say_missing(found: Found, names: Sequence[str]) -> None:
    """Note which videos of the lists are not there."""
    if names:
        found.say(
            "missing",
            f"{counted(len(names), 'line')} of the lists with a video that is not there, or a name "
            "that several have: left out",
            names,
        )


def by_lists(lists: Iterable[str], index: Index, found: Found, *, named: bool) -> bool:
    """Take lines from tables and texts; tell whether any of them is a list of videos.

    Args:
        lists: their paths.
        index: of the videos.
        found: gets what is found.
        named: whether the user named them, and not just the folder that they are in.

    Raises:
        DataError: a list that is named, or a table with a column of videos, cannot be read.
    """
    used: list[str] = []
    missing: list[str] = []
    unlabelled: list[str] = []
    numbers: set[str] = set()
    for path in lists:
        if os.path.basename(path) in CLASS_FILES:
            continue
        lines = _lines_of(path, index, named)
        if lines is None:
            continue
        used.append(path)
        split = split_of(os.path.splitext(os.path.basename(path))[0])
        classes = _classes_beside(path)
        first = 1 if classes and counts_from_one(lines, classes) else 0
        for line in lines:
            video = _video_of(line, index, found)
            if video is None:
                missing.append(line.where)
                continue
            label = label_of(line)[0] if video in found.folders else line.label
            if not label and (around := os.path.dirname(video)) != index.folder:
                label = os.path.basename(around)
            if re.fullmatch(r"\d{1,12}", label) and label not in classes:
                if 0 <= int(label) - first < len(classes):
                    label = classes[int(label) - first]
                    found.classes = tuple(classes)
                else:
                    numbers.add(label)
            if label:
                split_here = split_of(line.split) or split
                found.lines.append(Line(video, label, split_here, line.start_s, line.end_s))
            else:
                unlabelled.append(line.where)
    if not used:
        return False
    found.layout = "lists of videos: " + ", ".join(os.path.basename(path) for path in used)
    say_missing(found, missing)
    if unlabelled:
        found.say(
            "no label",
            f"{counted(len(unlabelled), 'line')} of the lists without a label: left out",
            unlabelled,
        )
    if numbers:
        found.say(
            "labels are numbers",
            "numbers as labels, which no class file names: taken as names; "
            f"a {CLASS_FILES[0]} beside the list, one name a line, would name "
            "them",
            sorted(numbers, key=int),
        )
    return True


def _lines_of(path: str, index: Index, named: bool) -> list[ListLine] | None:
    """Return the lines of a list, from the folder that they start from; None if it is none."""
    file = Path(path)
    is_table = file.suffix.lower() in (".csv", ".tsv")
    best: tuple[int, list[ListLine]] = (-1, [])
    form = "`path label`, or a table with `video,start_s,end_s,label`"
    try:
        if is_table and not named and not names_videos(file):
            return None
        for root in dict.fromkeys((file.parent, Path(index.folder))):
            tried = list(itertools.islice(list_lines(file, root, labelled=True, form=form), _TRIED))
            hits = sum(line.entry is not None and bool(line.label) for line in tried)
            if hits > best[0]:
                every = list_lines(file, root, labelled=True, form=form)
                best = hits, tried if len(tried) < _TRIED else list(every)
    except DataError:
        if named or is_table:
            raise
        return None
    hits, lines = best
    if is_table and not named and not any(line.label for line in lines):
        return None  # what is known of videos, but for their classes
    needed = min(len(lines), _TRIED) / 2
    if hits < needed:
        hits = sum(index.find(line.path.name) is not None for line in lines[:_TRIED])
    return lines if lines and hits >= needed else None


def _video_of(line: ListLine, index: Index, found: Found) -> str | None:
    """Return the path of a line's video, or of one with its name; None if there is neither."""
    path = os.path.normpath(line.path)
    if line.entry is None:
        video = index.find(line.path.name, folder=line.path.parent.name)
        if video is None:
            return None
        path, is_folder = video.path, video.is_folder
    else:
        is_folder = line.entry.is_dir()
    index.listed.add(path)
    if is_folder:
        found.folders.add(path)
    return path


def _classes_beside(path: str) -> Sequence[str]:
    files = (os.path.join(os.path.dirname(path), name) for name in CLASS_FILES)
    return next((read_classes(file) for file in files if os.path.isfile(file)), ())
