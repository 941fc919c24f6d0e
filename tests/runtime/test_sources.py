"""Files, lists and cameras."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.runtime import sources
from ffn_edge.runtime.sources import CameraStream, open_source


def test_a_file_yields_every_frame_in_its_own_time(write_video: Callable[..., Path]) -> None:
    path = write_video("a.mp4", ["red"] * 7, fps=5.0)
    (stream,) = open_source(str(path)).streams
    with stream:
        times = [frame.time_s for frame in stream]
    assert not stream.live
    assert times == pytest.approx([i / 5 for i in range(7)])


def test_in_real_time_a_slow_taker_loses_frames_and_keeps_time(
    write_video: Callable[..., Path],
) -> None:
    path = write_video("a.mp4", ["red"] * 20, fps=40.0)
    (stream,) = open_source(str(path), realtime=True).streams
    times = []
    with stream:
        for frame in stream:
            times.append(frame.time_s)
            time.sleep(0.1)
    assert stream.live
    assert len(times) < 12
    assert times == sorted(set(times))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(VideoError, match=r"no video at nowhere\.mp4"):
        open_source("nowhere.mp4")


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no video at"):
        open_source(str(tmp_path))


def test_a_list_is_played_in_order_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\n\n  sub/b.mp4  \n/c.mp4\n")
    source = open_source(str(tmp_path / "list.txt"))
    names = [str(tmp_path / "a.mp4"), str(tmp_path / "sub/b.mp4"), "/c.mp4"]
    assert [stream.name for stream in source.streams] == names
    assert source.skip_broken


@pytest.mark.parametrize("text", [b"", b"\n\n"])
def test_a_list_without_a_video_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(VideoError, match="names no video"):
        open_source(str(tmp_path / "list.txt"))


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00video")
    with pytest.raises(VideoError, match="cannot be read as a list"):
        open_source(str(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3", "camera 3"),
        ("csi://0?width=640&height=480&fps=30", "CSI camera 0"),
        ("rtsp://me:secret@host/stream", "rtsp://host/stream"),
        ("http://host:8080/video", "http://host:8080/video"),
    ],
)
def test_a_number_or_an_address_is_a_camera_that_comes_back(text: str, name: str) -> None:
    (stream,) = open_source(text).streams
    assert stream.name == name
    assert stream.live
    assert stream.comes_back


def test_an_address_of_no_known_kind_is_refused() -> None:
    with pytest.raises(VideoError, match="ftp://host/a is no camera"):
        open_source("ftp://host/a")


def test_a_file_does_not_come_back(write_video: Callable[..., Path]) -> None:
    (stream,) = open_source(str(write_video("a.mp4", ["red"])), realtime=True).streams
    assert not stream.comes_back


def test_a_camera_that_is_not_there_is_refused() -> None:
    (stream,) = open_source("97").streams
    with pytest.raises(VideoError, match="camera 97 cannot be opened"):
        stream.__enter__()


class WarmingCamera:
    """Takes a while for its first frame, and stops after the third, each time it is opened."""

    name = "camera 0"
    fps = 30.0

    def __init__(self, address: str, **options: object) -> None:
        self.address = address

    def __enter__(self) -> WarmingCamera:
        self.read_count = 0
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> np.ndarray:  # noqa: D102
        self.read_count += 1
        if self.read_count == 1:
            time.sleep(0.2)
        if self.read_count > 3:
            raise VideoError("camera 0 stopped sending frames")
        return np.zeros((4, 4, 3), np.uint8)


def test_a_cameras_time_starts_with_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "Camera", WarmingCamera)
    times = []
    with CameraStream("0") as stream, pytest.raises(VideoError, match="stopped"):
        for frame in stream:
            times.append(frame.time_s)
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] < 0.2


def test_a_cameras_time_goes_on_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "Camera", WarmingCamera)
    times: list[float] = []
    stream = CameraStream("0")
    for _ in range(2):
        with stream, pytest.raises(VideoError, match="stopped"):
            for frame in stream:
                times.append(frame.time_s)
    assert len(times) == 6
    assert times == sorted(times)
    assert times[3] - times[2] > 0.19  # it warms up again
