"""What a look at a video tells, and what it says of one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.scan.look import look, pictures_at
from tests.train.scan.conftest import FRAMES, HEIGHT, RATE, WIDTH, frames_of, write


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.mp4", "mp4", "h264"),
        ("a.mkv", "mkv", "h264"),
        ("a.avi", "avi", "mpeg4"),
        ("a.webm", "webm", "vp8"),
        ("a.mov", "mov", "mpeg4"),
        ("a.ts", "mpegts", "h264"),
        ("a.h264", "h264", "h264"),
    ],
)
def test_facts_are_those_of_the_file(name: str, container: str, codec: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, frames_of(0))
    found = look(str(path), False, True)
    assert (found.reason, found.container, found.codec) == ("", container, codec)
    assert (found.height, found.width, found.frames) == (HEIGHT, WIDTH, FRAMES)
    assert found.size_bytes == path.stat().st_size
    assert found.thumbnail.startswith(b"\xff\xd8")
    if name != "a.h264":  # which has no times
        assert found.length_s == pytest.approx(FRAMES / RATE, abs=0.01)
        assert found.fps == pytest.approx(RATE, rel=0.01)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm", "ts", "h264"])
@pytest.mark.parametrize("frames", [5, 6])
def test_pictures_are_taken_at_shares_of_the_time(suffix: str, frames: int, tmp_path: Path) -> None:
    shown = [np.full((HEIGHT, WIDTH, 3), 40 + 30 * i, np.uint8) for i in range(frames)]
    path = write(tmp_path / f"a.{suffix}", shown, quality=10)
    shares = (0.0, 0.3, 0.5, 1.0)
    levels = pictures_at(str(path), False, shares).mean(axis=(1, 2))
    # A picture between two frames is their mean, unless one is nearly there.
    places = [share * (frames - 1) for share in shares]
    between = [(np.floor(place + 0.25) + np.ceil(place - 0.25)) / 2 for place in places]
    steps = (levels - levels[0]) / (levels[-1] - levels[0]) * (frames - 1)
    assert steps == pytest.approx(between, abs=0.15)


def test_times_count_and_not_the_number_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 10, 64, 48) as video:
        for i in range(10):  # the first half at 10 frames a second, and then one a second
            level = 250 if i < 5 else 20
            video.write(np.full((48, 64, 3), level, np.uint8), i / 10 if i < 5 else 0.5 + (i - 5))
    found = look(str(path), False, False)
    assert found.length_s == pytest.approx(4.6, abs=0.2)
    assert found.picture is not None and found.picture.mean() < 60


def test_a_folder_of_images(tmp_path: Path) -> None:
    import cv2

    for i in range(7):
        cv2.imwrite(str(tmp_path / f"img_{i}.png"), np.full((48, 64, 3), 30 * i, np.uint8))
    found = look(str(tmp_path), True, True)
    assert (found.reason, found.frames, found.container) == ("", 7, "folder")
    assert found.picture is not None and found.picture.mean() == pytest.approx(90, abs=1)


def damaged(folder: Path, kind: str) -> Path:
    path = write(folder / "a.mp4", frames_of(0))
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "text":
        path.write_text("no video")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "half", "text", "folder"])
def test_a_video_that_cannot_be_read_has_a_reason(kind: str, tmp_path: Path) -> None:
    path = damaged(tmp_path, kind)
    found = look(str(path), False, True)
    assert "a.mp4" in found.reason and not found.thumbnail


@pytest.mark.parametrize("suffix", ["avi", "mkv", "webm"])
def test_a_recording_that_was_broken_off_tells_what_it_lacks(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", frames_of(0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found = look(str(path), False, False)
    assert not found.reason
    assert found.length_s < 0.8 * FRAMES / RATE
    assert found.stated_s == pytest.approx(FRAMES / RATE, abs=0.1)
