"""MP4 files out."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ffn_edge.errors import VideoError, WriteError, reason_of
from ffn_edge.files.atomic import atomic_file
from ffn_edge.media.images import Images
from ffn_edge.media.pyav import pyav

# Of a second: whole ticks for 24, 25, 29.97 and 30 frames.
_TICKS = 60_000


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
        quick: bool = False,
    ) -> None:
        """Remember what to write.

        Args:
            path: ends in .mp4.
            fps: frames a second, of frames without a time of their own.
            width: of every frame, in pixels. H.264 leaves out the last column of an odd one.
            height: of every frame, in pixels; likewise.
            codec: MPEG-4 part 2 is decoded several times faster, but by no browser.
            quick: encode H.264 in a third of the time and a quarter of the memory, to larger files.
        """
        self.path = Path(path)
        self._fps = fps
        self._size = (width, height)
        self._codec = codec
        self._preset = "ultrafast" if quick else "veryfast"

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
                stream.options = {"preset": self._preset, "crf": "20"}
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
