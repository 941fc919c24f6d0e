"""Cameras: how an address is read, what OpenCV is given, and real streams from this machine."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Event, Semaphore, Thread, Timer
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.media.video import UNSTATED_FPS
from ffn_edge.runtime.stream import camera
from ffn_edge.runtime.stream.camera import Camera, has_hardware_decoder, is_camera
from ffn_edge.runtime.stream.live_reader import live_readers
from ffn_edge.runtime.stream.recording import is_recording
from ffn_edge.runtime.stream.sources import CameraStream


class FakeCapture:
    """Stands for `cv2.VideoCapture`: a camera that sends two frames and stops."""

    opened: list[tuple[int | str, int, list[int]]]
    refused: tuple[int, ...]  # backends that cannot open it
    fps: float
    frame_count = -1.0  # as OpenCV says of what has no end

    def __init__(self, source: int | str, backend: int, settings: list[int]) -> None:
        self.opened.append((source, backend, settings))
        self.source = source
        self.backend = backend
        self.frames = iter([np.full((4, 6, 3), value, np.uint8) for value in (10, 20)])

    def isOpened(self) -> bool:  # noqa: D102, N802 - OpenCV's name
        return self.backend not in self.refused

    def get(self, prop: int) -> float:  # noqa: D102
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.frame_count}[prop]

    def read(self) -> tuple[bool, np.ndarray | None]:  # noqa: D102
        frame = next(self.frames, None)
        return frame is not None, frame

    def release(self) -> None:  # noqa: D102
        pass


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    """OpenCV with every backend, whose captures are `FakeCapture`s."""
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: True)
    monkeypatch.setattr(FakeCapture, "opened", [], raising=False)
    monkeypatch.setattr(FakeCapture, "refused", (), raising=False)
    monkeypatch.setattr(FakeCapture, "fps", 0.0, raising=False)
    return FakeCapture


def test_a_camera_gives_frames_until_it_stops(capture: type[FakeCapture]) -> None:
    with Camera("3") as opened:
        assert [opened.read()[0, 0, 0], opened.read()[0, 0, 0]] == [10, 20]
        with pytest.raises(VideoError, match="camera 3 stopped"):
            opened.read()
    assert capture.opened == [(3, cv2.CAP_V4L2, [])]


def test_a_camera_can_be_opened_again(capture: type[FakeCapture]) -> None:
    stopping = Camera("0")
    for _ in range(2):
        with stopping:
            assert stopping.read()[0, 0, 0] == 10
    assert len(capture.opened) == 2


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(VideoError, match="camera 99 cannot be opened"):
        Camera("99").__enter__()


@pytest.mark.parametrize(
    ("stated", "fps"),
    [(25.0, 25.0), (0.0, UNSTATED_FPS), (float("nan"), UNSTATED_FPS), (90000.0, UNSTATED_FPS)],
)
def test_a_rate_that_cannot_be_is_not_believed(
    capture: type[FakeCapture], stated: float, fps: float
) -> None:
    capture.fps = stated
    with Camera("rtsp://host/stream") as opened:
        assert opened.fps == fps


# --- the CSI connector ----------------------------------------------------------------------------


def test_a_csi_camera_is_opened_by_its_pipeline(capture: type[FakeCapture]) -> None:
    with Camera("csi://1?width=1920&height=1080&fps=60") as opened:
        assert opened.name == "CSI camera 1"
    ((pipeline, backend, settings),) = capture.opened
    assert pipeline == (
        "nvarguscamerasrc sensor-id=1 "
        "! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 "
        "! queue max-size-buffers=3 leaky=downstream "
        "! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR "
        "! appsink drop=true max-buffers=1 sync=false"
    )
    assert backend == cv2.CAP_GSTREAMER
    assert settings == [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        10_000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        4_000,
    ]


@pytest.mark.parametrize(
    ("size", "short_side", "scaled"),
    [
        ("width=1920&height=1080", 512, "width=910,height=512"),
        ("width=1080&height=1920", 512, "width=512,height=910"),
        ("width=3840&height=2160", 257, "width=456,height=256"),
        ("width=1280&height=720", 720, None),
        ("width=640&height=480", 512, None),
        ("width=1920&height=1080", None, None),
    ],
)
def test_a_csi_camera_is_scaled_to_what_is_enough_before_the_processor_sees_it(
    capture: type[FakeCapture], size: str, short_side: int | None, scaled: str | None
) -> None:
    with Camera(f"csi://0?{size}", short_side=short_side):
        pass
    pipeline = str(capture.opened[0][0])
    caps = "! video/x-raw,format=BGRx"
    if scaled is None:
        assert f"! nvvidconv {caps} ! videoconvert" in pipeline
    else:
        assert f"! nvvidconv interpolation-method=2 {caps},{scaled} ! videoconvert" in pipeline


def test_a_csi_camera_has_a_usual_size_and_rate(capture: type[FakeCapture]) -> None:
    with Camera("csi://0"):
        pass
    assert "sensor-id=0 " in str(capture.opened[0][0])
    assert "width=1280,height=720,framerate=30/1 " in str(capture.opened[0][0])


@pytest.mark.parametrize(
    "address",
    [
        "csi://",
        "csi://front",
        "csi://0/1",
        "csi://-1",
        "csi://[",
        "csi://0?width=0",
        "csi://0?width=640&width=320",
        "csi://0?wide=640",
        "csi://0?width",
        "csi://0?width=",
        "csi://0?width=640 ! filesink",
        "csi://0?fps=29.97",
        "csi://0?fps=٣",
        "csi://0?height=1000000",
    ],
)
def test_a_csi_address_with_anything_else_is_refused(address: str) -> None:
    with pytest.raises(VideoError, match="is no CSI camera") as caught:
        Camera(address)
    assert "csi://0?width=1280&height=720&fps=30" in caught.value.hint


def test_without_gstreamer_a_csi_camera_says_what_hides_it(
    capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda b: b != cv2.CAP_GSTREAMER)
    with pytest.raises(VideoError, match="CSI camera 0 needs GStreamer") as caught:
        Camera("csi://0").__enter__()
    assert "pip uninstall opencv-python" in caught.value.hint
    assert capture.opened == []


def test_a_csi_camera_that_is_not_there_is_refused(capture: type[FakeCapture]) -> None:
    capture.refused = (cv2.CAP_GSTREAMER,)
    with pytest.raises(VideoError, match="CSI camera 2 cannot be opened") as caught:
        Camera("csi://2").__enter__()
    assert "nvargus-daemon" in caught.value.hint


# --- networks -------------------------------------------------------------------------------------

STREAM = "rtsp://viewer:s3cret@cam.local:554/h264?channel=1"


@pytest.fixture
def jetson_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """GStreamer has nvv4l2decoder."""
    monkeypatch.setattr(camera, "has_hardware_decoder", lambda: True)


def test_a_network_stream_is_read_by_ffmpeg(capture: type[FakeCapture]) -> None:
    for scheme in camera.NETWORK_SCHEMES:
        with Camera(f"{scheme}://host:1234/stream"):
            pass
    assert [source for source, *_ in capture.opened] == [
        f"{scheme}://host:1234/stream" for scheme in camera.NETWORK_SCHEMES
    ]
    assert {backend for _, backend, _ in capture.opened} == {cv2.CAP_FFMPEG}
    settings = capture.opened[0][2]
    assert dict(zip(settings[::2], settings[1::2], strict=True)) == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 10_000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 4_000,
        cv2.CAP_PROP_N_THREADS: 2,
    }


@pytest.mark.usefixtures("jetson_decoder")
def test_a_jetson_decodes_rtsp_in_hardware(
    capture: type[FakeCapture], caplog: pytest.LogCaptureFixture
) -> None:
    with Camera(STREAM):
        pass
    assert caplog.messages == []
    ((pipeline, backend, _),) = capture.opened
    assert pipeline == (
        f'rtspsrc location="{STREAM}" protocols=tcp latency=0 '
        "! rtph264depay ! h264parse ! nvv4l2decoder "
        "! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR "
        "! appsink drop=true max-buffers=1 sync=false"
    )
    assert backend == cv2.CAP_GSTREAMER


@pytest.mark.usefixtures("jetson_decoder")
def test_a_jetson_decodes_h265_in_hardware_too_and_remembers_it(
    capture: type[FakeCapture],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(capture, "isOpened", lambda self: "h265" in str(self.source))
    opened = Camera(STREAM)
    for _ in range(2):
        with opened:
            pass
    assert caplog.messages == []
    tried = [str(source).split(" ! ")[1:4] for source, *_ in capture.opened]
    assert tried == [
        ["rtph264depay", "h264parse", "nvv4l2decoder"],
        ["rtph265depay", "h265parse", "nvv4l2decoder"],
        ["rtph265depay", "h265parse", "nvv4l2decoder"],
    ]


@pytest.mark.usefixtures("jetson_decoder")
def test_what_the_hardware_does_not_decode_is_left_to_ffmpeg_and_said_once(
    capture: type[FakeCapture], caplog: pytest.LogCaptureFixture
) -> None:
    capture.refused = (cv2.CAP_GSTREAMER,)
    opened = Camera(STREAM)
    for _ in range(2):
        with opened:
            assert opened.read()[0, 0, 0] == 10
    backends = [cv2.CAP_GSTREAMER, cv2.CAP_GSTREAMER, cv2.CAP_FFMPEG]
    assert [backend for _, backend, _ in capture.opened] == backends * 2
    (words,) = caplog.messages
    assert "the processor decodes rtsp://cam.local:554/h264" in words
    assert "H265" in words
    assert "s3cret" not in words


@pytest.mark.usefixtures("jetson_decoder")
def test_without_gstreamer_a_jetson_decodes_by_ffmpeg_and_says_why(
    capture: type[FakeCapture],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda b: b != cv2.CAP_GSTREAMER)
    with Camera(STREAM):
        pass
    assert [backend for _, backend, _ in capture.opened] == [cv2.CAP_FFMPEG]
    assert "without GStreamer" in caplog.messages[0]


@pytest.mark.parametrize(
    ("version", "is_told"), [("4.6.0", False), ("4.8.0", True), ("5.0.0", True)]
)
def test_an_old_opencv_is_told_no_timeouts_for_gstreamer_which_it_would_not_open(
    capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch, version: str, is_told: bool
) -> None:
    monkeypatch.setattr(cv2, "__version__", version)
    for address in ("csi://0", "rtsp://host/a"):
        with Camera(address):
            pass
    assert [bool(settings) for *_, settings in capture.opened] == [is_told, True]


def test_an_opencv_that_lacks_a_setting_is_told_the_others(
    capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, "CAP_PROP_N_THREADS")
    with Camera("rtsp://host/a"):
        pass
    assert len(capture.opened[0][2]) == 4


@pytest.mark.parametrize("address", ["RTSP://Host/Path", "Rtsps://h/x", "HTTP://host/a", "CSI://0"])
@pytest.mark.usefixtures("jetson_decoder")
def test_a_scheme_is_read_in_any_case(capture: type[FakeCapture], address: str) -> None:
    scheme, _, rest = address.partition("://")
    for written in (address, f"{scheme.lower()}://{rest}"):
        with Camera(written):
            pass
    assert capture.opened[0] == capture.opened[1]
    assert is_camera(address)


@pytest.mark.parametrize(("device", "number"), [("/dev/video0", 0), ("/dev/video12", 12)])
def test_a_device_is_a_camera(capture: type[FakeCapture], device: str, number: int) -> None:
    assert is_camera(device)
    with Camera(device) as opened:
        assert opened.name == f"camera {number}"
    assert capture.opened == [(number, cv2.CAP_V4L2, [])]


@pytest.mark.parametrize(
    "text", ["/dev/video", "/dev/videos/a", "/dev/null", "/dev/0", "video0", " 0"]
)
def test_another_path_is_no_camera(text: str) -> None:
    assert not is_camera(text)


@pytest.mark.usefixtures("capture")
def test_without_ffmpeg_a_network_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    with pytest.raises(VideoError, match="http://host/x needs FFmpeg"):
        Camera("http://host/x").__enter__()


def test_the_hardware_decoder_is_found_by_its_plugin(tmp_path: Path) -> None:
    assert not has_hardware_decoder(tmp_path)
    plugins = tmp_path / "usr/lib/aarch64-linux-gnu/gstreamer-1.0"
    plugins.mkdir(parents=True)
    (plugins / "libgstnvvideo4linux2.so").touch()
    assert has_hardware_decoder(tmp_path)


@pytest.mark.parametrize(
    "path",
    ['a" ! filesink location="x', "a'b", "a!b", "a b", "a\nb", "a\\b", "a#b", "a{b}", "ä", "a\0"],
)
def test_a_url_that_gstreamer_could_read_as_more_is_refused(path: str) -> None:
    with pytest.raises(VideoError, match="has a character that a URL cannot have"):
        Camera(f"rtsp://host/{path}")


def test_a_video_file_on_a_network_is_no_camera(
    capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "frame_count", 250.0)
    with pytest.raises(VideoError, match=r"http://host/a\.mp4 is .* a video file of 250"):
        Camera("http://host/a.mp4").__enter__()
    for address in ("rtsp://host/recording", "csi://0", "0"):  # these come at their own pace
        with Camera(address):
            pass


def test_a_url_without_a_host_is_refused() -> None:
    with pytest.raises(VideoError, match="names no host"):
        Camera("rtsp://")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (STREAM, "rtsp://cam.local:554/h264"),
        ("http://host/video?user=me&password=s3cret", "http://host/video"),
        ("rtsp://host/a/user=me&password=s3cret&channel=1/b", "rtsp://host/a/"),
        ("http://host/video?user=me@x&password=s3cret", "http://..."),
        ("rtsp://viewer:s3@cret@host/a", "rtsp://host/a"),
        ("rtsp://viewer:/s3cret@host/a", "rtsp://..."),
        ("rtsp://viewer:s3@/cret@host/a", "rtsp://..."),
        ("rtsp://viewer:s3?cret@host/a", "rtsp://..."),
        ("udp://239.0.0.1:5000", "udp://239.0.0.1:5000"),
    ],
)
@pytest.mark.usefixtures("capture")
def test_user_password_and_query_are_never_shown(
    monkeypatch: pytest.MonkeyPatch, address: str, name: str
) -> None:
    monkeypatch.setattr(FakeCapture, "refused", (cv2.CAP_FFMPEG,))
    assert Camera(address).name == name
    with pytest.raises(VideoError) as caught:
        Camera(address).__enter__()
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_refused_address_does_not_show_its_password() -> None:
    for address in ("rtsp://viewer:s3cret@host/a b", "ftp://viewer:s3cret@host/a"):
        with pytest.raises(VideoError) as caught:
            Camera(address)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["ftp://host/a.mp4", "front", "-1", "²", ""])
def test_what_is_no_camera_is_refused(address: str) -> None:
    with pytest.raises(VideoError, match="is no camera") as caught:
        Camera(address)
    assert "rtsp://host/path" in caught.value.hint


# --- a real stream --------------------------------------------------------------------------------


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Run a web server; yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/camera"
        finally:
            server.shutdown()
            thread.join()


class Host(BaseHTTPRequestHandler):
    """A web server of one recording, or of what a test makes of it."""

    headers_sent: Mapping[str, str] = {}
    body = b"\x1aE\xdf\xa3 and so on"
    password: str | None = None
    asked: list[str]
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:  # noqa: D102
        self.asked.append(self.headers.get("Authorization", ""))
        if self.password and not self.asked[-1]:
            self.send_response(401)
            self.send_header("WWW-Authenticate", self.password)
            self.end_headers()
            return
        self.send_response(200)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.send()

    def send(self) -> None:
        """Write what follows the headers."""
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass


@contextmanager
def hosting(port: int = 0, **changes: Any) -> Iterator[tuple[str, list[str]]]:
    """Run a `Host` with other attributes; yield its URL and the authorizations that it got."""
    asked: list[str] = []
    with running(type("Changed", (Host,), {**changes, "asked": asked}), port) as url:
        yield url, asked


@contextmanager
def serving(
    send: Callable[[Any], None],
    port: int = 0,
    kind: str = "multipart/x-mixed-replace;boundary=frame",
) -> Iterator[str]:
    """Serve a motion JPEG by HTTP, as many cameras do; `send` writes its body."""
    changes = {"headers_sent": {"Content-Type": kind}, "send": lambda host: send(host.wfile)}
    with hosting(port, **changes) as (url, _):
        yield url


def send_picture(to: Any, value: int) -> None:
    """Write one picture of a grey `value`."""
    jpeg = cv2.imencode(".jpg", np.full((32, 48, 3), value, np.uint8))[1].tobytes()
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    to.write(head.encode() + jpeg + b"\r\n")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # FFmpeg would ask one


def test_a_stream_over_http_is_read_and_its_end_is_noticed() -> None:
    def three(to: Any) -> None:
        for value in (50, 100, 150):
            send_picture(to, value)

    with serving(three) as url, Camera(url) as opened:
        pictures = [opened.read() for _ in range(3)]
        with pytest.raises(VideoError, match="stopped sending frames"):
            opened.read()
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * 3
    assert [picture.mean() for picture in pictures] == pytest.approx([50, 100, 150], abs=3)


def test_a_real_file_over_http_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (32, 32))
    for _ in range(7):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    with (
        serving(lambda to: to.write(path.read_bytes()), kind="video/x-msvideo") as url,
        pytest.raises(VideoError, match="is no camera but a video file of 7 frames") as caught,
    ):
        Camera(url).__enter__()
    assert "download it first" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "headers", "body", "expected"),
    [
        ("video/x-matroska", {"Content-Length": "12"}, Host.body, True),
        ("video/webm", {"Content-Length": "0"}, b"", True),
        ("application/octet-stream", {"Accept-Ranges": "bytes"}, Host.body, True),
        ("video/x-matroska", {}, Host.body, False),
        ("video/mp2t", {"Accept-Ranges": "none"}, Host.body, False),
        ("multipart/x-mixed-replace;boundary=f", {"Content-Length": "99999999"}, b"--f", False),
        ("application/vnd.apple.mpegurl", {"Content-Length": "20"}, b"#EXTM3U\n", False),
        ("text/plain", {"Content-Length": "9"}, b"\n#EXTM3U\n", False),
        ("application/dash+xml", {"Accept-Ranges": "bytes"}, b"<?xml version='1.0'?", False),
        ("application/sdp", {"Content-Length": "7"}, b"v=0\no=-", False),
    ],
)
def test_a_recording_is_told_from_a_stream_by_the_end_that_its_host_states(
    kind: str, headers: dict[str, str], body: bytes, expected: bool
) -> None:
    with hosting(headers_sent={"Content-Type": kind, **headers}, body=body) as (url, _):
        assert is_recording(url) is expected


def test_a_host_that_asks_for_a_password_gets_it(capture: type[FakeCapture]) -> None:
    for scheme in ("Basic", "Digest"):
        challenge = f'{scheme} realm="camera", nonce="1", qop="auth", algorithm=MD5'
        with hosting(password=challenge, headers_sent={"Content-Length": "12"}) as (url, asked):
            url = url.replace("127", "viewer:s3%20cret@127")
            with pytest.raises(VideoError, match="is no camera but a recording") as caught:
                Camera(url).__enter__()
        assert [word.partition(" ")[0] for word in asked] == ["", scheme]
        if scheme == "Basic":
            assert base64.b64decode(asked[1].split()[1]) == b"viewer:s3 cret"
        assert "cret" not in str(caught.value)
    assert capture.opened == []


@pytest.mark.parametrize("changes", [{"password": "Basic"}, {"protocol_version": "ICY"}])
def test_where_the_host_does_not_say_it_is_taken_for_a_camera(
    capture: type[FakeCapture], changes: dict[str, str]
) -> None:
    with hosting(**changes) as (url, _), Camera(url):
        pass
    assert len(capture.opened) == 1


def test_a_camera_for_one_client_is_opened_after_it_was_asked() -> None:
    clients = Semaphore(1)

    class Single(Host):
        asked: ClassVar[list[str]] = []
        headers_sent: ClassVar = {"Content-Type": "multipart/x-mixed-replace;boundary=frame"}

        def do_GET(self) -> None:
            if clients.acquire(blocking=False):
                super().do_GET()
                clients.release()
            else:
                self.send_error(503)

        def send(self) -> None:
            for _ in range(200):
                send_picture(self.wfile, 50)
                time.sleep(0.02)

    with running(Single) as url, Camera(url) as opened:
        assert opened.read().mean() == pytest.approx(50, abs=3)


def test_a_camera_that_comes_back_is_not_asked_again() -> None:
    asked: list[int] = []

    def send(to: Any) -> None:
        asked.append(1)
        for _ in range(50):
            send_picture(to, 50)

    with serving(send) as url:
        opened = Camera(url)
        for _ in range(2):
            with opened:
                opened.read()
    assert len(asked) == 3


PROGRAM = """
import sys, threading, time
import cv2
import numpy as np
class Capture:
    def __init__(self, *_): pass
    def isOpened(self): return True
    def get(self, prop): return 30.0
    def read(self):
        cv2.blur(picture, (301, 301))  # in C++, without Python's lock
        return True, picture
    def release(self): pass
