"""Where frames come from: video files, folders of images, or a camera.

A source is one or more streams. A stream is opened by `with` and iterated, and yields frames with
their time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ffn_edge.errors import VideoError
from ffn_edge.media.frame_folder import FrameFolder
from ffn_edge.media.video import UNSTATED_FPS, VideoReader
from ffn_edge.media.video import Frame as Frame
from ffn_edge.media.video_list import Video, find_videos
from ffn_edge.runtime.stream.camera import Camera, is_camera

Name = str | int | Path  # of a video or camera, as users write it


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
    def __exit__(self, *_: Any) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...


class VideoStream:
    """A video file: every frame as fast as it is taken, or, `realtime`, at the video's own pace."""

    comes_back = False

    def __init__(
        self,
        path: Path,
        *,
        realtime: bool = False,
        start_s: float = 0.0,
        end_s: float = math.inf,
    ) -> None:
        """Open nothing yet; for `start_s` and `end_s` see `VideoReader`."""
        self.path = path
        self.name = str(path)
        if (start_s, end_s) != (0.0, math.inf):  # as a media fragment's address says it
            self.name += f"#t={start_s:g}" + (f",{end_s:g}" if math.isfinite(end_s) else "")
        self.live = realtime
        self._reader = VideoReader(path, start_s=start_s, end_s=end_s)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._reader.fps

    def __enter__(self) -> VideoStream:
        self._reader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; in real time, those that are already a frame late are dropped."""
        return self._reader.timed(_at_its_pace(self.fps) if self.live else None)


class FolderStream:
    """A video that is kept as a folder with one image a frame, played as a `VideoStream` is."""

    comes_back = False

    def __init__(
        self, folder: Path, num_frames: int, *, fps: float = UNSTATED_FPS, realtime: bool = False
    ) -> None:
        self.path = folder
        self.name = str(folder)
        self.live = realtime
        self.fps = fps
        self._folder = folder
        self._num_frames = num_frames

    def __enter__(self) -> FolderStream:
        self._images = FrameFolder(self._folder, num_frames=self._num_frames)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; in real time, those that are already a frame late are dropped."""
        in_time = _at_its_pace(self.fps) if self.live else None
        for index, image in enumerate(self._images):
            if in_time is None or in_time(index / self.fps):
                yield Frame(image, index / self.fps)


def _at_its_pace(fps: float, start_s: float | None = None) -> Callable[[float], bool]:
    """Return what waits until a frame's time has come, and says whether it is not late by one.

    The first frame's was at `start_s` of the clock; None is now.
    """
    start = time.monotonic() if start_s is None else start_s

    def in_time(time_s: float) -> bool:
        early_s = start + time_s - time.monotonic()
        time.sleep(max(0.0, early_s))
        return early_s >= -1 / fps

    return in_time


class CameraStream:
    """A camera by its address; the time of a frame is when it arrived.

    Time starts with the first frame of all: a camera may take a second to warm up, and may be away
    between two openings.
    """

    live = True
    comes_back = True

    def __init__(self, address: str, *, short_side: int | None = None) -> None:
        self._camera = Camera(address, short_side=short_side)
        self.name = self._camera.name
        self._start_s: float | None = None

    @property
    def fps(self) -> float:
        """Frames a second, as the camera states."""
        return self._camera.fps

    def __enter__(self) -> CameraStream:
        self._camera.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.__exit__()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames for as long as the camera sends them; then raise a VideoError."""
        while True:
            image = self._camera.read()
            now = time.monotonic()
            if self._start_s is None:
                self._start_s = now
            yield Frame(image, now - self._start_s)


class LoopedVideo:
    """A video file as a camera: at its own pace, again and again, and its time goes on."""

    live = True
    comes_back = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._after_s = 0.0  # what was played before

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._reader.fps

    def __enter__(self) -> LoopedVideo:
        self._reader = VideoReader(self._path)
        self._reader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames without an end, but for those that are already a frame late."""
        begin_s, start_s = self._after_s, time.monotonic() - self._after_s
        in_time = _at_its_pace(self.fps, start_s)

        def wanted(time_s: float) -> bool:
            self._after_s = begin_s + time_s + 1 / self.fps
            return in_time(begin_s + time_s)

        while True:
            for image, time_s in self._reader.timed(wanted):
                yield Frame(image, begin_s + time_s)
            if self._after_s == begin_s:
                raise VideoError(f"{self.name} has no frame that can be read", "name another.")
            begin_s = self._after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Streams to play one after the other.

    Attributes:
        streams: at least one.
        skip_broken: a stream that fails is reported, and the next one played; so it is for several.
    """

    streams: tuple[Stream, ...]
    skip_broken: bool = False


def open_source(
    names: Name | Sequence[Name],
    *,
    realtime: bool = False,
    fps: float = UNSTATED_FPS,
    short_side: int | None = None,
) -> Source:
    """Read what a user calls a source. No video or camera is opened yet.

    Args:
        names: a camera's address (see `Camera`): a number, /dev/video0, "csi://0" or a network
            stream's URL; or what names one or more videos (see `find_videos`): a file, a folder,
            a pattern or a *.txt list. Or several of them, which are played in their order.
        realtime: play videos at their own pace, as a camera would.
        fps: frames a second of folders of images.
        short_side: of a camera's frames; see `Camera`.

    Raises:
        VideoError: there is no such video, or the address is none.
    """
    streams: list[Stream] = []
    for each in map(str, [names] if isinstance(names, str | int | Path) else names):
        if is_camera(each):
            streams.append(CameraStream(each, short_side=short_side))
            continue
        for video in _videos_named(each):
            streams.append(
                VideoStream(video.path, realtime=realtime, start_s=video.start_s, end_s=video.end_s)
                if video.num_frames is None
                else FolderStream(video.path, video.num_frames, fps=fps, realtime=realtime)
            )
    return Source(streams=tuple(streams), skip_broken=len(streams) > 1)


def _videos_named(text: str) -> list[Video]:
    """Return what `find_videos` finds, if it is there: before engines and outputs are opened."""
    videos = find_videos(text)
    if len(videos) > 1:
        return videos
    path = videos[0].path
    try:
        os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(
            f"there is no video at {path}",
            "name a video file, a folder, a pattern such as 'day/*.mp4', a .txt file with one path "
            "a line, or a camera, such as 0, csi://0 or rtsp://host/path.",
        ) from error
    except OSError as error:
        raise VideoError(
            f"{path} cannot be read: {error.strerror}", "check the path and its modes."
        ) from error
    return videos
