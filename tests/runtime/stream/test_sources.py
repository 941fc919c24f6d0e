"""Files, lists and cameras."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.runtime.stream import sources
from ffn_edge.runtime.stream.sources import CameraStream, Stream, open_source


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


def names_of(text: str | list[str], folder: Path) -> list[str]:
    return [str(Path(s.name).relative_to(folder)) for s in open_source(text).streams]


def test_a_folder_is_the_videos_in_it_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.mp4", "b9.MP4", "a.webm", ".hidden.mp4", "notes.txt", "cover.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert names_of(str(tmp_path), tmp_path) == ["a.webm", "b9.MP4", "b10.mp4"]


def test_a_pattern_is_the_videos_and_the_folders_that_match(tmp_path: Path) -> None:
    for name in ("day1/a.mp4", "day2/b.mp4", "day10/c.mkv", "day10/c.json", "frames/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    in_files = ["day1/a.mp4", "day2/b.mp4", "day10/c.mkv"]
    assert names_of(f"{tmp_path}/day*/*", tmp_path) == in_files
    assert names_of(f"{tmp_path}/day*", tmp_path) == in_files
    assert names_of(f"{tmp_path}/day?/*.mp4", tmp_path) == in_files[:2]
    assert sorted(names_of(f"{tmp_path}/**", tmp_path)) == sorted([*in_files, "frames"])


def test_a_name_with_the_letters_of_a_pattern_is_a_name_where_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "clip[1].mp4").touch()
    assert names_of(f"{tmp_path}/clip[1].mp4", tmp_path) == ["clip[1].mp4"]


def test_several_sources_are_played_in_their_order(tmp_path: Path) -> None:
    for name in ("z.mp4", "folder/y.mp4", "folder/x.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    texts = [f"{tmp_path}/z.mp4", f"{tmp_path}/folder"]
    assert names_of(texts, tmp_path) == ["z.mp4", "folder/x.mp4", "folder/y.mp4"]
    assert open_source(texts).skip_broken


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.mp4").touch()
    assert names_of("~/a.mp4", tmp_path) == names_of("~/*.mp4", tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("text", ["{}", "{}/*.mp4", "{}/nowhere/*"])
def test_a_folder_or_a_pattern_without_a_video_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.json").touch()
    with pytest.raises(VideoError, match="no video at") as caught:
        open_source(text.format(tmp_path))
    assert ".webm" in caught.value.hint


@pytest.fixture
def frame_folder(tmp_path: Path) -> Path:
    """Images of grey 0, 20, 40 … in a natural order that is not the alphabet's."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        image = np.full((6, 8, 3), 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"frame{number}.png"), image)
    return folder


def greys(stream: Stream) -> list[tuple[float, int]]:
    with stream:
        return [(round(frame.time_s, 6), int(frame.image[0, 0, 0])) for frame in stream]


def test_a_folder_of_images_is_a_video_at_the_given_rate(frame_folder: Path) -> None:
    (stream,) = open_source(str(frame_folder), fps=10.0).streams
    assert greys(stream) == [(number / 10, 20 * number) for number in range(12)]
    assert (stream.name, stream.fps, stream.live) == (str(frame_folder), 10.0, False)


def test_a_line_of_a_list_may_be_a_folder_of_images(frame_folder: Path) -> None:
    path = frame_folder.parent / "list.txt"
    path.write_text("frames 3 1\nframes 2\nframes\n")
    streams = open_source(str(path)).streams
    assert [len(greys(stream)) for stream in streams] == [3, 2, 12]


@pytest.mark.parametrize("frames", [0, 13, 10**9])
def test_a_folder_with_fewer_images_than_the_list_says_is_refused(
    frame_folder: Path, frames: int
) -> None:
    path = frame_folder.parent / "list.txt"
    path.write_text(f"frames {frames} 1\n")
    (stream,) = open_source(str(path)).streams
    with pytest.raises(VideoError, match="12 images"):
        greys(stream)


def test_a_folder_of_images_is_played_at_its_pace_in_real_time(frame_folder: Path) -> None:
    (stream,) = open_source(str(frame_folder), realtime=True, fps=20.0).streams
    times = []
    with stream:
        for frame in stream:
            times.append(frame.time_s)
            time.sleep(0.1)
    assert stream.live
    assert len(times) < 12


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
