"""Cameras: by number, at a Jetson's CSI connector, or over the network."""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ffn_edge.errors import VideoError
from ffn_edge.media.images import Images
from ffn_edge.media.opencv import opencv
from ffn_edge.media.video import UNSTATED_FPS

_log = logging.getLogger(__name__)

_UNPACED_SCHEMES = ("http", "https", "udp", "tcp")  # a host of RTSP sends recordings as they run
NETWORK_SCHEMES = ("rtsp", "rtsps", *_UNPACED_SCHEMES)

_EXAMPLES = (
    "a camera is 0, /dev/video0, csi://0?width=1280&height=720&fps=30, or the URL of a stream, as "
    "rtsp://host/path."
)
_CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30}
# What a URL consists of (RFC 3986), without the quotes and the "!" that GStreamer would read, and
# without "#": a stream has no fragments.
_URL = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@$&()*+,;=%]+")
# A live source that is slower than this is away.
_TIMEOUTS = {"CAP_PROP_OPEN_TIMEOUT_MSEC": 10_000, "CAP_PROP_READ_TIMEOUT_MSEC": 4_000}
# Each thread of FFmpeg's decoder holds one frame back.
_NETWORK_THREADS = 2
# Some streams state the ticks of their clock, such as 90000, in place of their frames.
_MOST_FPS = 480.0

# At the end of Python, what a driver is doing may take so much longer.
_LAST_CALL_S = 12.0
# A camera for one client may need a moment to notice that the one before has left.
_FREED_S = 1.0

