"""Videos and frame folders in; MP4 files out.

Legend: N frames of height H and width W. Frames are uint8 BGR, as OpenCV decodes them, until
`ffn_edge.picture.crop_resize` makes them RGB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.atomic import atomic_file
from ffn_edge.errors import VideoError, WriteError, reason_of
from ffn_edge.opencv import opencv

Images = npt.NDArray[np.uint8]  # one frame (H, W, 3) or several (N, H, W, 3); each use says which
Indices = Sequence[int] | npt.NDArray[np.int64]

# The rate of a file or camera that does not state one.
UNSTATED_FPS = 30.0


class VideoReader:
    """A video file, decoded front to back.

        with VideoReader("clip.mp4") as video:
            frames = video.read([0, 10, 20])  # uint8 (3, H, W, 3), BGR

    Nothing is touched before the `with`; inside it, the attributes are set.

    Attributes:
        path: the file.
        num_frames: how many frames its header states, or, where it states none, holds.
        fps: frames a second; `UNSTATED_FPS` where the file states none.
        height: of a frame, in pixels, upright (a stored rotation is applied).
        width: of a frame, in pixels.
    """

    num_frames: int
    fps: float
    height: int
    width: int

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        """Remember the file.

        Args:
            path: a video of any format that this OpenCV decodes.
            threads: of the decoder. 0 lets it choose, best for one large video; 1 is faster for
                small ones, and where several are read at once.
        """
        self.path = Path(path)
        self._threads = threads

    def __enter__(self) -> VideoReader:
        """Open the file.

        Raises:
            VideoError: it is missing, empty, no video, cut off, or holds no frame.
        """
        _check_file(self.path, "video")
        self._capture = self._open()
        cv2 = opencv()
        self.num_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.fps = _stated_fps(self._capture)
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        if self.num_frames <= 0:  # a stream without an index, such as a browser's recording
            while self._capture.grab():
                self._position += 1
            self.num_frames = self._position
        if self.num_frames == 0:
            self._capture.release()
            raise VideoError(f"{self.path} holds no frame", "record or download it again.")
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Images]:
        """Yield every frame: uint8 (H, W, 3), BGR.

        Raises:
            VideoError: after the last frame, if the file ends far before its stated end.
        """
        self._rewind()
        while self._capture.grab():
            self._position += 1
            yield self._retrieve()
        self._check_end()

    def read(self, indices: Indices) -> Images:
        """Return the frames `indices`, in their order: uint8 (len(indices), H, W, 3), BGR.

        One pass decodes up to the last of them; only these are converted to BGR. Where the file
        ends up to 2 frames or 5 % before its stated end, its last frame stands for the rest.

        Args:
            indices: in 0..num_frames-1, in any order; some may be equal.

        Raises:
            VideoError: the file ends earlier than that.
            IndexError: an index is out of range.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.num_frames:
            raise IndexError(f"{self.path} has {self.num_frames} frames; wanted {wanted.tolist()}")
        distinct, rows = np.unique(wanted, return_inverse=True)
        frames = np.empty((len(distinct), self.height, self.width, 3), np.uint8)
        self._rewind()
        for row, index in enumerate(distinct):
            while self._position <= index:
                if not self._capture.grab():
                    self._check_end()
                    # The last frame was passed over; such files are few, so read once more.
                    return self.read(np.minimum(wanted, self._position - 1))
                self._position += 1
            frames[row] = self._retrieve()
        return frames if np.array_equal(distinct, wanted) else frames[rows]

    def _open(self) -> Any:
        cv2 = opencv()
        self._position = 0  # frames taken from the file so far
        capture = (
            cv2.VideoCapture(
                str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self._threads]
            )
            if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
            else cv2.VideoCapture(str(self.path))
        )
        if not capture.isOpened():
            raise VideoError(
                f"{self.path} cannot be read as a video: it is cut off, damaged, or no video",
                f"copy or download it again; `ffprobe {self.path}` tells what is wrong with it.",
            )
        return capture

    def _rewind(self) -> None:
        """Go back to the first frame: by opening again, since seeking is not exact."""
        if self._position:
            self._capture.release()
            self._capture = self._open()

    def _retrieve(self) -> Images:
        """Convert the frame that was grabbed last: uint8 (H, W, 3), BGR."""
        frame: Images
        found, frame = self._capture.retrieve()
        if not found or frame.shape != (self.height, self.width, 3):
            raise VideoError(
                f"frame {self._position - 1} of {self.path} cannot be decoded as "
                f"{self.width}x{self.height} colour",
                "encode the video again with one frame size throughout.",
            )
        return frame

    def _check_end(self) -> None:
        tolerance = max(2, self.num_frames // 20)
        if self._position == 0 or self.num_frames - self._position > tolerance:
            raise VideoError(
                f"{self.path} ends after {self._position} of the {self.num_frames} frames that "
                "its header states: it is cut off, damaged, or of variable frame rate",
                "copy or download it again, or encode it again at a constant frame rate.",
            )


class VideoWriter:
    """An MP4 file (MPEG-4 part 2, which every OpenCV can write) that appears whole or not at all.

    with VideoWriter("out.mp4", fps=24, width=64, height=64) as writer:
        writer.write(frame)
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, width: int, height: int) -> None:
        self.path = Path(path)
        self._fps = fps
        self._size = (width, height)

    def __enter__(self) -> VideoWriter:
        """Open a file beside `path`.

        Raises:
            VideoError: the name does not end in .mp4, or the folder cannot be written.
        """
        if self.path.suffix.lower() != ".mp4":
            raise VideoError(
                f"{self.path} is no name for an MP4 file", f"write {self.path.with_suffix('.mp4')}."
            )
        cv2 = opencv()
        self._written = 0
        with ExitStack() as stack:
            try:
                self._temporary = stack.enter_context(atomic_file(self.path))
            except WriteError as error:
                raise self._unwritten(reason_of(error)) from error
            self._writer: Any = cv2.VideoWriter(
                str(self._temporary), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, self._size
            )
            if not self._writer.isOpened():
                raise self._unwritten("this OpenCV cannot encode MPEG-4")
            self._stack = stack.pop_all()
        return self

    def write(self, frame: Images) -> None:
        """Append `frame`: uint8 (H, W, 3), BGR.

        Raises:
            ValueError: the frame is not of the file's size; OpenCV would drop it silently.
        """
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a uint8 frame of {(height, width, 3)}; got {frame.dtype} {frame.shape}"
            )
        self._writer.write(frame)
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Put the file in place, or remove it if the block failed.

        Raises:
            VideoError: the file is not whole, as when the disk is full, or no frame was written.
        """
        self._writer.release()
        if kind is not None:
            self._stack.__exit__(kind, *rest)
            return
        try:
            with self._stack:
                self._check_whole()
        except WriteError as failure:
            raise self._unwritten(reason_of(failure)) from failure

    def _check_whole(self) -> None:
        """Read the file's header back: OpenCV reports no failed write, such as on a full disk."""
        if self._written == 0:
            raise self._unwritten("it was given no frame")
        try:
            with VideoReader(self._temporary, threads=1) as video:
                found = video.num_frames
        except VideoError:
            found = 0
        if found != self._written:
            raise self._unwritten(f"{found} of {self._written} frames reached the disk")

    def _unwritten(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.path} could not be written: {reason}",
            "check that the disk has room and that the folder may be written.",
        )


