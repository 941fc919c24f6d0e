"""`--stream` from end to end, with engines that tell colours apart and count their frames."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.stream_state import State
from ffn_edge.commands.profile import profile
from ffn_edge.commands.run import run
from ffn_edge.errors import EngineError, FfnEdgeError, VideoError
from ffn_edge.runtime import run as run_module
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.engines.engine import EngineOptions, Logits, OpenEngines, cpu_backend
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.profile import profile as profile_module
from ffn_edge.runtime.run import RunOptions, open_session, run_session
from ffn_edge.runtime.session import Session
from ffn_edge.runtime.stream.clip_buffer import Clip
from ffn_edge.runtime.stream.sources import Frame, Source
from ffn_edge.runtime.summary import Summary
from ffn_edge.runtime.trace import TraceWriter, read_trace

COLOURS = {"red": (0, 0, 255), "blue": (255, 0, 0)}  # BGR


@dataclass
class Step:
    """An engine of one rate: its logits are a frame's mean colour, or not finite for a while."""

    frames: int = 1
    device_ms: float | None = None
    restarts: int = 0
    asked: int = 0
    broken: set[int] = field(default_factory=set)

    def infer(self, frames: Clip) -> Logits:
        """Say a frame's colour."""
        assert isinstance(frames, np.ndarray) and frames.shape == (1, 1, 16, 16, 3)
        self.asked += 1
        colour = frames.mean(axis=(1, 2, 3), dtype=np.float32) / 50
        return np.full_like(colour, np.nan) if self.asked in self.broken else colour

    def restart(self, state: State | None = None) -> None:
        """Count it, where it begins anew."""
        self.restarts += state is None

    def state(self) -> State:
        """Tell nothing."""
        return ()


@dataclass
class Steps:
    """What was opened, and how."""

    engines: dict[int, Step]
    options: list[EngineOptions] = field(default_factory=list)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Open these engines in place of a bundle's."""
    steps = Steps({frames: Step() for frames in (2, 4, 8)})

    @contextmanager
    def open_steps(
        bundle: Bundle, options: EngineOptions, *, frame_counts: Any = None, precisions: Any = None
    ) -> Iterator[OpenEngines]:
        steps.options.append(options)
        wanted = frame_counts or steps.engines
        opened: dict[int, Any] = {frames: steps.engines[frames] for frames in wanted}
        yield OpenEngines(opened, cpu_backend(options.threads))

    for module in (run_module, profile_module):
        monkeypatch.setattr(module, "open_engines", open_steps)
    return steps


def watch(bundle: Bundle, source: Any, **fields: Any) -> list[Result]:
    with open_session(bundle, source, stream=True, **fields) as session:
        return list(session)


