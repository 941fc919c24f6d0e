"""Folders of videos: what is in them, and classes and splits by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ffn_edge.errors import DataError, counted, reason_of
from ffn_edge.media.video_list import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_order
from ffn_edge.train.data_folder import is_data_folder
from ffn_edge.train.scan.found import SPLITS, Found, Line

LIST_SUFFIXES = {".csv", ".tsv", ".txt", ".json"}
# Names of the folder in which a video's pictures lie, beside such of its depth or its flow.
_PICTURES = ("rgb", "frames", "images", "image", "img", "imgs", "color", "colour")
_DEEPEST = 32


@dataclass(slots=True)
class Folder:
    """A folder with videos in it or below it.

    Attributes:
        path: of it.
        videos: names of the video files in it.
        images: how many of its files are images.
        lists: names of files that may be lists.
        folders: in it that hold videos, images or lists.
    """

    path: str
    videos: list[str] = field(default_factory=list)
    images: int = 0
    lists: list[str] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its own name."""
        return os.path.basename(self.path)

    @property
    def holds(self) -> bool:
        """Whether a video is in it or below it."""
        return bool(self.videos or self.images or any(each.holds for each in self.folders))

    @property
    def is_video(self) -> bool:
        """Whether it holds one image a frame, and nothing else."""
        return bool(self.images) and not self.videos and not any(e.holds for e in self.folders)


class Placed(NamedTuple):
    """A video, and the names of the folders from the root to it."""

    path: str
    parts: tuple[str, ...]
    is_folder: bool


def walk(source: str, output: Path, found: Found) -> Folder:
    """List a folder and those below it; links are followed, but not in a circle.

    Args:
        source: the folder.
        output: a folder that is left out, wherever it is met; so is any other data folder.
        found: is told what was passed over.

    Raises:
        DataError: there is no folder, or it cannot be read.
    """
    ignored: dict[str, str] = {}  # kind of file -> one of it
    closed: list[str] = []
    empty: list[str] = []
    number = 0

    def listed(path: str, around: tuple[tuple[int, int], ...]) -> Folder | None:
        nonlocal number
        try:
            stat = os.stat(path)
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: natural_order(entry.name))
        except OSError as error:
            if not around:
                raise DataError(
                    f"{path} cannot be read as a folder of videos: {reason_of(error)}",
                    "name a folder with a folder of videos for each class, or a list.",
                ) from error
            closed.append(f"{path} ({reason_of(error)})")
            return None
        key = (stat.st_dev, stat.st_ino)
        if key in around or len(around) > _DEEPEST:
            return None
        folder = Folder(path)
        for entry in inside:
            suffix = os.path.splitext(entry.name)[1].lower()
            is_folder = entry.is_dir()
            if entry.name.startswith("."):
                number += 1
                ignored.setdefault("hidden folder" if is_folder else "hidden", entry.path)
            elif is_folder:
                if not (_same(entry.path, output) or is_data_folder(entry.path)) and (
                    below := listed(entry.path, (*around, key))
                ):
                    folder.folders.append(below)
            elif suffix in VIDEO_SUFFIXES:
                folder.videos.append(entry.name)
            elif suffix in IMAGE_SUFFIXES:
                folder.images += 1
            elif suffix in LIST_SUFFIXES:
                folder.lists.append(entry.name)
            else:
                number += 1
                ignored.setdefault(suffix or entry.name, entry.path)
        if folder.images and not folder.is_video:
            number += folder.images
            ignored.setdefault("images", path)
        if folder.videos or folder.images or folder.lists or folder.folders:
            return folder
        empty.append(path)
        return None

    root = listed(source, ()) or Folder(source)
    if number:
        found.say(
            "other files",
            f"{counted(number, 'file or folder', 'files or folders')} ignored: hidden, or no video",
            ignored.values(),
        )
    if empty:
        found.say(
            "empty folders", f"{counted(len(empty), 'folder')} without a video: ignored", empty
        )
    if closed:
        found.say(
            "closed folders",
            f"{counted(len(closed), 'folder')} cannot be read and were left out",
            closed,
        )
    return root


def _same(path: str, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # there is no data folder yet
        return False


def placed(folder: Folder, parts: tuple[str, ...] = ()) -> Iterator[Placed]:
    """Yield the videos in a folder and below it, each with the folders from there to it."""
    if folder.is_video:
        yield Placed(folder.path, parts[:-1], True)
        return
    for name in folder.videos:
        yield Placed(os.path.join(folder.path, name), parts, False)
    kinds = {each.name.lower(): each for each in folder.folders if each.is_video}
    if pictures := next((kinds[name] for name in _PICTURES if name in kinds), None):
        # One video as pictures, depth, flow, ...: its pictures, under the name of the whole.
        yield Placed(pictures.path, parts[:-1], True)
        return
    for each in folder.folders:
        yield from placed(each, (*parts, each.name))


def by_folders(root: Folder, found: Found) -> None:
    """Take classes, and splits where there are any, from the names of folders."""
    while (inner := _only_wrapper(root)) is not None:
        root = inner
        found.say("inner folder", "the classes are the folders of an inner folder", [root.path])
    parts_of_split = {each.name: SPLITS.get(each.name.lower(), "") for each in root.folders}
    outer = len(set(filter(None, parts_of_split.values()))) >= 2
    videos = list(placed(root))
    inner_split = not outer and _classes_hold_splits(videos)
    depth = 1 if outer else 0  # of the class among the folders
    unclassed, outside = [], []
    for video in videos:
        split = ""
        if outer:
            split = parts_of_split.get(video.parts[0], "") if video.parts else ""
            if not split:
                outside.append(video.path)
                continue
        elif inner_split:
            split = SPLITS[video.parts[1].lower()]
        if len(video.parts) <= depth:
            unclassed.append(video.path)
            continue
        found.lines.append(Line(video.path, video.parts[depth], split))
        if video.is_folder:
            found.folders.add(video.path)
    has_splits = outer or inner_split
    found.layout = "folders of classes" + (", in folders of splits" if has_splits else "")
    if unclassed:
        found.say(
            "no class",
            f"{counted(len(unclassed), 'video')} in no class folder: ignored; move each into a "
            "folder with the name of its class, or list them in a table",
            unclassed,
        )
    if outside:
        found.say(
            "outside the splits",
            f"{counted(len(outside), 'video')} outside the folders of splits: ignored",
            outside,
        )


def _only_wrapper(root: Folder) -> Folder | None:
    """Return the only folder that holds videos, if its folders must be the classes."""
    holding = [each for each in root.folders if each.holds]
    if root.videos or len(holding) != 1 or holding[0].videos or holding[0].is_video:
        return None
    inner = [each for each in holding[0].folders if each.holds]
    if len(inner) == 1:
        return holding[0] if _only_wrapper(holding[0]) is not None else None
    # Folders that are videos themselves are those of a class.
    classes = [each for each in inner if not each.is_video and not _is_rgb(each)]
    return holding[0] if len(classes) > 1 else None


def _is_rgb(folder: Folder) -> bool:
    names = {each.name.lower() for each in folder.folders if each.is_video}
    return not folder.videos and not names.isdisjoint(_PICTURES)


def _classes_hold_splits(videos: list[Placed]) -> bool:
    """Tell whether every class folder is divided into train and val, or test."""
    seconds = {video.parts[1].lower() for video in videos if len(video.parts) > 1}
    return (
        all(len(video.parts) > 1 and video.parts[1].lower() in SPLITS for video in videos)
        and len({SPLITS[name] for name in seconds}) > 1
    )
