"""The rendered demo clips: do they show what their labels say, and are they written safely?"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.demo import clips, scenes
from ffn_edge.demo.clips import CLIP, FPS, TEST_SHARE, TRAINING_SHARE, render_clips, render_stream
from ffn_edge.demo.scenes import (
    ACTIONS,
    FRAMES,
    PHOTOGRAPHS,
    Canvas,
    Pose,
    Share,
    Sprite,
    action_poses,
    render_action,
)
from ffn_edge.errors import DataError
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader

PAIRS = list(zip(ACTIONS[::2], ACTIONS[1::2], strict=True))


def render(action: str, seed: int = 0, share: Share = TRAINING_SHARE) -> np.ndarray:
    return np.stack(list(render_action(action, share, CLIP, np.random.default_rng(seed))))


# --- what is shown ------------------------------------------------------------------------------


def measure(action: str, pose: tuple[Pose, ...]) -> float:
    """What grows in the course of an action that is the first of its pair."""
    first = pose[0]
    match action:
        case "left":
            return -first.x
        case "up":
            return -first.y
        case "approach":
            return first.radius
        case "clockwise":
            return first.angle
        case "together":
            return -math.dist((first.x, first.y), (pose[1].x, pose[1].y))
        case _:
            assert action == "appear"
            return first.opacity


@pytest.mark.parametrize(("action", "opposite"), PAIRS)
def test_actors_do_what_the_action_says_and_its_opposite_is_the_reverse(
    action: str, opposite: str
) -> None:
    for seed in range(20):
        poses = action_poses(action, np.random.default_rng(seed))
        course = [measure(action, poses(progress)) for progress in (0, 0.25, 0.5, 0.75, 1)]
        assert course == sorted(course) and course[0] < course[-1]
        reversed_poses = action_poses(opposite, np.random.default_rng(seed))
        assert reversed_poses(0.3) == poses(0.7)


@pytest.fixture
def sprite() -> Sprite:
    """Grey, and so only shaded: bright where its own x axis points."""
    return Sprite(np.full((32, 32, 3), 128, np.float32), np.random.default_rng(0))


def brightest(sprite: Sprite, angle: float) -> tuple[float, float]:
    """Where on a 64x64 picture (from its centre, x right, y down) a sprite is brightest."""
    canvas = Canvas(64, 64, scale=1.0)
    rows, columns, colours, opacity = sprite.draw(Pose(0, 0, 20, angle), canvas)
    picture = np.zeros((64, 64), np.float32)
    picture[rows, columns] = colours[..., 0] * (opacity[..., 0] > 0.9)
    weights = np.where(picture > 0.9 * picture.max(), 1.0, 0.0)
    y, x = np.mgrid[:64, :64] - 31.5
    return float((weights * x).sum() / weights.sum()), float((weights * y).sum() / weights.sum())


def test_a_growing_angle_turns_clockwise_on_the_picture(sprite: Sprite) -> None:
    x, y = brightest(sprite, 0.0)
    assert x > 5 and abs(y) < 5  # to the right
    x, y = brightest(sprite, math.pi / 2)
    assert y > 5 and abs(x) < 5  # below: a quarter turn clockwise


def test_a_sprite_stands_where_its_pose_says(sprite: Sprite) -> None:
    canvas = Canvas(64, 64, scale=1.0)
    for x, y in [(10, 0), (0, -12), (-15, 15)]:
        rows, columns, _, opacity = sprite.draw(Pose(x, y, 10, 0.3), canvas)
        row, column = np.argwhere(opacity[..., 0] > 0.5).mean(axis=0)
        assert column + columns.start + 0.5 - 32 == pytest.approx(x, abs=3)
        assert row + rows.start + 0.5 - 32 == pytest.approx(y, abs=3)


def test_a_sprite_outside_the_picture_is_not_drawn(sprite: Sprite) -> None:
    _, columns, _, opacity = sprite.draw(Pose(100, 0, 10, 0), Canvas(64, 64, scale=1.0))
    assert opacity.size == 0 and columns.start == columns.stop


@pytest.mark.parametrize(("action", "opposite"), PAIRS)
def test_an_action_ends_with_the_picture_that_its_opposite_starts_with(
    action: str, opposite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = np.zeros((FRAMES, 2), np.float32)
    monkeypatch.setattr(scenes, "_camera_path", lambda rng: still)

    def blocks(frame: np.ndarray) -> np.ndarray:  # averages out the noise, new in each frame
        return frame.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))

    forwards, backwards = render(action), render(opposite)
    assert np.abs(blocks(forwards[0]) - blocks(forwards[-1])).max() > 20
    assert np.abs(blocks(forwards[-1]) - blocks(backwards[0])).max() < 4
    assert np.abs(blocks(forwards[0]) - blocks(backwards[-1])).max() < 4


def test_training_and_test_clips_share_no_pixel_of_a_photograph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[tuple[int, int]] = []
    width = 1000
    monkeypatch.setattr(scenes, "_photograph", lambda name: np.zeros((600, width, 3), np.uint8))

    def crop(frame: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
        shown.append((box[1], box[1] + box[3]))
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(scenes, "crop_resize", crop)
    for seed in range(20):
        render("left", seed, TRAINING_SHARE)
    assert min(shown)[0] >= 0 and max(right for _, right in shown) <= 600
    shown.clear()
    for seed in range(20):
        render("left", seed, TEST_SHARE)
    assert min(shown)[0] >= 600 and max(right for _, right in shown) <= width


def test_every_photograph_comes_with_scikit_image() -> None:
    for name in PHOTOGRAPHS:
        assert min(scenes._photograph(name).shape[:2]) >= 300


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"lacks .*nothing\.png"):
        scenes._photograph("nothing.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="scikit-image") as caught:
        scenes._photograph("also_nothing.png")
    assert "ffn-edge[demo]" in caught.value.hint


# --- files --------------------------------------------------------------------------------------

SIZES = {"train": 12, "val": 3, "test": 3}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "clips"
    render_clips(folder, **SIZES, workers=1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_each_split_has_its_videos_and_list_file(rendered: Path) -> None:
    for split, size in SIZES.items():
        lines = (rendered / f"{split}.txt").read_text().splitlines()
        assert lines == [f"{split}/{i:05d}.mp4 {i % 12}" for i in range(size)]
        assert len(list((rendered / split).glob("*.mp4"))) == size
    assert (rendered / "classes.txt").read_text().splitlines() == list(ACTIONS)


def test_compression_leaves_each_frame_what_it_was(rendered: Path) -> None:
    for index in (0, 6, 10):
        drawn = list(render_action(ACTIONS[index], TRAINING_SHARE, CLIP, _clip_rng("train", index)))
        with VideoReader(rendered / f"train/{index:05d}.mp4") as video:
            assert (video.num_frames, video.fps) == (FRAMES, FPS)
            error = np.stack(list(video)).astype(int) - np.stack(drawn).astype(int)
        # About 33 dB. Between the frames of a moving clip the difference is much larger.
        assert np.sqrt((error**2).mean(axis=(1, 2, 3))).max() < 12


def _clip_rng(split: str, index: int, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([clips._SPLIT_SEEDS[split], seed, index])


def test_clips_do_not_depend_on_the_number_of_processes(rendered: Path, tmp_path: Path) -> None:
    render_clips(tmp_path / "clips", **SIZES, workers=2)
    assert contents(tmp_path / "clips") == contents(rendered)


def test_each_split_and_each_seed_has_clips_of_its_own(rendered: Path, tmp_path: Path) -> None:
    render_clips(tmp_path / "clips", train=0, val=0, test=1, seed=1, workers=1)
    files = [rendered / "val/00000.mp4", rendered / "test/00000.mp4"]
    files.append(tmp_path / "clips/test/00000.mp4")
    assert len({path.read_bytes() for path in files}) == 3


def test_a_folder_that_has_the_clips_is_not_rendered_again(
    rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "_render_clip", None)  # calling it would fail
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*")}
    render_clips(rendered, **SIZES)
    assert {path: path.stat().st_mtime_ns for path in rendered.rglob("*")} == before


def test_other_clips_take_the_place_of_the_folders(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(rendered, folder)
    counts: list[tuple[int, int]] = []
    render_clips(
        folder, train=1, val=0, test=0, workers=1, progress=lambda *done: counts.append(done)
    )
    assert [path.name for path in (folder / "train").iterdir()] == ["00000.mp4"]
    assert not list((folder / "val").glob("*"))
    assert counts == [(1, 1)]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a folder of rendered clips"):
        render_clips(tmp_path, **SIZES)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interruption_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_clips(tmp_path / "clips", train=2, val=0, test=0, workers=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


RENDERS = """
import sys
from ffn_edge.demo.clips import render_clips

