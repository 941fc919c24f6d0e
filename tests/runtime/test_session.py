"""The loop, on real videos with real engines, and on scripted cameras."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import BundleError, EngineError, FfnEdgeError, VideoError
from ffn_edge.runtime import session as session_module
from ffn_edge.runtime.answers import Answers
from ffn_edge.runtime.classifier import Result, class_probabilities, top_classes
from ffn_edge.runtime.engines.engine import EngineOptions
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, open_session, run_session
from ffn_edge.runtime.session import Hooks
from ffn_edge.runtime.stream import sources, window
from ffn_edge.runtime.stream.sources import Frame, Source, Stream, VideoStream
from ffn_edge.runtime.summary import Summary

ENGINES = EngineOptions(threads=1)
COLOURS = {"red": (0, 0, 255), "blue": (255, 0, 0)}  # BGR

Watch = Callable[..., list[Result]]


@pytest.fixture
def watch(bundle: Bundle) -> Watch:
    """Run the bundle over a source; keyword arguments are limits, options and hooks."""

    def watch(source: Path, **fields: Any) -> list[Result]:
        with open_session(bundle, source, engines=ENGINES, **fields) as session:
            return list(session)

    return watch


def times(results: list[Result]) -> list[float]:
    return [round(result.time_s, 6) for result in results]


def names(results: list[Result]) -> list[str]:
    return [result.top[0].class_name for result in results]


def test_a_video_is_watched_in_five_lines(
    exported: Bundle, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, video = str(exported.path), str(write_video("a.mp4", ["red"] * 30))

    with open_session(bundle, source=video, latency_ms=80) as session:
        for result in session:
            best = result.top[0].class_name
            print(result.frames, result.latency_ms, best, result.decision.reason)

    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 5
    for frames, latency_ms, best, _ in lines:
        assert int(frames) in exported.manifest.frame_counts
        assert float(latency_ms) > 0
        assert best in exported.manifest.classes


def test_a_field_that_neither_limits_nor_options_have_is_refused(bundle: Bundle) -> None:
    with pytest.raises(TypeError), open_session(bundle, 0, deadline=80):
        pass


def test_fields_replace_those_of_limits_and_options(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    limits, options = Limits(frames=2, latency_ms=1e6), RunOptions(window_s=0.5, engines=ENGINES)
    video = write_video("a.mp4", ["red"] * 10)
    with open_session(
        bundle, [video], limits=limits, options=options, frames=4, hop_s=1.0
    ) as session:
        results = list(session)
    assert times(results) == [0.4, 0.9]
    assert {(r.frames, r.observation.limits.latency_ms) for r in results} == {(4, 1e6)}


def test_inferences_start_with_a_full_window_and_follow_the_hop(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 41, fps=10.0)
    # The first window is frames 0..19; the last frame, 40, has no window of its own yet.
    assert times(watch(video, hop_s=0.5)) == [1.9, 2.4, 2.9, 3.4, 3.9, 4.0]


def test_a_video_that_ends_with_a_window_is_not_classified_twice_at_its_end(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 25, fps=10.0)
    assert times(watch(video, hop_s=0.5)) == [1.9, 2.4]


@pytest.mark.parametrize("length", [1, 3, 19])
def test_a_video_shorter_than_the_window_gets_one_prediction(
    watch: Watch, write_video: Callable[..., Path], length: int
) -> None:
    results = watch(write_video("a.mp4", ["green"] * length))
    assert times(results) == [round((length - 1) / 10, 6)]
    assert names(results) == ["green"]


def test_a_hop_shorter_than_a_frame_classifies_at_every_frame(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 8, fps=10.0)
    assert times(watch(video, window_s=0.5, hop_s=0.01)) == [0.4, 0.5, 0.6, 0.7]


def test_the_window_moves_with_the_video(watch: Watch, write_video: Callable[..., Path]) -> None:
    video = write_video("a.mp4", ["red"] * 20 + ["blue"] * 20, fps=10.0)
    results = watch(video, window_s=1.0, hop_s=1.0)
    assert names(results) == ["red", "red", "blue", "blue"]


def test_every_source_frame_is_prepared_once(
    watch: Watch, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    original = window.prepare_frame

    def count(*arguments: Any) -> Any:
        prepared.append(1)
        return original(*arguments)

    monkeypatch.setattr(window, "prepare_frame", count)
    watch(write_video("a.mp4", ["red"] * 30), window_s=1.0, hop_s=0.1)
    assert len(prepared) == 30


def test_a_result_says_what_was_decided_and_measured(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 30)
    for result in watch(video, latency_ms=1e6):
        assert result.source == str(video)
        assert result.decision.frames == 8
        assert set(result.decision.rejected) == {2, 4}
        assert 0 < result.engine_ms < result.latency_ms < result.engine_ms + result.overhead_ms
        assert not result.missed
        assert result.top[0].class_name == "red"
        assert sum(p.probability for p in result.top) == pytest.approx(1.0)


def test_an_impossible_deadline_is_missed_with_the_fewest_frames(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    results = watch(write_video("a.mp4", ["red"] * 30), latency_ms=1e-6)
    assert all(result.missed and result.decision.frames == 2 for result in results)


def test_a_result_has_the_probabilities_of_all_classes(
    watch: Watch, write_video: Callable[..., Path], bundle: Bundle
) -> None:
    (result,) = watch(write_video("a.mp4", ["red"] * 5))
    best = bundle.manifest.classes[int(result.probabilities.argmax())]
    assert (best, float(result.probabilities.max())) == dataclasses.astuple(result.top[0])
    assert result.probabilities.sum() == pytest.approx(1.0)


def test_a_fixed_frame_count_opens_that_engine_alone(
    watch: Watch, write_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    results = watch(write_video("a.mp4", ["red"] * 5), frames=4)
    assert [result.decision.frames for result in results] == [4]
    assert caplog.messages[0].startswith("colours, 4 frames, with onnxruntime")


def test_in_a_list_every_video_starts_with_an_empty_window(
    watch: Watch, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    write_video("a.mp4", ["red"] * 15)
    write_video("b.mp4", ["blue"] * 5)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    results = watch(tmp_path / "list.txt")
    assert names(results) == ["red", "blue"]
    assert results[1].top[0].probability > 0.98  # no red frame in it
    assert times(results) == [1.4, 0.4]
    assert results[1].elapsed_s > results[0].elapsed_s


def test_a_broken_video_of_a_list_is_reported_and_skipped(
    watch: Watch,
    write_video: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_video("a.mp4", ["red"] * 5)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    write_video("c.mp4", ["blue"] * 5)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\nmissing.mp4\nc.mp4\n")
    skipped: list[tuple[str, VideoError]] = []
    results = watch(tmp_path / "list.txt", hooks=Hooks(on_skip=lambda *both: skipped.append(both)))
    assert names(results) == ["red", "blue"]
    assert [Path(name).name for name, _ in skipped] == ["b.mp4", "missing.mp4"]
    assert "cannot be read as a video" in skipped[0][1].message
    assert caplog.text.count("skipped") == 2


def test_a_list_of_broken_videos_is_an_error(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x.mp4\ny.mp4\n")
    with pytest.raises(VideoError, match="none of the 2 videos") as caught:
        watch(tmp_path / "list.txt")
    assert caught.value.message.count("no video at") == 1  # they have the same reason
    (tmp_path / "y.mp4").touch()
    with pytest.raises(VideoError, match="none of the 2 videos") as caught:
        watch(tmp_path / "list.txt")
    assert "no video at" in caught.value.message
    assert "y.mp4 is empty" in caught.value.message


@pytest.mark.parametrize("source", ["b.mp4", "list.txt"])
def test_a_single_broken_video_gives_its_own_reason(
    watch: Watch, tmp_path: Path, source: str
) -> None:
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("b.mp4\n")
    with pytest.raises(VideoError, match="read as a video"):
        watch(tmp_path / source)


def test_a_run_ends_after_the_seconds_that_were_asked_for(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 50)
    assert times(watch(video, window_s=1.0, hop_s=0.5, max_seconds=2.0)) == [0.9, 1.4, 1.9]


def test_a_session_that_is_stopped_ends_after_the_result_at_hand(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 50)
    results = []
    with open_session(bundle, video, window_s=1.0) as session:
        for result in session:
            results.append(result)
            if len(results) == 3:
                session.stop()
    assert len(results) == 3


@pytest.mark.parametrize(
    "times", [{"window_s": 0.0}, {"hop_s": -1.0}, {"max_seconds": 0.0}, {"hop_s": math.nan}]
)
def test_times_that_are_not_positive_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(FfnEdgeError, match="must be longer than 0 s"):
        RunOptions(**times)


def test_a_bundle_for_several_clips_at_once_is_refused(write_bundle: Callable[..., Bundle]) -> None:
    contract = dataclasses.replace(write_bundle().manifest.input, batch=4)
    with (
        pytest.raises(BundleError, match="one square clip"),
        open_session(write_bundle(input=contract), "0"),
    ):
        pass


def test_logits_that_are_not_numbers_are_an_error() -> None:
    with pytest.raises(EngineError, match="not finite"):
        class_probabilities(np.array([1.0, np.nan], np.float32))


def test_the_best_five_classes_come_first_and_large_logits_do_not_overflow() -> None:
    logits = np.array([0, 900, 899, -900, 5, 6, 7], np.float32)
    top = top_classes(logits, class_probabilities(logits), tuple("abcdefg"))
    assert [best.class_name for best in top] == ["b", "c", "g", "f", "e"]
    assert top[0].probability == pytest.approx(1 / (1 + np.exp(-1)))


def image(colour: str) -> np.ndarray:
    return np.full((32, 32, 3), COLOURS[colour], np.uint8)


class Live:
    """A live stream of a hundred frames a second by its own clock; the test says how far it is.

    Each opening plays one part: colours, of which each is a frame, or an error to fail with.
    """

    name, live, fps = "camera 0", True, 100.0

    def __init__(self, *parts: list[str | VideoError], comes_back: bool = True) -> None:
        self.comes_back = comes_back
        self.sent = self.taken = 0
        self.may_send = math.inf
        self._parts = list(parts)
        self._handled: int | None = None  # frames, if it waits for that
        self._closed = threading.Event()

    def pace(self) -> Hooks:
        """Return what makes it wait with each frame until the one before was handled."""
        self._handled = 0

        def count(frame: Frame, stream: Stream) -> None:
            self._handled = self.sent

        return Hooks(on_frame=count)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        for each in self._parts.pop(0):
            until(lambda: self._is_ready() or self._closed.is_set())
            if self._closed.is_set():
                return
            if isinstance(each, VideoError):
                self.sent += 100  # it is away for a second
                raise each
            self.sent += 1
            yield Frame(image(each), self.sent / self.fps)
            self.taken = self.sent

    def _is_ready(self) -> bool:
        return self._handled in (None, self.sent) and self.sent < self.may_send

    def close(self) -> None:
        """End at the next frame."""
        self._closed.set()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_slow_consumer_of_a_camera_sees_the_newest_frames(bundle: Bundle) -> None:
    camera = Live(["red"] * 100 + ["blue"] * 300)
    camera.may_send = 50
    source, options = Source(streams=(camera,)), RunOptions(window_s=0.2, hop_s=0.01)
    with (
        closing(camera),
        open_session(bundle, source, options=options, hooks=camera.pace()) as session,
    ):
        results = iter(session)
        assert names([next(results)]) == ["red"]
        camera.may_send = 300  # ten windows, and 200 hops
        until(lambda: camera.sent == 300)
        later = [next(results)]
        camera.may_send = 350
        later.append(next(results))
        results.close()
    assert names(later) == ["blue", "blue"]
    assert later[1].time_s > later[0].time_s > 1.0


def test_no_frame_of_a_camera_is_the_newest_twice(bundle: Bundle) -> None:
    camera = Live(["red"] * 60)
    camera.may_send = 20
    results = []
    source, options = Source(streams=(camera,)), RunOptions(window_s=0.1, hop_s=0.001)
    with open_session(bundle, source, options=options, hooks=camera.pace()) as session:
        for result in session:
            results.append(result)
            camera.may_send = camera.sent + 10
    assert len(results) > 4
    assert all(a.time_s < b.time_s for a, b in pairwise(results))


@pytest.mark.parametrize("realtime", [False, True])
def test_a_camera_has_no_answer_and_a_video_has_one(
    bundle: Bundle, write_video: Callable[..., Path], realtime: bool
) -> None:
    video = VideoStream(write_video("a.mp4", ["blue"] * 5, fps=10.0), realtime=realtime)
    answers = Answers(bundle.manifest.classes)
    summary = Summary()
    options = RunOptions(window_s=0.2, hop_s=0.1, engines=ENGINES)
    for stream in (video, Live(["red"] * 60)):
        source = Source(streams=(stream,))
        run_session(bundle, source, Limits(), options, summary=summary, video_sinks=[answers])
    answers.end_video()
    (answer,) = answers.all
    assert (answer.video, answer.class_name) == (video.name, "blue")
    assert summary.inferences > 1


def test_a_camera_that_stops_comes_back_with_a_new_window(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    error = VideoError("camera 0 stopped sending frames", "check its cable.")
    source = Source(streams=(Live([*["red"] * 60, error], ["blue"] * 60),))
    with open_session(bundle, source, window_s=0.2, hop_s=0.05, engines=ENGINES) as session:
        results = list(session)
    times_s = [result.time_s for result in results]
    assert times_s == sorted(times_s)
    before = [result for result in results if result.time_s < 1.0]
    after = results[len(before) :]
    assert names(before) == ["red"] * len(before)
    assert names(after) == ["blue"] * len(after)
    assert after[0].time_s >= 1.6 + 0.18  # a whole window of new frames
    assert after[0].top[0].probability > 0.98  # no red frame is in it
    assert "trying to open it again" in caplog.text
    assert "camera 0 is back" in caplog.text


def test_frames_that_a_slow_handling_leaves_out_are_counted(bundle: Bundle) -> None:
    camera = Live(["red"] * 20, comes_back=False)
    camera.may_send = 1
    handled: list[float] = []

    def slow(frame: Frame, stream: Stream) -> None:
        handled.append(frame.time_s)
        camera.may_send = 20
        until(lambda: camera.taken == 20)

    source, hooks = Source(streams=(camera,)), Hooks(on_frame=slow)
    with open_session(bundle, source, hooks=hooks, engines=ENGINES) as session:
        list(session)
    assert handled == [0.01, 0.2]
    assert (session.received, session.dropped) == (20, 18)


def test_the_seconds_that_were_asked_for_begin_with_the_first_frame(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_slowly(opened: Live) -> Live:
        time.sleep(1.0)
        return opened

    monkeypatch.setattr(Live, "__enter__", open_slowly)
    source = Source(streams=(Live(["red"] * 60),))
    with open_session(bundle, source, window_s=0.2, max_seconds=0.9, engines=ENGINES) as session:
        assert list(session)


def test_a_picture_that_stays_for_long_is_no_fault_of_a_file(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slides(Live):
        """Two pictures, far apart."""

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(image("red"), 0.0)
            time.sleep(0.5)
            yield Frame(image("red"), 0.5)

    monkeypatch.setattr(session_module, "PATIENCE_S", 0.1)
    source = Source(streams=(Slides(comes_back=False),))
    with open_session(bundle, source, window_s=0.2, engines=ENGINES) as session:
        assert times(list(session))[-1] == 0.5


def test_a_file_in_real_time_gets_a_prediction_at_its_end(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    results = watch(write_video("a.mp4", ["green"] * 5, fps=50.0), realtime=True)
    assert names(results) == ["green"]


def test_no_thread_outlives_a_live_session(watch: Watch, write_video: Callable[..., Path]) -> None:
    before = set(threading.enumerate())
    watch(write_video("a.mp4", ["green"] * 5, fps=50.0), realtime=True)
    assert set(threading.enumerate()) <= before


def test_every_frame_is_handed_on(watch: Watch, write_video: Callable[..., Path]) -> None:
    seen: list[float] = []
    watch(
        write_video("a.mp4", ["red"] * 12),
        hooks=Hooks(on_frame=lambda frame, stream: seen.append(frame.time_s * stream.fps)),
    )
    assert seen == pytest.approx(range(12))


def test_frames_are_read_as_they_are_needed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, write_video: Callable[..., Path]
) -> None:
    read = []
    original = sources.VideoReader.timed

    def counted(reader: Any, *_: object) -> Iterator[Any]:
        for frame in original(reader):
            read.append(1)
            yield frame

    monkeypatch.setattr(sources.VideoReader, "timed", counted)
    video = write_video("a.mp4", ["red"] * 50)
    with open_session(bundle, video, window_s=1.0) as session:
        next(iter(session))
    assert len(read) == 10
