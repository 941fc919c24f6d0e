"""Videos in shards are read as those beside each other are."""

from __future__ import annotations

import json
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ffn_edge.cli import cli
from ffn_edge.errors import DataError, VideoError
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video, read_list
from ffn_edge.train.lists import training_lists
from ffn_edge.train.loop import train
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.shards import pack

CLASSES = ("dark", "bright")


@pytest.fixture
def shards(data: Path, tmp_path: Path) -> Path:
    """The folder of twelve shards of a video each."""
    assert len(pack(data / "list.txt", tmp_path / "shards", size_mb=1e-6)) == 12
    return tmp_path / "shards"


def write_shard(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo("./" + name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def test_a_member_is_the_file_that_was_packed(data: Path, shards: Path) -> None:
    for number in range(12):
        member = shards / f"list-{number:06}.tar" / f"{number:06}.mp4"
        with VideoReader(data / f"{number}.mp4") as expected, VideoReader(member) as found:
            assert found.stated_frames == expected.stated_frames
            np.testing.assert_array_equal(np.stack([*found]), np.stack([*expected]))


def test_a_part_of_a_member_is_sought_within_it(data: Path, shards: Path) -> None:
    part = {"start_s": 0.35, "end_s": 0.75}
    with (
        VideoReader(data / "3.mp4", **part) as expected,
        VideoReader(shards / "list-000003.tar" / "000003.mp4", **part) as found,
    ):
        np.testing.assert_array_equal(np.stack([*found]), np.stack([*expected]))


@pytest.mark.parametrize(
    "named", ["list-{000000..000011}.tar", "list-*.tar", "all.txt", "pattern.txt", "range.txt"]
)
def test_shards_take_the_place_of_a_list(data: Path, shards: Path, named: str) -> None:
    names = sorted(path.name for path in shards.glob("*.tar"))
    (shards / "all.txt").write_text("\n".join(names))
    (shards / "pattern.txt").write_text("list-*.tar\n")
    (shards / "range.txt").write_text("list-{000000..000011}.tar\n")
    videos = read_list(shards / named, classes=CLASSES)
    assert [video.label for video in videos] == [number % 2 for number in range(12)]
    assert videos[7].path == shards / "list-000007.tar" / "000007.mp4"


def test_a_range_of_one_shard_is_that_shard(shards: Path) -> None:
    (video,) = read_list(shards / "list-{000007..000007}.tar", classes=CLASSES)
    assert video.path == shards / "list-000007.tar" / "000007.mp4"


def test_a_run_learns_the_same_from_shards(recipe: Recipe, shards: Path, tmp_path: Path) -> None:
    pattern = str(shards / "list-*.tar")
    in_shards = recipe.replace(train_list=pattern, val_list=pattern)
    plain = train(recipe, tmp_path / "plain", device="cpu")
    found = train(
        in_shards.replace(cache_gib=1.0, cache_folder=str(tmp_path / "cache")),
        tmp_path / "shards-run",
        device="cpu",
        workers=2,
    )
    assert found.accuracy == plain.accuracy
    losses = [
        (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        for name in ("plain", "shards-run")
    ]
    assert [json.loads(line).get("loss") for line in losses[0]] == [
        json.loads(line).get("loss") for line in losses[1]
    ]
    assert len([*(tmp_path / "cache").glob("*.frames")]) == 12


def test_parts_and_labels_by_name_survive_packing(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "0.mp4", tmp_path / "long.mp4")
    shutil.copy(data / "1.mp4", tmp_path / "whole.mp4")
    table = tmp_path / "parts.csv"
    table.write_text(
        "video,start_s,end_s,label\nlong.mp4,0.1,0.4,dark\nlong.mp4,0.5,,bright\n"
        "whole.mp4,,,bright\n"
    )
    (shard,) = pack(table, tmp_path / "shards")
    videos = read_list(shard, classes=CLASSES)
    assert [(v.label, v.start_s, v.end_s) for v in videos] == [
        (v.label, v.start_s, v.end_s) for v in read_list(table, classes=CLASSES)
    ]
    assert [v.path.name for v in videos] == ["000000.mp4", "000000.mp4", "000001.mp4"]
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["000000.mp4", "000000.json", "000001.mp4", "000001.json"]


def test_shards_of_other_programs(recipe: Recipe, tmp_path: Path) -> None:
    shard = write_shard(
        tmp_path / "a.tar",
        first__mp4=b"1",
        first__cls=b"1\n",
        second__mp4=b"2",
        second__json=b'{"label": 0, "caption": "a wave", "fps": 30}',
        third__txt=b"no video",
    )
    assert read_list(shard, classes=CLASSES) == (
        Video(shard / "first.mp4", 1, None),
        Video(shard / "second.mp4", 0, None),
    )
    named = recipe.replace(classes=None, val_list=str(shard), train_list=str(shard))
    shard.unlink()
    write_shard(shard, a__mp4=b"1", a__cls=b"wave", b__mp4=b"2", b__cls=b"fall")
    with pytest.raises(DataError, match="cannot be read"):
        training_lists(named)


@pytest.mark.parametrize(
    "members",
    [
        {"a__mp4": b"1"},
        {"a__mp4": b"1", "a__cls": b"green"},
        {"a__mp4": b"1", "a__json": b'{"label": 1, "start_s": -3}'},
        {"a__mp4": b"1", "a__json": b'{"label": 1, "start_s": 3, "end_s": 2}'},
        {"a__mp4": b"1", "a__json": b"\xff"},
        {"a__mp4": b"1", "a__json": b"[1, 2"},
        {"a__cls": b"1"},
    ],
)
def test_what_is_wrong_in_a_shard_is_named(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"a\.tar"):
        read_list(write_shard(tmp_path / "a.tar", **members), classes=CLASSES)


@pytest.mark.parametrize("content", [b"", b"no tar", None])
def test_a_shard_that_is_cut_off_is_named(shards: Path, content: bytes | None) -> None:
    shard = shards / "list-000000.tar"
    shard.write_bytes(shard.read_bytes()[:3000] if content is None else content)
    with pytest.raises(DataError, match="list-000000"):
        read_list(shard, classes=CLASSES)
    with pytest.raises(VideoError, match="list-000000"), VideoReader(shard / "000000.mp4"):
        pass


def test_a_member_that_is_missing_is_named(shards: Path) -> None:
    with pytest.raises(VideoError, match=r"7\.mp4"), VideoReader(shards / "list-000000.tar/7.mp4"):
        pass


def test_the_command_packs(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["data", "pack", str(data / "list.txt"), "-o", str(tmp_path / "shards")]
    )
    assert result.exit_code == 0, result.output
    assert len(read_list(tmp_path / "shards" / "list-000000.tar", classes=CLASSES)) == 12