def read_image(path: str | os.PathLike[str]) -> Images:
    """Return a JPEG, PNG or similar file: uint8 (H, W, 3), BGR.

    Raises:
        VideoError: it is missing, empty, cut off, or no image.
    """
    cv2 = opencv()
    _check_file(Path(path), "image")
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


def read_frame_folder(
    folder: str | os.PathLike[str], indices: Indices, *, num_frames: int, pattern: str
) -> Images:
    """Return frames of a video that is kept as one image a frame: uint8 (len(indices), H, W, 3).

    Args:
        folder: holds the images of frames 1 to `num_frames`.
        indices: in 0..num_frames-1 (frame 0 is the first image), in any order.
        num_frames: how many images there must be.
        pattern: the name of an image, such as "img_%05d.jpg".

    Raises:
        VideoError: an image is missing (whether wanted or not), damaged, or of another size.
    """
    try:
        present = set(os.listdir(folder))
    except OSError as error:
        raise VideoError(
            f"the frame folder {folder} cannot be read: {error.strerror}",
            "check the list file and the folder it is relative to.",
        ) from error
    missing = [name for i in range(num_frames) if (name := pattern % (i + 1)) not in present]
    if missing:
        raise VideoError(
            f"{folder} lacks {missing[0]}, the first of {len(missing)} missing frames of "
            f"{num_frames}",
            "extract the video again, or correct its number of frames in the list file.",
        )
    images = [read_image(Path(folder) / (pattern % (i + 1))) for i in indices]
    if any(image.shape != images[0].shape for image in images):
        raise VideoError(f"the frames of {folder} differ in size", "extract the video again.")
    return np.stack(images)


def _check_file(path: Path, kind: str) -> None:
    """Tell a file that is missing, a folder or empty from one that is damaged."""
    if not path.exists():
        raise VideoError(f"there is no {kind} at {path}", "check the path.")
    if not path.is_file():
        raise VideoError(f"{path} is not a file", f"name one {kind} file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty", "copy or download it again.")


def _stated_fps(capture: Any) -> float:
    fps = float(capture.get(opencv().CAP_PROP_FPS))
    return fps if math.isfinite(fps) and fps > 0 else UNSTATED_FPS
