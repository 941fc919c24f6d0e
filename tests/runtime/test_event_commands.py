"""Events from the two commands: `calibrate --stream` learns them, `run --events` tells of them."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.commands.calibrate import calibrate
from ffn_edge.commands.run import run
from ffn_edge.errors import DataError
from ffn_edge.runtime.cascade.calibration import CALIBRATION, load_calibration, save_calibration
from ffn_edge.runtime.event_calibration import read_streams
from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.events.scoring import Segment

RESTS = ["green"] * 40
# At ten frames a second: red for 3 s, then blue for 3 s, twice.
COLOURS = [*RESTS, *["red"] * 30, *RESTS, *["blue"] * 30, *RESTS, *["red"] * 30, *RESTS]
SEGMENTS = ["long.mp4,4,7,red", "long.mp4,11,14,blue", "long.mp4,18,21,red"]


def invoke(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(
        command, ["--threads", "1", *map(str, arguments)], catch_exceptions=False
    )


@pytest.fixture
def video(write_video: Callable[..., Path]) -> Path:
    return write_video("long.mp4", COLOURS)


@pytest.fixture
def listed(write_video: Callable[..., Path], tmp_path: Path) -> Path:
    """48 labelled clips."""
    lines = []
    for number, colour in enumerate(("red", "green", "blue")):
        name = write_video(f"{colour}.mp4", [colour] * 20).name
        lines.append(f"{name} {number}\n" * 16)
    path = tmp_path / "val.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def streams(video: Path, write_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A table of what happens in one video, and of another in which nothing does."""
    write_video("idle.mp4", RESTS)
    path = tmp_path / "labelled.csv"
    path.write_text("\n".join(["video,start_s,end_s,label", *SEGMENTS, "idle.mp4,,,", ""]))
    return path


def test_a_table_of_segments_is_read(bundle: Bundle, streams: Path) -> None:
    (video, segments), (idle, none) = read_streams(streams, bundle, nothing="green")
    assert (video.path.name, idle.path.name) == ("long.mp4", "idle.mp4")
    assert segments[:2] == (Segment(4, 7, "red"), Segment(11, 14, "blue"))
    assert none == ()


@pytest.mark.parametrize("idle", ["", "nothing", "green"])
def test_an_idle_video_may_be_labelled_or_not(bundle: Bundle, streams: Path, idle: str) -> None:
    streams.write_text(streams.read_text().replace("idle.mp4,,,", f"idle.mp4,,,{idle}"))
    nothing = idle or "green"
    assert read_streams(streams, bundle, nothing=nothing)[1][1] == ()


def test_a_table_without_any_event_is_refused(bundle: Bundle, streams: Path) -> None:
    streams.write_text("video,start_s,end_s,label\nidle.mp4,,,\n")
    with pytest.raises(DataError, match="event"):
        read_streams(streams, bundle)


def test_what_is_learnt_is_told_of(
    bundle: Bundle, listed: Path, streams: Path, video: Path, tmp_path: Path
) -> None:
    learnt = invoke(
        calibrate, bundle.path, "--list", listed, "--stream", streams, "--nothing", "green"
    )
    assert learnt.exit_code == 0
    assert "false alarms" in " ".join(learnt.stdout.split())
    assert "hours" in learnt.stderr
    rules = load_calibration(bundle).events
    assert rules is not None
    assert rules.nothing == "green"
    assert isinstance(rules.onset, dict)
    assert set(rules.onset) == {"red", "blue"}

    table, folder = tmp_path / "events.csv", tmp_path / "shown"
    result = invoke(
        run, bundle.path, "--source", video, "--frames", 8, "--events", "--csv", table,
        "--subtitles", folder,
    )  # fmt: skip
    assert result.exit_code == 0
    told = [json.loads(line) for line in result.stdout.splitlines()]
    begun, ended = (
        [e for e in told if (e["end_s"] is None) == is_begun] for is_begun in (True, False)
    )
    assert [e["id"] for e in begun] == [e["id"] for e in ended]
    truth = [("red", 4, 7), ("blue", 11, 14), ("red", 18, 21)]
    assert [e["class"] for e in ended] == [name for name, _, _ in truth]
    for event, (_, start_s, end_s) in zip(ended, truth, strict=True):
        assert event["start_s"] == pytest.approx(start_s, abs=0.5)
        assert event["end_s"] == pytest.approx(end_s, abs=0.5)
        assert event["began_at"] is None
    assert str(table) not in result.stderr  # it has no spans of windows
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["class"] for row in rows] == ["red", "blue", "red"]
    assert (folder / "long.vtt").read_text().count(" --> ") == 3


