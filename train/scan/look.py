"""A look at one video: headers, the times of its packets, and one picture of its middle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.media.frame_folder import FrameFolder
from ffn_edge.media.images import Images
from ffn_edge.media.opencv import opencv
from ffn_edge.media.pyav import pyav
from ffn_edge.media.video import VideoReader, upright
from ffn_edge.train.scan.hashes import SIDE, crop_hashes, small

Grey = npt.NDArray[np.float32]  # (SIDE, SIDE)

_THUMBNAIL = 144  # pixels across
_READ_WHOLE = 64 << 20  # bytes of a file whose packets are all read
_TAIL_S = 10.0  # of a longer one
_SKIP_S = 8.0  # to what is further ahead, seek
_SHORTER = 0.9  # of the stated length: the rest was lost


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a video tells.

    Attributes:
        reason: why it cannot be read; "" if it can.
        container: the format's name; "folder" for a folder of images.
        codec: of the pictures; "" for a folder.
        length_s: by the times of its packets; 0 for a folder.
        frames: how many, nearly.
        fps: frames a second, on average; 0 for a folder.
        height: of a frame, in pixels, upright.
        width: the same.
        size_bytes: of the file; 0 for a folder.
        stated_s: the length that its header claims, where that is far longer; else 0.
        picture: of its middle, uint8 (32, 32), grey; None if it cannot be read.
        hashes: of crops of that picture, uint64 (C,); see `crop_hashes`.
        thumbnail: of its middle, a JPEG; empty where none was asked for.
    """

    reason: str = ""
    container: str = ""
    codec: str = ""
    length_s: float = 0.0
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    size_bytes: int = 0
    stated_s: float = 0.0
    picture: npt.NDArray[np.uint8] | None = None
    hashes: npt.NDArray[np.uint64] | None = None
    thumbnail: bytes = b""


def look(path: str, is_folder: bool, with_thumbnail: bool) -> Looked:
    """Look at a video. Whatever is wrong with it is a reason, and no error."""
    try:
        return (_look_at_folder if is_folder else _look_at_file)(path, with_thumbnail)
    except FfnEdgeError as error:
        return Looked(reason=error.message)
    except (OSError, ValueError) as error:
        return Looked(reason=f"{path} cannot be read: {reason_of(error)}")


