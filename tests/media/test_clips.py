"""Lists are checked before they are used: a wrong one at once, whatever its length."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from ffn_edge.errors import DataError
from ffn_edge.frames import segment_centres
from ffn_edge.media import clips
from ffn_edge.media.clips import read_checked_list
from ffn_edge.media.images import Images
from ffn_edge.media.video_writer import VideoWriter


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a video file, a file that is none, and a frame folder of three images."""
    with VideoWriter(tmp_path / "video.mp4", 12, 32, 32) as video:
        for _ in range(3):
            video.write(np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "frames").mkdir()
    for number in range(1, 4):
        cv2.imwrite(str(tmp_path / "frames" / f"{number:05d}.jpg"), np.zeros((32, 32, 3), np.uint8))
    return tmp_path


def checked(folder: Path, lines: list[str], pattern: str | None = None) -> int:
    path = folder / "list.txt"
    path.write_text("\n".join(lines))
    return len(read_checked_list(path, classes="ab", frame_pattern=pattern))


@pytest.mark.parametrize("pattern", [None, "%05d.jpg"])
def test_a_list_may_name_videos_and_frame_folders(videos: Path, pattern: str | None) -> None:
    assert checked(videos, ["video.mp4 0", "frames 3 1"] * 50, pattern) == 100


@pytest.mark.parametrize(
    ("line", "pattern", "reason"),
    [
        ("video.mp4 3 0", None, "label '3 0' is none"),  # a file, as if it were a folder
        ("frames 3 0", "%06d.jpg", "lacks 000001.jpg"),  # of another data set
        ("frames 9 0", "%05d.jpg", "lacks 00004.jpg"),
        ("frames 9 0", None, "3 images, not 9"),
        ("text.mp4 0", None, "no video"),
        ("absent.mp4 0", None, "there is nothing at"),
        ("video.mp4 2", None, "label 2 is not in 0..1"),  # labels from 1
    ],
)
def test_a_list_of_another_kind_is_refused(
    videos: Path, line: str, pattern: str | None, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        checked(videos, [line] * 30, pattern)


def test_a_few_videos_that_cannot_be_read_are_no_reason_to_refuse_a_list(videos: Path) -> None:
    assert checked(videos, ["text.mp4 0", *["video.mp4 0"] * 2]) == 3


def test_a_list_that_is_wrong_only_further_on_is_refused(videos: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        checked(videos, ["video.mp4 0"] * 100 + ["text.mp4 0"] * 200)


def test_the_work_does_not_grow_with_the_list(videos: Path) -> None:
    with (
        mock.patch.object(clips, "open_video", side_effect=clips.open_video) as opened,
        mock.patch("os.scandir", side_effect=os.scandir) as listed,
        mock.patch.object(Path, "stat", autospec=True, side_effect=Path.stat) as looked_at,
    ):
        assert checked(videos, ["video.mp4 0"] * 10_000) == 10_000

    assert opened.call_count <= 8 and listed.call_count == 1 and looked_at.call_count < 50


@pytest.mark.parametrize("line", ["video.mp4 0", "frames 3 0"])
def test_each_frame_count_gets_its_clip_from_one_decode(videos: Path, line: str) -> None:
    (videos / "list.txt").write_text(line)
    (video,) = read_checked_list(videos / "list.txt", classes="a")
    prepared = []

    def prepare(frame: Images) -> Images:
        prepared.append(frame)
        return np.full((2, 2, 3), len(prepared) - 1, np.uint8)  # the number of the frame

    with clips.open_video(video) as reader:
        found = clips.clips_at(reader, (1, 2, 6), segment_centres, prepare)

    assert len(prepared) == 3
    assert {t: clip[:, 0, 0, 0].tolist() for t, clip in found.items()} == {
        t: segment_centres(3, t).tolist() for t in (1, 2, 6)
    }
