"""Lists of videos: with labels, as training reads them, or without, as `run` and `verify` do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError, VideoError


@dataclass(frozen=True, slots=True)
class Video:
    """One line of a list file.

    Attributes:
        path: a video file, or a folder with one image a frame.
        label: the number of its class.
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
    num_classes: int,
    root: str | os.PathLike[str] | None = None,
) -> tuple[Video, ...]:
    """Read a list of videos, one a line: `path label`, or `path num_frames label`.

    The first form is for video files (as for Kinetics, UCF101 and HMDB51), the second for frame
    folders (as for Something-Something and Jester). Paths may hold spaces.

    Args:
        list_file: a text file.
        num_classes: labels are 0..num_classes-1.
        root: the folder that paths are relative to; the list file's own if None.

    Raises:
        DataError: the list cannot be read or is empty, or a line is wrong, which is named.
    """
    list_file = Path(list_file)
    root = list_file.parent if root is None else Path(root)
    videos: list[Video] = []
    present: dict[Path, set[str]] = {}  # one listing a folder is far cheaper than a look a path
    for number, line in enumerate(_lines(list_file), start=1):
        if not line.strip():
            continue
        where = f"{list_file}, line {number}"
        video = _parse(line.strip(), where, num_classes, root)
        folder, name = video.path.parent, video.path.name
        if folder not in present:
            present[folder] = _names(folder)
        if name not in present[folder]:
            raise DataError(
                f"{where}: there is nothing at {video.path}",
                "correct the line, or name the folder that the paths are relative to.",
            )
        videos.append(video)
    if not videos:
        raise DataError(f"{list_file} lists no video", "one video a line: path label.")
    return tuple(videos)


def _parse(line: str, where: str, num_classes: int, root: Path) -> Video:
    hint = "write `path label` for a video file, `path num_frames label` for a frame folder."
    path, numbers = _split(line)
    if not numbers:
        raise DataError(f"{where}: {line!r} does not end in a label", hint)
    *num_frames, label = numbers
    if not 0 <= label < num_classes:
        raise DataError(
            f"{where}: label {label} is not in 0..{num_classes - 1}",
            f"there are {num_classes} classes; do list file and class-name file belong together?",
        )
    if num_frames and num_frames[0] < 1:
        raise DataError(f"{where}: {path} has {num_frames[0]} frames", "remove the line.")
    return Video(root / path, label, num_frames[0] if num_frames else None)


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


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
