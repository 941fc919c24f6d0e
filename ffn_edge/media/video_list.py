"""Lists of videos: with labels, as training reads them, or without, as all else can."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError, VideoError
from ffn_edge.files.text_file import read_lines

UNLABELLED = -1
# What is looked for where a user names a folder or a pattern. A file that is named may be any.
VIDEO_SUFFIXES = {
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".mts", ".m2ts", ".ogv", ".gif"),
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_REASONS = 3  # that are told of several broken videos
_LOOKED_FOR = (
    f"looked for videos ({', '.join(sorted(VIDEO_SUFFIXES))}) and for images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))}), but not for hidden ones."
)
_LABELLED_LINE = "`path label` for a video file, `path num_frames label` for a frame folder"
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


def read_video_list(path: Path) -> list[Path]:
    """Return the videos of a text file, one a line, relative to the file.

    A line is as in the lists that `read_list` reads, with a label or without. What it names need
    not be there: a missing video is one that cannot be read.

    Raises:
        VideoError: the file cannot be read, or names no video.
    """
    return [video.path for video in _videos_of_list(path)]


def videos_of(source: str | os.PathLike[str]) -> list[Path]:
    """Return the paths of what `find_videos` finds."""
    return [video.path for video in find_videos(source)]


def find_videos(source: str | os.PathLike[str]) -> list[Video]:
    """Return the videos that a user names by one text. Labels are not read.

    Args:
        source: a *.txt list, see `read_video_list`; a folder, for the videos in it, or, where there
            is none, for its images as the frames of one video; a pattern, such as "day?/*.mp4" or
            "**/*.mp4", for the videos and folders that match; else a video file, which is not
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
    if path.suffix.lower() == ".txt":
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
    lines = read_lines(path, "a list of videos", _UNLABELLED_LINE, VideoError)
    find = _finder()
    videos: list[Video] = []
    for line in filter(None, lines):
        name, numbers, is_folder = _longest(line, path.parent, find)
        video = path.parent / name
        if is_folder and not numbers:
            videos += _videos_in_folder(video)
        else:
            videos.append(Video(video, UNLABELLED, numbers[0] if is_folder else None))
    if not videos:
        raise VideoError(f"{path} names no video", f"write one a line: {_UNLABELLED_LINE}.")
    return videos


def _videos_of_pattern(pattern: str) -> list[Video]:
    found: dict[Video, None] = {}  # "**" matches a folder, and what is in it
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural):
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
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Return a key that orders "9" before "10", and "a" beside "A"."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], str(path)


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
    form = _UNLABELLED_LINE if num_classes is None else _LABELLED_LINE
    videos: list[Video] = []
    find = _finder()
    for number, line in enumerate(read_lines(list_file, "a list of videos", form), start=1):
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
        raise DataError(f"{list_file} lists no video", f"write one a line: {form}.")
    return tuple(videos)


def _labelled(line: str, where: str, num_classes: int, root: Path) -> Video:
    path, numbers = _split(line)
    if not numbers:
        raise DataError(
            f"{where}: {line!r:.80} does not end in a label", f"write {_LABELLED_LINE}."
        )
    *num_frames, label = numbers
    if not 0 <= label < num_classes:
        raise DataError(
            f"{where}: label {label} is not in 0..{num_classes - 1}",
            f"there are {num_classes} classes, the first is 0; do list file and class-name file "
            "belong together?",
        )
    return _video(root, path, label, num_frames[0] if num_frames else None, where)


def _unlabelled(line: str, where: str, root: Path, find: _Find) -> Video:
    path, numbers, is_folder = _longest(line, root, find)
    if not is_folder:
        return _video(root, path, UNLABELLED, None, where)
    if not numbers:
        raise DataError(
            f"{where}: {path} is a folder, and its number of frames is not said",
            f"write {_UNLABELLED_LINE}.",
        )
    return _video(root, path, UNLABELLED, numbers[0], where)


def _longest(line: str, root: Path, find: _Find) -> tuple[str, list[int], bool]:
    """Return the longest path that a line begins with, the numbers behind it, whether a folder."""
    path, numbers = _split(line)
    for count in range(len(numbers) + 1):
        longer = line.rsplit(maxsplit=count)[0]
        if entry := find(root / longer):
            return longer, numbers[len(numbers) - count :], entry.is_dir()
    return path, numbers, False


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
    return re.fullmatch(r"-?\d{1,12}", text) is not None


_Find = Callable[[Path], "os.DirEntry[str] | None"]


def _finder() -> _Find:
    """Return a function that finds a path; one listing a folder is far cheaper than a look each."""
    listings: dict[Path, dict[str, os.DirEntry[str]]] = {}

    def find(path: Path) -> os.DirEntry[str] | None:
        if path.parent not in listings:
            listings[path.parent] = _listing(path.parent)
        return listings[path.parent].get(path.name)

    return find


def _listing(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}
