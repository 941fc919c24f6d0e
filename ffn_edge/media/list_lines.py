"""The lines of a list of videos, as they are written: in a text, or in a table with a header.

videos/wave 1.mp4 wave                  text: `path label`, or `path num_frames label`
video,start_s,end_s,label               a table, *.csv or *.tsv
long.mp4,12.5,15,wave
"""

from __future__ import annotations

import dataclasses
import glob
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.errors import DataError, FfnEdgeError, VideoError
from ffn_edge.files.text_file import read_lines, read_table
from ffn_edge.media.shards import SUFFIX as SHARD
from ffn_edge.media.shards import expand, videos_of_shard

# What is looked for where a user names a folder or a pattern. A file that is named may be any.
VIDEO_SUFFIXES = {
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".mts", ".m2ts", ".ogv", ".gif"),
}
# Names of a table's columns, as people and data sets write them; of several, the first counts.
_COLUMNS = {
    "path": ("video", "path", "file", "filename", "clip", "video_path", "video_id"),
    "label": ("label", "class", "action", "category"),
    "start": ("start_s", "start", "time_start", "begin", "from"),
    "end": ("end_s", "end", "time_end", "stop", "to"),
    "num_frames": ("num_frames",),
    "split": ("split", "subset", "set"),
}
# Of a table without a header, by the number of its columns.
_HEADLESS = {2: ("path", "label"), 4: ("path", "start", "end", "label")}
_TABLE_FORM = "a first line such as `video,start_s,end_s,label`"
_TABLES = {".csv", ".tsv"}


@dataclass(frozen=True, slots=True)
class ListLine:
    """One line of a list.

    Attributes:
        where: the list and the number of the line, for messages.
        path: of the video, from the root.
        entry: what lies there; None for nothing.
        label: what is written of it: in a table a number or a name, in a text all that follows the
            path; "" for nothing.
        num_frames: of a frame folder, in a table; None if it is not said.
        start_s: where the part that is meant begins, in seconds of the video.
        end_s: where it ends.
        split: what a table says of it, such as "train"; "" for nothing.
    """

    where: str
    path: Path
    entry: os.DirEntry[str] | None
    label: str
    num_frames: int | None = None
    start_s: float = 0.0
    end_s: float = math.inf
    split: str = ""


def list_lines(
    list_file: Path,
    root: Path,
    *,
    labelled: bool,
    form: str,
    error: type[FfnEdgeError] = DataError,
) -> Iterator[ListLine]:
    """Yield the lines of a list, in a text or a table; of a shard, those of its videos.

    In a text, a line that begins with # is a comment, and a path may be a pattern such as
    "wave/*.mp4". Where spaces leave a choice, the longest path that exists is meant; with
    `labelled`, one that leaves a label. A path may begin with "~".

    Args:
        list_file: *.csv or *.tsv is a table, *.tar a shard or a pattern of such, see
            `ffn_edge.media.shards`; anything else a text.
        root: the folder that paths start from.
        labelled: whether each line should have a label.
        form: of the lines of a text, for a message.
        error: what to raise.

    Raises:
        FfnEdgeError: `error`: the file cannot be read, or a table has no column of videos or a time
            that is none.
    """
    find = _finder()
    if list_file.suffix == SHARD:
        found = _text_line(os.fspath(list_file), os.fspath(list_file), Path(), find, False)
    else:
        found = _listed_lines(list_file, root, find, labelled, form, error)
    for line in found:
        if line.path.suffix == SHARD and line.entry is not None and line.entry.is_file():
            yield from _shard_lines(line, error)
        else:
            yield line


_Find = Callable[[Path], "os.DirEntry[str] | None"]


def _listed_lines(
    list_file: Path,
    root: Path,
    find: _Find,
    labelled: bool,
    form: str,
    error: type[FfnEdgeError],
) -> Iterator[ListLine]:
    if list_file.suffix.lower() in _TABLES:
        rows = read_table(list_file, "a list of videos", _TABLE_FORM, error)
        # Else it holds lines of text, unless a header says what its only column is.
        header = next(filter(None, rows), [""])
        if max(map(len, rows), default=0) > 1 or "path" in _headings(header):
            yield from _table_lines(list_file, rows, root, find, error)
            return
    lines = read_lines(list_file, "a list of videos", form, error)
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            yield from _text_line(line, f"{list_file}, line {number}", root, find, labelled)


