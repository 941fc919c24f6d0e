"""Lists of videos, with and without labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ffn_edge.errors import DataError, VideoError
from ffn_edge.media.classes import read_classes
from ffn_edge.media.video_list import UNLABELLED, Video, find_videos, read_list


def videos_of(source: Path) -> list[Path]:
    return [video.path for video in find_videos(source)]


def test_a_list_may_have_labels_spaces_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "take 2").write_bytes(b"")
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa.mp4\nb.mp4 3\n\n  c d.mp4 11 \ntake 2\n", encoding="utf-8")
    names = [str(video.relative_to(tmp_path)) for video in videos_of(path)]
    assert names == ["a.mp4", "b.mp4", "c d.mp4", "take 2"]


def test_a_list_with_labels_names_the_same_videos_to_both_readers(tmp_path: Path) -> None:
    (tmp_path / "c d.mp4").touch()
    (tmp_path / "frames").mkdir()
    for name in ("a.mp4", "b"):
        (tmp_path / name).touch()
    path = tmp_path / "list.txt"
    path.write_text("a.mp4\t3\nb  1\nc d.mp4 \t 2\nframes 37 2\n")
    assert videos_of(path) == [video.path for video in read_list(path, classes="abcd")]


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


def test_both_kinds_of_list_are_told_apart_by_their_fields(tmp_path: Path) -> None:
    (tmp_path / "my videos").mkdir()
    (tmp_path / "my videos" / "one two.mp4").touch()
    (tmp_path / "my videos" / "frames").mkdir()
    path = tmp_path / "list.txt"
    path.write_text("my videos/one two.mp4 1\n\nmy videos/frames 37 2\n")
    videos = read_list(path, classes="abc")
    assert [(v.path, v.num_frames, v.label) for v in videos] == [
        (tmp_path / "my videos" / "one two.mp4", None, 1),
        (tmp_path / "my videos" / "frames", 37, 2),
    ]


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 0\n")
    assert read_list(path, classes="a", root=tmp_path / "videos")[0].path.is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("video.mp4", "no label"),
        ("video.mp4 swimming", "label 'swimming' is none of the 3 classes"),
        ("video.mp4 1.5", "label '1.5' is none"),
        ("video.mp4 3", r"label 3 is not in 0\.\.2"),
        ("video.mp4 -1", r"label -1 is not in 0\.\.2"),
        ("frames 20 7", r"label 7 is not in 0\.\.2"),
        ("frames 0 1", "frames has 0 frames"),
        ("frames -5 1", "frames has -5 frames"),
        ("frames 1", "its number of frames is not said"),  # nor does it hold images
        ("nowhere.mp4 1", r"there is nothing at .*nowhere\.mp4"),
        ("nowhere/video.mp4 1", r"there is nothing at .*video\.mp4"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_number(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "video.mp4").touch()
    (tmp_path / "frames").mkdir()
    path = tmp_path / "train.txt"
    path.write_text(f"video.mp4 0\n{line}\nvideo.mp4 2\n")
    with pytest.raises(DataError, match=message) as caught:
        read_list(path, classes="abc")
    assert f"{path}, line 2:" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_labelled_list_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.txt lists no video"):
        read_list(path, classes="abc")


def test_the_hint_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as missing:
        read_list(tmp_path / "train.txt", classes="abc")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00video")
    with pytest.raises(DataError) as no_text:
        read_list(tmp_path / "train.txt", classes="abc")
    assert "UTF-8" not in str(missing.value)
    assert "no such file" in missing.value.message
    assert "UTF-8" in no_text.value.hint
    (tmp_path / "train.txt").write_bytes("a.mp4 0".encode("utf-16-le"))
    with pytest.raises(DataError, match="UTF-8"):
        read_list(tmp_path / "train.txt", classes="abc")


def test_a_number_of_thousands_of_digits_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 " + "9" * 5000 + "\n")
    with pytest.raises(DataError, match="is none of"):
        read_list(path, classes="abc")
    assert len(videos_of(path)) == 1


def test_a_list_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt cannot be read"):
        read_list(tmp_path / "train.txt", classes="abc")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00video")
    with pytest.raises(DataError, match=r"train\.txt cannot be read"):
        read_list(tmp_path / "train.txt", classes="abc")


# ---------------------------------------------------------------------- names, comments, patterns

GESTURES = ("wave", "push left", "3 fingers", "put it down, slowly")


def labels(path: Path, classes: tuple[str, ...] = GESTURES) -> list[tuple[str, int]]:
    return [
        (str(v.path.relative_to(path.parent)), v.label) for v in read_list(path, classes=classes)
    ]


def test_a_label_may_be_a_name(tmp_path: Path) -> None:
    for name in ("a.mp4", "my clip.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    for number in range(3):
        (tmp_path / "frames" / f"{number}.jpg").touch()
    path = tmp_path / "list.txt"
    lines = ["# gestures", "a.mp4 wave", "my clip.mp4 push left", "a.mp4 3 fingers", "a.mp4 1"]
    lines += ["frames 2 push left", "frames 3 fingers", "my clip.mp4 put it down, slowly"]
    path.write_text("\r\n".join(lines))
    assert labels(path) == [
        ("a.mp4", 0),
        ("my clip.mp4", 1),
        ("a.mp4", 2),
        ("a.mp4", 1),
        ("frames", 1),
        ("frames", 2),
        ("my clip.mp4", 3),
    ]
    assert [v.num_frames for v in read_list(path, classes=GESTURES)][4:6] == [2, 3]


def test_a_name_that_is_nearly_right_is_asked_back(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 Push left\n")
    with pytest.raises(DataError, match="none of the 4 classes") as caught:
        read_list(tmp_path / "list.txt", classes=GESTURES)
    assert "'push left'" in caught.value.hint


def test_names_come_before_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 1\na.mp4 0\n")
    assert labels(tmp_path / "list.txt", ("1", "b")) == [("a.mp4", 0), ("a.mp4", 0)]


def test_a_line_may_be_a_pattern_or_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wave").mkdir()
    for name in ("b.mp4", "a.mp4", "no.txt"):
        (tmp_path / "wave" / name).touch()
    (tmp_path / "list.txt").write_text("wave/*.mp4 wave\n~/wave/b.mp4 1\n")
    expected = [("wave/a.mp4", 0), ("wave/b.mp4", 0), ("wave/b.mp4", 1)]
    assert labels(tmp_path / "list.txt") == expected
    assert len(videos_of(tmp_path / "list.txt")) == 3


@pytest.mark.parametrize("by", ["folders", "class file"])
def test_labels_from_one_are_recognised(by: str, tmp_path: Path) -> None:
    """As in the lists of UCF101."""
    for number, name in enumerate(("Archery", "Bowling"), start=1):
        folder = tmp_path / (name if by == "folders" else "x")
        folder.mkdir(exist_ok=True)
        (folder / f"v{number}.avi").touch()
    (tmp_path / "classInd.txt").write_text("1 Archery\r\n2 Bowling\r\n")
    classes = read_classes(tmp_path / "classInd.txt")
    assert classes == ("Archery", "Bowling")
    folders = ("Archery", "Bowling") if by == "folders" else ("x", "x")
    lines = [f"{folder}/v{number}.avi {number}\n" for number, folder in enumerate(folders, 1)]
    (tmp_path / "trainlist01.txt").write_text("".join(lines))
    names = tuple(classes) if by == "folders" else classes
    assert [v.label for v in read_list(tmp_path / "trainlist01.txt", classes=names)] == [0, 1]


def test_frame_folders_may_be_labelled_from_one(tmp_path: Path) -> None:
    for name in ("Archery", "Bowling"):
        (tmp_path / name / "frames").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("Archery/frames 9 1\nBowling/frames 9 2\n")
    found = read_list(tmp_path / "list.txt", classes=("Archery", "Bowling"))
    assert [(v.label, v.num_frames) for v in found] == [(0, 9), (1, 9)]


# ----------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "content",
    [
        b"video,start_s,end_s,label\nlong.mp4,1.5,4,wave\nlong.mp4,,,push left\n",
        b"\xef\xbb\xbfVideo;Start_s;End_s;Label\r\n"
        b"long.mp4;1,5;4,0;wave\r\n\r\nlong.mp4;;;push left",
        b"label\tend\tstart\tpath\nwave\t0:04\t0:01.5\tlong.mp4\n1\t\t\tlong.mp4\n",
        b"long.mp4,1.5,4,wave\nlong.mp4,0,inf,1\n",
    ],
    ids=["plain", "spreadsheet", "other columns", "no header"],
)
def test_a_table_names_parts_of_videos(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "long.mp4").touch()
    suffix = ".tsv" if b"\t" in content else ".csv"
    path = tmp_path / f"segments{suffix}"
    path.write_bytes(content)
    assert read_list(path, classes=GESTURES) == (
        Video(tmp_path / "long.mp4", 0, None, 1.5, 4.0),
        Video(tmp_path / "long.mp4", 1, None),
    )
    assert [(v.start_s, v.end_s) for v in find_videos(path)] == [(1.5, 4.0), (0.0, math.inf)]


def test_a_table_may_name_frame_folders(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    path = tmp_path / "list.csv"
    path.write_text('video,num_frames,label\nframes,7,"put it down, slowly"\n')
    assert read_list(path, classes=GESTURES) == (Video(tmp_path / "frames", 3, 7),)
    assert read_list(path, classes=None) == (Video(tmp_path / "frames", UNLABELLED, 7),)


def test_a_table_may_have_videos_alone(tmp_path: Path) -> None:
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave/a.mp4").touch()
    path = tmp_path / "list.csv"
    path.write_text("video\nwave/a.mp4\n")
    assert labels(path) == [("wave/a.mp4", 0)] and len(find_videos(path)) == 1


def test_a_number_of_frames_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("video,num_frames,label\nframes,7.5,wave\n")
    with pytest.raises(DataError, match="number of frames"):
        read_list(tmp_path / "list.csv", classes=GESTURES)


def test_lines_of_text_may_stand_in_a_file_that_is_called_a_table(tmp_path: Path) -> None:
    """As in the lists of PySlowFast."""
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.csv").write_text("a.mp4 1\n")
    assert labels(tmp_path / "train.csv") == [("a.mp4", 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("long.mp4,5,4,wave", "from 5 s to 4 s"),
        ("long.mp4,4,4,wave", "from 4 s to 4 s"),
        ("long.mp4,-1,4,wave", "no time"),
        ("long.mp4,nan,4,wave", "no time"),
        ("long.mp4,1:2:3:4,,wave", "no time"),
        ("long.mp4,one,4,wave", "no time"),
        ("long.mp4,1,4,", "no label"),
        ("long.mp4,1,4,7", "label 7"),
        ("short.mp4,1,4,wave", "nothing at"),
        ("frames,1,4,wave", "folder"),
        (",1,4,wave", "folder|nothing"),
    ],
)
def test_a_wrong_row_is_refused_by_file_and_number(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "long.mp4").touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.jpg").touch()
    path = tmp_path / "list.csv"
    path.write_text(f"video,start_s,end_s,label\nlong.mp4,0,1,wave\n{row}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_list(path, classes=GESTURES)
    assert f"{path}, line 3" in caught.value.message


def test_a_table_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("label,youtube_id,time_start,time_end,split\n")
    with pytest.raises(DataError, match="no column"):
        read_list(tmp_path / "list.csv", classes=GESTURES)


# ------------------------------------------------------------------------ where labels are not read


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A list, to be written, beside two video files and three frame folders."""
    for name in ("a.mp4", "take 2"):
        (tmp_path / name).touch()
    for name in ("frames", "frames 10", "many frames"):
        (tmp_path / name).mkdir()
    return tmp_path / "videos.txt"


