"""Decoded frames on disk, so that a video is decoded in the first epoch and read in the others.

One file a video, in a folder that processes and runs share. It holds N frames, one after the other,
then their times (float64) and where each ends (int64), then a trailer; see `_TRAILER`. Files are
not flushed to the disk, as their loss costs no more than one decode.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffn_edge.files.atomic import locked, written
from ffn_edge.files.regular_file import read_text
from ffn_edge.media.images import Choose, Images, Key, sample_frames
from ffn_edge.media.opencv import opencv
from ffn_edge.media.picture import resize
from ffn_edge.media.shards import file_of
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video

_MAGIC = b"ffnfrm 1"
_TRAILER = struct.Struct("<IIIId8s")  # height, width, N, whether frames are JPEG, rate, magic
_QUALITY = 95
_JPEG_SHARE = 1 / 6  # of a frame's bytes, about, at that quality
_SUFFIX, _UNFINISHED = ".frames", ".unfinished"
_ABANDONED_S = 3600.0  # after which an unfinished file is nobody's
_COUNT = "bytes"  # the file that says how much the folder holds


class DamagedError(Exception):
    """A file of the cache is not as it was written."""


class FrameCache:
    """A folder of decoded frames, bounded in size.

    Frames whose short side is at most `short_side` are kept as they are, and training is equal to
    the bit with and without the cache. Larger ones are scaled down to that and kept as JPEG: what
    the network sees of them is scaled twice, and differs by the roundings of a JPEG and of a crop's
    place to whole pixels.
    """

    def __init__(self, folder: Path, most_bytes: int, short_side: int) -> None:
        """Make the folder and count what is in it.

        Args:
            folder: for this cache alone.
            most_bytes: when it holds these, nothing more is written; nothing is ever removed.
            short_side: in pixels; of the smallest frames in which no crop has to be enlarged.

        Raises:
            WriteError: the folder cannot be written.
        """
        self._folder = folder
        self._most_bytes = most_bytes
        self._short_side = short_side
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                self._write_count(sum(map(_size_or_remove, os.scandir(folder))))

    def find(self, video: Video) -> CachedVideo | None:
        """Return what is kept of a video; None for nothing.

        Raises:
            OSError: there is no such video.
        """
        file = self._path(video)
        try:
            return CachedVideo.open(file, video.path)
        except (OSError, DamagedError):
            return None

    def keep(self, video: Video, reader: VideoReader) -> CachedVideo | None:
        """Decode a video into the cache, and return it; None if there is no room or no disk.

        Args:
            video: the line of the list, to find it by.
            reader: of it, open.

        Raises:
            VideoError: it cannot be decoded.
        """
        path = self._path(video)
        scale = self._short_side / min(reader.height, reader.width)
        is_jpeg = scale < 1
        height, width = reader.height, reader.width
        if is_jpeg:
            height, width = (max(self._short_side, round(side * scale)) for side in (height, width))
        likely = reader.stated_frames * height * width * 3 * (_JPEG_SHARE if is_jpeg else 1)
        reserved, kept = math.ceil(likely), 0
        try:
            if not self._reserve(reserved):
                return None
            try:
                kept = self._write(path, reader, (height, width), is_jpeg)
            finally:
                self._reserve(kept - reserved, even_if_full=True)
        except OSError:
            return None
        return self.find(video)

    def _write(self, path: Path, reader: VideoReader, size: tuple[int, int], is_jpeg: bool) -> int:
        """Write a video's frames to a file; return how large that is, 0 if their size changes."""
        with tempfile.NamedTemporaryFile(
            dir=self._folder, prefix=path.stem, suffix=_UNFINISHED, delete=False
        ) as file:
            try:
                times, ends = [], [0]
                for image, time_s in reader.timed():
                    if image.shape[:2] != (reader.height, reader.width):
                        return 0
                    data = _jpeg(image, size) if is_jpeg else np.ascontiguousarray(image)
                    ends.append(ends[-1] + file.write(data.data))
                    times.append(time_s)
                file.write(np.array(times, np.float64).data)
                file.write(np.array(ends[1:], np.int64).data)
                file.write(_TRAILER.pack(*size, len(times), is_jpeg, reader.fps, _MAGIC))
                file.flush()
                os.replace(file.name, path)
                return file.tell()
            finally:
                Path(file.name).unlink(missing_ok=True)

    def _path(self, video: Video) -> Path:
        state = file_of(video.path).stat()
        key = (
            *(os.path.abspath(video.path), state.st_size, state.st_mtime_ns),
            *(video.start_s, video.end_s, self._short_side),
        )
        return self._folder / (hashlib.sha256(repr(key).encode()).hexdigest()[:32] + _SUFFIX)

    def _reserve(self, more: int, *, even_if_full: bool = False) -> bool:
        """Count `more` bytes as written, if there is room."""
        with locked(self._folder):
            try:
                count = int(read_text(self._folder / _COUNT))
            except (OSError, ValueError):
                count = 0
            if count + more > self._most_bytes and not even_if_full:
                return False
            self._write_count(count + more)
            return True

    def _write_count(self, count: int) -> None:
        (self._folder / _COUNT).write_text(str(count))


