"""Decoded frames on disk: the same clips from fewer decodes, and within a bound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loop import train
from ffn_edge.train.recipe import Recipe

FRAMES, HEIGHT, WIDTH = 20, 48, 64
RAW_BYTES = FRAMES * HEIGHT * WIDTH * 3
ROOMY = 1 << 30


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    """Three videos of noise."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, 10, WIDTH, HEIGHT) as writer:
            for frame in rng.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8):
                writer.write(frame)
        found.append(Video(path, 0, None))
    return found


def dataset(videos: list[Video], cache_bytes: int, size: int = 32) -> VideoDataset:
    return VideoDataset(
        videos,
        (2, 5),
        classes=["any"],
        facts=dataset_facts("custom"),
        train=True,
        size=size,
        short_side=size,
        cache_bytes=cache_bytes,
        cache_folder=videos[0].path.parent / "cache",
    )


def files(videos: list[Video]) -> list[Path]:
    return sorted((videos[0].path.parent / "cache").glob("*.frames"))


def assert_same(cached: VideoDataset, plain: VideoDataset, epoch: int) -> None:
    for index in range(len(plain)):
        found, expected = cached[epoch, index], plain[epoch, index]
        assert found.broken == expected.broken == ()
        for t, clip in expected.clips.items():
            np.testing.assert_array_equal(found.clips[t], clip)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the videos that are opened, as they are."""
    names: list[str] = []
    original = VideoReader._open

    def counted(self: VideoReader) -> object:
        names.append(self.path.name)
        return original(self)

    monkeypatch.setattr(VideoReader, "_open", counted)
    yield names


def test_frames_that_are_small_enough_are_kept_to_the_bit(videos: list[Video]) -> None:
    plain, cached = dataset(videos, 0), dataset(videos, ROOMY)
    for epoch in range(3):
        assert_same(cached, plain, epoch)
    assert len(files(videos)) == 3


def test_another_run_decodes_nothing(videos: list[Video], opened: list[str]) -> None:
    first = dataset(videos, ROOMY)
    for index in range(3):
        first[0, index]
    assert opened == ["0.mp4", "1.mp4", "2.mp4"]
    second = dataset(videos, ROOMY)
    for index in range(3):
        second[0, index]
    assert len(opened) == 3


def test_what_exceeds_the_bound_is_not_written(videos: list[Video], opened: list[str]) -> None:
    room = 2 * RAW_BYTES + RAW_BYTES // 2
    for _ in range(2):  # the second counts what the first left
        cached = dataset(videos, room)
        for epoch in range(2):
            assert_same(cached, dataset(videos, 0), epoch)
    assert len(files(videos)) == 2
    opened.clear()
    for index in range(3):
        cached[2, index]
    assert set(opened) == {"2.mp4"}


def test_a_video_that_changed_is_decoded_anew(videos: list[Video]) -> None:
    dataset(videos, ROOMY)[0, 0]
    os.replace(videos[1].path, videos[0].path)
    videos[1:] = []
    assert_same(dataset(videos, ROOMY), dataset(videos, 0), 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[1:],
        lambda data: b"\0" * len(data),
        lambda data: data[:-12] + b"\xff" * 12,
        lambda data: data[:-28] + b"\xff" * 12 + data[-16:],
        lambda data: b"another program's",
    ],
)
@pytest.mark.parametrize("size", [32, 16])
def test_a_damaged_file_is_read_anew(videos: list[Video], size: int, damage: object) -> None:
    cached = dataset(videos[:1], ROOMY, size)
    expected = [cached[0, 0], cached[1, 0]]
    (file,) = files(videos)
    whole = file.read_bytes()
    assert callable(damage)
    file.write_bytes(damage(whole))
    for epoch, sample in enumerate(expected):
        np.testing.assert_array_equal(cached[epoch, 0].clips[5], sample.clips[5])
    assert file.read_bytes() == whole


def test_jpegs_that_are_damaged_are_read_anew(videos: list[Video]) -> None:
    cached = dataset(videos[:1], ROOMY, 16)
    expected = cached[0, 0].clips[5]
    (file,) = files(videos)
    whole = file.read_bytes()
    file.write_bytes(b"\0" * (len(whole) - 1000) + whole[-1000:])
    np.testing.assert_array_equal(cached[0, 0].clips[5], expected)
    assert file.read_bytes() == whole


def test_large_frames_are_scaled_to_where_no_crop_is_enlarged(tmp_path: Path) -> None:
    y, x = np.mgrid[:180, :240]
    frame = np.stack([x, y, x + y], axis=2) / 2
    with VideoWriter(tmp_path / "large.mp4", 10, 240, 180) as writer:
        for number in range(FRAMES):
            writer.write((frame + number).astype(np.uint8))
    videos = [Video(tmp_path / "large.mp4", 0, None)]
    # A smooth picture differs by the roundings of a JPEG and of two scalings; in training also by
    # that of a crop's place to quarters of whole pixels, which is much in so small a frame.
    for training, most in ((False, 1.5), (True, 6)):
        plain, cached = dataset(videos, 0), dataset(videos, ROOMY)
        plain.train = cached.train = training
        for epoch in range(8):
            found, expected = (each[epoch, 0].clips[5].astype(int) for each in (cached, plain))
            assert np.abs(found - expected).mean() < most
    (file,) = files(videos)
    assert file.stat().st_size < FRAMES * 49 * 66 * 3  # 49 = 32 / 0.66, rounded up


def test_a_broken_video_leaves_nothing(
    videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = VideoReader.timed

    def breaks(self: VideoReader) -> Iterator[object]:
        yield next(timed(self))
        raise VideoError("it broke", "repair it.")

    cached = dataset(videos, ROOMY)
    with monkeypatch.context() as patch:
        patch.setattr(VideoReader, "timed", breaks)
        for epoch in range(3):
            assert cached[epoch, 0].broken
    folder = videos[0].path.parent / "cache"
    assert [path.name for path in folder.iterdir()] == ["bytes"]
    assert (folder / "bytes").read_text() == "0"


def test_a_folder_that_takes_nothing_holds_nothing_back(videos: list[Video]) -> None:
    cached = dataset(videos, ROOMY)
    folder = videos[0].path.parent / "cache"
    (folder / "bytes").unlink()
    folder.rmdir()
    assert_same(cached, dataset(videos, 0), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_learns_the_same_with_the_cache(recipe: Recipe, tmp_path: Path, workers: int) -> None:
    plain = train(recipe, tmp_path / "plain", device="cpu")
    with_cache = recipe.replace(cache_gib=1.0, cache_folder=str(tmp_path / "cache"))
    for name in ("fills", "reads"):
        found = train(with_cache, tmp_path / name, device="cpu", workers=workers)
        assert found.accuracy == plain.accuracy
        assert _losses(tmp_path / name) == _losses(tmp_path / "plain")
    assert len([*(tmp_path / "cache").glob("*.frames")]) == 12


def _losses(folder: Path) -> list[str]:
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "loss" in line]
