"""Lists of videos: with labels, as training reads them, or without, as all else can."""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError, VideoError
from ffn_edge.media.classes import ClassNames
from ffn_edge.media.list_lines import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from ffn_edge.media.list_lines import ListLine, list_lines

UNLABELLED = -1
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_LISTS = {".txt", ".csv", ".tsv"}
_REASONS = 3  # that are told of several broken videos
_LOOKED_FOR = (
    f"looked for videos ({', '.join(sorted(VIDEO_SUFFIXES))}) and for images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))}), but not for hidden ones."
)
_LABELLED_LINE = "`path label`, the label a class's name or its number"
_UNLABELLED_LINE = "`path` for a video file, `path num_frames` for a frame folder"


@dataclass(frozen=True, slots=True)
class Video:
    """One line of a list file: a video, the part of it that is meant, and a label.

    Attributes:
        path: a video file, or a folder with one image a frame.
        label: the number of its class, or `UNLABELLED` where labels are not read.
        num_frames: of a frame folder; None for a video file, which states its own.
        start_s: where the part begins, in seconds from the video's first frame.
        end_s: where it ends: the first time that is no longer part of it. Infinity is the end.
    """

    path: Path
    label: int
    num_frames: int | None
    start_s: float = 0.0
    end_s: float = math.inf


def find_videos(source: str | os.PathLike[str]) -> list[Video]:
    """Return the videos that a user names by one text. Labels are not read.

    What a list names need not be there: a missing video is one that cannot be read.

    Args:
        source: a list, *.txt, *.csv or *.tsv, see `read_list`; a folder, for the videos in it, or,
            where there is none, for its images as the frames of one video; a pattern, such as
            "day?/*.mp4", for the videos and folders that match; else a video file, which is not
            looked at. It may begin with "~".

    Returns:
        At least one video. Those of a folder or a pattern are in natural order, "9" before "10".

    Raises:
        VideoError: a list or a folder cannot be read, or there is no video in what is named.
    """
    text = os.path.expanduser(source)
    path = Path(text)
    if os.path.isdir(text):
        return _videos_in_folder(path)
    if glob.has_magic(text) and not os.path.exists(path):
        return _videos_of_pattern(text)
    if path.suffix.lower() in _LISTS:
        return _videos_of_list(path)
    return [Video(path, UNLABELLED, None)]


def images_in_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the images in a folder, in natural order; hidden ones are left out.

    Raises:
        VideoError: the folder cannot be read.
    """
    return _files_in_folder(Path(folder), IMAGE_SUFFIXES)


def files_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        return os.listdir(folder)
    except OSError as error:
        raise VideoError(
            f"the folder {folder} cannot be read: {error.strerror}",
            "check the path, and for a line of a list the folder that it is relative to.",
        ) from error


def none_could_be_read(broken: Sequence[tuple[str, VideoError]]) -> VideoError:
    """Return the error of a run in which every video is broken: with their different reasons.

    Args:
        broken: the name of each and its error; at least one.
    """
    if len(broken) == 1:
        return broken[0][1]
    reasons: dict[str, VideoError] = {}
    for name, error in broken:
        reasons.setdefault(error.message.replace(name, ""), error)
    shown = list(reasons.values())[:_REASONS]
    return VideoError(
        f"none of the {len(broken)} videos could be read: "
        + "; ".join(error.message for error in shown)
        + ("; …" if len(shown) < len(broken) else ""),
        shown[0].hint,
    )


def _videos_of_list(path: Path) -> list[Video]:
    videos: list[Video] = []
    for line in list_lines(
        path, path.parent, labelled=False, form=_UNLABELLED_LINE, error=VideoError
    ):
        num_frames = _num_frames(line)
        if line.entry is not None and line.entry.is_dir() and num_frames is None:
            videos += _videos_in_folder(line.path)
        else:
            videos.append(Video(line.path, UNLABELLED, num_frames, line.start_s, line.end_s))
    if not videos:
        raise VideoError(f"{path} names no video", f"write one a line: {_UNLABELLED_LINE}.")
    return videos


def _videos_of_pattern(pattern: str) -> list[Video]:
    found: dict[Video, None] = {}  # "**" matches a folder, and what is in it
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=natural_order):
        if path.is_dir():
            found.update(dict.fromkeys(_look_in(path)))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found[Video(path, UNLABELLED, None)] = None
    if not found:
        raise VideoError(
            f"there is no video at {pattern}: the pattern matches none, and no folder of them",
            _LOOKED_FOR,
        )
    return list(found)


def _videos_in_folder(folder: Path) -> list[Video]:
    found = _look_in(folder)
    if not found:
        raise VideoError(
            f"there is no video at {folder}: the folder holds none, and no image",
            f"{_LOOKED_FOR} For those in its folders, write '{folder}/**/*.mp4', or alike.",
        )
    return found


def _look_in(folder: Path) -> list[Video]:
    if videos := _files_in_folder(folder, VIDEO_SUFFIXES):
        return [Video(path, UNLABELLED, None) for path in videos]
    images = images_in_folder(folder)
    return [Video(folder, UNLABELLED, len(images))] if images else []


def _files_in_folder(folder: Path, suffixes: set[str]) -> list[Path]:
    paths = [folder / name for name in files_in(folder) if not name.startswith(".")]
    found = [path for path in paths if path.suffix.lower() in suffixes and not path.is_dir()]
    return sorted(found, key=natural_order)


def natural_order(path: str | Path) -> tuple[list[str | int], str]:
    """Return a key that orders "9" before "10", and "a" beside "A"."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], str(path)


