"""The loop: frames come in, the policy picks a frame count, its engine classifies the window."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Manifest
from ffn_edge.errors import EngineError, FfnEdgeError, VideoError
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video_list import none_could_be_read
from ffn_edge.runtime.cascade.confidence import Logits
from ffn_edge.runtime.cascade.second_look import SecondLook
from ffn_edge.runtime.engines.engine import Engine, NewRing
from ffn_edge.runtime.policy.interface import (
    NOTHING_SENSED,
    Controller,
    Decision,
    Limits,
    Observation,
    Sensed,
)
from ffn_edge.runtime.stream.clip_buffer import ClipBuffer, HostRing, Ring, window_capacity
from ffn_edge.runtime.stream.live_reader import PATIENCE_S, LiveReader, live_readers
from ffn_edge.runtime.stream.sources import Frame, Source, Stream

_TOP = 5
_WARNING_S = 60.0  # from one warning to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When to classify what.

    Attributes:
        window_s: the time that a clip spans.
        hop_s: the time from one inference to the next.
        max_seconds: end after so much of the source.

    Raises:
        FfnEdgeError: one of them is not positive.
    """

    window_s: float = 2.0
    hop_s: float = 0.25
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        finite = all(0 < seconds < math.inf for seconds in (self.window_s, self.hop_s))
        if not (finite and self.max_seconds > 0):
            raise FfnEdgeError(
                f"window, hop and maximum must be longer than 0 s; got {self.window_s:g}, "
                f"{self.hop_s:g} and {self.max_seconds:g}",
                "the defaults are --window 2.0 --hop 0.25, and no maximum.",
            )


_DEFAULT_TIMING = Timing()


Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class and its probability in 0..1."""

    class_name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One inference.

    Attributes:
        time_s: when its newest frame was taken, in seconds of its stream.
        elapsed_s: the same in seconds of the whole run, over all videos of a list.
        source: the stream's name.
        decision: the frame count, and why.
        observation: what the policy learned: latency from the decision to the logits, which is
            what the deadline is for; the limits; power, energy and heat since the result before.
        engine_ms: of the latency, the engine's share.
        device_ms: of the engine's share, the device's own clock; None where it has none.
        overhead_ms: around the engine: deciding, gathering the clip, sensing, reading the logits.
        top: the most probable classes, best first.
        probabilities: of all classes, float64 (C,), in the manifest's order.
    """

    time_s: float
    elapsed_s: float
    source: str
    decision: Decision
    observation: Observation
    engine_ms: float
    device_ms: float | None
    overhead_ms: float
    top: tuple[Prediction, ...]
    probabilities: Probabilities = field(
        default_factory=lambda: np.empty(0), repr=False, compare=False
    )

    @property
    def frames(self) -> int:
        """The frame count that answered: the one decided, or the last of a second look."""
        return self.observation.ran[-1][0] if self.observation.ran else self.decision.frames

    @property
    def latency_ms(self) -> float:
        """From the decision to the logits."""
        return self.observation.latency_ms

    @property
    def missed(self) -> bool:
        """Whether that was more than the deadline."""
        return self.observation.missed


