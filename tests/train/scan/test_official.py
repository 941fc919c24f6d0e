"""The lists of data sets, as these write them. No video is opened: the files are empty."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.train.scan.found import Found, group_of
from ffn_edge.train.scan.scan import find
from tests.train.scan.conftest import empty_files


def found_in(source: Path, lists: Path | None = None, fold: int = 1) -> Found:
    return find(str(source), source.parent / "data", lists, fold)


def lines_of(found: Found) -> set[tuple[str, str, str]]:
    return {(os.path.basename(line.video), line.label, line.split) for line in found.lines}


@pytest.mark.parametrize("inside", [True, False])
def test_ucf101(inside: bool, tmp_path: Path) -> None:
    clips = ["v_Biking_g08_c01.avi", "v_Biking_g01_c01.avi", "v_Archery_g09_c02.avi"]
    folder = tmp_path / "videos"
    for clip in (*clips, "v_Archery_g02_c03.avi"):
        empty_files(folder, f"UCF-101/{clip.split('_')[1]}/{clip}")
    lists = (folder if inside else tmp_path) / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Biking\r\n2 Archery\r\n")
    (lists / "trainlist01.txt").write_text(
        "Biking/v_Biking_g08_c01.avi 1\r\nArchery/v_Archery_g09_c02.avi 2\r\n"
    )
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g01_c01.avi\nBiking/gone.avi\n")
    (lists / "trainlist02.txt").write_text("Biking/v_Biking_g01_c01.avi 1\n")
    found = found_in(folder, None if inside else lists)
    assert lines_of(found) == {
        (clips[0], "Biking", "train"),
        (clips[1], "Biking", "test"),
        (clips[2], "Archery", "train"),
    }
    assert found.classes == ("Biking", "Archery")
    kinds = {finding.kind for finding in found.findings}
    assert kinds == {"missing", "part of a set", "unlisted"}
    second = found_in(folder, None if inside else lists, fold=2)
    assert lines_of(second) == {(clips[1], "Biking", "train")}
    with pytest.raises(DataError, match="fold"):
        found_in(folder, lists, fold=3)


def test_a_whole_set_has_its_name(tmp_path: Path) -> None:
    lines, classes = [], []
    for number in range(101):
        empty_files(tmp_path, f"C{number}/v_C{number}_g01_c01.avi")
        classes.append(f"{number + 1} C{number}")
        lines.append(f"C{number}/v_C{number}_g01_c01.avi {number + 1}")
    (tmp_path / "trainlist01.txt").write_text("\n".join(lines))
    (tmp_path / "classInd.txt").write_text("\n".join(classes))
    found = found_in(tmp_path)
    assert found.dataset == "ucf101" and not found.findings
    assert found.classes is not None and found.classes[2:4] == ("C2", "C3")


def test_hmdb51(tmp_path: Path) -> None:
    for name in ("brush_hair/a(1).avi", "brush_hair/b.avi", "wave/c.avi", "wave/d.avi"):
        empty_files(tmp_path, name)
    (tmp_path / "brush_hair_test_split1.txt").write_text("a(1).avi 1 \nb.avi 2 \n")
    (tmp_path / "wave_test_split1.txt").write_text("c.avi 1 \nd.avi 0 \n")
    (tmp_path / "wave_test_split2.txt").write_text("c.avi 2 \nd.avi 1 \n")
    found = found_in(tmp_path)
    assert lines_of(found) == {
        ("a(1).avi", "brush_hair", "train"),
        ("b.avi", "brush_hair", "test"),
        ("c.avi", "wave", "train"),
    }
    assert "unused" in {finding.kind for finding in found.findings}


def test_kinetics(tmp_path: Path) -> None:
    cut, whole = "abcdefghij1_000010_000020.mp4", "abcdefghij2.mp4"
    empty_files(tmp_path, f"train/riding a bike/{cut}", f"all/{whole}")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "riding a bike,abcdefghij1,10,20,train\n"
        '"clapping",abcdefghij2,3,13,validate\n'
        "clapping,gone_______,3,13,train\n"
    )
    found = found_in(tmp_path)
    assert lines_of(found) == {(cut, "riding a bike", "train"), (whole, "clapping", "val")}
    parts = {os.path.basename(line.video): (line.start_s, line.end_s) for line in found.lines}
    assert parts[whole] == (3, 13) and parts[cut][0] == 0
    assert group_of(f"/x/{cut}") == "abcdefghij1"


def test_something_something_v2(tmp_path: Path) -> None:
    empty_files(tmp_path, *(f"20bn-something-something-v2/{n}.webm" for n in (1, 22, 333)))
    entries = [
        {"id": "1", "label": "holding a cup", "template": "Holding [something]"},
        {"id": "22", "label": "x", "template": "Pushing [something] from left to right"},
    ]
    labels = {"Pushing something from left to right": "1", "Holding something": "0"}
    for name, content in (("train", entries[:1]), ("validation", entries[1:]), ("labels", labels)):
        (tmp_path / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    (tmp_path / "something-something-v2-test.json").write_text(json.dumps([{"id": "333"}]))
    found = found_in(tmp_path)
    assert lines_of(found) == {
        ("1.webm", "Holding something", "train"),
        ("22.webm", "Pushing something from left to right", "val"),
    }
    assert found.classes == ("Holding something", "Pushing something from left to right")


def test_jester(tmp_path: Path) -> None:
    empty_files(tmp_path, "20bn-jester-v1/34870/00001.jpg", "20bn-jester-v1/56557/00001.jpg")
    (tmp_path / "jester-v1-train.csv").write_text("34870;Drumming Fingers\n")
    (tmp_path / "jester-v1-validation.csv").write_text("56557;Sliding Two Fingers Right\n")
    (tmp_path / "jester-v1-test.csv").write_text("1\n2\n")
    (tmp_path / "jester-v1-labels.csv").write_text("Sliding Two Fingers Right\nDrumming Fingers\n")
    found = found_in(tmp_path)
    assert lines_of(found) == {
        ("34870", "Drumming Fingers", "train"),
        ("56557", "Sliding Two Fingers Right", "val"),
    }
    assert len(found.folders) == 2 and "Jester" in found.layout
    assert found.classes == ("Sliding Two Fingers Right", "Drumming Fingers")
