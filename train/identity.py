"""What tells files and videos from others: their contents, wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ffn_edge.bundle.bundle import file_record
from ffn_edge.errors import RecipeError, VideoError
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.text_file import MOST_LIST_BYTES
from ffn_edge.media.video_list import Video, images_in_folder, read_list


def content_of(path: str | Path) -> str:
    """Return a file's SHA-256.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return file_record(Path(path)).sha256
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}", "put it back.") from error


def content_of_videos(
    list_file: str | Path, root: str | Path | None, frame_pattern: str | None
) -> str:
    """Return a hash of what a list says and of how large each of its videos is.

    Two lists may say the same, each of the videos in its own folder. To read the videos
    themselves would take as long as an epoch.

    Args:
        list_file: see `ffn_edge.media.video_list.read_list`.
        root: the same.
        frame_pattern: of the images in a frame folder, of which the first one counts; see
            `FrameFolder`.

    Raises:
        DataError: the list cannot be read, or something in it is not there.
    """
    videos = read_list(list_file, num_classes=None, root=root)
    digest = hashlib.sha256(read_bytes(list_file, MOST_LIST_BYTES))
    for video in videos:
        digest.update(f" {_bytes_of(video, frame_pattern)}".encode())
    return digest.hexdigest()


def _bytes_of(video: Video, frame_pattern: str | None) -> int | None:
    """Return the size of a video or of its first image; None if training will leave it out."""
    file = video.path
    try:
        if video.num_frames is not None and frame_pattern is not None:
            file /= frame_pattern % 1
        elif video.num_frames is not None:
            file = next(iter(images_in_folder(file)), file)
        return file.stat().st_size if file.is_file() else None
    except (OSError, VideoError):
        return None