def pictures_at(path: str, is_folder: bool, shares: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return small pictures of a video, float32 (K, SIDE, SIDE), at shares 0..1 of its length.

    The shares ascend. Between two frames it is the mean of both, so that a video that is played
    backwards has the same pictures at one minus the shares.

    Raises:
        VideoError: it cannot be read.
    """
    if is_folder:
        folder = FrameFolder(path)
        return np.stack([_of_folder(folder, share) for share in shares])
    with _File(path) as file:
        return np.stack([file.picture_at(share) for share in shares])


def _look_at_file(path: str, with_thumbnail: bool) -> Looked:
    with _File(path) as file:
        picture = file.picture_at(0.5)
        return Looked(
            container=file.container_name,
            codec=file.codec,
            length_s=file.length_s,
            frames=file.count,
            fps=file.rate,
            height=file.size[0],
            width=file.size[1],
            size_bytes=file.path.stat().st_size,
            stated_s=file.stated_s if file.length_s < _SHORTER * file.stated_s else 0.0,
            picture=small(picture),
            hashes=crop_hashes(picture),
            thumbnail=_thumbnail(file.image()) if with_thumbnail else b"",
        )


def _look_at_folder(path: str, with_thumbnail: bool) -> Looked:
    folder = FrameFolder(path)
    picture = _of_folder(folder, 0.5)
    image = folder.sample(lambda n: {0: [n // 2]})[0][0]
    return Looked(
        container="folder",
        frames=folder.num_frames,
        height=image.shape[0],
        width=image.shape[1],
        picture=small(picture),
        hashes=crop_hashes(picture),
        thumbnail=_thumbnail(image) if with_thumbnail else b"",
    )


def _of_folder(folder: FrameFolder, share: float) -> Grey:
    place = share * (folder.num_frames - 1)
    indices = sorted({math.floor(place + 1e-6), math.ceil(place - 1e-6)})
    pair = folder.sample(lambda _: {0: indices}, prepare=_grey)[0]
    mean: Grey = pair[..., 0].mean(axis=0, dtype=np.float32)
    return mean


def _grey(image: Images) -> Images:
    cv2 = opencv()
    grey = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    made: Images = cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY)[..., None]
    return made


def _thumbnail(image: Images) -> bytes:
    cv2 = opencv()
    height = max(1, min(2 * _THUMBNAIL, round(_THUMBNAIL * image.shape[0] / image.shape[1])))
    tiny = cv2.resize(image, (_THUMBNAIL, height), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", tiny, [cv2.IMWRITE_JPEG_QUALITY, 60])[1])


class _File(VideoReader):
    """A video file of which a few pictures are wanted; seeks, where that saves work."""

    def __init__(self, path: str) -> None:
        super().__init__(path, threads=1)

    def __enter__(self) -> _File:
        """Open the file, and read the times of its packets.

        Raises:
            VideoError: see `VideoReader`.
        """
        self._locate()
        self._reformatter = pyav().video.reformatter.VideoReformatter()
        self._is_seen = False
        self._last: Any = None
        self._opened()
        # One demuxer may be of several formats: "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm".
        names = self._container.format.name.replace("matroska", "mkv").split(",")
        suffix = self.path.suffix.lower().lstrip(".")
        self.container_name = suffix if suffix in names else names[0]
        self.codec = self._stream.codec_context.name
        self._read_times(is_indexed="mov" in names)
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def _opened(self) -> None:
        self._container, self._stream = self._open()
        self._timed = self._decoded()
        self._before: Any = None

    def _read_times(self, *, is_indexed: bool) -> None:
        """Set when the first frame is shown, the length, the rate and the number of frames."""
        stream = self._stream
        unit = float(stream.time_base or 1)
        index = stream.index_entries
        times: list[int] = []
        tail = False
        if self.path.stat().st_size > _READ_WHOLE:
            if is_indexed and len(index) > 1:
                times = [entry.timestamp for entry in index]
            elif self._stated_s < math.inf:
                tail = self._seek(max(0.0, self._stated_s - _TAIL_S))
        if not times:
            times = self._packet_times()
        if not times and not tail:
            raise self._no_frame()
        first = stream.start_time if tail and stream.start_time is not None else min(times)
        span_s = (max(times) - first) * unit
        known = [stamp for stamp in times if stamp is not None]
        step_s = float(np.median(np.diff(np.unique(known)))) * unit if len(known) > 1 else 0.0
        if not self._has_times or not step_s:  # times that cannot be
            first, self._unit, step_s = 0, unit, 1 / self.fps
            span_s = (len(times) - 1) * step_s
        self._first, self._unit, self._step_s = first, unit, step_s
        self.span_s, self.length_s = span_s, span_s + step_s
        self.count = round(self.length_s / step_s) if tail else len(times)
        self.rate = (self.count - 1) / span_s if span_s > 0 else self.fps
        stated_s = self._stated_s
        if stated_s == math.inf and len(self._container.streams) == 1 and self._container.duration:
            stated_s = self._container.duration / pyav().time_base
        self.stated_s = max(
            stated_s if stated_s < math.inf else 0.0, self._stated_frames / self.fps
        )
        if not self._seek(0.0):
            self._reopen()

    def _packet_times(self) -> list[int]:
        av = pyav()
        times: list[int] = []
        packets = self._container.demux(self._stream)
        with suppress(av.FFmpegError, StopIteration):  # what comes after is lost
            while True:
                packet = next(packets)
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size > 0:
                    times.append(len(times) if stamp is None else stamp)
                    self._has_times = self._has_times and stamp is not None
        return times

    def _seek(self, time_s: float) -> bool:
        """Go to the last key frame before a time, from the first frame; tell whether that works."""
        if not self._has_times:
            return False
        stamp = getattr(self, "_first", 0) + int(time_s / float(self._stream.time_base or 1))
        try:
            self._container.seek(stamp, stream=self._stream)
        except pyav().FFmpegError:
            return False
        self._stream.codec_context.flush_buffers()
        self._timed, self._before = self._decoded(), None
        return True

    def _reopen(self) -> None:
        self._container.close()
        has_times = self._has_times
        self._opened()
        self._has_times = has_times

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """Yield each picture from where the file is, with its time from the first frame."""
        for number, picture in enumerate(self._pictures(self._container, self._stream)):
            if not self._is_seen:  # asked of one only, see VideoReader
                matrix = picture.side_data.get("DISPLAYMATRIX")
                self._matrix = None if matrix is None else np.frombuffer(matrix, np.int32).copy()
                self._is_seen = True
            stamp = picture.dts if picture.pts is None else picture.pts
            if not self._has_times or stamp is None:
                yield number * self._step_s, picture
            else:
                yield (stamp - self._first) * self._unit, picture

    def picture_at(self, share: float) -> Grey:
        """Return the picture at a share of the length, later than the one before.

        Raises:
            VideoError: none can be decoded there.
        """
        wanted_s = share * self.span_s
        now_s = self._before[0] if self._before else 0.0
        near_s = self._step_s / 4
        before, after = self._around(wanted_s, near_s, seek=wanted_s - now_s > _SKIP_S or not now_s)
        if before is None or before[0] > wanted_s + near_s:  # seeking is not exact everywhere
            self._reopen()
            before, after = self._around(wanted_s, near_s, seek=False)
        if before is None:
            raise self._no_frame()
        self._before = after or before
        self._last = before[1]
        if after is None or after is before:
            return self._grey_of(before[1])
        mean: Grey = np.stack([self._grey_of(each[1]) for each in (before, after)]).mean(axis=0)
        return mean

    def _around(self, wanted_s: float, near_s: float, *, seek: bool) -> tuple[Any, Any]:
        """Return the pictures, each with its time, before and after a time; None for none.

        One that is nearly at the time is both.
        """
        if seek:
            self._seek(wanted_s)
        before, after = self._before, None
        if before is not None and before[0] >= wanted_s - near_s:
            return before, before
        for pair in self._timed:
            if pair[0] <= wanted_s + near_s or before is None:
                before = pair
            if pair[0] >= wanted_s - near_s:
                after = pair
                break
        return before, after

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the last picture, upright."""
        shape = self.image().shape
        return shape[0], shape[1]

    def image(self) -> Images:
        """Return the last picture: uint8 (H, W, 3), BGR."""
        return self._image(self._last)

    def _grey_of(self, picture: Any) -> Grey:
        made = self._reformatter.reformat(
            picture, width=SIDE, height=SIDE, format="gray", interpolation="AREA", threads=1
        )
        grey: Grey = made.to_ndarray().astype(np.float32)
        return grey if self._matrix is None else upright(grey, self._matrix)