def _shard_lines(line: ListLine, error: type[FfnEdgeError]) -> Iterator[ListLine]:
    """Yield a line for each video, or part of one, in the shard that a line names."""
    try:
        for number, (path, said) in enumerate(videos_of_shard(line.path, VIDEO_SUFFIXES)):
            yield dataclasses.replace(
                line,
                where=f"{line.path}, video {number}",
                path=path,
                label=str(said.label) or line.label,
                start_s=said.start_s,
                end_s=math.inf if said.end_s is None else said.end_s,
            )
    except VideoError as failure:
        raise error(failure.message, failure.hint) from failure
    except ValueError as reason:
        raise error(
            f"{line.path}, {reason}", 'write {"label": "wave", "start_s": 1.5, "end_s": 3}.'
        ) from reason


def _text_line(
    line: str, where: str, root: Path, find: _Find, labelled: bool
) -> Iterator[ListLine]:
    line = os.path.expanduser(line)
    gaps = [*re.finditer(r"\s+", line)][::-1]
    splits = [(line[: gap.start()], line[gap.end() :]) for gap in gaps]
    # The whole line as a path: the first choice where a label need not follow, else the last.
    splits.insert(len(splits) if labelled else 0, (line, ""))
    for path, label in splits:
        if entry := find(root / path):
            yield ListLine(where, root / path, entry, label)
            return
    for path, label in splits:
        if found := _matches(path, root):
            yield from (ListLine(where, root / each, find(root / each), label) for each in found)
            return
    numbers = re.search(r"(\s+-?\d{1,12}){1,2}$", line)
    path = line[: numbers.start()] if numbers else splits[0][0]
    yield ListLine(where, root / path, None, line[len(path) :].strip())


def _matches(pattern: str, root: Path) -> list[str]:
    """Return what a pattern stands for; nothing for a path that is none."""
    paths = expand(pattern)
    if glob.has_magic(pattern):
        return [each for path in paths for each in sorted(glob.glob(path, root_dir=root))]
    return paths if paths != [pattern] else []


def names_videos(table: Path) -> bool:
    """Tell whether a table has a column of videos, or is in one column, as a text is.

    Raises:
        DataError: it cannot be read.
    """
    rows = [row for row in read_table(table, "a list of videos", _TABLE_FORM) if row]
    return max(map(len, rows), default=0) < 2 or bool(_columns(rows[0]))


def _columns(row: list[str]) -> list[str]:
    """Return what each column holds, by the first line; nothing without a column of videos."""
    names = _headings(row)
    if not any(names):
        return list(_HEADLESS.get(len(row), ()))
    return names if "path" in names else []


def _headings(row: list[str]) -> list[str]:
    """Return what each column holds by its heading, one column for each; "" for nothing."""
    lower = [cell.lower() for cell in row]
    columns = {
        next((lower.index(each) for each in written if each in lower), -1): name
        for name, written in _COLUMNS.items()
    }
    return [columns.get(number, "") for number in range(len(row))]


def _table_lines(
    table: Path, rows: list[list[str]], root: Path, find: _Find, error: type[FfnEdgeError]
) -> Iterator[ListLine]:
    first = next(number for number, row in enumerate(rows) if row)
    names = _columns(rows[first])
    if not names:
        raise error(
            f"{table} has no column of videos: its first line is {', '.join(rows[first])!r:.80}",
            f"write {_TABLE_FORM}; `ffn-edge data scan` also reads the lists of known data sets.",
        )
    if any(_headings(rows[first])):
        first += 1
    for number, row in enumerate(rows[first:], start=first + 1):
        if not any(row):
            continue
        where = f"{table}, line {number}"
        cells = dict(zip(names, row, strict=False))
        path = root / os.path.expanduser(cells.get("path", ""))
        try:
            yield ListLine(
                where,
                path,
                find(path),
                cells.get("label", ""),
                _count_of(count) if (count := cells.get("num_frames")) else None,
                seconds_of(cells.get("start") or "0"),
                seconds_of(cells.get("end") or "inf"),
                cells.get("split", ""),
            )
        except ValueError as reason:
            raise error(
                f"{where}: {reason}",
                "a time is in seconds, such as 12.5, or minutes, such as 1:05; frames are counted.",
            ) from reason


def _count_of(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,12}", text):
        raise ValueError(f"{text!r:.50} is no number of frames")
    return int(text)


def seconds_of(text: str) -> float:
    """Read a time: "12.5", "12,5", "1:05" or "0:01:05.5" are seconds of a video.

    Raises:
        ValueError: it is none.
    """
    parts = text.replace(",", ".").split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = [math.nan]
    if not all(value >= 0 for value in values) or len(values) > 3:
        raise ValueError(f"{text!r:.50} is no time")
    return sum((value * 60.0**power for power, value in enumerate(reversed(values))), 0.0)


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
