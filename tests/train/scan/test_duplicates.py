"""Copies are found however they were made; clips of one tripod are no copies."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from ffn_edge.media.opencv import opencv
from ffn_edge.train.scan.duplicates import candidates
from ffn_edge.train.scan.hashes import INTERVALS, SIDE, crop_hashes, small
from ffn_edge.train.scan.look import Looked, look
from ffn_edge.train.scan.scan import joined
from tests.train.scan.conftest import FRAMES, HEIGHT, WIDTH, frames_of, write

SCENES = range(6)


def cropped(frames: Sequence[Any], top: float, left: float, rows: float, columns: float) -> Any:
    up, before = int(top * HEIGHT), int(left * WIDTH)
    down, after = up + int(rows * HEIGHT), before + int(columns * WIDTH)
    return [np.ascontiguousarray(frame[up:down, before:after]) for frame in frames]


def resized(frames: Sequence[Any], factor: float) -> Any:
    cv2 = opencv()
    size = (int(WIDTH * factor), int(HEIGHT * factor))
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


COPIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "encoded again": ("copy.webm", lambda frames: frames),
    "much smaller": ("copy.avi", lambda frames: resized(frames, 0.5)),
    "played backwards": ("copy.mp4", lambda frames: frames[::-1]),
    "backwards, less a frame": ("copy.mkv", lambda frames: frames[:0:-1]),
    "cropped in the middle": ("copy.mp4", lambda frames: cropped(frames, 0.1, 0.1, 0.8, 0.8)),
    "cropped at a corner": ("copy.mp4", lambda frames: cropped(frames, 0, 0.25, 0.75, 0.75)),
    "cropped to be wide": ("copy.mov", lambda frames: cropped(frames, 0.2, 0, 0.77, 1)),
    "cropped and backwards": (
        "copy.mkv",
        lambda frames: cropped(frames[::-1], 0.06, 0.15, 0.83, 0.8),
    ),
    "brighter": ("copy.mp4", lambda frames: [frame // 4 * 3 + 40 for frame in frames]),
}


def groups_of(paths: Sequence[Path]) -> list[set[str]]:
    names = [str(path) for path in paths]
    union = joined(names, [look(name, False, False) for name in names], set(), 1)
    groups: dict[int, set[str]] = {}
    for number, path in enumerate(paths):
        groups.setdefault(union.of(number), set()).add(path.name)
    return [group for group in groups.values() if len(group) > 1]


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_others(kind: str, tmp_path: Path) -> None:
    name, change = COPIES[kind]
    paths = [write(tmp_path / f"{scene}.mp4", frames_of(scene)) for scene in SCENES]
    for scene in (0, 3):
        paths.append(write(tmp_path / f"{scene}-{name}", change(frames_of(scene)), quality=30))
    found = sorted(groups_of(paths), key=min)
    assert found == [{f"{scene}.mp4", f"{scene}-{name}"} for scene in (0, 3)]


def test_clips_of_one_tripod_are_no_copies(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.mp4", frames_of(1, action=i)) for i in range(16)]
    assert groups_of(paths) == []


def test_a_copy_is_found_among_clips_of_one_tripod(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.mp4", frames_of(1, action=i)) for i in range(8)]
    paths.append(write(tmp_path / "copy.webm", frames_of(1, action=3)[::-1]))
    assert groups_of(paths) == [{"3.mp4", "copy.webm"}]


def test_an_upright_copy_of_a_video_that_is_stored_on_its_side_is_found(tmp_path: Path) -> None:
    frames = frames_of(0)
    stored = write(tmp_path / "stored.mp4", [np.rot90(frame, -1) for frame in frames])
    turned = tmp_path / "turned.mp4"
    turn = ("-display_rotation", "90", "-i", stored, "-c", "copy", turned)
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *turn], check=True)
    found = look(str(turned), False, False)
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    paths = [turned, write(tmp_path / "upright.webm", frames)]
    assert groups_of(paths) == [{"turned.mp4", "upright.webm"}]


def test_equal_files_are_copies_and_so_is_what_cannot_be_compared_otherwise(
    tmp_path: Path,
) -> None:
    first = write(tmp_path / "a.mp4", frames_of(0, frames=1))
    paths = [first, Path(shutil.copy(first, tmp_path / "b.mp4"))]
    assert groups_of(paths) == [{"a.mp4", "b.mp4"}]


def test_a_video_of_another_length_is_no_copy(tmp_path: Path) -> None:
    frames = frames_of(0)
    paths = [write(tmp_path / "a.mp4", frames), write(tmp_path / "b.mp4", frames[: FRAMES // 2])]
    assert groups_of(paths) == []


def test_the_hash_of_a_crop_is_that_of_the_picture_cut_out() -> None:
    cv2 = opencv()
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.random((9, 9), np.float32), (SIDE, SIDE)) * 255
    hashes = crop_hashes(picture)
    assert len(hashes) == len(INTERVALS) ** 2
    for crop in (0, 5, 40, 80):
        (top, bottom), (left, right) = (
            (first * SIDE // 16, last * SIDE // 16)
            for first, last in (INTERVALS[i] for i in divmod(crop, len(INTERVALS)))
        )
        cut = cv2.resize(picture[top:bottom, left:right], (SIDE, SIDE))
        # Interpolation rounds: a coefficient that is close to the median may change sides.
        assert bin(int(crop_hashes(cut)[0] ^ hashes[crop])).count("1") <= 4


def test_of_many_clips_of_one_tripod_each_has_a_few_candidates_and_its_copy_is_one() -> None:
    cv2 = opencv()
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.random((8, 8), np.float32), (SIDE, SIDE)) * 200
    looked = []
    for _ in range(300):
        picture = background.copy()
        top, left = rng.integers(0, SIDE - 10, 2)
        picture[top : top + 10, left : left + 10] += 50
        looked.append(Looked(length_s=9, picture=small(picture), hashes=crop_hashes(picture)))
    looked.append(looked[123])
    found = candidates(looked)
    assert max(Counter(number for a, b, _ in found for number in (a, b)).values()) <= 16
    assert {(123, 300, 0), (300, 123, 0)} & set(found)