# None of these pipelines has run on a Jetson yet. Frames that are not taken in time are dropped at
# their end: the newest one is always served.
_TO_BGR = (
    "{scale} ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
)
_UNSCALED = "nvvidconv ! video/x-raw,format=BGRx"
# 2 is a filter of five taps; by default, the nearest pixel is taken.
_SCALED = "nvvidconv interpolation-method=2 ! video/x-raw,format=BGRx,width={width},height={height}"
_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id={sensor} "
    "! video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 "
    "! queue max-size-buffers=3 leaky=downstream ! " + _TO_BGR
)
# By TCP nothing is lost or comes out of order, so there is nothing to wait for. One pipeline for
# each codec, so that it is known what served: `decodebin` could take the processor's decoder.
_RTSP_PIPELINE = (
    'rtspsrc location="{url}" protocols=tcp latency=0 '
    "! rtp{codec}depay ! {codec}parse ! nvv4l2decoder ! " + _TO_BGR
)
_RTSP_CODECS = ("h264", "h265")


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to open a camera: what OpenCV is given, for which of its backends ("CAP_..."), how.

    `settings` are properties of OpenCV that a capture is opened with.
    """

    source: int | str
    backend: str
    settings: Mapping[str, int]


class Camera:
    """A camera by its address: `with Camera("0") as camera: frame = camera.read()`.

    It may be opened again after it was closed.

    Attributes:
        name: for people; without user, password and query of a URL.
        fps: frames a second as it states; `UNSTATED_FPS` where it states none that can be.
    """

    fps: float

    def __init__(self, address: str, *, short_side: int | None = None) -> None:
        """Read an address; nothing is opened yet.

        Args:
            address: a number or its device, such as /dev/video0; "csi://0" with the options width,
                height and fps in its query, a camera at a Jetson's connector 0; or a network
                stream's URL.
            short_side: enough pixels for who looks at the frames. A CSI camera's larger ones are
                scaled before the processor sees them; others are not, since their size is not
                known before they are open. None is the camera's own size.

        Raises:
            VideoError: it is none of these.
        """
        self._is_asked = False  # whether it is a recording, and answered
        self._has_warned = False
        self._in_driver = threading.RLock()
        _cameras.add(self)
        scheme, separator, rest = address.partition("://")
        scheme = scheme.lower()
        if separator:
            address = f"{scheme}://{rest}"
        number = _device_number(address)
        if number is not None:
            self.name = f"camera {number}"
            self._hint = (
                "check that it is plugged in and that no other program uses it; on Linux "
                "`ls /dev/video*` lists the cameras."
            )
            backend = "CAP_V4L2" if sys.platform == "linux" else "CAP_ANY"
            self._ways: tuple[_Way, ...] = (_Way(number, backend, {}),)
        elif scheme == "csi":
            sensor, options = _csi_options(address)
            self.name = f"CSI camera {sensor}"
            self._hint = (
                "check its cable and its mode (`v4l2-ctl --list-formats-ext`), then "
                "`sudo systemctl restart nvargus-daemon`."
            )
            scale = _scale(options["width"], options["height"], short_side)
            pipeline = _CSI_PIPELINE.format(sensor=sensor, scale=scale, **options)
            self._ways = (_Way(pipeline, "CAP_GSTREAMER", _TIMEOUTS),)
        elif scheme in NETWORK_SCHEMES:
            self.name = _without_secrets(address)
            self._hint = "check the address, user and password, for example with `ffprobe URL`."
            self._ways = _network_ways(address, self.name)
        else:
            raise VideoError(f"{_without_secrets(address):.100} is no camera", _EXAMPLES)

    def __enter__(self) -> Camera:
        """Open the camera.

        Raises:
            VideoError: there is none, it does not answer, another program holds it, or it is a
                video file.
        """
        ways = [way for way in self._ways if _has_backend(way.backend)]
        if not ways:
            raise _missing_backend(self.name, self._ways[-1].backend)
        had_client = self._refuse_recording()
        with self._in_driver:
            way = self._open(ways)
            if way is None and had_client:
                time.sleep(_FREED_S)
                way = self._open(ways)
        if way is None:
            raise VideoError(f"{self.name} cannot be opened", self._hint)
        if way.backend == "CAP_GSTREAMER":  # the first to try when it comes back
            self._ways = (way, *(other for other in self._ways if other is not way))
        elif way is not self._ways[0] and not self._has_warned:
            self._has_warned = True
            reason = (
                f"GStreamer could not open it as {' or '.join(_RTSP_CODECS).upper()}"
                if len(ways) == len(self._ways)
                else "this OpenCV was built without GStreamer"
            )
            _log.warning("the processor decodes %s: %s", self.name, reason)
        return self

    def _open(self, ways: list[_Way]) -> _Way | None:
        """Return the first way that leads to the camera."""
        cv2 = opencv()
        for way in ways:
            self._capture: Any = cv2.VideoCapture(
                way.source, getattr(cv2, way.backend), _settings(way)
            )
            if self._capture.isOpened():
                self._refuse_file()
                self.fps = _plausible_fps(self._capture.get(cv2.CAP_PROP_FPS))
                return way
            self._capture.release()
        return None

    def _refuse_recording(self) -> bool:
        """Refuse what its host states the end of; return whether it was asked, and answered.

        It is asked once, and never while it is open: a camera may serve one client only.
        """
        url = str(self._ways[-1].source)
        if self._is_asked or not url.startswith(("http://", "https://")):
            return False
        from ffn_edge.runtime.stream.recording import (
            is_recording,  # loads Python's HTTP, which few need
        )

        try:
            has_end = is_recording(url)
        except OSError:
            return False
        self._is_asked = True
        if has_end:
            raise VideoError(
                f"{self.name} is no camera but a recording", "download it first, and name the file."
            )
        return True

    def _refuse_file(self) -> None:
        """Refuse what has an end: it would come as fast as it is read, and again and again."""
        if self.name.partition("://")[0] not in _UNPACED_SCHEMES:
            return
        frames = self._capture.get(opencv().CAP_PROP_FRAME_COUNT)
        if frames > 0:
            self._capture.release()
            raise VideoError(
                f"{self.name} is no camera but a video file of {frames:.0f} frames",
                "download it first, and name the file.",
            )

    def __exit__(self, *_: object) -> None:
        with self._in_driver:
            self._capture.release()

    def read(self) -> Images:
        """Wait for the next frame: uint8 (H, W, 3), BGR.

        Raises:
            VideoError: the camera stopped.
        """
        if _python_ends.is_set():  # not after the lock, which is not fair to who waits for it
            threading.Event().wait()
        frame: Images
        with self._in_driver:
            found, frame = self._capture.read()
        if not found:
            raise VideoError(f"{self.name} stopped sending frames", self._hint)
        return frame


_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()
_python_ends = threading.Event()


@atexit.register
def _wait_for_drivers() -> None:
    """Keep threads out of OpenCV from here on.

    At its end Python stops a thread that returns from native code, and C++ aborts the process for
    that. A thread that waits for a lock is harmless. A driver that hangs for longer is left.
    """
    _python_ends.set()
    until = time.monotonic() + _LAST_CALL_S
    for camera in list(_cameras):
        camera._in_driver.acquire(timeout=max(0.0, until - time.monotonic()))


def is_camera(text: str) -> bool:
    """Return whether a user means a camera by it, and no file: a number, a device, or a URL."""
    return text.isdecimal() or "://" in text or _device_number(text) is not None


def has_hardware_decoder(root: Path = Path("/")) -> bool:
    """Return whether GStreamer has Jetson's decoder, nvv4l2decoder: by the file of its plugin."""
    return any(root.glob("usr/lib/*/gstreamer-1.0/libgstnvvideo4linux2.so"))


