"""Videos that are kept as one image a frame."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ffn_edge.errors import VideoError, counted
from ffn_edge.media.images import Choose, Images, Indices, Key, read_image, sample_frames
from ffn_edge.media.video_list import files_in, images_in_folder


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
        if pattern is None:
            images = images_in_folder(path)
            kinds = {re.sub(r"\d+", "#", image.name) for image in images}
            if len(kinds) > 1:
                raise VideoError(
                    f"{path} holds images of several kinds: {', '.join(sorted(kinds)[:3])}",
                    "keep the frames of a video in a folder of their own.",
                )
        else:  # which asks nothing of each image: training opens thousands of folders an epoch
            present = files_in(self.path)
            count = num_frames or len(present)
            # What a list claims may be any number: one more than there are suffices.
            names = [pattern % (i + 1) for i in range(min(count, len(present) + 1))]
            if missing := sorted(set(names).difference(present)):
                raise VideoError(
                    f"{path} lacks {missing[0]} of its {count} frames",
                    "extract the video again, or correct its number of frames in the list file.",
                )
            images = [self.path / name for name in names]
        self.num_frames = len(images) if num_frames is None else num_frames
        if not 0 < self.num_frames <= len(images):
            raise VideoError(
                f"{path} holds {counted(len(images), 'image')}"
                + ("" if num_frames is None else f", not {num_frames}"),
                "extract the video again, or correct its number of frames in the list file.",
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
        return read_image(self._images[index])


def read_frame_folder(
    folder: str | os.PathLike[str], indices: Indices, *, num_frames: int, pattern: str
) -> Images:
    """Return frames of a folder, in the order of `indices`: uint8 (len(indices), H, W, 3), BGR.

    Raises:
        VideoError: see `FrameFolder`.
    """
    reader = FrameFolder(folder, num_frames=num_frames, pattern=pattern)
    return reader.sample(lambda _: {"": indices})[""]