def test_thresholds_that_are_lost_are_told_of_and_not_before_there_are_others(
    bundle: Bundle, listed: Path, streams: Path, tmp_path: Path
) -> None:
    invoke(calibrate, bundle.path, "--list", listed)
    rules = EventRules(onset=0.7)
    old = dataclasses.replace(load_calibration(bundle), events=rules, step_events=rules)
    save_calibration(bundle, old)

    (tmp_path / "long.mp4").unlink()
    (tmp_path / "idle.mp4").write_bytes(b"none")
    streams.write_text("video,start_s,end_s,label\nidle.mp4,1,2,red\n")
    with pytest.raises(DataError):
        invoke(calibrate, bundle.path, "--list", listed, "--stream", streams)
    assert load_calibration(bundle) == old

    result = invoke(calibrate, bundle.path, "--list", listed)
    assert "thresholds of events and events, frame by frame" in result.stderr.replace("\n", " ")
    assert load_calibration(bundle).events is None


def test_without_thresholds_there_are_plain_ones_and_a_warning(
    bundle: Bundle, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = invoke(run, bundle.path, "--source", video, "--frames", 8, "--events")
    assert result.exit_code == 0
    assert "thresholds of events" in caplog.text
    assert "means nothing" in caplog.text
    assert {json.loads(line)["class"] for line in result.stdout.splitlines()} >= {"green"}


def test_each_video_of_a_folder_has_its_events_and_subtitles(
    bundle: Bundle, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    for folder in ("day", "night"):
        (tmp_path / folder).mkdir()
        write_video(f"{folder}/1.mp4", ["red"] * 30)
    shown = tmp_path / "shown"
    result = invoke(
        run, bundle.path, "--source", tmp_path / "day", "--source", tmp_path / "night",
        "--events", "--subtitles", shown,
    )  # fmt: skip
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(e["source"]).parent.name for e in told] == ["day", "day", "night", "night"]
    assert sorted(path.name for path in shown.iterdir()) == ["1-2.vtt", "1.vtt"]


def test_a_calibration_of_an_older_release_has_no_events(bundle: Bundle, listed: Path) -> None:
    invoke(calibrate, bundle.path, "--list", listed)
    path = bundle.path / CALIBRATION
    fields = json.loads(path.read_text())
    for name in ("events", "step_events", "still"):
        del fields[name]
    path.write_text(json.dumps(fields))
    old = load_calibration(bundle)
    assert (old.events, old.step_events, old.still) == (None, None, None)
    rules = EventRules(onset={"red": 0.5}, offset=0.2, least_s=0.5, end_shift_s=-0.25)
    save_calibration(bundle, dataclasses.replace(old, events=rules))
    assert load_calibration(bundle).events == rules


@pytest.mark.parametrize(
    ("options", "noun"), [(["--subtitles", "a"], "--events"), (["--csv", "a"], "--csv")]
)
def test_what_does_not_fit_is_refused(bundle: Bundle, options: list[str], noun: str) -> None:
    result = invoke(run, bundle.path, "--source", "0", *options)
    assert result.exit_code == 2
    assert noun in result.stderr


def test_frame_by_frame_needs_streams(bundle: Bundle, listed: Path) -> None:
    result = invoke(calibrate, bundle.path, "--list", listed, "--frame-by-frame")
    assert result.exit_code == 2
    assert "--stream" in result.stderr
