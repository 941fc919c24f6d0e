"""Lists of videos, with and without labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.errors import VideoError
from ffn_edge.video_list import videos_of


def test_a_list_may_have_labels_spaces_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "take 2").write_bytes(b"")
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa.mp4\nb.mp4 3\n\n  c d.mp4 11 \ntake 2\n", encoding="utf-8")
    names = [str(video.relative_to(tmp_path)) for video in videos_of(path)]
    assert names == ["a.mp4", "b.mp4", "c d.mp4", "take 2"]


def test_anything_but_a_text_file_is_a_video() -> None:
    assert videos_of(Path("x/clip.mp4")) == [Path("x/clip.mp4")]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(VideoError, match="names no video"):
        videos_of(tmp_path / "list.txt")


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be read"):
        videos_of(tmp_path / "list.txt")
