"""Shards made of a list, for videos that are read from another machine."""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

from ffn_edge.errors import DataError
from ffn_edge.files.atomic import atomic_file
from ffn_edge.files.regular_file import open_regular
from ffn_edge.media.images import check_file
from ffn_edge.media.list_lines import list_lines
from ffn_edge.media.shards import SUFFIX
from ffn_edge.media.video_list import label_of


def pack(
    list_file: Path,
    folder: Path,
    *,
    size_mb: float = 500.0,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Copy the videos of a list, with their labels, into shards; see `ffn_edge.media.shards`.

    A video of which several parts are listed is copied once. Labels stay as they are written.

    Args:
        list_file: see `read_list`.
        folder: for `NAME-000000.tar` and so on, by the name of the list.
        size_mb: from which a shard is full.
        on_video: is called with (videos done, videos in all).

    Returns:
        The shards.

    Raises:
        DataError: the list cannot be read, names a folder of frames, or no video.
        VideoError: a video is not there.
        WriteError: the folder cannot be written, or the disk is full; whole shards stay.
    """
    parts: dict[Path, list[dict[str, Any]]] = {}
    for line in list_lines(list_file, list_file.parent, labelled=True, form="`path label`"):
        if line.entry is None or not line.entry.is_file():
            raise DataError(
                f"{line.where}: {line.path} is no video file",
                "correct the line; folders of frames stay as they are.",
            )
        said: dict[str, Any] = {"label": label_of(line)[0] or line.path.parent.name}
        if (line.start_s, line.end_s) != (0.0, math.inf):
            said["start_s"] = line.start_s
        if line.end_s != math.inf:
            said["end_s"] = line.end_s
        parts.setdefault(line.path, []).append(said)
    if not parts:
        raise DataError(f"{list_file} lists no video", "write one a line: `path label`.")
    shards: list[Path] = []
    with ExitStack() as whole:
        left = 0.0
        for number, (path, labels) in enumerate(parts.items()):
            check_file(path, "video")
            if left <= 0:
                whole.close()
                shards.append(folder / f"{list_file.stem}-{len(shards):06}{SUFFIX}")
                file = whole.enter_context(atomic_file(shards[-1]))
                tar = whole.enter_context(tarfile.open(file, "w"))
                left = size_mb * 1e6
            name = f"{number:06}"
            with open_regular(path) as video:
                info = tar.gettarinfo(arcname=name + path.suffix.lower(), fileobj=video)
                info.uid = info.gid = 0  # nobody's
                info.uname = info.gname = ""
                tar.addfile(info, video)
                left -= info.size
            text = json.dumps(labels[0] if len(labels) == 1 else labels).encode()
            about = tarfile.TarInfo(name + ".json")
            about.size = len(text)
            tar.addfile(about, BytesIO(text))
            on_video(number + 1, len(parts))
    return shards
