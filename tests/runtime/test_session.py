"""The loop, on real videos with real engines, and on scripted cameras."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import EngineError, FfnEdgeError, VideoError
from ffn_edge.runtime import session as session_module
from ffn_edge.runtime.answers import Answers
from ffn_edge.runtime.engines.engine import EngineOptions
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, open_session, run_session
from ffn_edge.runtime.session import Result, top_classes
from ffn_edge.runtime.stream import sources
from ffn_edge.runtime.stream.sources import Frame, Source, Stream
from ffn_edge.runtime.summary import Summary

Watch = Callable[..., list[Result]]


@pytest.fixture
def watch(bundle: Bundle) -> Watch:
    """Run the bundle over a source; keyword arguments are options."""

    def watch(source: Path | str, limits: Limits | None = None, **options: Any) -> list[Result]:
        callbacks = {key: options.pop(key) for key in ("on_frame", "on_skip") if key in options}
        options.setdefault("engines", EngineOptions(threads=1))
        with open_session(
            bundle, str(source), limits or Limits(), RunOptions(**options), **callbacks
        ) as session:
            return list(session)

    return watch


def times(results: list[Result]) -> list[float]:
    return [round(result.time_s, 6) for result in results]


def names(results: list[Result]) -> list[str]:
    return [result.top[0].class_name for result in results]


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
    original = session_module.prepare_frame

    def count(*arguments: Any) -> Any:
        prepared.append(1)
        return original(*arguments)

    monkeypatch.setattr(session_module, "prepare_frame", count)
    watch(write_video("a.mp4", ["red"] * 30), window_s=1.0, hop_s=0.1)
    assert len(prepared) == 30


def test_a_result_says_what_was_decided_and_measured(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 30)
    for result in watch(video, Limits(latency_ms=1e6)):
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
    results = watch(write_video("a.mp4", ["red"] * 30), Limits(latency_ms=1e-6))
    assert all(result.missed and result.decision.frames == 2 for result in results)


def test_a_result_has_the_probabilities_of_all_classes(
    watch: Watch, write_video: Callable[..., Path], bundle: Bundle
) -> None:
    (result,) = watch(write_video("a.mp4", ["red"] * 5))
    best = bundle.manifest.classes[int(result.probabilities.argmax())]
    assert (best, float(result.probabilities.max())) == dataclasses.astuple(result.top[0])
    assert result.probabilities.sum() == pytest.approx(1.0)


def test_a_fixed_frame_count_opens_that_engine_alone(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    said: list[str] = []
    video = str(write_video("a.mp4", ["red"] * 5))
    with open_session(bundle, video, Limits(frames=4), say=said.append) as session:
        assert [result.decision.frames for result in session] == [4]
    assert said[0].startswith("colours, 4 frames, with onnxruntime")


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
    watch: Watch, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    write_video("a.mp4", ["red"] * 5)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    write_video("c.mp4", ["blue"] * 5)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\nmissing.mp4\nc.mp4\n")
    skipped: list[tuple[str, VideoError]] = []
    results = watch(tmp_path / "list.txt", on_skip=lambda *both: skipped.append(both))
    assert names(results) == ["red", "blue"]
    assert [Path(name).name for name, _ in skipped] == ["b.mp4", "missing.mp4"]
    assert "cannot be read as a video" in skipped[0][1].message


def test_a_list_of_broken_videos_is_an_error(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x.mp4\ny.mp4\n")
    with pytest.raises(VideoError, match="none of the 2 videos") as caught:
        watch(tmp_path / "list.txt")
    assert "no video at" in caught.value.message
    assert caught.value.message.count("no video at") == 1  # they have the same reason
    (tmp_path / "y.mp4").touch()
    with pytest.raises(VideoError, match="none of the 2 videos") as caught:
        watch(tmp_path / "list.txt")
    assert "no video at" in caught.value.message
    assert "y.mp4 is empty" in caught.value.message


def test_the_only_video_of_a_list_gives_its_own_reason(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("b.mp4\n")
    with pytest.raises(VideoError, match="cannot be read as a video"):
        watch(tmp_path / "list.txt")


def test_a_single_broken_video_is_an_error(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="cannot be read as a video"):
        watch(tmp_path / "b.mp4")


def test_a_run_ends_after_the_seconds_that_were_asked_for(
    watch: Watch, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 50)
    assert times(watch(video, window_s=1.0, hop_s=0.5, max_seconds=2.0)) == [0.9, 1.4, 1.9]


def test_a_session_that_is_stopped_ends_after_the_result_at_hand(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    video = str(write_video("a.mp4", ["red"] * 50))
    results = []
    with open_session(bundle, video, Limits(), RunOptions(window_s=1.0)) as session:
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


def test_a_bundle_for_several_clips_at_once_is_refused(bundle: Bundle) -> None:
    contract = dataclasses.replace(bundle.manifest.input, batch=4)
    manifest = dataclasses.replace(bundle.manifest, input=contract)
    with pytest.raises(EngineError, match="one square clip at a time"):
        session_module.Session(None, {}, manifest, None, Limits())  # type: ignore[arg-type]


def test_logits_that_are_not_numbers_are_an_error() -> None:
    with pytest.raises(EngineError, match="not finite"):
        top_classes(np.array([1.0, np.nan], np.float32), ("a", "b"))


def test_the_best_five_classes_come_first_and_large_logits_do_not_overflow() -> None:
    top = top_classes(np.array([0, 900, 899, -900, 5, 6, 7], np.float32), tuple("abcdefg"))
    assert [best.class_name for best in top] == ["b", "c", "g", "f", "e"]
    assert top[0].probability == pytest.approx(1 / (1 + np.exp(-1)))


class TurningCamera:
    """A hundred frames a second: a second of red, then blue for ever, or until it `stops`."""

    name = "camera 0"
    fps = 100.0
    stops: int | None = None
    frames = 0  # of all cameras together: one that is opened again shows the time

    def __init__(self, address: str, **options: object) -> None:
        pass

    def __enter__(self) -> TurningCamera:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> np.ndarray:  # noqa: D102
        time.sleep(0.01)
        count = TurningCamera.frames = TurningCamera.frames + 1
        if count == self.stops:
            raise VideoError("camera 0 stopped sending frames", "check its cable.")
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 2 if count < 100 else 0] = 255
        return image


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[TurningCamera]:
    """Every camera is a TurningCamera."""
    monkeypatch.setattr(sources, "Camera", TurningCamera)
    monkeypatch.setattr(TurningCamera, "stops", None)
    monkeypatch.setattr(TurningCamera, "frames", 0)
    return TurningCamera


@pytest.mark.usefixtures("camera")
def test_a_slow_consumer_of_a_camera_sees_the_newest_frames(bundle: Bundle) -> None:
    options = RunOptions(window_s=0.2, hop_s=0.01, engines=EngineOptions(threads=1))
    with open_session(bundle, "0", Limits(), options) as session:
        results = iter(session)
        assert next(results).top[0].class_name == "red"
        time.sleep(1.2)  # twelve times as long as the window, and 120 hops
        later = [next(results), next(results)]
        results.close()
    assert names(later) == ["blue", "blue"]
    assert later[1].time_s > later[0].time_s > 1.0


@pytest.mark.usefixtures("camera")
def test_no_frame_of_a_camera_is_the_newest_twice(watch: Watch) -> None:
    results = watch("0", window_s=0.1, hop_s=0.001, max_seconds=0.5)
    assert len(results) > 2
    assert all(a.time_s < b.time_s for a, b in pairwise(results))


@pytest.mark.usefixtures("camera")
@pytest.mark.parametrize("realtime", [False, True])
def test_a_camera_has_no_answer_and_a_video_has_one(
    bundle: Bundle, write_video: Callable[..., Path], realtime: bool
) -> None:
    answers = Answers(bundle.manifest.classes, window_s=0.2)
    options = RunOptions(
        window_s=0.2,
        hop_s=0.1,
        max_seconds=1.0,
        realtime=realtime,
        engines=EngineOptions(threads=1),
    )
    sources = [str(write_video("a.mp4", ["blue"] * 5, fps=10.0)), "0"]
    summary = Summary()
    run_session(bundle, sources, Limits(), options, summary=summary, video_sinks=[answers])
    answers.end_video()
    (answer,) = answers.all
    assert (answer.video, answer.class_name) == (sources[0], "blue")
    assert summary.inferences > 5


def test_a_camera_that_stops_comes_back_with_a_new_window(
    bundle: Bundle, camera: type[TurningCamera]
) -> None:
    camera.stops = 60
    said: list[str] = []
    options = RunOptions(
        window_s=0.2, hop_s=0.05, max_seconds=3.0, engines=EngineOptions(threads=1)
    )
    with open_session(bundle, "0", Limits(), options, say=said.append) as session:
        results = list(session)
    times_s = [result.time_s for result in results]
    assert times_s == sorted(times_s)
    outage_s, back = max((b - a, i + 1) for i, (a, b) in enumerate(pairwise(times_s)))
    assert outage_s >= 1.0 + 0.15  # the first pause, and a whole window of new frames
    assert back < len(results)
    assert any("trying to open it again" in words for words in said)
    assert any("camera 0 is back" in words for words in said)


def test_frames_that_a_slow_handling_leaves_out_are_counted(
    bundle: Bundle, camera: type[TurningCamera]
) -> None:
    options = RunOptions(window_s=0.2, max_seconds=1.0, engines=EngineOptions(threads=1))
    handled: list[float] = []

    def slow(frame: Frame, stream: Stream) -> None:
        handled.append(frame.time_s)
        time.sleep(0.05)

    with open_session(bundle, "0", Limits(), options, on_frame=slow) as session:
        list(session)
    assert session.received <= camera.frames
    assert session.dropped > session.received // 2
    # The one that waits at the end is neither handled nor dropped.
    assert 0 <= session.received - session.dropped - len(handled) <= 1


def test_the_seconds_that_were_asked_for_begin_with_the_first_frame(
    watch: Watch, camera: type[TurningCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_slowly(opened: TurningCamera) -> TurningCamera:
        time.sleep(0.7)
        return opened

    monkeypatch.setattr(camera, "__enter__", open_slowly)
    assert watch("0", window_s=0.2, hop_s=0.1, max_seconds=0.6)


def test_a_picture_that_stays_for_long_is_no_fault_of_a_file(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slides:
        """Two pictures, far apart."""

        name, live, comes_back, fps = "slides", True, False, 100.0

        def __enter__(self) -> Slides:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(np.zeros((32, 32, 3), np.uint8), 0.0)
            time.sleep(0.5)
            yield Frame(np.zeros((32, 32, 3), np.uint8), 0.5)

    monkeypatch.setattr(session_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(
        "ffn_edge.runtime.run.open_source", lambda *_, **__: Source(streams=(Slides(),))
    )
    options = RunOptions(window_s=0.2, engines=EngineOptions(threads=1))
    with open_session(bundle, "slides", Limits(), options) as session:
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
        on_frame=lambda frame, stream: seen.append(frame.time_s * stream.fps),
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
    video = str(write_video("a.mp4", ["red"] * 50))
    with open_session(bundle, video, Limits(), RunOptions(window_s=1.0)) as session:
        next(iter(session))
    assert len(read) == 10