picture = np.zeros((3000, 3000, 3), np.uint8)
cv2.VideoCapture = Capture
cv2.videoio_registry.hasBackend = lambda backend: True
from ffn_edge.runtime.stream.camera import Camera
def frames():
    with Camera("0") as camera:
        while True:
            yield camera.read()
"""


@pytest.mark.parametrize("seconds", [0.3, 0.35, 0.4])
def test_python_ends_in_order_while_threads_read_cameras(seconds: float) -> None:
    program = f"""{PROGRAM}
for _ in range(3):
    threading.Thread(target=lambda: list(frames()), daemon=True).start()
time.sleep({seconds})
sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_python_ends_in_order_where_a_generator_holds_a_camera() -> None:
    program = PROGRAM + "held = frames(); next(held); sys.exit(7)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 7


def test_a_stream_that_stalls_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(camera._TIMEOUTS, "CAP_PROP_READ_TIMEOUT_MSEC", 200)
    noticed = Event()

    def stall(to: Any) -> None:
        for _ in range(50):  # opening looks at the first ones
            send_picture(to, 50)
        noticed.wait(timeout=10)

    with serving(stall) as url, Camera(url) as opened:
        opened.read()
        with pytest.raises(VideoError, match="stopped sending frames"):
            while True:
                opened.read()
        noticed.set()


