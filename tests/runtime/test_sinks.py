"""Where results go."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffn_edge import progress
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.media.video import VideoReader
from ffn_edge.runtime import sinks
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed
from ffn_edge.runtime.sinks import AnnotatedVideo, JsonLines, LiveView, ProgressLines
from ffn_edge.runtime.stream.live_reader import live_readers
from ffn_edge.runtime.stream.sources import Frame, Stream, VideoStream
from ffn_edge.terminal import Terminal

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
            "precision": "fp32",
            "overhead_ms": 1.1,
            "waited_ms": 0.0,
            "covers_s": 2.0,
            "top": (Prediction("öffnen", 0.75), Prediction("schließen", 0.25)),
        }
        return Result(**{**fields, **changes})  # type: ignore[arg-type]

    return new


def test_a_log_is_told_now_and_then_how_far_a_video_is(
    new_result: NewResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(sinks, "time", clock)
    lines = ProgressLines()
    for second in range(100):
        now[0] = float(second)
        lines.write(new_result(time_s=4.0 * second, elapsed_s=4.0 * second))
    assert len(caplog.messages) == 3
    assert caplog.messages[0] == "ein Film.mp4: 120 s done, 4.0 s of video a second"


def test_every_line_is_json_with_all_fields(tmp_path: Path, new_result: NewResult) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        lines.write(new_result())
        lines.write(new_result(frames=4))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "time_s": 1.235,
        "source": "ein Film.mp4",
        "restart": None,
        "frames": 8,
        "precision": "fp32",
        "decided": 8,
        "reason": "it fits",
        "rejected": {"16": "too slow"},
        "warning": None,
        "missed": False,
        "latency_ms": 41.0,
        "engine_ms": 40.0,
        "device_ms": None,
        "overhead_ms": 1.1,
        "waited_ms": 0.0,
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
    (tmp_path / "no").touch()
    with pytest.raises(FfnEdgeError, match="could not be written"):
        JsonLines(tmp_path / "no" / "folder.jsonl").__enter__()


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "new" / "folder" / "lines.jsonl"):
        pass
    assert (tmp_path / "new" / "folder" / "lines.jsonl").is_file()


def shown_by(results: list[Result]) -> str:
    text = io.StringIO()
    console = Terminal(file=text, force_terminal=True, width=100, color_system=None)
    with LiveView(console) as view:
        for result in results:
            view.write(result)
    return text.getvalue()


@pytest.mark.parametrize(("fault", "is_shown"), [(None, True), ("it is gone", False)])
def test_the_live_view_keeps_a_power_that_is_told_seldom(
    fault: str | None, is_shown: bool, new_result: NewResult
) -> None:
    told = new_result()
    silent = replace(told.observation, sensed=Sensed(fault=fault))
    shown = shown_by([told, new_result(observation=silent)])
    assert ("7.25 W of 10 W" in shown) == is_shown


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


def test_of_a_clip_that_ends_with_its_first_result_the_last_frame_is_held(
    tmp_path: Path, stream: Stream, new_result: Callable[..., Result]
) -> None:
    path = tmp_path / "out.mp4"
    with stream, AnnotatedVideo(path) as video:
        for frame in stream:
            video.frame(frame, stream)
        video.write(new_result())
    with VideoReader(path) as written:
        assert written.num_frames == 6 + 10  # a second more
        plain, labelled = written.read([5, 6]).astype(int)
    assert np.abs(plain - labelled).max() > 100, "the label is not drawn"


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


class SlowWriter:
    """Stands for a `VideoWriter` that writes when it is let, and may find the disk full."""

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        self.size = (height, width)
        self.times: list[float] = []
        self.images: list[np.ndarray] = []
        self.exits: list[type[BaseException] | None] = []
        written.append(self)

    def __enter__(self) -> SlowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert not may_write.locked(), "the file is closed while a frame is written"
        self.exits.append(kind)

    def write(self, image: np.ndarray, time_s: float) -> None:
        """Append a frame."""
        with may_write:
            if is_full.is_set():
                raise VideoError("the file could not be written: the disk is full")
            assert image.shape[:2] == self.size
            self.times.append(time_s)
            self.images.append(image)


written: list[SlowWriter] = []
may_write = threading.Lock()
is_full = threading.Event()


@pytest.fixture
def slow_writer(monkeypatch: pytest.MonkeyPatch) -> list[SlowWriter]:
    """The writers of annotated videos, which write while `may_write` is free."""
    monkeypatch.setattr("ffn_edge.runtime.sinks.VideoWriter", SlowWriter)
    written.clear()
    is_full.clear()
    return written


@dataclass
class Source:
    """What an annotated video asks of a stream."""

    live: bool
    fps: float = 30.0


def picture(value: int = 0, height: int = 360, width: int = 640) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_a_live_source_never_waits_for_the_file_and_frames_keep_their_times(
    tmp_path: Path, slow_writer: list[SlowWriter]
) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4") as video:
        with may_write:
            for number in range(50):
                video.frame(Frame(picture(), number / 30), Source(live=True))
        video.frame(Frame(picture(), 100.0), Source(live=True))  # it was away; nothing fills that
    times = slow_writer[0].times
    assert times == sorted(times)
    assert times[-1] == 100.0
    assert len(times) <= 4
    assert (video.received, video.dropped) == (51, 51 - len(times))
    assert video._written == len(times)


def test_of_a_file_every_frame_is_written_however_slowly(
    tmp_path: Path, slow_writer: list[SlowWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SlowWriter.write

    def slowly(writer: SlowWriter, image: np.ndarray, time_s: float) -> None:
        time.sleep(0.005)
        original(writer, image, time_s)

    monkeypatch.setattr(SlowWriter, "write", slowly)
    with AnnotatedVideo(tmp_path / "out.mp4") as video:
        for number in range(30):
            video.frame(Frame(picture(number), number / 10), Source(live=False))
    assert slow_writer[0].times == [number / 10 for number in range(30)]
    assert [image[-1, 0, 0] for image in slow_writer[0].images] == list(range(30))
    assert video.dropped == 0


@pytest.mark.parametrize("sizes", [((360, 640), (720, 1280), (90, 160)), ((32, 32), (720, 1280))])
def test_a_camera_that_comes_back_with_another_size_is_scaled_to_the_first(
    tmp_path: Path, slow_writer: list[SlowWriter], sizes: tuple[tuple[int, int], ...]
) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4") as video:
        for number, (height, width) in enumerate(sizes):
            image = picture(200, height, width)
            image[:, : width // 2] = 0
            video.frame(Frame(image, number / 10), Source(live=False))
    (writer,) = slow_writer
    assert len(writer.images) == len(sizes)
    for image in writer.images:
        middle = image.shape[1] // 2
        assert image[:, : middle - 20].max() < 5
        assert image[:, middle + 20 :].min() > 195


def test_a_disk_that_was_full_at_the_end_is_not_passed_over(
    tmp_path: Path, slow_writer: list[SlowWriter]
) -> None:
    is_full.set()
    with pytest.raises(VideoError, match="disk is full"), AnnotatedVideo(tmp_path / "o") as video:
        video.frame(Frame(picture(), 0.0), Source(live=True))
    assert slow_writer[0].exits == [VideoError]


def test_a_full_disk_is_no_outage_of_the_camera(
    tmp_path: Path, slow_writer: list[SlowWriter], caplog: pytest.LogCaptureFixture
) -> None:
    class Camera:
        """Ten frames, and then silence."""

        name, live, comes_back, fps = "camera", True, True, 30.0

        def __enter__(self) -> Camera:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Iterator[Frame]:
            for number in range(10):
                yield Frame(picture(), number / 30)
                time.sleep(0.01)
            quiet.wait(timeout=10)

    quiet = threading.Event()
    is_full.set()
    camera = Camera()
    with (
        pytest.raises(VideoError, match="disk is full"),
        AnnotatedVideo(tmp_path / "out.mp4") as video,
        closing(
            live_readers(camera, lambda frame: video.frame(frame, camera), lambda: False)
        ) as readers,
    ):
        for reader in readers:
            reader.start()
            while reader.wait(1e9, lambda: False):
                pass
    quiet.set()
    assert caplog.messages == []
    assert len(slow_writer) == 1


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
