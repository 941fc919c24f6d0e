"""Data sets: list files, the frames that make a clip, and what becomes of bad videos."""

from __future__ import annotations

import errno
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from ffn_edge.demo.clips import render_clips
from ffn_edge.errors import DataError, FrameCountError
from ffn_edge.frames import segment_centres
from ffn_edge.media.classes import read_classes
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import UNLABELLED
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.data import Sample, VideoDataset
from ffn_edge.train.datasets import DatasetFacts, dataset_facts
from ffn_edge.train.loop import _dataset as training_videos
from ffn_edge.train.recipe import Recipe

CLASSES = ("a", "b", "c")
FRAMES, FPS = 50, 12
SIZE = 64


def numbered_frame(index: int) -> np.ndarray:
    """A frame with eight upright bars: the bits of its index, legible after compression."""
    row = np.repeat(((index >> np.arange(8)) & 1) * 200 + 20, SIZE // 8)
    return np.broadcast_to(row[None, :, None], (SIZE, SIZE, 3)).astype(np.uint8)


def numbers_on(frames: np.ndarray) -> list[int]:
    columns = frames.mean(axis=(1, 3)).reshape(len(frames), 8, -1).mean(axis=2)  # (T, 8)
    return [int((row > 120) @ (1 << np.arange(8))) for row in columns]


def write_numbered(path: Path, frames: int = FRAMES) -> None:
    with VideoWriter(path, fps=FPS, width=SIZE, height=SIZE) as writer:
        for i in range(frames):
            writer.write(numbered_frame(i))


def truncate(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of six numbered videos, of class 0, 1, 2, 0, 1, 2."""
    for i in range(6):
        write_numbered(tmp_path / f"video {i}.mp4")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"video {i}.mp4 {i % 3}\n" for i in range(6)))
    return path


def dataset(
    list_file: Path,
    frame_counts: Sequence[int] = (4, 8, 16),
    *,
    classes: Sequence[str] = CLASSES,
    facts: DatasetFacts | None = None,
    train: bool = True,
    seed: int = 0,
    cache_bytes: int = 0,
    window_s: float | None = None,
) -> VideoDataset:
    """A data set that shows frames whole, so that their numbers stay legible."""
    return VideoDataset(
        list_file,
        frame_counts,
        classes=classes,
        facts=facts or dataset_facts("custom"),
        train=train,
        size=SIZE,
        short_side=SIZE,
        scales=(1.0,),
        seed=seed,
        cache_bytes=cache_bytes,
        cache_folder=list_file.parent / "cache",
        window_s=window_s,
    )


def frames_of(sample: Sample) -> dict[int, list[int]]:
    return {t: numbers_on(clip) for t, clip in sample.clips.items()}


# --- which frames -------------------------------------------------------------------------------


def test_a_test_clip_has_the_centres_of_its_segments(listed: Path) -> None:
    sample = dataset(listed, (1, 4, 8, 16, 50), train=False)[0, 4]
    assert sample.label == 1
    for t, numbers in frames_of(sample).items():
        assert sample.clips[t].shape == (t, SIZE, SIZE, 3)
        assert sample.clips[t].dtype == np.uint8
        assert numbers == segment_centres(FRAMES, t).tolist()


def test_a_training_clip_has_one_frame_of_each_segment(listed: Path) -> None:
    videos = dataset(listed)
    for epoch in range(10):
        for t, numbers in frames_of(videos[epoch, 0]).items():
            length = FRAMES // t
            assert [number // length for number in numbers] == list(range(t))


@pytest.mark.parametrize(
    ("architecture", "last"), [("slowfast_resnet50", FRAMES), ("tsm_resnet50", 32)]
)
def test_a_familys_rule_draws_the_frames_of_training(
    listed: Path, architecture: str, last: int
) -> None:
    recipe = Recipe(
        architecture=architecture,
        dataset="custom",
        frame_counts=(32,),
        train_list=str(listed),
        size=SIZE,
        short_side=SIZE,
        crop_scales=(1.0,),
    )
    videos = training_videos(recipe, CLASSES, training=True)

    drawn = {n for epoch in range(30) for n in frames_of(videos[epoch, 0])[32]}

    assert max(drawn) == last - 1


def test_frame_counts_are_drawn_independently_and_anew_each_epoch(listed: Path) -> None:
    videos = dataset(listed)
    drawn = [frames_of(videos[epoch, 0]) for epoch in range(20)]
    assert len({tuple(d[4]) for d in drawn}) > 15
    # Were the 4 frames taken out of the 16, they would always be among them.
    assert not all(set(d[4]) <= set(d[16]) for d in drawn)


def test_a_video_shorter_than_the_clip_repeats_its_frames_evenly(tmp_path: Path) -> None:
    write_numbered(tmp_path / "short.mp4", frames=3)
    (tmp_path / "list.txt").write_text("short.mp4 0\n")
    for train in (True, False):
        sample = dataset(tmp_path / "list.txt", (6, 8), train=train)[0, 0]
        assert frames_of(sample)[6] == [0, 0, 1, 1, 2, 2]
        assert frames_of(sample)[8] == segment_centres(3, 8).tolist()


def test_a_sample_is_the_same_whenever_it_is_asked_for(listed: Path) -> None:
    first, again = dataset(listed), dataset(listed)
    again[0, 3]
    assert frames_of(first[2, 1]) == frames_of(again[2, 1])
    assert frames_of(first[2, 1]) != frames_of(first[3, 1])
    assert frames_of(first[2, 1]) != frames_of(dataset(listed, seed=1)[2, 1])


@pytest.mark.parametrize("frame_counts", [(4,), (4, 8, 16), tuple(range(2, 21))])
def test_a_video_is_opened_and_decoded_once_whatever_the_number_of_frame_counts(
    listed: Path, frame_counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = dataset(listed, frame_counts)
    opened, converted = [], []
    open_, image = VideoReader._open, VideoReader._image
    monkeypatch.setattr(VideoReader, "_open", lambda r: (opened.append(1), open_(r))[1])
    monkeypatch.setattr(VideoReader, "_image", lambda r, p: (converted.append(1), image(r, p))[1])
    sample = videos[0, 0]
    wanted = {number for numbers in frames_of(sample).values() for number in numbers}
    assert (len(opened), len(converted)) == (1, len(wanted))


@pytest.mark.parametrize("wrong", [-5, 3])
def test_a_wrong_number_of_stated_frames_changes_no_sample(
    listed: Path, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = frames_of(dataset(listed)[3, 0])
    monkeypatch.setattr(VideoReader, "stated_frames", FRAMES + wrong)
    assert frames_of(dataset(listed)[3, 0]) == expected
    cached = dataset(listed, cache_bytes=10**9)
    assert [frames_of(cached[3, 0]) for _ in range(2)] == [expected] * 2


# --- windows ------------------------------------------------------------------------------------


def test_a_test_clip_spans_the_middle_of_a_longer_video(listed: Path) -> None:
    sample = dataset(listed, (2, FPS), train=False, window_s=1.0)[0, 0]
    assert frames_of(sample)[FPS] == [*range(19, 19 + FPS)]
    assert frames_of(sample)[2] == [19 + 3, 19 + 9]


def test_a_training_clip_spans_a_window_somewhere(listed: Path) -> None:
    begins = set()
    for epoch in range(40):
        numbers = frames_of(dataset(listed, (4, FPS), window_s=1.0)[epoch, 0])
        begins.add(numbers[FPS][0])
        assert numbers[FPS] == [*range(numbers[FPS][0], numbers[FPS][0] + FPS)]
        assert numbers[FPS][0] <= numbers[4][0] and numbers[4][-1] <= numbers[FPS][-1]
    assert min(begins) < 8 and max(begins) > 30 and len(begins) > 15


def test_a_window_longer_than_the_video_is_all_of_it(listed: Path) -> None:
    windowed = dataset(listed, train=False, window_s=9.0)[0, 0]
    assert frames_of(windowed) == frames_of(dataset(listed, train=False)[0, 0])


@pytest.mark.parametrize("window_s", [None, 1.0])
def test_a_part_of_a_video_gives_the_same_clips_from_the_cache(
    listed: Path, window_s: float | None
) -> None:
    path = listed.parent / "video 0.mp4"
    listed.with_suffix(".csv").write_text(f"video,start_s,end_s,label\n{path.name},1.51,3.49,1\n")
    plain = dataset(listed.with_suffix(".csv"), window_s=window_s)
    cached = dataset(listed.with_suffix(".csv"), window_s=window_s, cache_bytes=10**9)
    for epoch in range(20):
        numbers = frames_of(plain[epoch, 0])
        assert [frames_of(cached[epoch, 0]) for _ in range(2)] == [numbers] * 2
        assert all(19 <= number < 42 for clip in numbers.values() for number in clip)


# --- flips and playing backwards ----------------------------------------------------------------


def test_a_varied_clip_is_the_video_flipped_and_carries_the_label_of_what_it_shows(
    tmp_path: Path,
) -> None:
    render_clips(tmp_path / "demo", train=12, val=0, test=0, workers=1)
    classes = read_classes(tmp_path / "demo" / "classes.txt")
    list_file = tmp_path / "demo" / "train.txt"
    demo = dataset_facts("demo")
    # With as many frames as the video has, nothing is left to chance but the flips.
    plain = dataset(list_file, (48,), classes=classes, facts=demo, train=False)
    varied = dataset(list_file, (48,), classes=classes, facts=demo)
    seen = set()
    for epoch in range(4):
        for index in range(12):
            video, sample = plain[0, index].clips[48], varied[epoch, index]
            flips = [
                (backwards, upside_down, mirror)
                for backwards in (1, -1)
                for upside_down in (1, -1)
                for mirror in (1, -1)
                if np.array_equal(sample.clips[48], video[::backwards, ::upside_down, ::mirror])
            ]
            assert len(flips) == 1
            backwards, upside_down, mirror = flips[0]
            seen.add(flips[0])
            expected = _shown(classes[index], backwards < 0, upside_down < 0, mirror < 0)
            assert classes[sample.label] == expected
    assert len(seen) == 8


def test_what_is_not_labelled_gets_no_label_from_a_flip(tmp_path: Path) -> None:
    render_clips(tmp_path / "demo", train=3, val=0, test=0)
    list_file = tmp_path / "demo" / "train.txt"
    classes = read_classes(tmp_path / "demo" / "classes.txt")
    list_file.write_text(
        "".join(f"{line.split()[0]}\n" for line in list_file.read_text().splitlines())
    )
    videos = VideoDataset(
        list_file,
        (4,),
        classes=classes,
        facts=dataset_facts("demo"),
        train=True,
        size=SIZE,
        short_side=SIZE,
        labelled=False,
    )

    samples = [videos[epoch, index] for epoch in range(8) for index in range(3)]

    assert {sample.label for sample in samples} == {UNLABELLED}
    assert all(sample.clips for sample in samples)


def _shown(action: str, backwards: bool, upside_down: bool, mirrored: bool) -> str:
    """Work out what is shown from the physics of each action, not from the table of swaps."""
    sign = -1 if backwards else 1
    across, down = (-1 if mirrored else 1), (-1 if upside_down else 1)
    axes = {
        ("right", "left"): across * sign,
        ("down", "up"): down * sign,
        ("approach", "recede"): sign,
        ("clockwise", "counter-clockwise"): across * down * sign,
        ("together", "apart"): sign,
        ("appear", "disappear"): sign,
    }
    for pair, factor in axes.items():
        if action in pair:
            return pair[pair.index(action) if factor > 0 else 1 - pair.index(action)]
    raise AssertionError(action)


# --- frame folders ------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A list of two frame folders, named as TSM names those of Something-Something V2."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(20):
            cv2.imwrite(str(tmp_path / name / f"{i + 1:06d}.jpg"), numbered_frame(i))
    path = tmp_path / "list.txt"
    path.write_text("one 20 0\ntwo 20 2\n")
    return path


FOLDERS = DatasetFacts(name="folders", num_classes=3, frame_pattern="%06d.jpg")


def test_frame_folders_give_the_same_frames_as_a_video(folders: Path) -> None:
    sample = dataset(folders, facts=FOLDERS, train=False)[0, 1]
    assert sample.label == 2
    assert frames_of(sample) == {t: segment_centres(20, t).tolist() for t in (4, 8, 16)}


def test_a_frame_folder_with_a_gap_is_broken(folders: Path) -> None:
    (folders.parent / "one" / "000007.jpg").unlink()
    sample = dataset(folders, facts=FOLDERS)[0, 0]
    assert sample.label == 2  # the next one's
    (reason,) = sample.broken
    assert str(folders.parent / "one") in reason


# --- broken videos ------------------------------------------------------------------------------


def test_a_broken_video_is_replaced_in_training_by_the_next_readable_one(listed: Path) -> None:
    truncate(listed.parent / "video 4.mp4")
    (listed.parent / "video 5.mp4").write_bytes(b"")
    sample = dataset(listed)[0, 4]
    assert sample.label == 0  # video 0 follows video 5
    named = [re.search(r"video \d", reason) for reason in sample.broken]
    assert [found and found[0] for found in named] == ["video 4", "video 5"]
    assert sorted(sample.clips) == [4, 8, 16]


def test_a_broken_video_is_left_out_in_testing(listed: Path) -> None:
    truncate(listed.parent / "video 4.mp4")
    sample = dataset(listed, train=False)[0, 4]
    assert sample.clips == {}
    (reason,) = sample.broken
    assert str(listed.parent / "video 4.mp4") in reason


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "call", ["ffn_edge.media.images.read_bytes", "ffn_edge.media.frame_folder.read_image"]
)
def test_an_image_that_the_disk_does_not_give_is_one_broken_video(
    folders: Path, train: bool, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = call.rsplit(".", 1)
    real = getattr(importlib.import_module(module), name)

    def failing(path: Path, *arguments: object) -> object:
        if path.parent.name == "one":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(call, failing)

    sample = dataset(folders, facts=FOLDERS, train=train)[0, 0]

    (reason,) = sample.broken
    assert str(folders.parent / "one") in reason and "Input/output error" in reason
    assert bool(sample.clips) == train


def test_where_every_video_is_broken_a_training_sample_has_no_clip(listed: Path) -> None:
    videos = dataset(listed)
    for i in range(6):
        truncate(listed.parent / f"video {i}.mp4")
    sample = videos[0, 0]
    assert sample.clips == {}
    for i in range(6):
        assert any(f"video {i}.mp4" in reason for reason in sample.broken)


def test_class_names_of_another_data_set_are_refused(listed: Path) -> None:
    with pytest.raises(DataError, match="Jester has 27 classes"):
        dataset(listed, facts=dataset_facts("jester"))


def test_frame_counts_that_do_not_ascend_are_refused(listed: Path) -> None:
    with pytest.raises(FrameCountError):
        dataset(listed, (8, 4))