def test_a_host_that_does_not_answer_is_refused() -> None:
    with serving(lambda to: None) as url:
        pass
    with pytest.raises(VideoError, match="cannot be opened"):
        Camera(url).__enter__()


def test_a_stream_comes_back_when_its_host_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    def send(to: Any) -> None:
        for _ in range(50):
            send_picture(to, 50)

    times: list[float] = []
    parts = 0
    with ExitStack() as first_host, ExitStack() as second_host:
        url = first_host.enter_context(serving(send))
        port = int(url.split(":")[2].split("/")[0])
        readers = second_host.enter_context(
            closing(
                live_readers(
                    CameraStream(url),
                    lambda frame: times.append(frame.time_s),
                    lambda: parts == 2,
                    pauses_s=(0.1,),
                )
            )
        )
        for reader in readers:
            reader.start()
            while reader.wait(1e9, lambda: False):
                pass
            parts += 1
            if parts == 1:  # nobody answers for a while
                first_host.close()
                back = Timer(0.5, lambda: second_host.enter_context(serving(send, port)))
                second_host.callback(back.join)
                back.start()
    assert len(times) <= 100  # a hundred at once: some are dropped
    assert max(b - a for a, b in pairwise(times)) > 0.5
    assert times == sorted(times)
    lost, back_again = caplog.messages[:2]
    assert lost.startswith(f"{url} stopped sending frames")
    assert back_again.startswith(f"{url} is back after")
