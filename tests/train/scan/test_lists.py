"""Tables and texts that list videos, as people and spreadsheets write them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.train.scan.found import Found
from ffn_edge.train.scan.scan import find
from tests.train.scan.conftest import empty_files


def found_in(source: Path, lists: Path | None = None) -> Found:
    return find(str(source), source.parent / "data", lists, 1)


def lines_of(found: Found) -> list[tuple[object, ...]]:
    return [
        (os.path.basename(each.video), each.label, each.start_s, each.end_s) for each in found.lines
    ]


PARTS = [
    ("long one.mp4", "wave", 1.5, 3.0),
    ("long one.mp4", "clap", 62.25, 65.0),
    ("b.mp4", "grüßen", 0.0, math.inf),
]
GERMAN = (
    "Video;start_s;end_s;Label\r\nlong one.mp4;1,5;3;wave\r\nlong one.mp4;1:02,25;1:05;clap\r\n"
)


@pytest.mark.parametrize(
    "content",
    [
        b"video,start_s,end_s,label\nlong one.mp4,1.5,3,wave\nlong one.mp4,62.25,65,clap\n"
        + "b.mp4,,,grüßen\n".encode(),
        (GERMAN + "b.mp4;;;grüßen\r\n").encode("cp1252"),
        (GERMAN + "b.mp4;;;grüßen\r\n").encode("utf-8-sig"),
        (GERMAN + "b.mp4;;;grüßen\r\n").replace(";", "\t").encode("utf-16"),
    ],
    ids=["plain", "cp1252", "with a mark", "UTF-16"],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_a_table_of_parts_of_recordings(content: bytes, as_file: bool, tmp_path: Path) -> None:
    folder = empty_files(tmp_path / "videos", "long one.mp4", "b.mp4")
    (folder / "segments.csv").write_bytes(content)
    found = found_in(folder / "segments.csv" if as_file else folder)
    assert lines_of(found) == PARTS
    assert not found.findings


def test_splits_by_a_column_and_by_the_names_of_the_tables(tmp_path: Path) -> None:
    folder = empty_files(tmp_path / "videos", *(f"{name}.mp4" for name in "abcd"))
    (folder / "one.csv").write_text("video,label,split\na.mp4,wave,train\nb.mp4,wave,VALID\n")
    assert [line.split for line in found_in(folder).lines] == ["train", "val"]
    (folder / "one.csv").unlink()
    (folder / "train.csv").write_text("video,label\na.mp4,wave\nb.mp4,clap\n")
    (folder / "my_val.csv").write_text("video,label\nc.mp4,wave\nd.mp4,clap\n")
    splits = {os.path.basename(line.video): line.split for line in found_in(folder).lines}
    assert splits == {"a.mp4": "train", "b.mp4": "train", "c.mp4": "val", "d.mp4": "val"}


def test_our_own_lists_with_numbers_and_their_class_file(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "clips/a 1.mp4", "clips/b.mp4", "frames/c/1.jpg")
    (folder / "train.txt").write_bytes(b"clips/a 1.mp4 0\r\n# comment\r\nframes/c 1 1\r\n")
    (folder / "val.txt").write_text("clips/b.mp4 1\n")
    (folder / "classes.txt").write_text("wave\nclap\n")
    (folder / "notes.txt").write_text("nothing of this is a list\n")
    found = found_in(folder)
    assert [(*line[:2],) for line in lines_of(found)] == [
        ("a 1.mp4", "wave"),
        ("c", "clap"),
        ("b.mp4", "clap"),
    ]
    assert found.classes == ("wave", "clap")
    assert not found.findings


def test_numbers_without_a_class_file_are_names_and_said(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "a.mp4", "b.mp4")
    (folder / "list.csv").write_text("video,label\na.mp4,3\nb.mp4,10\n")
    found = found_in(folder)
    assert [line.label for line in found.lines] == ["3", "10"]
    assert [finding.kind for finding in found.findings] == ["labels are numbers"]


def test_what_a_list_names_by_its_name_alone_is_found_below(tmp_path: Path) -> None:
    folder = empty_files(tmp_path / "videos", "deep/er/a.mp4", "b.mp4", "c.mp4")
    table = tmp_path / "labels.csv"
    table.write_text("video_id,file,action\n7,a.mp4,wave\n8,b.mp4,clap\n9,none.mp4,clap\n")
    found = found_in(folder, table)
    assert [line[:2] for line in lines_of(found)] == [("a.mp4", "wave"), ("b.mp4", "clap")]
    assert sorted(finding.kind for finding in found.findings) == ["missing", "unlisted"]


def test_a_list_that_is_named_and_is_none_is_refused(tmp_path: Path) -> None:
    folder = empty_files(tmp_path / "videos", "wave/a.mp4")
    (tmp_path / "notes.txt").write_text("shopping\nbread\n")
    with pytest.raises(DataError, match="list"):
        found_in(folder, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "filmed on Monday\n"),
        ("notes.csv", "date,weather,camera\n1,sun,2\n"),
        ("metadata.csv", "filename,duration\na.mp4,2\nb.mp4,3\n"),
    ],
)
def test_what_is_no_list_of_labels_does_not_hide_the_class_folders(
    name: str, content: str, tmp_path: Path
) -> None:
    folder = empty_files(tmp_path, "wave/a.mp4", "clap/b.mp4")
    (folder / name).write_text(content)
    found = found_in(folder)
    assert {line.label for line in found.lines} == {"wave", "clap"}
    assert [finding.kind for finding in found.findings] == ["other lists"]


def test_a_list_without_labels_has_those_of_the_folders(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "wave/a.mp4", "wave/b.mp4", "c.mp4")
    (folder / "train.txt").write_text("wave/a.mp4\nc.mp4\n")
    (folder / "val.txt").write_text("wave/b.mp4\n")
    found = found_in(folder)
    assert [(line.label, line.split) for line in found.lines] == [
        ("wave", "train"),
        ("wave", "val"),
    ]
    assert [finding.kind for finding in found.findings] == ["no label"]


def test_numbers_from_one_are_recognised_by_the_folders(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "wave/a.mp4", "clap/b.mp4")
    (folder / "list.txt").write_text("wave/a.mp4 1\nclap/b.mp4 2\n")
    (folder / "classes.txt").write_text("wave\nclap\n")
    found = found_in(folder)
    assert [line.label for line in found.lines] == ["wave", "clap"]
    assert not found.findings


@pytest.mark.parametrize("table", ["video,start_s,end_s,label", "label,youtube_id,time_start"])
def test_a_time_that_is_none_is_refused(table: str, tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "a.mp4")
    row = {"video": "a.mp4", "youtube_id": "a", "label": "wave"}
    cells = [row.get(name, "soon") for name in table.split(",")]
    (folder / "parts.csv").write_text(f"{table}\n{','.join(cells)}\n")
    with pytest.raises(DataError, match="soon"):
        found_in(folder)
