"""Pictures are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.figure import save_figure

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of its backend


def test_a_picture_is_written_whole_and_forgotten(tmp_path: Path) -> None:
    save_figure(pyplot.figure(), tmp_path / "picture.png", dpi=10)

    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert not pyplot.get_fignums()


def test_a_picture_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(FfnEdgeError, match="could not be written") as caught:
        save_figure(pyplot.figure(), tmp_path / "file" / "picture.png", dpi=10)
    assert "may be written" in caught.value.hint
    assert (tmp_path / "file").read_text() == "no folder"
    assert not pyplot.get_fignums()
