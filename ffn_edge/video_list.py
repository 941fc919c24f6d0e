"""Lists of videos without their labels, as `ffn-edge run` and `verify` take them."""

from __future__ import annotations

from pathlib import Path

from ffn_edge.errors import VideoError


def read_video_list(path: Path) -> list[Path]:
    """Return the videos of a text file, one a line, relative to the file.

    A line is a path, or `path label` as in the lists that training reads.

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
        name, _, label = line.rpartition(" ")
        labelled = label.isdecimal() and not (path.parent / line).exists()
        videos.append(path.parent / (name.strip() if labelled else line))
    if not videos:
        raise VideoError(f"{path} names no video", "write one `path` or `path label` a line.")
    return videos


def videos_of(source: Path) -> list[Path]:
    """Return the videos that a *.txt list names, or the one video file itself."""
    return read_video_list(source) if source.suffix.lower() == ".txt" else [source]
