"""A list's videos are known by what it says and by how large they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.errors import VideoError
from ffn_edge.train import identity
from ffn_edge.train.identity import content_of_videos


def test_a_frame_folder_that_cannot_be_read_is_one_that_training_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"image")
    (tmp_path / "list.txt").write_text("one 1 0\ntwo 1 0\n")
    known = content_of_videos(tmp_path / "list.txt", None, None)

    def failing(folder: Path) -> list[Path]:
        if folder.name == "two":
            raise VideoError(f"the folder {folder} cannot be read")
        return [folder / "1.jpg"]

    monkeypatch.setattr(identity, "images_in_folder", failing)

    assert content_of_videos(tmp_path / "list.txt", None, None) not in ("", known)
