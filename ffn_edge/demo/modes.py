"""The long stream in both modes of a causal network: clip by clip, and frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import Action
from ffn_edge.media.video import Frame
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.run import RunOptions, open_session
from ffn_edge.runtime.stream.sources import Source, VideoStream


@dataclass(frozen=True, slots=True)
class ModeRun:
    """One run over the stream.

    Attributes:
        seconds: of the stream.
        cpu_s: of this process meanwhile, with the decoding of the video; nothing is opened in it.
        answered_ms: per answer, the time from the arrival of its newest frame ...
        engine_ms: ... and the engine's part of it.
        correct: per answer for a whole window, whether the top class was the action that filled
            most of it.
    """

    seconds: float
    cpu_s: float
    answered_ms: tuple[float, ...]
    engine_ms: tuple[float, ...]
    correct: tuple[bool, ...]

    @property
    def answers_per_s(self) -> float:
        """How many answers there were in each second of the stream."""
        return len(self.answered_ms) / self.seconds

    def cpu_ms_per_s(self, decoding_s: float = 0.0) -> float:
        """Return the CPU time a second of stream, without `decoding_s` of it."""
        return (self.cpu_s - decoding_s) * 1e3 / self.seconds

    def cpu_ms_per_answer(self, decoding_s: float = 0.0) -> float:
        """Return the CPU time an answer, without `decoding_s` of it."""
        return self.cpu_ms_per_s(decoding_s) / self.answers_per_s


class TimedVideo(VideoStream):
    """A video file that notes when each of its frames was there, on the monotonic clock."""

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        super().__init__(path, realtime=realtime)
        self.arrived: dict[float, float] = {}  # by the frame's time

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames as `VideoStream` does."""
        for frame in super().__iter__():
            self.arrived[frame.time_s] = time.monotonic()
            yield frame


def run_mode(
    bundle: Bundle, stream: Path, actions: Sequence[Action], frames: int, options: RunOptions
) -> ModeRun:
    """Run over the stream as far as the actions go, with one frame count a window."""
    video = TimedVideo(stream, realtime=options.realtime)
    seconds = actions[-1].end_s
    answered_ms, engine_ms, correct = [], [], []
    with open_session(
        bundle, Source(streams=(video,)), options=options, frames=frames, max_seconds=seconds
    ) as session:
        begin_s = time.process_time()
        for result in session:
            answered_ms.append((time.monotonic() - video.arrived[result.time_s]) * 1e3)
            engine_ms.append(result.engine_ms)
            # The first window is full one frame before its end.
            if result.elapsed_s > options.clip_s - 1.5 / video.fps:
                correct.append(is_correct(result, actions, options.clip_s))
        cpu_s = time.process_time() - begin_s
    return ModeRun(seconds, cpu_s, tuple(answered_ms), tuple(engine_ms), tuple(correct))


def decoding_cpu_s(stream: Path, seconds: float) -> float:
    """Return the CPU time that decoding takes for so many seconds of a video."""
    with VideoStream(stream) as video:
        begin_s = time.process_time()
        for frame in video:
            if frame.time_s >= seconds:
                break
        return time.process_time() - begin_s


def is_correct(result: Result, actions: Sequence[Action], window_s: float = 2.0) -> bool:
    """Whether the top class is the action that filled most of the window before the result."""
    begin = result.elapsed_s - window_s

    def overlap(action: Action) -> float:
        return min(action.end_s, result.elapsed_s) - max(action.start_s, begin)

    return result.top[0].class_name == max(actions, key=overlap).label
