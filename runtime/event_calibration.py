"""From labelled streams to the rules of events: every engine looks at every window of them.

Legend: T frames of a clip, C classes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.errors import DataError, VideoError
from ffn_edge.media.clips import read_checked_list
from ffn_edge.media.video_list import Video
from ffn_edge.runtime.classifier import class_probabilities
from ffn_edge.runtime.engines.engine import OpenEngines
from ffn_edge.runtime.event_stage import with_temperature
from ffn_edge.runtime.events.gate import Seen, learn_gate
from ffn_edge.runtime.events.rules import NOTHING
from ffn_edge.runtime.events.scoring import Segment
from ffn_edge.runtime.events.thresholds import (
    LabelledStream,
    LearntEvents,
    WindowAnswer,
    learn_rules,
)
from ffn_edge.runtime.stream.clip_buffer import HostRing, Ring, window_capacity
from ffn_edge.runtime.stream.sources import FolderStream, Stream, VideoStream
from ffn_edge.runtime.stream.step_window import StepWindow
from ffn_edge.runtime.stream.stillness import Cells, Stillness
from ffn_edge.runtime.stream.window import Seat, Timing, Window

_log = logging.getLogger(__name__)
_DEFAULT_TIMING = Timing()


@dataclass(slots=True)
class RecordedStream:
    """A labelled stream, and what was said of its windows.

    Attributes:
        name: of the video.
        segments: what happened, in turn.
        seconds: how long it is.
        answers: of each window, in the order of time, by frame count.
        seen: the frames that the windows looked at, by frame count.
        span_s: see `Window`.
    """

    name: str
    segments: tuple[Segment, ...]
    seconds: float = 0.0
    answers: dict[int, list[WindowAnswer]] = field(default_factory=dict)
    seen: dict[int, list[Seen]] = field(default_factory=dict)
    span_s: float = 0.0

    def labelled(self) -> Iterator[LabelledStream]:
        """Yield what each frame count said."""
        for frames, answers in self.answers.items():
            yield LabelledStream(frames, answers, self.segments, self.seconds)


def read_streams(
    stream_file: Path, bundle: Bundle, *, nothing: str = NOTHING
) -> list[tuple[Video, tuple[Segment, ...]]]:
    """Read what happens when in which videos.

    Args:
        stream_file: a list of segments, such as a table with columns `video,start_s,end_s,label`;
            see `read_list`. What lies between the segments of a video, or has the label `nothing`
            or none, is idle: so a video without any event has one line without times.
        bundle: whose classes they are.
        nothing: the class that is no event; the bundle need not have it.

    Returns:
        Each video, whole, with its segments in the order of time.

    Raises:
        DataError: the list is wrong, or its videos cannot be read.
    """
    classes = bundle.manifest.classes
    names = (*classes, *(() if nothing in classes else (nothing,)), "")
    found: dict[Path, list[Segment]] = {}
    videos: dict[Path, Video] = {}
    for part in read_checked_list(stream_file, classes=names):
        videos.setdefault(part.path, Video(part.path, part.label, part.num_frames))
        segments = found.setdefault(part.path, [])
        if names[part.label] not in (nothing, ""):
            segments.append(Segment(part.start_s, part.end_s, names[part.label]))
    if not any(found.values()):
        raise DataError(
            f"{stream_file} lists no event", "write a line for each, as `a.mp4,12.5,14,wave`."
        )
    return [(video, tuple(sorted(found[path]))) for path, video in videos.items()]


def record_streams(
    bundle: Bundle,
    engines: OpenEngines,
    streams: list[tuple[Video, tuple[Segment, ...]]],
    temperatures: Mapping[int, float],
    *,
    timing: Timing = _DEFAULT_TIMING,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> list[RecordedStream]:
    """Classify every window of every stream at each frame count, as `run` would.

    A video that cannot be read to its end counts as far as it goes; one that cannot be opened is
    left out, and logged.

    Args:
        bundle: whose engines they are.
        engines: open, for clips, or with `timing.stream` for streams.
        streams: of `read_streams`.
        temperatures: of the logits, by frame count.
        timing: of the windows.
        on_video: called with (videos done, videos in all).

    Raises:
        DataError: not one video can be read.
        EngineError: an engine failed.
    """
    recorded = []
    for done, (video, segments) in enumerate(streams, start=1):
        found = RecordedStream(str(video.path), segments)
        try:
            _record(bundle.manifest.input, engines, video, found, temperatures, timing)
        except VideoError as error:
            _log.warning("skipped: %s", error.message)
        if found.answers:
            recorded.append(found)
        on_video(done, len(streams))
    if not recorded:
        raise DataError("none of the labelled videos could be read", "see the lines above.")
    return recorded


def _record(
    contract: InputContract,
    engines: OpenEngines,
    video: Video,
    found: RecordedStream,
    temperatures: Mapping[int, float],
    timing: Timing,
) -> None:
    stream: Stream = VideoStream(video.path)
    if video.num_frames is not None:
        stream = FolderStream(video.path, video.num_frames)
    with ExitStack() as stack:
        stack.enter_context(stream)
        windows = _windows(stack, contract, engines, stream, timing)
        for frame in stream:
            found.seconds = frame.time_s + 1 / stream.fps
            for window, counts, seen in windows:
                window.add(frame)
                found.span_s = window.span_s
                found.seen.update(dict.fromkeys(counts, seen))
                if window.is_due(frame.time_s):
                    for frames in counts:
                        answer = _answer(window, engines, frames, temperatures[frames])
                        found.answers.setdefault(frames, []).append(answer)


def _windows(
    stack: ExitStack,
    contract: InputContract,
    engines: OpenEngines,
    stream: Stream,
    timing: Timing,
) -> list[tuple[Window, tuple[int, ...], list[Seen]]]:
    """Return one window for the clips of all frame counts; of streams, one for each rate.

    With each are the frame counts, and what it will have looked at.
    """

    def ring(capacity: int) -> Ring:
        if engines.new_ring is not None:
            return stack.enter_context(engines.new_ring(capacity))
        return HostRing(capacity, max(engines), contract.height, contract.width)

    if not timing.stream:
        rows = ring(window_capacity(timing.clip_s, stream.fps))
        watch = _Recorder()
        window = Window(stream, rows, contract, timing, 0.0, stillness=watch)
        return [(window, tuple(engines), watch.seen)]
    found: list[tuple[Window, tuple[int, ...], list[Seen]]] = []
    for frames in engines:
        watch = _Recorder()
        window = StepWindow(
            *(stream, ring(1), contract, timing, 0.0),
            stillness=watch,
            fewest=min(engines),
            seat=Seat(),
        )
        found.append((window, (frames,), watch.seen))
    return found


class _Recorder(Stillness):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.seen: list[Seen] = []

    def see(self, cells: Cells, time_s: float) -> None:
        self.seen.append(Seen(time_s, cells))


def _answer(window: Window, engines: OpenEngines, frames: int, temperature: float) -> WindowAnswer:
    logits = window.answer(engines[frames], window.clip(frames))
    probabilities = with_temperature(class_probabilities(logits), temperature)
    return WindowAnswer(window.used_s, window.covers_s, frames, probabilities)


def calibrate_events(
    bundle: Bundle,
    engines: OpenEngines,
    stream_file: Path,
    temperatures: Mapping[int, float],
    *,
    false_alarms_per_hour: float = 1.0,
    nothing: str = NOTHING,
    stream: bool = False,
    on_video: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> LearntEvents:
    """Learn the rules of events from labelled streams. See `read_streams` and `learn_rules`.

    Args:
        bundle: whose engines they are.
        engines: open, for clips or for streams.
        stream_file: what happens when.
        temperatures: of the logits, by frame count.
        false_alarms_per_hour: how many there may be, at each frame count.
        nothing: the class that is no event.
        stream: follow the streams frame by frame.
        on_video: see `record_streams`.
        on_step: see `learn_rules`.

    Raises:
        DataError: the list is wrong, or none of its videos can be read.
        EngineError: an engine failed.
    """
    streams = read_streams(stream_file, bundle, nothing=nothing)
    timing = Timing(window_s=bundle.manifest.input.window_s, stream=stream)
    recorded = record_streams(
        bundle, engines, streams, temperatures, timing=timing, on_video=on_video
    )
    learnt = learn_rules(
        [each for found in recorded for each in found.labelled()],
        bundle.manifest.classes,
        false_alarms_per_hour=false_alarms_per_hour,
        nothing=nothing,
        on_step=on_step,
    )
    gate = learn_gate(
        [
            (each, found.seen[each.frames], found.span_s)
            for found in recorded
            for each in found.labelled()
        ],
        bundle.manifest.classes,
        learnt.rules,
    )
    if gate is None:
        return learnt
    return dataclasses.replace(learnt, still=gate.threshold, left_out=gate.left_out)
