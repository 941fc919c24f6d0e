"""`ffn-edge calibrate`, from videos to its tables and its file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.commands.calibrate import calibrate
from ffn_edge.errors import BundleError, DataError
from ffn_edge.media.clips import read_checked_list
from ffn_edge.media.video import VideoReader
from ffn_edge.runtime.cascade.calibrate import answer_videos
from ffn_edge.runtime.cascade.calibration import CALIBRATION, load_calibration
from ffn_edge.runtime.engines.engine import EngineOptions, cpu_backend, open_engines
from ffn_edge.runtime.profile.profile import Latency, save_profile

COLOURS = ("red", "green", "blue")


@pytest.fixture
def videos(write_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A list of six videos, two of each colour, each with some frames of another; eight times."""
    lines = []
    for number in range(6):
        mine, other = COLOURS[number % 3], COLOURS[(number + 1) % 3]
        name = f"{number}.mp4"
        write_video(name, [mine] * 10 + [other] * (2 + number))
        lines.append(f"{name} {number % 3}\n")
    path = tmp_path / "val.txt"
    path.write_text("".join(lines) * 8)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        calibrate,
        ["--threads", "1", *(str(argument) for argument in arguments)],
        catch_exceptions=False,
    )


def test_a_bundle_is_calibrated_on_a_list_of_videos(bundle: Bundle, videos: Path) -> None:
    result = invoke(bundle.path, "--list", videos)
    assert result.exit_code == 0
    assert "48 clips" in result.stdout
    assert "100.0%" in result.stdout
    assert "escalated" in result.stdout
    assert f"wrote {bundle.path / CALIBRATION}" in result.stderr
    calibration = load_calibration(bundle)
    assert calibration.clips == 48
    right = {t: 6 * found.accuracy for t, found in calibration.confidences.items()}
    assert right == pytest.approx(
        {2: 3, 4: 5, 8: 6}
    )  # few frames miss which colour there is more of


def test_the_engines_that_run_chooses_are_calibrated(
    quantize: Callable[[dict[int, float]], Bundle], videos: Path
) -> None:
    bundle = quantize({2: 0.0, 4: 0.0})
    listed = read_checked_list(videos, classes="abc")
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        logits, _ = answer_videos(engines, bundle.manifest.input, listed)
    labels = logits[4].argmax(axis=-1)  # else an untrained network is right by chance
    lines = [f"{video.path} {label}\n" for video, label in zip(listed, labels, strict=True)]
    videos.write_text("".join(lines))
    save_profile(
        bundle,
        cpu_backend(1),
        {
            "fp32": {2: Latency((1.0,)), 4: Latency((4.0,))},
            "int8": {2: Latency((2.0,)), 4: Latency((3.0,))},
        },
    )
    assert invoke(bundle.path, "--list", videos).exit_code == 0
    assert load_calibration(bundle).precisions == {2: "fp32", 4: "int8"}


def test_the_table_of_a_cascade_ends_where_all_are_escalated(bundle: Bundle, videos: Path) -> None:
    lines = videos.read_text().splitlines(keepends=True)[:18]  # 19 rows: not a multiple of four
    videos.write_text("".join(lines))
    shown = invoke(bundle.path, "--list", videos).stdout
    assert re.search(r"2, 4\W.*1\.000\W+100\.0%", shown)


def test_a_bundle_stays_whole_beside_its_calibration(bundle: Bundle, videos: Path) -> None:
    invoke(bundle.path, "--list", videos)
    assert Bundle.load(bundle.path).identity == bundle.identity


def test_json_is_what_the_file_holds(bundle: Bundle, videos: Path) -> None:
    result = invoke(bundle.path, "--list", videos, "--json")
    assert json.loads(result.stdout) == json.loads((bundle.path / CALIBRATION).read_text())


def test_few_clips_are_warned_of(bundle: Bundle, videos: Path) -> None:
    assert "48 clips are few: take 200 or more" in invoke(bundle.path, "--list", videos).stderr


def test_the_paths_may_be_relative_to_another_folder(
    bundle: Bundle, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    elsewhere = videos.rename(tmp_path / "lists" / "val.txt")
    with pytest.raises(DataError, match="there is nothing at"):
        invoke(bundle.path, "--list", elsewhere)
    assert invoke(bundle.path, "--list", elsewhere, "--root", tmp_path).exit_code == 0


def test_a_video_that_cannot_be_read_is_left_out_and_logged(
    bundle: Bundle, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (videos.parent / "3.mp4").write_bytes(b"no video")
    invoke(bundle.path, "--list", videos)
    assert "3.mp4" in caplog.text
    assert load_calibration(bundle).clips == 40


def test_a_list_of_broken_videos_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "val.txt").write_text("a.mp4 0\n")
    with pytest.raises(DataError, match="cannot be read"):
        invoke(bundle.path, "--list", tmp_path / "val.txt")
    assert not (bundle.path / CALIBRATION).exists()


def test_a_list_without_labels_is_refused(bundle: Bundle, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "unlabelled.txt").write_text("0.mp4\n")
    with pytest.raises(DataError, match=r"line 1: .* no label"):
        invoke(bundle.path, "--list", tmp_path / "unlabelled.txt")


def test_a_label_that_is_no_class_of_the_bundle_is_refused(
    bundle: Bundle, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("0.mp4 3\n")
    with pytest.raises(DataError, match=r"label 3 is not in 0\.\.2"):
        invoke(bundle.path, "--list", tmp_path / "other.txt")


def test_folders_of_frames_answer_as_their_videos_do(
    bundle: Bundle, videos: Path, tmp_path: Path
) -> None:
    lines = []
    for number in range(6):
        with VideoReader(tmp_path / f"{number}.mp4") as video:
            images = list(video)
        (tmp_path / f"frames {number}").mkdir()
        for index, image in enumerate(images):
            cv2.imwrite(str(tmp_path / f"frames {number}" / f"{index}.png"), image)
        lines.append(f"frames {number} {len(images)} {number % 3}\n")
    (tmp_path / "folders.txt").write_text("".join(lines) * 8)
    found = [
        json.loads(invoke(bundle.path, "--list", path, "--json").stdout) | {"created": ""}
        for path in (videos, tmp_path / "folders.txt")
    ]
    assert found[0] == found[1]


def test_a_bundle_for_several_clips_at_once_is_refused(
    write_bundle: Callable[..., Bundle], videos: Path
) -> None:
    contract = InputContract(
        batch=2, height=16, width=16, short_side=16, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    batched = write_bundle(input=contract)
    with pytest.raises(BundleError, match="2 clips"):
        invoke(batched.path, "--list", videos)
