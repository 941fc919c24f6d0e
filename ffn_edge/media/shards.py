"""Shards: tar files of videos with their labels, in webdataset's layout.

    train-000000.tar
        000000.mp4    a video; members of one name up to the first dot belong together
        000000.cls    its label, a number from 0 or a class's name; or
        000000.json   {"label": "wave", "start_s": 12.5, "end_s": 15.0}, or a list of such

A member's path is the shard's with the member's name: train-000000.tar/000000.mp4. It is read in
place, so a shard may lie on a mounted file system; compressed ones (*.tar.gz) have no places.
"""

from __future__ import annotations

import functools
import glob
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ffn_edge.errors import VideoError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.regular_file import open_regular
from ffn_edge.files.schema import NotNegative

SUFFIX = ".tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_TEXT_BYTES = 1 << 20  # of a label


class Member(NamedTuple):
    """Where the bytes of a member lie in its shard."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a shard says of a video, or of a part of it."""

    label: str | int = ""
    start_s: NotNegative = 0.0
    end_s: NotNegative | None = None


def shard_of(path: Path) -> Path | None:
    """Return the shard that a path lies in; None if it is a file or a folder of its own."""
    return next((each for each in path.parents if each.suffix == SUFFIX and each.is_file()), None)


def file_of(path: Path) -> Path:
    """Return the file that holds a video: its shard, or itself."""
    return shard_of(path) or path


def member_of(shard: Path, path: Path) -> Member:
    """Return where a video lies in its shard.

    Raises:
        VideoError: the shard cannot be read, or has no such member.
    """
    name = path.relative_to(shard).as_posix()
    found = members(shard).get(name)
    if found is None:
        raise VideoError(f"there is no {name} in {shard}", "list the shard anew.")
    return found


def members(shard: Path) -> Mapping[str, Member]:
    """Return the members of a shard by name. Its headers are read once in a process.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        state = shard.stat()
        return _members(shard, state.st_size, state.st_mtime_ns)
    except (OSError, tarfile.TarError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is cut off, or no tar"
        raise VideoError(
            f"{shard} cannot be read as a tar of videos: {reason}", "copy or make it again."
        ) from error


@functools.cache
def _members(shard: Path, size: int, _: int) -> Mapping[str, Member]:
    found = {}
    with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                name = str(PurePosixPath(member.name))  # without "./"
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError
                found[name] = Member(member.offset_data, member.size)
    return found


def videos_of_shard(shard: Path, suffixes: set[str]) -> Iterator[tuple[Path, Labelled]]:
    """Yield the videos of a shard, in its order, with what is said of each.

    Args:
        shard: the tar file.
        suffixes: of videos.

    Raises:
        VideoError: it cannot be read.
        ValueError: what is said of a video is wrong; the message names its member.
    """
    found = members(shard)
    groups: dict[str, dict[str, str]] = {}
    for name in found:
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        groups.setdefault(folder + slash + stem, {})[f".{extension.lower()}"] = name
    with open_regular(shard) as file:
        for group in groups.values():
            video = next((group[suffix] for suffix in group if suffix in suffixes), None)
            if video is None:
                continue
            about = group.get(".json", group.get(".cls"))
            said: tuple[Labelled, ...] = (Labelled(),)
            if about is not None:
                file.seek(found[about].offset)
                said = _said(about, file.read(min(found[about].size, _MOST_TEXT_BYTES)))
            yield from ((shard / video, each) for each in said)


def _said(name: str, data: bytes) -> tuple[Labelled, ...]:
    try:
        if not name.endswith(".json"):
            return (Labelled(data.decode().strip()),)
        value = schema.load(data)
        if not isinstance(value, list):
            value = [value]
        # Other programs' tools say more of a video.
        known = [
            {key: each[key] for key in Labelled.__slots__ if key in each}
            for each in value
            if isinstance(each, dict)
        ]
        return schema.parse(tuple[Labelled, ...], known)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def is_pattern(text: str) -> bool:
    """Whether a text names shards by a pattern."""
    return text.endswith(SUFFIX) and (glob.has_magic(text) or _RANGE.search(text) is not None)


def expand(pattern: str) -> list[str]:
    """Return what "train-{000000..000011}.tar" stands for; any other text alone."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found[1], found[2]
    numbers = range(int(first), int(last) + 1)
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [f"{before}{number:0{len(first)}}{after}" for number in numbers]
