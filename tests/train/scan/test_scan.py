"""From videos to a data folder: the whole way, with what users have and what is wrong with it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ffn_edge.cli import cli
from ffn_edge.errors import DataError
from ffn_edge.media.classes import read_classes
from ffn_edge.media.video_list import read_list
from ffn_edge.train.data_folder import read_data_folder
from ffn_edge.train.scan.report import Report
from ffn_edge.train.scan.scan import scan
from ffn_edge.train.scan.sides import mirror_pairs
from tests.train.scan.conftest import frames_of, scene_of, write

Make = Callable[..., Path]


def rows_of(data: Path, split: str) -> list[dict[str, str]]:
    with (data / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def splits_of(data: Path) -> dict[str, str]:
    return {
        os.path.basename(row["video"]): split
        for split in ("train", "val", "test")
        if (data / f"{split}.csv").exists()
        for row in rows_of(data, split)
    }


def kinds(report: Report) -> list[str]:
    found = [finding.kind for finding in report.findings]
    assert len(found) == len(set(found)), "said twice"
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.stat() for path in folder.rglob("*")}
    return {path: (each.st_mtime_ns, each.st_size) for path, each in found.items()}


def test_a_folder_per_class_becomes_lists_that_training_reads(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{label}/{i}.mp4" for label in ("Grüße, 10", "b 9") for i in range(5)))
    before = snapshot(folder)
    report = scan(folder, tmp_path / "data", workers=1)
    assert snapshot(folder) == before
    assert sorted(os.listdir(tmp_path / "data")) == [
        *("classes.txt", "report.html", "report.json", "train.csv", "val.csv")
    ]
    data = read_data_folder(tmp_path / "data")
    assert data.classes == ("b 9", "Grüße, 10") == report.classes
    assert data.facts == report.facts
    train = read_list(data.train_list, classes=data.classes)
    val = read_list(data.val_list, classes=data.classes)
    assert (len(train), len(val)) == (8, 2)
    assert {video.path.resolve() for video in (*train, *val)} == set(folder.rglob("*.mp4"))
    for video in (*train, *val):
        assert video.path.parent.name == data.classes[video.label]
    assert data.facts.clips == {
        "train": {"b 9": 4, "Grüße, 10": 4},
        "val": {"b 9": 1, "Grüße, 10": 1},
    }
    assert data.facts.seconds == pytest.approx((2, 2, 2)) and data.facts.window_s == 2
    assert (data.facts.fps, data.facts.short_side) == (12, 120)
    assert data.facts.frame_counts == (4, 8, 16)
    assert kinds(report) == ["few clips"]


def test_a_data_folder_can_be_moved_with_its_videos(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{label}/{i}.mp4" for label in "ab" for i in range(2)))
    scan(folder, tmp_path / "data", workers=1)
    (tmp_path / "moved").mkdir()
    for name in ("videos", "data"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    data = read_data_folder(tmp_path / "moved" / "data")
    assert all(v.path.exists() for v in read_list(data.train_list, classes=data.classes))


def test_videos_stay_on_their_side_when_others_come(videos: Make, tmp_path: Path) -> None:
    names = [f"{label}/{label}{i}.mp4" for label in "ab" for i in range(6)]
    folder, data = videos(*names), tmp_path / "data"
    scan(folder, data, workers=1)
    first = splits_of(data)
    videos(*(f"{label}/{label}{i}.mp4" for label in "abc" for i in range(10, 16)))
    scan(folder, data, workers=1)
    second = splits_of(data)
    assert {name: second[name] for name in first} == first
    assert sum(split == "val" for split in second.values()) > sum(
        split == "val" for split in first.values()
    )
    others = []
    for seed in (1, 2):
        scan(folder, data, workers=1, seed=seed)
        others.append(splits_of(data))
    assert others[0] != others[1]


def test_a_copy_goes_where_its_original_is(videos: Make, tmp_path: Path) -> None:
    folder, data = videos(*(f"{c}/{c}{i}.mp4" for c in "ab" for i in range(5))), tmp_path / "d"
    for number, path in enumerate(sorted(folder.rglob("*.mp4"))):
        name = str(path.relative_to(folder))
        write(path.with_name(f"{path.stem}-copy{number}.webm"), frames_of(scene_of(name))[::-1])
    report = scan(folder, data, workers=1)
    splits = splits_of(data)
    pairs = [tuple(map(os.path.basename, each)) for each in report.copies]
    assert len(pairs) == 10 and all(splits[a] == splits[b] for a, b in pairs)
    assert "copies" in kinds(report)


def test_copies_on_two_sides_of_a_split_that_is_there_are_said_and_not_moved(
    videos: Make, tmp_path: Path
) -> None:
    names = [f"{split}/{label}/{split}{i}.mp4" for split in ("train", "val") for label in "ab"
             for i in range(2)]  # fmt: skip
    folder = videos(*names)
    shutil.copy(folder / "train/a/train0.mp4", folder / "val/a/copied.mp4")
    report = scan(folder, tmp_path / "data", workers=1)
    assert "copies across splits" in kinds(report)
    assert splits_of(tmp_path / "data")["copied.mp4"] == "val"


def test_a_half_for_testing_alone_validates_and_three_stay_three(
    videos: Make, tmp_path: Path
) -> None:
    folder = videos(*(f"{split}/{c}/{split}.mp4" for split in ("train", "test") for c in "ab"))
    report = scan(folder, tmp_path / "data", workers=1)
    assert "test as val" in kinds(report) and splits_of(tmp_path / "data")["test.mp4"] == "val"
    videos("val/a/val.mp4", "val/b/val.mp4")
    report = scan(folder, tmp_path / "data", workers=1)
    assert "test as val" not in kinds(report)
    assert len(rows_of(tmp_path / "data", "test")) == 2


def test_clips_of_one_recording_stay_together(videos: Make, tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c{i:02d}.avi" for c in "ab" for g in range(4) for i in range(3)]
    scan(videos(*names), tmp_path / "data", workers=1)
    sides: dict[str, set[str]] = {}
    for name, split in splits_of(tmp_path / "data").items():
        sides.setdefault(name[:7], set()).add(split)
    assert all(len(each) == 1 for each in sides.values())
    assert {split for each in sides.values() for split in each} == {"train", "val"}


def test_clips_of_one_recording_on_two_sides_of_a_split_that_is_there_are_said(
    videos: Make, tmp_path: Path
) -> None:
    names = [f"{s}/{c}/v_{c}_g01_c0{i}.mp4" for i, s in enumerate(("train", "val")) for c in "ab"]
    report = scan(videos(*names), tmp_path / "data", workers=1)
    assert "recordings across splits" in kinds(report)


def test_a_half_for_testing_and_nothing_else_is_split(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{i}.mp4" for i in range(6)))
    rows = [f"{i}.mp4,{'ab'[i % 2]}" for i in range(6)]
    (folder / "test.csv").write_text("\n".join(("video,label", *rows)))
    report = scan(folder, tmp_path / "data", workers=1)
    assert "no training half" in kinds(report)
    assert {"train", "val"} == {*splits_of(tmp_path / "data").values()}


def test_lines_without_a_split_train_where_others_validate(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{i}.mp4" for i in range(6)))
    rows = [f"{i}.mp4,{'ab'[i % 2]},{'val' if i < 2 else ''}" for i in range(6)]
    (folder / "list.csv").write_text("\n".join(("video,label,split", *rows)))
    scan(folder, tmp_path / "data", workers=1)
    val = {name for name, split in splits_of(tmp_path / "data").items() if split == "val"}
    assert val == {"0.mp4", "1.mp4"}


def test_labels_that_the_class_file_does_not_name_are_classes_too(
    videos: Make, tmp_path: Path
) -> None:
    folder = videos(*(f"{i}.mp4" for i in range(8)))
    rows = [f"{i}.mp4,{('0', '1', '7', 'foo')[i % 4]}" for i in range(8)]
    (folder / "list.csv").write_text("\n".join(("video,label", *rows)))
    (folder / "classes.txt").write_text("wave\nclap\n")
    report = scan(folder, tmp_path / "data", workers=1)
    assert report.classes == ("wave", "clap", "7", "foo")
    assert "labels are numbers" in kinds(report)
    data = read_data_folder(tmp_path / "data")
    labels = [video.label for video in read_list(data.train_list, classes=data.classes)]
    assert sorted(labels) == [0, 1, 2, 3]


def table_of(folder: Path, *lines: str) -> Path:
    (folder / "parts.csv").write_text("\n".join(("video,start_s,end_s,label", *lines)))
    return folder / "parts.csv"


def test_parts_are_brought_into_their_videos_and_what_was_done_is_said(
    videos: Make, tmp_path: Path
) -> None:
    folder = videos(*(f"{i}.mp4" for i in range(6)))  # of two seconds
    table = table_of(
        folder,
        *("0.mp4,0,0.8,a", "0.mp4,0.5,1,a", "0.mp4,0.9,1.5,b", "0.mp4,0,0.8,a"),
        *("1.mp4,1,9,a", "2.mp4,5,6,a", "2.mp4,1,1,a", "3.mp4,0.5,1.5,b", "4.mp4,10,12,b"),
    )
    report = scan(table, tmp_path / "data", workers=1)
    assert {"overlaps", "two classes", "double", "clamped", "outside", "cut before"} <= {
        *kinds(report)
    }
    data = read_data_folder(tmp_path / "data")
    lines = [
        (v.path.name, v.start_s, v.end_s, data.classes[v.label])
        for path in (data.train_list, data.val_list)
        for v in read_list(path, classes=data.classes)
    ]
    whole = float("inf")
    assert sorted(lines) == [
        ("0.mp4", 0, 0.8, "a"),
        ("0.mp4", 0.5, 1, "a"),
        ("0.mp4", 0.9, 1.5, "b"),
        ("1.mp4", 1, whole, "a"),
        ("3.mp4", 0.5, 1.5, "b"),
        ("4.mp4", 0, whole, "b"),
    ]
    assert len({split for name, split in splits_of(data.path).items() if name == "0.mp4"}) == 1
    assert data.facts.window_s == 0.9


def test_every_part_that_lies_in_a_longer_one_overlaps(videos: Make, tmp_path: Path) -> None:
    folder = videos("0.mp4", "1.mp4")
    table = table_of(folder, "0.mp4,0,1.9,a", "0.mp4,0.1,0.3,a", "0.mp4,1,1.2,a", "1.mp4,,,b")
    report = scan(table, tmp_path / "data", workers=1)
    (overlaps,) = (each for each in report.findings if each.kind == "overlaps")
    assert len(overlaps.examples) == 2


def test_what_is_wrong_with_files_is_said_with_the_reason(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{label}/{i}.mp4" for label in "ab" for i in range(3)), "a/b.mkv")
    (folder / "a" / "zero.mp4").touch()
    (folder / "a" / "Thumbs.db").touch()
    half = folder / "b" / "half.mp4"
    half.write_bytes((folder / "b" / "0.mp4").read_bytes()[:3000])
    (folder / "b" / "new\nline.mp4").write_bytes((folder / "b" / "1.mp4").read_bytes())
    os.close(os.open(os.fsencode(folder) + b"/b/\xff.mp4", os.O_CREAT))
    report = scan(folder, tmp_path / "data", workers=1)
    assert {"other files", "unreadable", "odd names"} <= {*kinds(report)}
    assert set(report.unreadable) == {"a/zero.mp4", "b/half.mp4"}
    assert "empty" in report.unreadable["a/zero.mp4"]
    assert report.clips == 7


@pytest.mark.parametrize("names", [(), ("a.mp4",), (".hidden/a.mp4",), ("a/Thumbs.db",)])
def test_a_folder_without_a_video_of_a_class_is_refused(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(DataError, match="class"):
        scan(folder, tmp_path / "data", workers=1)
    assert not (tmp_path / "data").exists()


def test_nothing_readable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos/a").mkdir(parents=True)
    (tmp_path / "videos/a/a.mp4").touch()
    with pytest.raises(DataError, match="empty"):
        scan(tmp_path / "videos", tmp_path / "data", workers=1)


def test_one_class_and_a_class_with_one_video(videos: Make, tmp_path: Path) -> None:
    report = scan(videos("a/0.mp4", "a/1.mp4"), tmp_path / "data", workers=1)
    assert "one class" in kinds(report)
    report = scan(videos("b/0.mp4"), tmp_path / "data", workers=1)
    assert "one recording" in kinds(report) and "no validation" not in kinds(report)
    report = scan(tmp_path / "videos", tmp_path / "none", workers=1, val_share=0)
    assert "no validation" in kinds(report)
    assert [row["label"] for row in rows_of(tmp_path / "data", "train")].count("b") == 1


@pytest.mark.parametrize("there", ["notes.txt", "train.csv"])
def test_an_output_that_holds_something_else_is_refused(
    there: str, videos: Make, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / there).write_text("mine")
    with pytest.raises(DataError, match=there):
        scan(videos("a/0.mp4"), tmp_path / "data", workers=1)
    assert (tmp_path / "data" / there).read_text() == "mine"


def test_classes_that_look_numbered_keep_their_names(videos: Make, tmp_path: Path) -> None:
    names = [f"{number} {name}/{i}.mp4" for number, name in enumerate("ab", 1) for i in range(2)]
    scan(videos(*names), tmp_path / "data", workers=1)
    assert read_classes(tmp_path / "data" / "classes.txt") == ("1 a", "2 b")
    data = read_data_folder(tmp_path / "data")
    assert len(read_list(data.train_list, classes=data.classes)) == 2


def test_folders_of_images_have_a_number_of_frames(tmp_path: Path) -> None:
    import cv2

    for label in "ab":
        for i in range(2):
            folder = tmp_path / "videos" / label / f"{label}{i}"
            folder.mkdir(parents=True)
            for number, frame in enumerate(frames_of(ord(label) + i, frames=5)):
                cv2.imwrite(str(folder / f"{number}.jpg"), frame)
    (tmp_path / "videos" / "a" / "a2 ").mkdir()  # whose name no table keeps
    shutil.copy(tmp_path / "videos/a/a0/0.jpg", tmp_path / "videos/a/a2 ")
    report = scan(tmp_path / "videos", tmp_path / "data", workers=1)
    assert "odd names" in kinds(report)
    assert {row["num_frames"] for row in rows_of(tmp_path / "data", "train")} == {"5"}
    facts = report.facts
    assert (facts.seconds, facts.window_s, facts.fps) == (None, None, 0)
    assert facts.frame_counts == (4,)
    data = read_data_folder(tmp_path / "data")
    assert {v.num_frames for v in read_list(data.val_list, classes=data.classes)} == {5}


def test_parts_of_folders_of_images_are_said(tmp_path: Path) -> None:
    import cv2

    folder = tmp_path / "videos"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        cv2.imwrite(str(folder / label / "0.jpg"), frames_of(ord(label))[0])
    table = table_of(folder, "a,0,1,a", "b,1,2,b")
    report = scan(table, tmp_path / "data", workers=1)
    assert "no times" in kinds(report) and report.clips == 2


def test_processes_find_what_one_process_finds(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"{label}/{i}.mp4" for label in "ab" for i in range(6)))
    told: list[tuple[int, int]] = []
    reports = [
        scan(
            folder,
            tmp_path / "data",
            workers=workers,
            starts=lambda what: lambda done, total: told.append((done, total)),
        )
        for workers in (1, 2)
    ]
    assert told == 2 * [(i + 1, 12) for i in range(12)]
    assert reports[0] == reports[1]


def test_the_command_prints_a_table_or_json(videos: Make, tmp_path: Path) -> None:
    folder = videos(*(f"swipe {side}/{i}.mp4" for side in ("left", "right") for i in range(2)))
    command = ["data", "scan", str(folder), "-o", str(tmp_path / "data"), "--workers", "1"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "swipe left" in done.stdout and "ffn-edge train --data" in done.stdout.splitlines()[-1]
    done = CliRunner().invoke(cli, [*command, "--json"])
    told: Any = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "data/report.json").read_text())
    assert told["facts"]["mirror"] == [["swipe left", "swipe right"]]


def test_the_page_stands_alone_and_is_bounded(videos: Make, tmp_path: Path) -> None:
    names = [f"<b>{label}/{i}.mp4" for label in "ab" for i in range(10)]
    scan(videos(*names), tmp_path / "data", workers=1)
    page = (tmp_path / "data/report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 16 and "<b>" not in page
    assert not re.search(r"(src|href)=.?http", page)


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (("wave", "clap"), ()),
        (("Swipe Left", "swipe_right", "wave"), (("Swipe Left", "swipe_right"),)),
        (("LinksAbbiegen", "RechtsAbbiegen"), (("LinksAbbiegen", "RechtsAbbiegen"),)),
        (
            ("turn counter-clockwise", "turn clockwise"),
            (("turn counter-clockwise", "turn clockwise"),),
        ),
        (
            ("from left to right", "from right to left"),
            (("from left to right", "from right to left"),),
        ),
        (("swipe left", "wave"), None),
        (("leftovers", "write rightly"), ()),
    ],
)
def test_which_classes_a_mirror_swaps(
    classes: tuple[str, ...], pairs: tuple[tuple[str, str], ...] | None
) -> None:
    assert mirror_pairs(classes) == pairs
