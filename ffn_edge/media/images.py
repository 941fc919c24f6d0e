"""Pictures: their types, choices of them, and one that is a file of its own.

Legend: N pictures of height H and width W, uint8 BGR, until `picture.crop_resize` makes them RGB.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ffn_edge.errors import VideoError, reason_of
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.media.opencv import opencv

_MOST_BYTES = 1 << 28  # of an image

Images = npt.NDArray[np.uint8]  # one frame (H, W, 3) or several (N, H, W, 3); each use says which
Indices = Sequence[int] | npt.NDArray[np.int64]
Key = TypeVar("Key")
# Given N, the frames that are wanted: any number of arrays of indices in 0..N-1, by some key.
Choose = Callable[[int], Mapping[Key, Indices]]


def sample_frames(
    num_frames: int,
    read: Callable[[int], Images],
    choose: Choose[Key],
    prepare: Callable[[Images], Images] | None,
    path: Path,
) -> dict[Key, Images]:
    """Return several choices of frames of which each can be read by itself.

    Args:
        num_frames: N.
        read: returns the frame of an index; is asked once for each that is wanted.
        choose: see `VideoReader.sample`.
        prepare: the same.
        path: of the frames, for an error.

    Raises:
        VideoError: what `prepare` returns differs in size.
    """
    wanted = choose(num_frames)
    frames = {}
    for index in sorted(distinct(wanted)):
        frame = read(index)
        frames[index] = frame if prepare is None else prepare(frame)
    return stacked(frames, wanted, path)


def distinct(wanted: Mapping[Key, Indices]) -> set[int]:
    """Return every index that is wanted."""
    return {int(index) for each in wanted.values() for index in np.ravel(each)}


def stacked(
    frames: Mapping[int, Images], wanted: Mapping[Key, Indices], path: Path
) -> dict[Key, Images]:
    """Return, by the keys of `wanted`, the frames of its indices: uint8 (*indices, H, W, 3).

    Raises:
        VideoError: they differ in size.
    """
    shapes = {frame.shape for frame in frames.values()}
    if len(shapes) > 1:
        raise VideoError(
            f"the frames of {path} differ in size", "encode or extract it again with one size."
        )
    return {
        key: np.stack([frames[index] for index in np.ravel(each).tolist()]).reshape(
            *np.shape(each), *next(iter(shapes))
        )
        for key, each in wanted.items()
    }


def read_image(path: str | os.PathLike[str]) -> Images:
    """Return a JPEG, PNG or similar file: uint8 (H, W, 3), BGR.

    Raises:
        VideoError: it is missing, empty, cut off, or no image, or the disk does not give it.
    """
    cv2 = opencv()
    check_file(Path(path), "image")
    try:
        data = np.frombuffer(read_bytes(path, _MOST_BYTES), np.uint8)
    except OSError as error:
        raise VideoError(
            f"{path} cannot be read: {reason_of(error)}", "check the disk, or copy it again."
        ) from error
    image: Images | None = None
    with suppress(cv2.error):  # of a size that it does not take
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    # OpenCV fills what a cut-off JPEG lacks with grey; each whole one has an end marker.
    cut_off = data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data.tobytes()
    if image is None or cut_off:
        raise VideoError(
            f"{path} cannot be read as an image: it is cut off, damaged, too large, or no image",
            "extract or copy it again.",
        )
    return image


def check_file(path: Path, kind: str) -> None:
    """Tell a file that is missing, a folder or empty from one that is damaged.

    Raises:
        VideoError: it is one of these.
    """
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise VideoError(f"there is no {kind} at {path}", "check the path.") from error
    except OSError as error:
        raise VideoError(
            f"{path} cannot be read: {error.strerror}", "check the path and its modes."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{path} is not a file", f"name one {kind} file.")
    if found.st_size == 0:
        raise VideoError(f"{path} is empty", "copy or download it again.")