@dataclass(frozen=True, slots=True)
class CachedVideo:
    """The frames of a video on disk, which are sampled as those of the video are.

    Attributes:
        handle: of the open file.
        path: of the video.
        fps: its frames a second.
        size: height and width of the frames that are kept.
        is_jpeg: whether they are JPEG, or uint8 (H, W, 3), BGR.
        times_s: (N,), of the frames.
        ends: (N,), in bytes.
        first: the first that is sampled, and ...
        last: ... the one after the last.
    """

    handle: _Handle
    path: Path
    fps: float
    size: tuple[int, int]
    is_jpeg: bool
    times_s: npt.NDArray[np.float64]
    ends: npt.NDArray[np.int64]
    first: int
    last: int

    @classmethod
    def open(cls, file: Path, video: Path) -> CachedVideo:
        """Open a file of the cache.

        Args:
            file: to open.
            video: whose frames it holds.

        Raises:
            FileNotFoundError: there is none.
            DamagedError: it is cut off, or another program's.
        """
        handle = _Handle(file)
        end = os.fstat(handle.number).st_size - _TRAILER.size
        height, width, count, is_jpeg, fps, magic = _TRAILER.unpack(handle.read(end, _TRAILER.size))
        data = end - 16 * count
        if magic != _MAGIC or count == 0 or data < 0 or not fps > 0:
            raise DamagedError
        times_s = np.frombuffer(handle.read(data, 8 * count), np.float64)
        ends = np.frombuffer(handle.read(data + 8 * count, 8 * count), np.int64)
        sizes = np.diff(ends, prepend=0)
        if ends[-1] != data or np.any(sizes <= 0):
            raise DamagedError
        if not is_jpeg and np.any(sizes != height * width * 3):
            raise DamagedError
        return cls(handle, video, fps, (height, width), bool(is_jpeg), times_s, ends, 0, count)

    def narrowed(self, window_s: float | None, place: float) -> CachedVideo:
        """Return the frames of a window, see `VideoReader.narrow`; all of them for None."""
        if window_s is None:
            return self
        room_s = float(self.times_s[-1]) + 1 / self.fps - window_s
        if room_s <= 0.5 / self.fps:
            return self
        since_s = self.times_s - place * room_s
        first, last = np.searchsorted(since_s, [-1e-6, window_s - 1e-6])
        if first == last:  # between two frames: the one before
            first -= 1
        return CachedVideo(
            *(self.handle, self.path, self.fps, self.size, self.is_jpeg),
            *(self.times_s, self.ends, int(first), int(last)),
        )

    def sample(
        self, choose: Choose[Key], prepare: Callable[[Images], Images] | None = None
    ) -> dict[Key, Images]:
        """Return several choices of frames; see `VideoReader.sample`.

        Raises:
            DamagedError: a frame cannot be read.
        """
        return sample_frames(
            self.last - self.first,
            lambda index: self._frame(self.first + index),
            choose,
            prepare,
            self.path,
        )

    def _frame(self, index: int) -> Images:
        begin = int(self.ends[index - 1]) if index else 0
        data = np.frombuffer(self.handle.read(begin, int(self.ends[index]) - begin), np.uint8)
        if not self.is_jpeg:
            return data.reshape(*self.size, 3)
        image: Images | None = opencv().imdecode(data, opencv().IMREAD_COLOR)
        if image is None or image.shape[:2] != self.size:
            raise DamagedError
        return image


class _Handle:
    """An open file, closed with this object."""

    def __init__(self, file: Path) -> None:
        self.number = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not opened
            os.close(self.number)

    def read(self, begin: int, size: int) -> bytes:
        """Return bytes of the file, whose pages a mapping would fetch with a fault each.

        Raises:
            DamagedError: they are not there.
        """
        try:
            data = os.pread(self.number, size, begin)
        except OSError as error:  # of the disk, or before the file's beginning
            raise DamagedError from error
        if len(data) != size:
            raise DamagedError
        return data


def _jpeg(image: Images, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    cv2 = opencv()
    image = resize(image, *size)
    data: npt.NDArray[np.uint8] = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[
        1
    ]
    return data


def _size_or_remove(entry: os.DirEntry[str]) -> int:
    """Return a file's size; a file that a process left unfinished is removed."""
    try:
        state = entry.stat()
        if entry.name.endswith(_UNFINISHED) and state.st_mtime < time.time() - _ABANDONED_S:
            os.unlink(entry)
            return 0
    except FileNotFoundError:
        return 0
    return state.st_size
