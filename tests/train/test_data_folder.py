"""The folder that a scan writes, as training reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ffn_edge.errors import DataError
from ffn_edge.train.data_folder import read_data_folder

FACTS: dict[str, Any] = {
    "dataset": "custom",
    "clips": {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 0}},
    "seconds": [1.0, 2.0, 3.0],
    "fps": 25.0,
    "short_side": 240,
    "window_s": 2.0,
    "frame_counts": [4, 8],
    "mirror": [["a", "b"]],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("video,start_s,end_s,label\n")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "report.json").write_text(json.dumps({"schema_version": 1, "facts": FACTS}))
    return tmp_path


def test_it_says_what_there_is(folder: Path) -> None:
    data = read_data_folder(folder)
    assert data.classes == ("a", "b")
    assert data.facts.seconds == (1, 2, 3) and data.facts.mirror == (("a", "b"),)
    assert (data.train_list, data.val_list) == (folder / "train.csv", folder / "val.csv")


@pytest.mark.parametrize("missing", ["report.json", "classes.txt", "train.csv", "val.csv"])
def test_a_folder_that_lacks_a_file_is_refused(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(DataError, match=missing):
        read_data_folder(folder)


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("{", "report"),
        ('{"schema_version": 2}', "version"),
        ('{"schema_version": 1}', "facts"),
        (json.dumps({"schema_version": 1, "facts": {**FACTS, "fps": -1}}), "fps"),
        (json.dumps({"schema_version": 1, "facts": {**FACTS, "clips": {}}}), "train"),
    ],
)
def test_a_report_that_is_none_is_refused(text: str, noun: str, folder: Path) -> None:
    (folder / "report.json").write_text(text)
    with pytest.raises(DataError, match=noun):
        read_data_folder(folder)


def test_neither_it_nor_a_scan_needs_pytorch_or_matplotlib() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'matplotlib'): sys.modules[name] = None\n"
        "import ffn_edge.train.data_folder, ffn_edge.train.scan.scan\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
