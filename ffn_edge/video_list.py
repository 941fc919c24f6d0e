"""Lists of videos: with labels, as training reads them, or without, as all else can."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError, VideoError

UNLABELLED = -1
_LABELLED_LINE = "`path label` for a video file, `path num_frames label` for a frame folder"
_UNLABELLED_LINE = "`path` for a video file, `path num_frames` for a frame folder"


@dataclass(frozen=True, slots=True)
class Video:
    """One line of a list file.

    Attributes:
        path: a video file, or a folder with one image a frame.
        label: the number of its class, or `UNLABELLED` where labels are not read.
        num_frames: of a frame folder; None for a video file, which states its own.
    """

    path: Path
    label: int
    num_frames: int | None


def read_video_list(path: Path) -> list[Path]:
    """Return the videos of a text file, one a line, relative to the file.

    A line is a path, or a path and its label as in the lists that `read_list` reads.

    Raises:
        VideoError: the file cannot be read, or names no video.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(
            f"{path} cannot be read as a list of videos: {error}",
            "write one `path` or `path label` a line, in UTF-8.",
        ) from error
    videos = []
    for line in filter(None, map(str.strip, lines)):
        is_path = (path.parent / line).exists()  # though it may end in a number
        videos.append(path.parent / (line if is_path else _split(line)[0]))
    if not videos:
        raise VideoError(f"{path} names no video", "write one `path` or `path label` a line.")
    return videos


def videos_of(source: Path) -> list[Path]:
    """Return the videos that a *.txt list names, or the one video file itself."""
    return read_video_list(source) if source.suffix.lower() == ".txt" else [source]


def read_list(
    list_file: str | os.PathLike[str],
    *,
    num_classes: int | None,
    root: str | os.PathLike[str] | None = None,
) -> tuple[Video, ...]:
    """Read a list of videos, one a line: `path label`, or `path num_frames label`.

    The first form is for video files (as for Kinetics, UCF101 and HMDB51), the second for frame
    folders (as for Something-Something and Jester). Paths may hold spaces.

    Where labels are not read, a line may be `path` for a video file and `path num_frames` for a
    frame folder, or as above with any label. Of a line that ends in numbers, the longest path
    that exists is meant.

    Args:
        list_file: a text file.
        num_classes: labels are 0..num_classes-1; None where they are not read.
        root: the folder that paths are relative to; the list file's own if None.

    Raises:
        DataError: the list cannot be read or is empty, or a line is wrong, which is named.
    """
    list_file = Path(list_file)
    root = list_file.parent if root is None else Path(root)
    videos: list[Video] = []
    listings: dict[Path, dict[str, os.DirEntry[str]]] = {}

    def find(path: Path) -> os.DirEntry[str] | None:
        # One listing a folder is far cheaper than a look a path.
        if path.parent not in listings:
            listings[path.parent] = _listing(path.parent)
        return listings[path.parent].get(path.name)

    for number, line in enumerate(map(str.strip, _lines(list_file)), start=1):
        if not line:
            continue
        where = f"{list_file}, line {number}"
        if num_classes is None:
            video = _unlabelled(line, where, root, find)
        else:
            video = _labelled(line, where, num_classes, root)
        if find(video.path) is None:
            raise DataError(
                f"{where}: there is nothing at {video.path}",
                "correct the line, or name the folder that the paths are relative to.",
            )
        videos.append(video)
    if not videos:
        form = _UNLABELLED_LINE if num_classes is None else _LABELLED_LINE
        raise DataError(f"{list_file} lists no video", f"write one a line: {form}.")
    return tuple(videos)


def _labelled(line: str, where: str, num_classes: int, root: Path) -> Video:
    path, numbers = _split(line)
    if not numbers:
        raise DataError(f"{where}: {line!r} does not end in a label", f"write {_LABELLED_LINE}.")
    *num_frames, label = numbers
    if not 0 <= label < num_classes:
        raise DataError(
            f"{where}: label {label} is not in 0..{num_classes - 1}",
            f"there are {num_classes} classes; do list file and class-name file belong together?",
        )
    return _video(root, path, label, num_frames[0] if num_frames else None, where)


def _unlabelled(
    line: str, where: str, root: Path, find: Callable[[Path], os.DirEntry[str] | None]
) -> Video:
    path, numbers = _split(line)
    for count in range(len(numbers) + 1):
        longer = line.rsplit(maxsplit=count)[0]
        if entry := find(root / longer):
            if not entry.is_dir():
                return _video(root, longer, UNLABELLED, None, where)
            if not count:
                raise DataError(
                    f"{where}: {longer} is a folder, and its number of frames is not said",
                    f"write {_UNLABELLED_LINE}.",
                )
            return _video(root, longer, UNLABELLED, numbers[-count], where)
    return _video(root, path, UNLABELLED, None, where)


def _video(root: Path, path: str, label: int, num_frames: int | None, where: str) -> Video:
    if num_frames is not None and num_frames < 1:
        raise DataError(f"{where}: {path} has {num_frames} frames", "remove the line.")
    return Video(root / path, label, num_frames)


def _split(line: str) -> tuple[str, list[int]]:
    """Return a line's path, and the one or two numbers that follow it, if any do."""
    path, *numbers = line.rsplit(maxsplit=2)
    if len(numbers) == 2 and not _is_number(numbers[0]):  # a path with a space, and a label
        path, *numbers = line.rsplit(maxsplit=1)
    if not numbers or not _is_number(numbers[-1]):
        return line, []
    return path, [int(number) for number in numbers]


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "name a text file in UTF-8.") from error


def _listing(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}