def test_answers_come_from_the_first_frame_on_at_the_rates_spacing(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    results = watch(bundle, write_video("a.mp4", ["red"] * 40, fps=20.0), frames=8)
    assert [result.time_s for result in results] == pytest.approx([0.25 * k for k in range(8)])
    assert [result.restart for result in results] == ["start", *[None] * 7]
    assert all(options.stream for options in steps.options)
    assert {result.top[0].class_name for result in results} == {"red"}
    assert {result.frames for result in results} == {8}


def test_an_answer_is_the_mean_over_the_window(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 40 + ["blue"] * 40, fps=20.0)
    results = watch(bundle, video, frames=8)
    logits = [np.log(result.probabilities / result.probabilities[1]) for result in results]
    red, blue = logits[7], logits[15]
    for k in range(8):
        expected = ((7 - k) * red + (k + 1) * blue) / 8
        assert logits[8 + k] == pytest.approx(expected, abs=0.02)


def test_a_file_in_real_time_has_the_same_answers(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 20 + ["blue"] * 20, fps=20.0)
    fast, paced = (watch(bundle, video, frames=4, realtime=each) for each in (False, True))
    assert [each.time_s for each in fast] == [each.time_s for each in paced]
    for one, other in zip(fast, paced, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities)


def test_each_video_of_a_list_is_a_stream_of_its_own(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    videos = [write_video(f"{each}.mp4", [each] * 20, fps=20.0) for each in COLOURS]
    summary = Summary()
    results = watch(bundle, videos, frames=4)
    for result in results:
        summary.write(result)
    assert [result.restart for result in results] == ["start", None, "start", None]
    assert results[2].top[0].probability > 0.98  # no red frame is in it
    assert summary.fields()["interruptions"] == 0


def test_a_rate_that_a_file_does_not_give_is_not_used(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    slow, fast = (write_video(f"{fps:g}.mp4", ["red"] * 12, fps=fps) for fps in (3.0, 20.0))
    results = watch(bundle, [slow, fast])
    by_source = {
        name: {result.frames for result in results if result.source == str(name)}
        for name in (slow, fast)
    }
    assert by_source == {slow: {4}, fast: {8}}
    assert "6 that the source gives" in results[0].decision.rejected[8]


def test_of_a_source_that_is_too_slow_for_the_fewest_one_is_warned_once(
    bundle: Bundle,
    steps: Steps,
    write_video: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = watch(bundle, write_video("a.mp4", ["red"] * 9, fps=1.0), window_s=1.0)
    assert len(results) == 9
    assert results[-1].frames == 2
    assert caplog.text.count("that the source gives") == 1


def test_a_state_that_is_not_finite_is_counted_and_said_once(
    bundle: Bundle,
    steps: Steps,
    write_video: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    video = write_video("a.mp4", ["red"] * 60, fps=20.0)
    summary = Summary()
    with open_session(bundle, video, stream=True, frames=8) as session:
        asked = steps.engines[8].asked  # until here, for its latency
        steps.engines[8].broken = {asked + 3, asked + 8}
        for result in session:
            summary.write(result)
    assert summary.fields()["not_finite"] == 2
    assert summary.inferences == 12
    assert caplog.text.count("not finite") == 1


def test_a_state_that_is_not_finite_even_from_the_start_is_an_error(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    steps.engines[8].broken = set(range(100))
    with pytest.raises(EngineError, match="finite"):
        watch(bundle, write_video("a.mp4", ["red"] * 60, fps=20.0), frames=8)


class Camera:
    """Twenty frames a second by its own clock, as fast as they are taken; each opening a part."""

    name, live, comes_back, fps = "camera 0", True, True, 20.0

    def __init__(self, *parts: list[str | VideoError]) -> None:
        self._parts = list(parts)
        self._number = 0

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        for each in self._parts.pop(0):
            time.sleep(0.002)
            if isinstance(each, VideoError):
                raise each
            self._number += 1
            yield Frame(np.full((32, 32, 3), COLOURS[each], np.uint8), self._number / self.fps)


def test_a_camera_that_was_lost_starts_anew_and_is_counted(bundle: Bundle, steps: Steps) -> None:
    lost = VideoError("camera 0 stopped sending frames", "check its cable.")
    source = Source(streams=(Camera([*["red"] * 60, lost], ["blue"] * 60),))
    summary, results = Summary(), []
    options = RunOptions(stream=True)
    sink = type("Sink", (), {"write": lambda self, result: results.append(result)})()
    run_session(bundle, source, Limits(frames=4), options, summary=summary, sinks=[sink])
    starts = [result for result in results if result.restart == "start"]
    assert len(starts) == 2
    assert starts[1].top[0].class_name == "blue" and starts[1].top[0].probability > 0.98
    assert summary.fields()["interruptions"] == 1


def test_a_trace_of_a_stream_knows_each_rates_spacing(
    bundle: Bundle, steps: Steps, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 20, fps=20.0)
    for realtime, pace_s in ((True, 0.25), (False, None)):
        with TraceWriter(tmp_path / "trace.jsonl") as trace:
            fields = {"stream": True, "realtime": realtime, "trace": trace}
            with open_session(bundle, video, **fields) as session:  # type: ignore[arg-type]
                for result in session:
                    trace.write(result.observation)
        found = read_trace(tmp_path / "trace.jsonl")
        assert [point.period_s for point in found.setting.points] == [1.0, 0.5, 0.25]
        assert found.observations[-1].frames == 8
        assert result.observation.pace_s == found.observations[-1].pace_s == pace_s
        assert found.observations[0].source_frames == pytest.approx(40)


def test_a_stream_is_not_looked_at_again() -> None:
    with pytest.raises(FfnEdgeError, match="cascade"):
        RunOptions(stream=True, escalate=True)


def test_run_tells_of_frames_and_of_what_was_left_behind(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 40, fps=20.0)
    arguments = [str(bundle.path), "--source", str(video), "--stream", "--frames", "8", "--json"]
    found = CliRunner().invoke(run, arguments, catch_exceptions=False)
    *lines, last = map(json.loads, found.stdout.splitlines())
    assert [line["restart"] for line in lines] == ["start", *[None] * 7]
    assert "8 frames" in found.stderr
    summary = last["summary"]
    assert (summary["inferences"], summary["interruptions"]) == (8, 0)
    assert "energy_per_frame_j" in summary and "energy_per_clip_j" not in summary


def test_a_hop_is_refused_with_stream(bundle: Bundle, write_video: Callable[..., Path]) -> None:
    video = write_video("a.mp4", ["blue"] * 5, fps=10.0)
    arguments = [str(bundle.path), "--source", str(video), "--stream", "--hop", "0.5"]
    found = CliRunner().invoke(run, arguments)
    assert found.exit_code == 2
    assert "--hop" in found.output


def test_a_stream_has_a_profile_of_its_own_that_its_runs_go_by(
    bundle: Bundle,
    steps: Steps,
    write_video: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    video = write_video("a.mp4", ["red"] * 10, fps=20.0)
    (bundle.path / "profile.json").write_text("of clips")
    arguments = [str(bundle.path), "--stream", "--runs", "3"]
    found = CliRunner().invoke(profile, arguments, catch_exceptions=False)
    assert "busy" in found.stdout and "profile_stream.json" in found.stderr
    assert (bundle.path / "profile.json").read_text() == "of clips"
    saved = json.loads((bundle.path / "profile_stream.json").read_text())
    assert set(saved["latency_ms"]["fp32"]) == {"2", "4", "8"}
    watch(bundle, video)
    assert "measuring quickly" not in caplog.text
    (bundle.path / "profile_stream.json").unlink()
    watch(bundle, video)
    assert "profile --stream" in caplog.text


def test_of_a_stream_every_rates_step_is_the_same_work(
    bundle: Bundle, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[int, int]] = []
    monkeypatch.setattr(profile_module, "disturbance", lambda _, macs, __: seen.append(macs))
    CliRunner().invoke(profile, [str(bundle.path), "--stream", "--runs", "1"])
    assert seen == [{2: 1, 4: 1, 8: 1}]


def test_a_stream_that_is_stopped_ends_after_the_frame_at_hand(
    bundle: Bundle, steps: Steps, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 60, fps=20.0)
    results = []
    with open_session(bundle, video, stream=True, frames=8) as session:
        assert isinstance(session, Session)
        for result in session:
            results.append(result)
            if len(results) == 3:
                session.stop()
    assert len(results) == 3
