"""Videos that are kept as one image a frame."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ffn_edge.errors import VideoError
from ffn_edge.opencv import opencv
from ffn_edge.video import Choose, Images, Key, check_file, sample_frames

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class FrameFolder:
    """A folder with one image a frame: `FrameFolder("frames").sample(choose)`.

    Attributes:
        path: the folder.
        num_frames: how many images are its frames.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_frames: int | None = None,
        pattern: str | None = None,
    ) -> None:
        """List the folder; no image is opened.

        Args:
            path: the folder.
            num_frames: take so many images, from the first; None is all.
            pattern: the name of image 1, 2, ... such as "img_%05d.jpg". None is whatever images
                there are, sorted by the numbers in their names.

        Raises:
            VideoError: there is no folder, no image, or one of `num_frames` images is missing.
        """
        self.path = Path(path)
        try:
            present = set(os.listdir(path))
        except OSError as error:
            raise VideoError(
                f"the frame folder {path} cannot be read: {error.strerror}",
                "check the path, and for a line of a list the folder that it is relative to.",
            ) from error
        images = sorted(filter(is_image, present), key=natural_order)
        if pattern is not None:
            images = [pattern % (i + 1) for i in range(num_frames or len(images))]
        if missing := [name for name in images if name not in present]:
            raise VideoError(
                f"{path} lacks {missing[0]}, the first of {len(missing)} missing frames of "
                f"{len(images)}",
                "extract the video again, or correct its number of frames in the list file.",
            )
        self.num_frames = len(images) if num_frames is None else num_frames
        if not 0 < self.num_frames <= len(images):
            raise VideoError(
                f"{path} holds {len(images)} images"
                + ("" if num_frames is None else f", not {num_frames}"),
                f"a frame folder has one image a frame ({', '.join(IMAGE_SUFFIXES)}).",
            )
        self._images = images[: self.num_frames]

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Images]:
        """Yield every frame: uint8 (H, W, 3), BGR.

        Raises:
            VideoError: an image is damaged.
        """
        return map(self._read, range(self.num_frames))

    def sample(
        self, choose: Choose[Key], prepare: Callable[[Images], Images] | None = None
    ) -> dict[Key, Images]:
        """Return several choices of frames, each image read once. See `VideoReader.sample`.

        Raises:
            VideoError: an image is damaged, or of another size and not made equal by `prepare`.
        """
        return sample_frames(self.num_frames, self._read, choose, prepare, self.path)

    def _read(self, index: int) -> Images:
        return read_image(self.path / self._images[index])


def read_image(path: str | os.PathLike[str]) -> Images:
    """Return a JPEG, PNG or similar file: uint8 (H, W, 3), BGR.

    Raises:
        VideoError: it is missing, empty, cut off, or no image.
    """
    cv2 = opencv()
    check_file(Path(path), "image")
    data = np.fromfile(path, np.uint8)
    image: Images | None = cv2.imdecode(data, cv2.IMREAD_COLOR)
    # OpenCV fills what a cut-off JPEG lacks with grey; each whole one has an end marker.
    cut_off = data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data.tobytes()
    if image is None or cut_off:
        raise VideoError(
            f"{path} cannot be read as an image: it is cut off, damaged, or no image",
            "extract or copy it again.",
        )
    return image


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts 2.jpg before 10.jpg."""
    return [
        (int(digits), "") if digits else (-1, text.lower())
        for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]
