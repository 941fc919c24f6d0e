"""Where results go."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from ffn_edge import progress
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.runtime import sinks
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed
from ffn_edge.runtime.session import Prediction, Result
from ffn_edge.runtime.sinks import AnnotatedVideo, JsonLines, LiveView, ProgressLines
from ffn_edge.runtime.sources import Frame, Stream, VideoStream
from ffn_edge.video import VideoReader

NewResult = Callable[..., Result]


@pytest.fixture
def new_result() -> NewResult:
    """Make a result; keyword arguments replace its fields."""

    def new(frames: int = 8, latency_ms: float = 41.0, **changes: object) -> Result:
        fields: dict[str, object] = {
            "time_s": 1.23456,
            "elapsed_s": 1.23456,
            "source": "ein Film.mp4",
            "decision": Decision(frames=frames, reason="it fits", rejected={16: "too slow"}),
            "observation": Observation(
                frames=frames,
                latency_ms=latency_ms,
                now=7.0,
                limits=Limits(latency_ms=50.0, power_w=10.0),
                sensed=Sensed(
                    power_w=7.25,
                    energy_j=1.8,
                    temperature_c=61.5,
                    zones_c={"cpu-thermal": 61.5},
                    over_current=1,
                ),
            ),
            "engine_ms": 40.0,
            "device_ms": None,
            "overhead_ms": 1.1,
            "top": (Prediction("öffnen", 0.75), Prediction("schließen", 0.25)),
        }
        return Result(**{**fields, **changes})  # type: ignore[arg-type]

    return new


def test_a_log_is_told_now_and_then_how_far_a_video_is(
    new_result: NewResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(sinks, "time", clock)
    said: list[str] = []
    lines = ProgressLines(said.append)
    for second in range(100):
        now[0] = float(second)
        lines.write(new_result(time_s=4.0 * second, elapsed_s=4.0 * second))
    assert len(said) == 3
    assert said[0] == "ein Film.mp4: 120 s done, 4.0 s of video a second"


def test_every_line_is_json_with_all_fields(tmp_path: Path, new_result: NewResult) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        lines.write(new_result())
        lines.write(new_result(frames=4))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "time_s": 1.235,
        "source": "ein Film.mp4",
        "frames": 8,
        "decided": 8,
        "reason": "it fits",
        "rejected": {"16": "too slow"},
        "warning": None,
        "missed": False,
        "latency_ms": 41.0,
        "engine_ms": 40.0,
        "device_ms": None,
        "overhead_ms": 1.1,
        "ran": None,
        "power_w": 7.25,
        "energy_j": 1.8,
        "sensor_fault": None,
        "temperatures_c": {"cpu-thermal": 61.5},
        "throttled": None,
        "over_current": 1,
        "top5": [
            {"class": "öffnen", "probability": 0.75},
            {"class": "schließen", "probability": 0.25},
        ],
    }
    assert second["frames"] == 4


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path, new_result: NewResult) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        lines.write(new_result())
        assert path.read_text().count("\n") == 1


def test_a_full_disk_is_an_error(new_result: NewResult) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(FfnEdgeError, match="/dev/full could not be written: No space left"),
        JsonLines(full) as lines,
    ):
        lines.write(new_result())


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FfnEdgeError, match="could not be written"):
        JsonLines(tmp_path / "no" / "folder.jsonl").__enter__()


def shown_by(results: list[Result]) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with LiveView(console) as view:
        for result in results:
            view.write(result)
    return text.getvalue()


def test_before_the_first_result_the_live_view_says_what_it_waits_for() -> None:
    assert "waiting for the first window" in shown_by([])


def test_the_live_view_shows_the_latest_result(new_result: NewResult) -> None:
    shown = shown_by([new_result(frames=4), new_result(latency_ms=51.0)])
    for part in (
        "8 frames",
        "51.0 ms of 50 ms",
        "7.25 W of 10 W",
        "62 °C",
        "öffnen",
        "0.75",
        "8: it fits",
        "16: too slow",
    ):
        assert part in shown


@pytest.fixture
def stream(write_video: Callable[..., Path]) -> Stream:
    """A stream of six frames at 10 frames a second."""
    return VideoStream(write_video("source.mp4", ["red"] * 6))


def test_the_annotated_video_has_a_frame_for_each_of_the_source(
    tmp_path: Path, new_result: NewResult, stream: Stream
) -> None:
    path = tmp_path / "out.mp4"
    with stream, AnnotatedVideo(path) as video:
        for number, frame in enumerate(stream):
            video.frame(frame, stream)
            if number == 2:
                video.write(new_result())
    with VideoReader(path) as written:
        assert written.num_frames == 6
        assert written.fps == 10
        plain, labelled = written.read([2, 3]).astype(int)
    assert np.abs(plain - labelled).max() > 100, "the label is not drawn"
    assert plain.shape[1] >= 360, "a small frame is not enlarged"


def test_the_annotated_video_keeps_the_time_of_a_live_source(
    tmp_path: Path, stream: Stream
) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    path = tmp_path / "out.mp4"
    with stream, AnnotatedVideo(path) as video:
        for time_s in (0.0, 0.11, 0.12, 0.5, 0.9):
            video.frame(Frame(image, time_s), stream)
    with VideoReader(path) as written:
        assert written.num_frames == 10


def test_what_was_annotated_before_an_error_is_kept(tmp_path: Path, stream: Stream) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(VideoError, match="stopped"), stream, AnnotatedVideo(path) as video:
        for frame in stream:
            video.frame(frame, stream)
        raise VideoError("the camera stopped")
    with VideoReader(path) as written:
        assert written.num_frames == 6


def test_a_frame_after_the_end_is_ignored(tmp_path: Path, stream: Stream) -> None:
    with stream, AnnotatedVideo(tmp_path / "out.mp4") as video:
        video.frame(Frame(np.zeros((32, 32, 3), np.uint8), 0.0), stream)
    video.frame(Frame(np.zeros((32, 32, 3), np.uint8), 0.1), stream)
    with VideoReader(tmp_path / "out.mp4") as written:
        assert written.num_frames == 1


def test_a_run_without_a_frame_leaves_no_annotated_video(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
