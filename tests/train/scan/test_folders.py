"""Classes and splits by the names of folders. No video is opened: the files are empty."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.train.scan.found import Found, merge_spellings
from ffn_edge.train.scan.scan import find
from tests.train.scan.conftest import empty_files


def found_in(folder: Path) -> Found:
    found = find(str(folder), folder / "data", None, 1)
    merge_spellings(found)
    return found


def labels(found: Found) -> dict[str, str]:
    return {os.path.basename(line.video): line.label for line in found.lines}


def kinds(found: Found) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_a_folder_is_a_class_whatever_lies_in_it(tmp_path: Path) -> None:
    names = ("Öffnen der Tür/a.MP4", "wave/day 1/b.mkv", "wave/day 2/x/c.webm", "wave/d.avi")
    found = found_in(empty_files(tmp_path, *names))
    expected = {"a.MP4": "Öffnen der Tür", "b.mkv": "wave", "c.webm": "wave", "d.avi": "wave"}
    assert labels(found) == expected
    assert {line.split for line in found.lines} == {""}
    assert not found.findings


def test_folders_of_images_are_videos(tmp_path: Path) -> None:
    names = ("wave/one/1.jpg", "wave/one/2.jpg", "clap/two/1.png", "clap/three.mp4")
    found = found_in(empty_files(tmp_path, *names))
    assert labels(found) == {"one": "wave", "two": "clap", "three.mp4": "clap"}
    assert {os.path.basename(path) for path in found.folders} == {"one", "two"}


def test_of_the_parts_of_a_video_its_pictures_are_taken(tmp_path: Path) -> None:
    names = ("wave/one/rgb/1.png", "wave/one/depth/1.png", "clap/two/rgb/1.png")
    found = found_in(empty_files(tmp_path, *names))
    assert Counter(line.label for line in found.lines) == {"wave": 1, "clap": 1}
    assert all(line.video.endswith("rgb") for line in found.lines)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
@pytest.mark.parametrize("around", ["", "set/", "downloads/set/"])
def test_folders_of_splits_are_kept(val: str, around: str, tmp_path: Path) -> None:
    names = [f"{around}{split}/wave/{split}.mp4" for split in ("Train", val, "test")]
    found = found_in(empty_files(tmp_path, *names, *(n.replace("wave", "clap") for n in names)))
    splits = {(os.path.basename(line.video), line.split) for line in found.lines}
    assert splits == {("Train.mp4", "train"), (f"{val}.mp4", "val"), ("test.mp4", "test")}
    assert {line.label for line in found.lines} == {"wave", "clap"}


def test_splits_within_classes_are_kept(tmp_path: Path) -> None:
    names = ("wave/train/a.mp4", "wave/val/b.mp4", "clap/train/c.mp4", "clap/val/d.mp4")
    found = found_in(empty_files(tmp_path, *names))
    assert [line.split for line in found.lines] == ["train", "val", "train", "val"]
    assert [line.label for line in found.lines] == ["clap", "clap", "wave", "wave"]


def test_an_outer_folder_is_no_class(tmp_path: Path) -> None:
    found = found_in(empty_files(tmp_path, "UCF-101/wave/1/a.mp4", "UCF-101/clap/b.mp4"))
    assert set(labels(found).values()) == {"wave", "clap"}
    assert kinds(found) == ["inner folder"]


def test_one_class_with_frame_folders_is_no_outer_folder(tmp_path: Path) -> None:
    found = found_in(empty_files(tmp_path, "wave/one/1.jpg", "wave/two/1.jpg"))
    assert set(labels(found).values()) == {"wave"}


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    elsewhere = empty_files(tmp_path / "elsewhere", "a.mp4")
    folder = empty_files(tmp_path / "videos", "wave/b.mp4")
    (folder / "clap").symlink_to(elsewhere)
    (folder / "wave" / "again").symlink_to(folder)
    assert labels(found_in(folder)) == {"a.mp4": "clap", "b.mp4": "wave"}


def test_what_is_no_video_is_said_once(tmp_path: Path) -> None:
    names = ("wave/a.mp4", "wave/Thumbs.db", ".DS_Store", "wave/1.jpg", "clap/c.mp4")
    found = found_in(empty_files(tmp_path, *names, ".hidden/d.mp4"))
    assert labels(found) == {"a.mp4": "wave", "c.mp4": "clap"}
    (finding,) = found.findings
    assert finding.kind == "other files" and finding.text.startswith("4 files")


def test_a_folder_without_a_video_is_said(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "wave/a.mp4", "clap/b.mp4")
    (folder / "rest").mkdir()
    (finding,) = found_in(folder).findings
    assert finding.kind == "empty folders" and finding.examples == (str(folder / "rest"),)


def test_videos_without_a_class_are_ignored_and_said(tmp_path: Path) -> None:
    found = found_in(empty_files(tmp_path, "a.mp4", "b.mp4", "wave/c.mp4", "clap/d.mp4"))
    assert labels(found) == {"c.mp4": "wave", "d.mp4": "clap"}
    assert kinds(found) == ["no class"]


def test_classes_that_differ_in_case_are_one(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "Wave/a.mp4", "wave/b.mp4", "wave/c.mp4", "Maße/d.mp4")
    empty_files(folder, "Masse/e.mp4", "Tu\u0308r/f.mp4", "T\u00fcr/g.mp4")
    found = found_in(folder)
    assert {line.label.lower() for line in found.lines} == {"wave", "maße", "masse"} | {
        line.label.lower() for line in found.lines if line.label.startswith("T")
    }
    assert len({line.label for line in found.lines}) == 4
    assert labels(found)["a.mp4"] == "wave"
    assert kinds(found) == ["spelling"]


def test_the_data_folder_and_others_like_it_are_not_scanned(tmp_path: Path) -> None:
    names = ("wave/a.mp4", "clap/b.mp4", "data/wave/c.mp4", "old/wave/d.mp4")
    empty_files(tmp_path, *names, "old/report.json", "old/classes.txt")
    assert labels(found_in(tmp_path)) == {"a.mp4": "wave", "b.mp4": "clap"}


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        find(str(tmp_path / "none"), tmp_path / "data", None, 1)
