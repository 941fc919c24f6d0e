"""The two commands, from their arguments to their output."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import MANIFEST, Bundle
from ffn_edge.commands.engine_options import seconds_until
from ffn_edge.commands.profile import profile
from ffn_edge.commands.run import run
from ffn_edge.errors import BundleError, FfnEdgeError, VideoError
from ffn_edge.media.video import VideoReader


@pytest.fixture
def video(write_video: Callable[..., Path]) -> Path:
    """Three seconds, red and then blue."""
    return write_video("clip.mp4", ["red"] * 15 + ["blue"] * 15)


def invoke(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(
        command,  # type: ignore[arg-type]
        [str(argument) for argument in arguments],
        catch_exceptions=False,
    )


def test_run_writes_json_lines_and_a_summary(bundle: Bundle, video: Path) -> None:
    result = invoke(run, bundle.path, "--source", video, "--latency-ms", 1000, "--threads", 1)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["time_s"] for line in lines] == [1.9, 2.1, 2.4, 2.6, 2.9]
    assert lines[-1]["top5"][0]["class"] == "blue"
    assert "5 inferences" in result.stderr


def test_run_with_json_ends_with_the_summary(bundle: Bundle, video: Path) -> None:
    result = invoke(run, bundle.path, "--source", video, "--frames", 4, "--json")
    *lines, last = map(json.loads, result.stdout.splitlines())
    assert last["summary"]["inferences"] == len(lines) == 5
    assert last["summary"]["frames"]["4"]["inferences"] == 5


def test_run_answers_for_each_video(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    copy = tmp_path / "second.mp4"
    copy.write_bytes(video.read_bytes())
    table = tmp_path / "answers.csv"
    result = invoke(
        run,
        bundle.path,
        "--source",
        video,
        "--source",
        copy,
        "--threads",
        1,
        "--json",
        "--csv",
        table,
        "--window",
        1.0,
    )
    *_, last = map(json.loads, result.stdout.splitlines())
    first, second = last["summary"]["answers"]
    assert (first["video"], second["video"]) == (str(video), str(copy))
    assert [span["class"] for span in first["spans"]] == ["red", "blue"]
    assert first["spans"][0]["end_s"] == pytest.approx(1.5, abs=0.2)  # where its colour changes
    for name in (video, copy):
        (line,) = (line for line in result.stderr.splitlines() if line.startswith(f"{name}:"))
        assert "s red, " in line
        assert "s blue" in line
    assert len(table.read_text().splitlines()) == 5


def test_a_run_that_is_cut_off_answers_for_what_it_saw(
    bundle: Bundle, video: Path, tmp_path: Path
) -> None:
    table = tmp_path / "answers.csv"
    result = invoke(
        run, bundle.path, "--source", video, "--max-seconds", 1, "--window", 0.5, "--csv", table
    )
    assert f"{video}: red" in result.stderr
    assert len(table.read_text().splitlines()) == 2


def test_a_files_name_is_itself_for_programs_and_safe_for_people(
    bundle: Bundle, video: Path, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\x1b[31m\n[b].mp4"))
    shutil.copy(video, odd)
    table = tmp_path / "answers.csv"
    result = invoke(run, bundle.path, "--source", odd, "--csv", table, "--json")
    summary = json.loads(result.stdout.splitlines()[-1])["summary"]
    assert [Path(answer["video"]) for answer in summary["answers"]] == [odd]
    with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert Path(next(iter(csv.DictReader(file)))["video"]) == odd
    assert r"a?\x1b[31m\n[b].mp4: " in result.stderr


def test_run_plays_a_folder_of_images_at_the_given_rate(bundle: Bundle, tmp_path: Path) -> None:
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 20, 3), (0, 0, 255), np.uint8))
    result = invoke(run, bundle.path, "--source", tmp_path, "--fps", 5, "--json")
    *lines, last = map(json.loads, result.stdout.splitlines())
    assert lines[-1]["time_s"] == 5.8
    assert last["summary"]["answers"][0]["class"] == "red"


def test_run_writes_to_files(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    output, annotated = tmp_path / "lines.jsonl", tmp_path / "out.mp4"
    result = invoke(
        run, bundle.path, "--source", video, "--output", output, "--annotate", annotated
    )
    assert result.stdout == ""
    assert len(output.read_text().splitlines()) == 5
    with VideoReader(annotated) as written:
        assert written.num_frames == 30


def test_a_list_cannot_be_annotated(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{video}\n{video}\n")
    with pytest.raises(VideoError, match="can hold one video"):
        invoke(
            run, bundle.path, "--source", tmp_path / "list.txt", "--annotate", tmp_path / "o.mp4"
        )


def test_run_names_the_videos_that_it_skipped(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"missing.mp4\n{video}\n")
    result = invoke(run, bundle.path, "--source", tmp_path / "list.txt", "--json")
    (skipped,) = json.loads(result.stdout.splitlines()[-1])["summary"]["skipped"]
    assert "missing.mp4" in skipped
    assert "skipped" in result.stderr


def test_a_frame_count_that_the_bundle_lacks_is_refused(bundle: Bundle, video: Path) -> None:
    with pytest.raises(BundleError, match="5 was asked for"):
        invoke(run, bundle.path, "--source", video, "--frames", 5)


def test_results_before_an_error_are_not_lost(
    bundle: Bundle, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(reader: VideoReader, *_: object) -> object:
        yield from list(original(reader))[:25]
        raise VideoError("clip.mp4 is cut off")

    original = VideoReader.timed
    monkeypatch.setattr(VideoReader, "timed", breaks)
    runner = CliRunner()
    result = runner.invoke(run, [str(bundle.path), "--source", str(video)])
    assert isinstance(result.exception, VideoError)
    assert len(result.stdout.splitlines()) == 3
    assert "3 inferences" in result.stderr


def test_profile_writes_and_shows_each_engine(bundle: Bundle) -> None:
    result = invoke(profile, bundle.path, "--runs", 5, "--threads", 1)
    assert "p95" in result.stdout
    assert "profile.json" in result.stderr
    saved = json.loads((bundle.path / "profile.json").read_text())
    assert {t: len(latency["samples"]) for t, latency in saved["latency_ms"]["fp32"].items()} == {
        "2": 5,
        "4": 5,
        "8": 5,
    }


def test_profile_shows_each_precision_and_which_runs(exported_int8: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_int8.path, tmp_path / "bundle")
    shown = invoke(profile, folder, "--runs", 2, "--threads", 1).stdout
    assert re.search(r"2\W+fp32\W+50\.0%", shown) and re.search(r"2\W+int8\W+50\.0%", shown)
    manifest = folder / MANIFEST
    without = re.sub(
        r'"accuracy_float32": {[^}]*}', '"accuracy_float32": null', manifest.read_text()
    )
    manifest.write_text(without)
    shown = invoke(profile, folder, "--runs", 2, "--threads", 1).stdout
    # The least that an accuracy of 50% may be in INT8, without labels; all answers agreed.
    assert re.search(r"2\W+int8\W+≥ 50\.0%", shown)
    assert "auto: 2 frames in" in shown and "auto: 4 frames in" in shown


def test_profile_prints_json(bundle: Bundle) -> None:
    result = invoke(profile, bundle.path, "--runs", 2, "--json")
    assert set(json.loads(result.stdout)["latency_ms"]["fp32"]) == {"2", "4", "8"}


def test_run_trusts_a_profile_made_here_and_says_when_it_was_made_otherwise(
    bundle: Bundle, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    invoke(profile, bundle.path, "--runs", 2, "--threads", 1)
    invoke(run, bundle.path, "--source", video, "--threads", 1)
    assert "measuring quickly" not in caplog.text
    invoke(run, bundle.path, "--source", video, "--threads", 2)
    assert "the profile was made for threads 1, not 2" in caplog.text


@pytest.mark.parametrize("command", [run, profile])
def test_help_shows_a_real_example(command: object) -> None:
    text = invoke(command, "--help").stdout
    assert f"  ffn-edge {command.name} bundle" in text  # type: ignore[attr-defined]


def test_the_examples_in_the_help_parse(bundle: Bundle) -> None:
    examples = [
        line.split("#")[0].split()[2:]
        for line in (run.help or "").splitlines()
        if line.strip().startswith("ffn-edge")
    ]
    assert len(examples) == 6
    for arguments in examples:
        run.make_context("run", arguments)


# A real process, since signals go to one. It says on stderr when it is about to start.
SCRIPT = """
import sys
from ffn_edge.commands.run import run
run(sys.argv[1:], standalone_mode=False)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_with_its_summary(
    bundle: Bundle, write_video: Callable[..., Path], number: signal.Signals
) -> None:
    video = write_video("long.mp4", ["red"] * 600)
    process = start(
        bundle.path, "--source", video, "--realtime", "--window", 0.3, "--hop", 0.1, "--threads", 1
    )
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    lines = [json.loads(line) for line in (first + rest).splitlines()]
    assert process.returncode == 0, errors
    assert 0 < len(lines) < 500
    assert f"{len(lines)} inference" in errors