def _device_number(address: str) -> int | None:
    """Return the 3 of "3" or of "/dev/video3"; a link to that is as good."""
    if address.startswith("/dev/"):
        address = os.path.realpath(address).removeprefix("/dev/video")
    return int(address) if re.fullmatch(r"[0-9]{1,3}", address) else None


def _scale(width: int, height: int, short_side: int | None) -> str:
    """Return the step of a pipeline that makes frames of a size that is enough, in even pixels."""
    if short_side is None or min(width, height) <= short_side:
        return _UNSCALED
    factor = short_side / min(width, height)
    return _SCALED.format(
        width=2 * round(width * factor / 2), height=2 * round(height * factor / 2)
    )


def _csi_options(address: str) -> tuple[int, dict[str, int]]:
    """Return the sensor and width, height and fps of "csi://0?width=1280&height=720&fps=30"."""
    try:
        parts = urlsplit(address)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        values = {name: _whole(value) for name, value in options}
        sensor = _whole(parts.netloc)
    except ValueError as error:
        raise VideoError(f"{address} is no CSI camera: {error}", _EXAMPLES) from error
    unknown = sorted(values.keys() - _CSI_DEFAULTS)
    if unknown or len(values) < len(options) or parts.path.strip("/") or 0 in values.values():
        raise VideoError(
            f"{address} is no CSI camera: its options are width, height and fps, each at most "
            "once and not 0",
            _EXAMPLES,
        )
    return sensor, {**_CSI_DEFAULTS, **values}


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _network_ways(url: str, name: str) -> tuple[_Way, ...]:
    if not _URL.fullmatch(url):
        raise VideoError(
            f"the address of {name} has a character that a URL cannot have",
            "write it by its number, as in %20 for a space, %21 for ! and %23 for #; and quote the "
            "address for the shell.",
        )
    if not url.partition("://")[2].strip("/"):
        raise VideoError(f"{name} names no host", _EXAMPLES)
    ffmpeg = _Way(url, "CAP_FFMPEG", {**_TIMEOUTS, "CAP_PROP_N_THREADS": _NETWORK_THREADS})
    if not (url.startswith("rtsp") and has_hardware_decoder()):
        return (ffmpeg,)
    # A pipeline for another codec than the stream's fails; FFmpeg, on the processor, is the last.
    pipelines = (
        _RTSP_PIPELINE.format(url=url, codec=codec, scale=_UNSCALED) for codec in _RTSP_CODECS
    )
    return *(_Way(pipeline, "CAP_GSTREAMER", _TIMEOUTS) for pipeline in pipelines), ffmpeg


def _without_secrets(url: str) -> str:
    """Return a URL without user, password and query, or what is written as one."""
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    if "@" in path:  # it may belong to a password with a "/" or "?": nothing of it is safe to show
        return f"{scheme}{separator}..."
    # Some cameras want them in the path: /user=admin&password=x&channel=1.
    return scheme + separator + host.rpartition("@")[2] + re.split(r"[?#]|[^/?#]*=", path)[0]


def _settings(way: _Way) -> list[int]:
    """Return what this OpenCV can be told of a way's settings.

    With GStreamer, releases before 4.7 open nothing that is given a time-out (OpenCV's #22919).
    """
    cv2 = opencv()
    release = tuple(int(number) for number in cv2.__version__.split(".")[:2])
    if way.backend == "CAP_GSTREAMER" and release < (4, 7):
        return []
    return [
        number
        for name, value in way.settings.items()
        if hasattr(cv2, name)
        for number in (getattr(cv2, name), value)
    ]


def _has_backend(name: str) -> bool:
    cv2 = opencv()
    return name == "CAP_ANY" or bool(cv2.videoio_registry.hasBackend(getattr(cv2, name)))


def _missing_backend(name: str, backend: str) -> VideoError:
    if backend == "CAP_GSTREAMER":
        return VideoError(
            f"{name} needs GStreamer, which this OpenCV was built without",
            "use the OpenCV that comes with JetPack; pip's hides it: pip uninstall opencv-python "
            "opencv-python-headless.",
        )
    library = "Video4Linux" if backend == "CAP_V4L2" else "FFmpeg"
    return VideoError(
        f"{name} needs {library}, which this OpenCV was built without",
        'pip install "ffn-edge[video]"; on a Jetson, use the OpenCV that comes with JetPack.',
    )


def _plausible_fps(stated: float) -> float:
    return stated if math.isfinite(stated) and 0 < stated <= _MOST_FPS else UNSTATED_FPS