if __name__ == "__main__":
    say = lambda *done: print("rendered", flush=True)
    render_clips(sys.argv[1], train=10_000, val=0, test=0, workers=2, progress=say)
"""


def test_processes_that_render_end_when_who_started_them_was_killed(
    tmp_path: Path, in_session: Callable[[int], list[int]]
) -> None:
    (tmp_path / "renders.py").write_text(RENDERS)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "renders.py"), str(tmp_path / "clips")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"rendered\n"
        assert len(in_session(process.pid)) > 2
        process.kill()
    end = time.monotonic() + 20
    while in_session(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not in_session(process.pid)


# --- the stream ---------------------------------------------------------------------------------


def test_a_stream_is_one_video_of_labelled_actions(tmp_path: Path) -> None:
    path = tmp_path / "stream.mp4"
    actions = render_stream(path, seconds=3.5)
    assert [(a.start_s, a.end_s) for a in actions] == [(0, 2), (2, 4)]
    assert len({a.label for a in actions}) == 2
    described = json.loads((tmp_path / "stream.json").read_text())
    assert described["actions"][1] == {"start_s": 2, "end_s": 4, "label": actions[1].label}
    with VideoReader(path) as video:
        assert (video.num_frames, video.height, video.width) == (2 * FRAMES, 240, 320)
        frame = prepare_frame(video.read([0])[0], 64, 64)
    # Prepared for the network, it is as bright and as varied as a clip.
    assert 60 < frame.mean() < 190 and frame.std() > 10