def test_a_reader_that_goes_away_ends_the_run(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    video = write_video("long.mp4", ["red"] * 600)
    process = start(bundle.path, "--source", video, "--window", 0.3, "--hop", 0.1)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert "inference" in errors


@pytest.fixture
def films(write_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with all that may be a source, and a list of it."""
    (tmp_path / "films").mkdir()
    for name in "ab":
        write_video(f"films/{name}.mp4", ["red"] * 12)
    (tmp_path / "list.txt").write_text("films/a.mp4\nfilms/b.mp4\n")
    (tmp_path / "one.txt").write_text("films/b.mp4\n")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/0.png").write_bytes(b"a picture")
    return tmp_path


@pytest.mark.parametrize(
    ("option", "source", "written"),
    [
        *(
            (option, "films/b.mp4", "films/b.mp4")
            for option in ("--output", "--annotate", "--record")
        ),
        *(
            (option, source, "films/b.mp4")
            for option in ("--output", "--csv", "--record")
            for source in ("films", "films/*.mp4", "list.txt")
        ),
        ("--annotate", "one.txt", "films/b.mp4"),
        ("--output", "frames", "frames/0.png"),
        ("--csv", "films/b.mp4", "bundle/manifest.json"),
    ],
)
def test_no_option_writes_over_what_is_read(
    bundle: Bundle, films: Path, option: str, source: str, written: str
) -> None:
    before = (films / written).read_bytes()
    result = invoke(run, bundle.path, "--source", films / source, option, films / written)
    assert result.exit_code == 2
    assert f"{option} and " in result.output
    assert (films / written).read_bytes() == before


def test_a_source_that_is_not_there_leaves_what_was_written_before(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "keep.csv").write_text("of the last run")
    with pytest.raises(FfnEdgeError) as caught:
        invoke(run, bundle.path, "--source", tmp_path / "no.mp4", "--csv", tmp_path / "keep.csv")
    assert caught.value.hint
    assert (tmp_path / "keep.csv").read_text() == "of the last run"


def test_a_camera_has_no_answers_for_a_csv_file(bundle: Bundle, tmp_path: Path) -> None:
    result = invoke(run, bundle.path, "--source", "0", "--csv", tmp_path / "a.csv")
    assert (result.exit_code, "camera" in result.output) == (2, True)


def test_what_is_no_file_may_be_written_twice(bundle: Bundle, video: Path) -> None:
    nowhere = ["--output", "/dev/null", "--record", "/dev/null"]
    result = invoke(run, bundle.path, "--source", video, *nowhere)
    assert "inference" in result.stderr


def test_two_options_cannot_write_one_file(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    same = tmp_path / "x.jsonl"
    result = invoke(run, bundle.path, "--source", video, "--output", same, "--record", same)
    assert result.exit_code == 2
    assert not same.exists()


def test_a_fixed_frame_count_cannot_be_escalated(bundle: Bundle, video: Path) -> None:
    result = invoke(run, bundle.path, "--source", video, "--frames", 2, "--escalate")
    assert result.exit_code == 2


@pytest.mark.parametrize("hours", ["90m", "2.5h", "45s", "23:59"])
def test_until_takes_a_time_or_a_length(hours: str) -> None:
    seconds = {"90m": 5400.0, "2.5h": 9000.0, "45s": 45.0}
    found = seconds_until(None, None, hours)  # type: ignore[arg-type]
    assert found is not None
    if hours in seconds:
        assert found == seconds[hours]
    else:
        assert 0 < found <= 24 * 3600


@pytest.mark.parametrize("text", ["", "soon", "25:00", "0s", "-5m", "5 m", "inf", "9" * 400 + "h"])
def test_until_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter):
        seconds_until(None, None, text)  # type: ignore[arg-type]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clocks go from 02:00 to 03:00 and back on the last Sundays of two months."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0/2,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("now", "fold", "text", "hours"),
    [
        ("2026-06-01 00:30", 0, "06:00", 5.5),
        ("2026-06-01 06:00", 0, "06:00", 24.0),
        ("2026-03-29 00:30", 0, "06:00", 4.5),
        ("2026-03-28 06:00", 0, "06:00", 23.0),
        ("2026-10-25 00:30", 0, "06:00", 6.5),
        ("2026-10-24 06:00", 0, "06:00", 25.0),
        # Clocks skip it: it comes when it would have come.
        ("2026-03-29 00:30", 0, "02:30", 2.0),
        ("2026-03-29 03:40", 0, "02:30", 22 + 5 / 6),
        # Clocks show it twice: the next one.
        ("2026-10-25 00:30", 0, "02:30", 2.0),
        ("2026-10-25 02:40", 0, "02:30", 5 / 6),
        ("2026-10-25 02:40", 1, "02:30", 23 + 5 / 6),
    ],
)
def test_the_time_until_then_is_what_passes_and_not_what_clocks_show(
    now: str, fold: int, text: str, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.fromisoformat(now).replace(fold=fold)
    clock = type("Clock", (datetime,), {"now": classmethod(lambda cls, tz: moment.astimezone(tz))})
    monkeypatch.setattr("ffn_edge.commands.engine_options.datetime", clock)
    found = seconds_until(None, None, text)  # type: ignore[arg-type]
    assert found == pytest.approx(hours * 3600)
