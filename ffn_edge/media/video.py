"""Video files in, frame by frame with their times, and MP4 files out.

What a header states of a file's frames, rate and length is not believed: what counts is what is
decoded, and the timestamps that go with it. So these are the frames that FFmpeg and players show.

Legend: N frames of height H and width W. Frames are uint8 BGR, until
`ffn_edge.media.picture.crop_resize` makes them RGB.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import VideoError, WriteError, reason_of
from ffn_edge.files.atomic import atomic_file
from ffn_edge.media.frame_folder import read_frame_folder as read_frame_folder
from ffn_edge.media.images import Choose, Images, Indices, Key, check_file, distinct, stacked
from ffn_edge.media.opencv import opencv
from ffn_edge.media.pyav import pyav

# The rate of a file or camera that does not state one.
UNSTATED_FPS = 30.0
# No camera and no time lapse lies outside; a file that says so knows nothing of its times.
_LEAST_FPS, _MOST_FPS = 1 / 3600, 480.0
# 8K, and some room. A file of a few kilobytes can ask for more than any memory has.
_MOST_PIXELS = 8192 * 4608
# Formats that open other files than the one that is named.
_PLAYLISTS = {"concat", "concatf", "dash", "hls", "image2", "imf", "sdp"}
_MOST_THREADS = 16  # of a decoder, as in FFmpeg
_DECODER = {"max_pixels": str(_MOST_PIXELS)}
# Of a second, in files that are written: whole ticks for 24, 25, 29.97 and 30 frames.
_TICKS = 60_000


class Frame(NamedTuple):
    """A frame: uint8 (H, W, 3), BGR, and when it was taken, in seconds of its stream."""

    image: Images
    time_s: float


class VideoReader:
    """A video file, decoded front to back.

        with VideoReader("clip.mp4") as video:
            frames = video.read([0, 10, 20])  # uint8 (3, H, W, 3), BGR

    Nothing is touched before the `with`; inside it, the attributes are set. Of several videos in
    one file, FFmpeg's choice is read, and never a cover picture.

    Attributes:
        path: the file.
        fps: frames a second, on average; `UNSTATED_FPS` where the file states none that can be.
        height: of the first frame, in pixels, upright: a stored rotation or mirroring is applied.
        width: of the first frame, in pixels.
    """

    fps: float
    height: int
    width: int

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        """Remember the file.

        Args:
            path: a video of any format that FFmpeg decodes.
            threads: of the decoder. 0 is what FFmpeg would choose if it knew of a container's
                quota, best for one large video; 1 is faster for small ones, and where several are
                read at once.
        """
        self.path = Path(path)
        self._threads = threads

    def __enter__(self) -> VideoReader:
        """Open the file, and decode its first frame.

        Raises:
            VideoError: it is missing, empty, no video, cut off, too large, of an unknown codec, or
                holds no frame.
        """
        check_file(self.path, "video")
        self._reformatter = pyav().video.reformatter.VideoReformatter()
        self._num_frames: int | None = None  # known once the last one was decoded
        pictures = self._decode()
        first = next(pictures, None)
        if first is None:
            raise VideoError(
                f"{self.path} holds no frame that can be decoded as {self._codec}",
                f"copy or record it again; {self._probe} tells what is wrong with it.",
            )
        self._first_pass: Iterator[Any] | None = itertools.chain([first], pictures)
        # Asked of one picture only: one that was asked lives until Python looks for cycles.
        matrix = first.side_data.get("DISPLAYMATRIX")
        self._matrix = None if matrix is None else np.frombuffer(matrix, np.int32).copy()
        self.height, self.width = first.height, first.width
        if self._matrix is not None and _is_turned(self._matrix):
            self.height, self.width = first.width, first.height
        return self

    def __exit__(self, *_: object) -> None:
        self._first_pass = None  # closes the file, if nobody reads it

    @property
    def num_frames(self) -> int:
        """N. Every frame is decoded to count them, unless that was done before."""
        if self._num_frames is None:
            for _ in self._from_start():
                pass
        assert self._num_frames is not None
        return self._num_frames

    @property
    def stated_frames(self) -> int:
        """What the file says of N: its header where that agrees with its length, or its packets.

        At once or nearly so; but hidden, empty and damaged frames are counted.
        """
        if abs(self._stated_s * self.fps - self._stated_frames) <= 1:
            return self._stated_frames
        container, stream = self._open()
        with container:
            return sum(packet.size > 0 for packet in container.demux(stream))

    def __iter__(self) -> Iterator[Images]:
        """Yield every frame: uint8 (H, W, 3), BGR. A file may change its size on the way."""
        return (frame.image for frame in self.timed())

    def timed(self, wanted: Callable[[float], bool] | None = None) -> Iterator[Frame]:
        """Yield every frame with its time. The first is at 0 s, and each later than the one before.

        Args:
            wanted: is asked with each frame's time; those that are not wanted are left out, and
                cost no conversion. None wants all.
        """
        start_s: float | None = None
        previous_s = -math.inf
        for index, picture in enumerate(self._from_start()):
            stamp = picture.dts if picture.pts is None else picture.pts
            time_s = index / self.fps
            if stamp is not None and self._has_times:
                stamped_s = float(stamp * picture.time_base)
                start_s = stamped_s - time_s if start_s is None else start_s
                time_s = stamped_s - start_s
            if time_s <= previous_s:
                time_s = previous_s + 1 / self.fps
            previous_s = time_s
            if wanted is None or wanted(time_s):
                yield Frame(self._image(picture), time_s)

    def sample(
        self, choose: Choose[Key], prepare: Callable[[Images], Images] | None = None
    ) -> dict[Key, Images]:
        """Return several choices of frames from one decode.

            video.sample(lambda n: {t: segment_centres(n, t) for t in (4, 8, 16)})

        The file is decoded to its end, which tells whether `choose` was given the right N. Where
        that was not known before, as with damaged frames, it chooses again and the file is read
        once more.

        Args:
            choose: given N, the indices that are wanted, in any order and shape; some may be equal.
            prepare: is given each frame that is wanted as it is decoded, once, uint8 (H, W, 3),
                BGR, and returns what is kept of it; the frame itself if None.

        Returns:
            By the keys of `choose`, what `prepare` made of the frames: uint8 (*indices, H, W, 3).

        Raises:
            VideoError: what `prepare` returns differs in size.
        """
        while True:
            count = self.stated_frames if self._num_frames is None else self._num_frames
            wanted = choose(count)
            frames = self._prepared(wanted, prepare)
            if self._num_frames == count:
                return stacked(frames, wanted, self.path)

    def read(self, indices: Indices) -> Images:
        """Return the frames `indices`, in their order: uint8 (len(indices), H, W, 3), BGR.

        One pass decodes up to the last of them; only these are converted to BGR.

        Args:
            indices: in 0..num_frames-1, in any order; some may be equal.

        Raises:
            IndexError: the file does not have so many frames.
            VideoError: the frames differ in size.
        """
        if not len(indices):
            return np.empty((0, self.height, self.width, 3), np.uint8)
        wanted = {"": np.asarray(indices, np.int64)}
        frames = self._prepared(wanted, None, until=max(indices))
        if not min(indices) >= 0 or max(indices) not in frames:
            raise IndexError(f"{self.path} has {self.num_frames} frames; wanted {list(indices)}")
        return stacked(frames, wanted, self.path)[""]

    def _prepared(
        self,
        wanted: Mapping[Key, Indices],
        prepare: Callable[[Images], Images] | None,
        until: float = math.inf,
    ) -> dict[int, Images]:
        chosen = distinct(wanted)
        frames = {}
        for index, picture in enumerate(self._from_start()):
            if index in chosen:
                image = self._image(picture)
                frames[index] = image if prepare is None else prepare(image)
            if index >= until:
                break
        return frames

    def _open(self) -> tuple[Any, Any]:
        """Open the file; return its container and the stream of the video. Note what it states."""
        av = pyav()
        try:
            # With the protocol's name, a colon in the file's is not taken for another protocol.
            container = av.open(
                f"file:{self.path}", options=_demuxer_options(), metadata_errors="replace"
            )
        except av.FFmpegError as error:
            raise self._unreadable() from error
        try:
            stream = self._video_of(container)
            stream.codec_context.options = _DECODER
            stream.codec_context.thread_count = self._threads or _decoding_threads()
            stream.codec_context.thread_type = "NONE" if self._threads == 1 else "AUTO"
            rate = stream.average_rate
            self._has_times = rate is None or _LEAST_FPS <= rate <= _MOST_FPS
            self.fps = float(rate) if rate and self._has_times else UNSTATED_FPS
            self._codec = stream.name
            self._stated_frames: int = stream.frames
            self._stated_s = float((stream.duration or 0) * (stream.time_base or 0)) or math.inf
        except BaseException:
            container.close()
            raise
        return container, stream

    def _video_of(self, container: Any) -> Any:
        cover = pyav().stream.Disposition.attached_pic
        videos = [each for each in container.streams.video if not each.disposition & cover]
        if not videos:
            raise self._unreadable()
        best = container.streams.best("video")
        stream = best if best in videos else videos[0]
        if stream.codec_context is None:
            raise VideoError(
                f"{self.path} is of a codec that this FFmpeg cannot decode",
                f"{self._probe} names it; encode the video again, for example as H.264.",
            )
        if stream.width * stream.height > _MOST_PIXELS:
            raise VideoError(
                f"{self.path} has frames of {stream.width}x{stream.height}",
                "scale it down to 8K or less.",
            )
        index = stream.index_entries
        if len(index) and index[-1].pos + index[-1].size > self.path.stat().st_size:
            raise self._unreadable()
        return stream

    @property
    def _probe(self) -> str:
        """The command that tells more of the file."""
        return f"`ffprobe {shlex.quote(str(self.path))}`"

    def _unreadable(self) -> VideoError:
        return VideoError(
            f"{self.path} cannot be read as a video: it is cut off, damaged, or no video",
            f"copy or download it again; {self._probe} tells what is wrong with it.",
        )

    def _decode(self) -> Iterator[Any]:
        """Yield every picture that can be decoded, as players do.

        From a file that is opened anew, since seeking is not exact; it is closed with the iterator.
        """
        av = pyav()
        container, stream = self._open()
        count, ended = 0, False
        with container:
            packets = container.demux(stream)
            while not ended:
                try:
                    packet = next(packets, None)
                except av.FFmpegError:  # what comes after is lost
                    packet = None
                ended = packet is None or packet.size == 0
                try:
                    pictures = stream.decode(packet)
                except av.FFmpegError:
                    continue
                count += len(pictures)
                yield from pictures
        self._num_frames = count

    def _from_start(self) -> Iterator[Any]:
        """Yield every picture; the first time, with the one that was decoded to open the file."""
        pictures, self._first_pass = self._first_pass, None
        return self._decode() if pictures is None else pictures

    def _image(self, picture: Any) -> Images:
        """Convert a picture: uint8 (H, W, 3), BGR, upright."""
        # More threads than one cost more than they save in all but the largest pictures.
        converted = self._reformatter.reformat(picture, format="bgr24", threads=1)
        image: Images = converted.to_ndarray()
        return image if self._matrix is None else _upright(image, self._matrix)


class VideoWriter:
    """An MP4 file that appears whole or not at all, and that browsers play.

    with VideoWriter("out.mp4", fps=24, width=64, height=64) as writer:
        writer.write(frame)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        width: int,
        height: int,
        *,
        codec: Literal["h264", "mpeg4"] = "h264",
    ) -> None:
        """Remember what to write.

        Args:
            path: ends in .mp4.
            fps: frames a second, of frames without a time of their own.
            width: of every frame, in pixels. H.264 leaves out the last column of an odd one.
            height: of every frame, in pixels; likewise.
            codec: MPEG-4 part 2 is decoded several times faster, but by no browser.
        """
        self.path = Path(path)
        self._fps = fps
        self._size = (width, height)
        self._codec = codec

    def __enter__(self) -> VideoWriter:
        """Open a file beside `path`.

        Raises:
            VideoError: the name does not end in .mp4, or the folder cannot be written.
        """
        if self.path.suffix.lower() != ".mp4":
            raise VideoError(
                f"{self.path} is no name for an MP4 file", f"write {self.path.with_suffix('.mp4')}."
            )
        av = pyav()
        width, height = self._size
        self._next = 0  # the earliest tick of the next frame
        self._reformatter = av.video.reformatter.VideoReformatter()
        with ExitStack() as stack:
            try:
                self._temporary = stack.enter_context(atomic_file(self.path))
                self._container: Any = av.open(
                    f"file:{self._temporary}", "w", format="mp4", options={"movflags": "faststart"}
                )
            except OSError as error:
                raise self._unwritten(reason_of(error)) from error
            rate = Fraction(self._fps).limit_denominator(1001)
            stream = self._container.add_stream(self._codec, rate=rate)
            stream.pix_fmt = "yuv420p"
            stream.width, stream.height = (
                (width // 2 * 2, height // 2 * 2) if self._codec == "h264" else self._size
            )
            if self._codec == "h264":
                stream.options = {"preset": "veryfast", "crf": "20"}
            else:
                stream.bit_rate = round(4 * width * height * self._fps)
            stream.codec_context.time_base = Fraction(1, _TICKS)
            stream.codec_context.thread_count = 1  # the other cores have work of their own
            self._stream: Any = stream
            self._stack = stack.pop_all()
        return self

    def write(self, frame: Images, time_s: float | None = None) -> None:
        """Append `frame`.

        Args:
            frame: uint8 (H, W, 3), BGR.
            time_s: when it is shown; later than the one before. None is 1 / fps later.

        Raises:
            ValueError: the frame is not of the file's size.
            VideoError: the disk is full.
        """
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a uint8 frame of {(height, width, 3)}; got {frame.dtype} {frame.shape}"
            )
        even = np.ascontiguousarray(frame[: self._stream.height, : self._stream.width])
        picture = pyav().VideoFrame.from_ndarray(even, "bgr24")
        picture = self._reformatter.reformat(picture, format="yuv420p", threads=1)
        picture.pts = self._next if time_s is None else max(round(time_s * _TICKS), self._next)
        picture.time_base = Fraction(1, _TICKS)
        picture.duration = round(_TICKS / self._fps)
        self._next = picture.pts + (picture.duration if time_s is None else 1)
        self._mux(picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        """Put the file in place, or remove it if the block failed.

        Raises:
            VideoError: the disk is full, or no frame was written.
        """
        failure = self._finish() if error is None else error
        with suppress(pyav().FFmpegError):  # of a file that is removed
            self._container.close()
        try:
            self._stack.__exit__(type(failure) if failure else None, failure, trace)
        except WriteError as full:
            raise self._unwritten(reason_of(full)) from full
        if error is None and failure is not None:
            raise failure

    def _finish(self) -> VideoError | None:
        """Write what is left; return what went wrong."""
        try:
            if self._next == 0:
                raise self._unwritten("it was given no frame")
            self._mux(None)
            self._container.close()
        except VideoError as error:
            return error
        except pyav().FFmpegError as error:
            return self._unwritten(reason_of(error))
        return None

    def _mux(self, picture: Any) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except pyav().FFmpegError as error:
            raise self._unwritten(reason_of(error)) from error

    def _unwritten(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.path} could not be written: {reason}",
            "check that the disk has room and that the folder may be written.",
        )


def _upright(image: Images, matrix: npt.NDArray[np.int32]) -> Images:
    """Turn and mirror a picture as its display matrix says, by whole quarter turns.

    The matrix is ISO 14496-12's: a pixel at (x, y) is shown at (a x + c y, b x + d y).
    """
    cv2 = opencv()
    across, down = matrix[0], matrix[4]
    if _is_turned(matrix):
        image = cv2.transpose(image)
        across, down = matrix[3], matrix[1]
    if across < 0 or down < 0:
        image = cv2.flip(image, -1 if across < 0 and down < 0 else int(across < 0))
    return image


def _is_turned(matrix: npt.NDArray[np.int32]) -> bool:
    """Return whether a display matrix swaps height and width."""
    return abs(float(matrix[0])) < abs(float(matrix[1]))


def _decoding_threads() -> int:
    """Choose as FFmpeg does, which knows of no quota: one more than processors, so none waits."""
    return min(usable_processors() + 1, _MOST_THREADS)


@functools.cache
def _demuxer_options() -> dict[str, str]:
    """Keep a playlist from naming an address, or another file."""
    formats = pyav().formats_available - _PLAYLISTS
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(formats))}
