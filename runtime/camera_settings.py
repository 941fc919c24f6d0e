"""A camera of several: where its pictures come from, and how it is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ffn_edge.errors import VideoError
from ffn_edge.files.schema import Between, Share
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.stream.camera import is_camera
from ffn_edge.runtime.stream.sources import (
    CameraStream,
    LoopedVideo,
    Source,
    Stream,
    VideoStream,
)
from ffn_edge.runtime.stream.window import Timing

Seconds = Annotated[float, Between(0.001, 3600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSettings:
    """A camera of several.

    Attributes:
        name: of its results and events.
        source: a camera's address (see `Camera`), or a video file that is played as one.
        window_s: the time that a clip spans; None as in training.
        hop_s: from one inference to the next.
        weight: how much its answers count where frames are given out.
        roi: the part of its picture to look at: left, top, width and height, each 0..1.
        loop: play a video again and again.
    """

    name: str
    source: Secret
    window_s: Seconds | None = None
    hop_s: Seconds = 0.25
    weight: Annotated[float, Between(0.01, 100)] = 1.0
    roi: tuple[Share, Share, Share, Share] | None = None
    loop: bool = False


def open_camera(settings: CameraSettings, *, short_side: int | None = None) -> Stream:
    """Return the stream of a camera, which is not open yet.

    Raises:
        VideoError: the source is neither a camera nor a video.
    """
    stream: CameraStream | LoopedVideo | VideoStream
    source = settings.source.reveal()
    if is_camera(source):
        stream = CameraStream(source, short_side=short_side)
    elif not Path(source).is_file():
        raise VideoError(
            f"camera {settings.name}: there is no video at {source}",
            "a source is a camera, such as 0, csi://0 or rtsp://host/path, or a video file.",
        )
    elif settings.loop:
        stream = LoopedVideo(Path(source))
    else:
        stream = VideoStream(Path(source), realtime=True)
    stream.name = settings.name
    return stream


def cameras_of(source: Source, timing: Timing) -> list[tuple[CameraSettings, Stream]]:
    """Return the cameras of a source as several to watch at once, by their names.

    Raises:
        VideoError: there is a video among them, which has an end, or one twice.
    """
    if not all(stream.comes_back for stream in source.streams):
        raise VideoError(
            "cameras are watched all at once, and videos one after the other",
            "run the videos by themselves.",
        )
    names = [stream.name for stream in source.streams]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise VideoError(f"{min(twice)} is named twice", "name each camera once.")
    return [
        (CameraSettings(name=name, source=Secret(name), hop_s=timing.hop_s), stream)
        for name, stream in zip(names, source.streams, strict=True)
    ]