@pytest.mark.parametrize(
    ("line", "name", "num_frames"),
    [
        ("a.mp4", "a.mp4", None),
        ("  a.mp4\t-1 ", "a.mp4", None),  # labels of any classes, or of none
        ("a.mp4 999", "a.mp4", None),
        ("take 2", "take 2", None),  # a path may end in a number itself
        ("take 2 5", "take 2", None),
        ("frames 37", "frames", 37),
        ("frames 37 999", "frames", 37),
        ("frames 10 37", "frames 10", 37),
        ("many frames 37", "many frames", 37),
        ("many frames 37 0", "many frames", 37),
    ],
)
def test_a_line_needs_no_label_where_none_is_read(
    line: str, name: str, num_frames: int | None, unlabelled: Path
) -> None:
    unlabelled.write_text(f"\ufeff{line}\n\n", encoding="utf-8")

    (video,) = read_list(unlabelled, classes=None)

    assert (video.path, video.num_frames) == (unlabelled.parent / name, num_frames)
    assert video.label == UNLABELLED


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("frames", "frames is a folder, and its number of frames is not", "`path num_frames` for"),
        ("frames 10", "frames 10 is a folder, and its number", "`path num_frames` for"),
        ("frames 0", "frames has 0 frames", "remove"),
        ("frames -5 1", "frames has -5 frames", "remove"),
        ("b.mp4", r"there is nothing at .*b\.mp4\n", "correct the line"),
        ("b.mp4 3", r"there is nothing at .*b\.mp4\n", "correct the line"),
    ],
)
def test_a_wrong_line_without_label_is_refused_by_file_and_number(
    line: str, message: str, hint: str, unlabelled: Path
) -> None:
    unlabelled.write_text(f"a.mp4\n{line}\n")

    with pytest.raises(DataError, match=message) as caught:
        read_list(unlabelled, classes=None)

    assert f"{unlabelled}, line 2:" in caught.value.message
    assert hint in caught.value.hint


def test_an_empty_list_is_refused_with_the_lines_that_it_may_have(unlabelled: Path) -> None:
    unlabelled.write_text("\n")

    with pytest.raises(DataError, match="lists no video") as caught:
        read_list(unlabelled, classes=None)

    assert "`path` for a video file, `path num_frames` for a frame folder" in caught.value.hint