def read_list(
    list_file: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None,
    root: str | os.PathLike[str] | None = None,
) -> tuple[Video, ...]:
    """Read a list of videos with their labels.

    A line of a text is `path label` for a video file, and `path num_frames label` or `path label`
    for a frame folder. A table, *.csv or *.tsv, has columns `video`, `label` and, as they are
    needed, `start_s`, `end_s` and `num_frames`; see `list_lines` for both. A label is the name of a
    class, or its number: from 0, or from 1 where the class file counts so, or where every video
    lies in a folder with the name of the class that it then has. A line without a label has that of
    its video's folder, if this is the name of a class.

    Where labels are not read, a line may be `path` for a video file and `path num_frames` for a
    frame folder, or as above with any label.

    Args:
        list_file: the text or the table.
        classes: their names, see `read_classes`; None where labels are not read. One that is ""
            is that of lines without a label.
        root: the folder that paths are relative to; the list file's own if None.

    Raises:
        DataError: the list cannot be read or is empty, or a line is wrong, which is named.
    """
    list_file = Path(list_file)
    root = list_file.parent if root is None else Path(root)
    form = _UNLABELLED_LINE if classes is None else _LABELLED_LINE
    lines = [*list_lines(list_file, root, labelled=classes is not None, form=form)]
    if not lines:
        raise DataError(f"{list_file} lists no video", f"write one a line: {form}.")
    if classes is None:
        return tuple(_checked(line, UNLABELLED, _num_frames(line)) for line in lines)
    numbers = {name: number for number, name in enumerate(classes)}
    first = 1 if counts_from_one(lines, classes) else 0
    return tuple(_labelled(line, numbers, first) for line in lines)


def _labelled(line: ListLine, numbers: Mapping[str, int], first: int) -> Video:
    """Return a line as a video, with the number of its class."""
    text, num_frames = line.label, line.num_frames
    if text not in numbers:
        text, num_frames = label_of(line)
    if not text and text not in numbers:
        text = line.path.parent.name if line.path.parent.name in numbers else ""
    if not text and text not in numbers:
        raise DataError(
            f"{line.where}: {line.path.name!r:.80} is followed by no label",
            f"write {_LABELLED_LINE}.",
        )
    label = numbers.get(text)
    if label is None and _is_number(text):
        label = int(text) - first
        if not 0 <= label < len(numbers):
            raise DataError(
                f"{line.where}: label {text} is not in {first}..{len(numbers) - 1 + first}",
                f"there are {len(numbers)} classes, the first is {first}; do list file and "
                "class-name file belong together?",
            )
    if label is None:
        near = difflib.get_close_matches(text, numbers, n=1)
        raise DataError(
            f"{line.where}: the label {text!r:.80} is none of the {len(numbers)} classes",
            f"did you mean {near[0]!r}?" if near else f"write {_LABELLED_LINE}.",
        )
    if num_frames is None and line.entry is not None and line.entry.is_dir():
        num_frames = len(images_in_folder(line.path)) or None
    return _checked(line, label, num_frames)


def label_of(line: ListLine) -> tuple[str, int | None]:
    """Return what a line gives as its label, and the number of frames of a folder before it."""
    match = re.fullmatch(r"(-?\d{1,12})\s+(.+)", line.label)
    if match and line.num_frames is None and (line.entry is None or line.entry.is_dir()):
        return match[2], int(match[1])
    return line.label, line.num_frames


def _checked(line: ListLine, label: int, num_frames: int | None) -> Video:
    if line.entry is None:
        raise DataError(
            f"{line.where}: there is nothing at {line.path}",
            "correct the line, or name the folder that the paths are relative to.",
        )
    if num_frames is None and line.entry.is_dir():
        raise DataError(
            f"{line.where}: {line.path} is a folder, and its number of frames is not said",
            f"write {_UNLABELLED_LINE}.",
        )
    if num_frames is not None and num_frames < 1:
        raise DataError(f"{line.where}: {line.path} has {num_frames} frames", "remove the line.")
    if line.start_s >= line.end_s:
        raise DataError(
            f"{line.where}: a part from {line.start_s:g} s to {line.end_s:g} s is empty",
            "its end comes after its start.",
        )
    if num_frames is not None and (line.start_s, line.end_s) != (0.0, math.inf):
        raise DataError(
            f"{line.where}: {line.path} is a folder of frames, which have no times",
            "leave start_s and end_s empty, and keep the frames of a part in a folder.",
        )
    return Video(line.path, label, num_frames, line.start_s, line.end_s)


def _num_frames(line: ListLine) -> int | None:
    """Return how many frames a folder has by its line, of which a label is not read."""
    if line.entry is None or not line.entry.is_dir():
        return None
    number = line.label.partition(" ")[0]
    if line.num_frames is None and _is_number(number):
        return int(number)
    return line.num_frames


def counts_from_one(lines: Sequence[ListLine], classes: Sequence[str]) -> bool:
    """Tell whether labels are numbers from 1, as in the lists of UCF101."""
    if isinstance(classes, ClassNames) and classes.first == 1:
        return True
    return all(
        _is_number(label)
        and 1 <= int(label) <= len(classes)
        and line.path.parent.name == classes[int(label) - 1]
        for line in lines
        for label, _ in [label_of(line)]
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,12}", text) is not None
