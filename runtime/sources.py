"""Where frames come from: a video file, a list of video files, or a camera.

A source is one or more streams. A stream is opened by `with` and iterated, and yields frames with
their time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ffn_edge.camera import Camera, is_camera
from ffn_edge.errors import VideoError
from ffn_edge.video import Frame as Frame
from ffn_edge.video import VideoReader
from ffn_edge.video_list import videos_of


class Stream(Protocol):
    """One video or camera: `with stream: for frame in stream`.

    Attributes:
        name: for people.
        live: frames come when they come, and those not taken in time are lost.
        comes_back: it may be opened again when it failed, and its time goes on meanwhile.
        fps: frames a second; set once the stream is open.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def live(self) -> bool: ...  # noqa: D102
    @property
    def comes_back(self) -> bool: ...  # noqa: D102
    @property
    def fps(self) -> float: ...  # noqa: D102
    def __enter__(self) -> Stream: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...


class VideoStream:
    """A video file: every frame as fast as it is taken, or, `realtime`, at the video's own pace."""

    comes_back = False

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        self.name = str(path)
        self.live = realtime
        self._reader = VideoReader(path)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._reader.fps

    def __enter__(self) -> VideoStream:
        """Open the file.

        Raises:
            VideoError: it is missing, or no video.
        """
        self._reader.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; in real time, those that are already a frame late are dropped."""
        if not self.live:
            return self._reader.timed()
        start = time.monotonic()

        def in_time(time_s: float) -> bool:
            early_s = start + time_s - time.monotonic()
            time.sleep(max(0.0, early_s))
            return early_s >= -1 / self.fps

        return self._reader.timed(in_time)


class CameraStream:
    """A camera by its address; the time of a frame is when it arrived.

    Time starts with the first frame of all: a camera may take a second to warm up, and may be away
    between two openings.
    """

    live = True
    comes_back = True

    def __init__(
        self,
        address: str,
        *,
        short_side: int | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Read the address; see `Camera`.

        Raises:
            VideoError: it is none.
        """
        self._camera = Camera(address, short_side=short_side, say=say)
        self.name = self._camera.name
        self._start_s: float | None = None

    @property
    def fps(self) -> float:
        """Frames a second, as the camera states."""
        return self._camera.fps

    def __enter__(self) -> CameraStream:
        """Open the camera.

        Raises:
            VideoError: there is none, it does not answer, or it is in use.
        """
        self._camera.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._camera.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames for as long as the camera sends them.

        Raises:
            VideoError: it stopped.
        """
        while True:
            image = self._camera.read()
            now = time.monotonic()
            if self._start_s is None:
                self._start_s = now
            yield Frame(image, now - self._start_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Streams to play one after the other.

    Attributes:
        streams: at least one.
        skip_broken: a stream that fails is reported, and the next one played.
    """

    streams: tuple[Stream, ...]
    skip_broken: bool = False


def open_source(
    text: str,
    *,
    realtime: bool = False,
    short_side: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Source:
    """Read what a user calls a source. No video or camera is opened yet.

    Args:
        text: a camera's address (see `Camera`): a number ("0"), /dev/video0, "csi://0" or a
            network stream's URL; a text file (*.txt) with one video path a line, relative to that
            file; or a video file.
        realtime: play files at their own pace, as a camera would.
        short_side: of a camera's frames; see `Camera`.
        say: see `Camera`.

    Raises:
        VideoError: there is no such file, the list names no video, or the address is none.
    """
    if is_camera(text):
        return Source(streams=(CameraStream(text, short_side=short_side, say=say),))
    path = Path(text)
    if not path.is_file():
        raise VideoError(
            f"there is no video at {text}",
            "name a video file, a .txt file with one video path a line, or a camera, such as 0, "
            "csi://0 or rtsp://host/path.",
        )
    streams = tuple(VideoStream(video, realtime=realtime) for video in videos_of(path))
    return Source(streams=streams, skip_broken=path.suffix.lower() == ".txt")