class Session:
    """An adaptive run over a source: iterate it once for its results.

    A video file is processed in its own time, every frame, as fast as possible. On a live source
    an inference that takes longer than the hop is followed at once by one with the newest frames;
    nothing queues up. Every video gets at least one prediction, however short it is.

    Attributes:
        received: frames that live sources sent, up to the latest end or loss of one.
        dropped: of them, those that were not handled, since newer ones came meanwhile.
    """

    def __init__(
        self,
        source: Source,
        engines: Mapping[int, Engine],
        manifest: Manifest,
        controller: Controller,
        limits: Callable[[], Limits],
        timing: Timing = _DEFAULT_TIMING,
        *,
        sense: Callable[[float], Sensed] = lambda now: NOTHING_SENSED,
        second_look: SecondLook | None = None,
        new_ring: NewRing | None = None,
        on_frame: Callable[[Frame, Stream], None] | None = None,
        on_skip: Callable[[str, VideoError], None] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            source: what to watch.
            engines: open, one for each of the controller's operating points.
            manifest: the bundle's.
            controller: picks the frame count; its clock is `time.monotonic`.
            limits: what to keep; is asked before every inference.
            timing: when to classify what.
            sense: is asked after every inference what the sensors say, and given the time.
            second_look: escalates what few frames are not sure of; None is never.
            new_ring: makes the ring that the engines read from, of so many frames; None is one
                in host memory.
            on_frame: is called with every frame that is handled; on a live source, in its reader's
                thread.
            on_skip: is called with each video of a list that is broken.
            say: is told of a limit that cannot be kept, and of a live stream that is lost and
                its return; in any thread.

        Raises:
            EngineError: the bundle takes several clips at once, or no square ones.
        """
        contract = manifest.input
        if contract.batch != 1 or contract.height != contract.width:
            raise EngineError(
                f"the bundle takes {contract.batch} clips of {contract.width}x{contract.height} "
                "at once; a stream gives one square clip at a time",
                "export it again without --batch.",
            )
        self._source = source
        self._engines = engines
        self._contract = contract
        self._classes = manifest.classes
        self._limits = limits
        self._timing = timing
        self._new_ring = new_ring or self._host_ring
        self._on_frame = on_frame
        self._on_skip = on_skip
        self._controller = controller
        self._sense = sense
        self._second_look = second_look
        self._say = say
        self._stopped = False
        self._offset_s = 0.0  # the length of the streams before this one
        self._latest_s = 0.0  # the time of this stream's newest frame
        self._live_since: float | None = None  # when its time began
        self.received = self.dropped = 0
        self._warned = -math.inf  # when, and
        self._warned_of: tuple[str, Limits] | None = None

    def stop(self) -> None:
        """End soon, after the inference that runs. For signal handlers and other threads."""
        self._stopped = True

    def __iter__(self) -> Generator[Result, None, None]:
        """Yield a result for each inference.

        Raises:
            VideoError: the source cannot be read, or stops; of several, every video.
            EngineError: an engine failed.
        """
        limits = self._limits()
        self._warn(self._controller.decide(limits, time.monotonic()), limits)
        broken: list[tuple[str, VideoError]] = []
        for stream in self._source.streams:
            if self._is_over():
                return
            try:
                yield from self._watch_live(stream) if stream.live else self._watch(stream)
            except VideoError as error:
                if not self._source.skip_broken:
                    raise
                broken.append((stream.name, error))
                if self._on_skip is not None:
                    self._on_skip(stream.name, error)
            finally:
                self._offset_s += self._latest_s
                self._latest_s = 0.0
                self._live_since = None
        if len(broken) == len(self._source.streams):
            raise none_could_be_read(broken)

    def _watch(self, stream: Stream) -> Iterator[Result]:
        with stream, self._window(stream):
            for frame in stream:
                self._take(frame)
                if frame.time_s >= self._due_s:
                    yield self._infer()
                if self._is_over():
                    return
            yield from self._end()

    def _watch_live(self, stream: Stream) -> Iterator[Result]:
        readers = live_readers(
            stream,
            self._take_live,
            self._is_over,
            say=self._say,
            # A file's frames may be any time apart, and none of them be overdue.
            patience_s=PATIENCE_S if stream.comes_back else math.inf,
        )
        with closing(readers):
            for reader in readers:
                try:
                    yield from self._watch_reader(reader, stream)
                finally:
                    self.received += reader.received
                    self.dropped += reader.dropped

    def _watch_reader(self, reader: LiveReader, stream: Stream) -> Iterator[Result]:
        with self._window(stream):
            reader.start()
            if reader.wait(0.0, self._is_over):
                self._due_s += reader.first_s  # one that was lost starts anew
            while reader.wait(self._due_s, self._is_over):
                yield self._infer()
            if reader.failure is None and not self._is_over():
                yield from self._end()

    @contextmanager
    def _window(self, stream: Stream) -> Iterator[None]:
        """Hold an empty window for a stream that was just opened."""
        self._stream = stream
        window_s = self._timing.window_s
        self._used_s = -math.inf  # the time of the newest frame that was classified
        # The first window is full one frame before its end. Half a frame of tolerance: times of
        # equal spacing are not exact in binary.
        self._due_s = window_s - 1.5 / stream.fps
        with self._new_ring(window_capacity(window_s, stream.fps)) as ring:
            self._buffer = ClipBuffer(ring, window_s=window_s, fps=stream.fps)
            yield

    @contextmanager
    def _host_ring(self, capacity: int) -> Iterator[Ring]:
        size = (self._contract.height, self._contract.width)
        yield HostRing(capacity, max(self._engines), *size)

    def _end(self) -> Iterator[Result]:
        """Classify the end of a video, unless its last frame was just classified."""
        if self._buffer.count and self._latest_s > self._used_s:
            yield self._infer()

    def _take(self, frame: Frame) -> None:
        """Prepare a frame, once, whatever clips it becomes a part of."""
        prepared = prepare_frame(frame.image, self._contract.short_side, self._contract.height)
        self._buffer.append(prepared, frame.time_s)
        self._latest_s = frame.time_s
        if self._on_frame is not None:
            self._on_frame(frame, self._stream)

    def _take_live(self, frame: Frame) -> None:
        if self._live_since is None:
            self._live_since = time.monotonic() - frame.time_s
        self._take(frame)

    def _is_over(self) -> bool:
        latest_s = self._latest_s
        if self._live_since is not None:  # time goes on where no frame comes
            latest_s = max(latest_s, time.monotonic() - self._live_since)
        return self._stopped or self._offset_s + latest_s >= self._timing.max_seconds

    def _infer(self) -> Result:
        start = time.monotonic()
        limits = self._limits()
        decision = self._controller.decide(limits, start)
        self._warn(decision, limits)
        logits: Logits
        ran: tuple[tuple[int, float], ...] = ()
        if self._second_look is None:
            logits, engine_ms = self._run(decision.frames)
        else:
            logits, ran = self._second_look.answer(decision, limits, self._run)
            engine_ms = sum(latency_ms for _, latency_ms in ran)
            if ran == ((decision.frames, engine_ms),):
                ran = ()
        end = time.monotonic()
        observation = Observation(
            frames=decision.frames,
            latency_ms=(end - start) * 1e3,
            now=end,
            limits=limits,
            sensed=self._sense(end),
            ran=ran,
        )
        self._controller.observe(observation)
        probabilities = class_probabilities(logits)
        time_s = self._used_s
        # On a live source, hops that are past are left out.
        hops = math.floor((time_s - self._due_s) / self._timing.hop_s) + 1
        self._due_s += max(hops, 0) * self._timing.hop_s
        return Result(
            time_s=time_s,
            elapsed_s=self._offset_s + time_s,
            source=self._stream.name,
            decision=decision,
            observation=observation,
            engine_ms=engine_ms,
            device_ms=self._engines[decision.frames].device_ms if not ran else None,
            overhead_ms=(time.monotonic() - start) * 1e3 - engine_ms,
            top=_best(logits, probabilities, self._classes),
            probabilities=probabilities,
        )

    def _warn(self, decision: Decision, limits: Limits) -> None:
        """Say that a limit cannot be kept: each kind, for the same limits, once a minute."""
        if decision.warning is None:
            return
        now = time.monotonic()
        kind = (decision.warning.partition(":")[0], limits)  # the rest are numbers, which change
        if now - self._warned >= _WARNING_S or kind != self._warned_of:
            self._say(f"warning: {decision.warning}")
            self._warned, self._warned_of = now, kind

    def _run(self, frames: int) -> tuple[Logits, float]:
        """Classify the window; return the logits, (C,), and the engine's milliseconds."""
        clip, self._used_s = self._buffer.gather(frames)
        start = time.monotonic()
        logits = self._engines[frames].infer(clip)
        return logits[0], (time.monotonic() - start) * 1e3


def class_probabilities(logits: Logits) -> Probabilities:
    """Return the softmax of logits (C,), float64 (C,).

    Raises:
        EngineError: a logit is not a number.
    """
    if not np.isfinite(logits).all():
        raise EngineError(
            "the engine's output is not finite", "check the bundle with `ffn-edge verify`."
        )
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities: Probabilities = exponentials / exponentials.sum()
    return probabilities


def top_classes(logits: Logits, classes: tuple[str, ...]) -> tuple[Prediction, ...]:
    """Return the most probable classes, at most five, best first.

    Args:
        logits: (C,).
        classes: their names.

    Raises:
        EngineError: a logit is not a number.
    """
    return _best(logits, class_probabilities(logits), classes)


def _best(
    logits: Logits, probabilities: Probabilities, classes: tuple[str, ...]
) -> tuple[Prediction, ...]:
    best = np.argsort(-logits, kind="stable")[:_TOP]
    return tuple(Prediction(classes[i], float(probabilities[i])) for i in best)
