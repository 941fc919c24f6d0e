"""The loop: frames come in, and whenever a clip is due, it is classified."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

from ffn_edge.errors import VideoError
from ffn_edge.media.video_list import none_could_be_read
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.stream.live_reader import PATIENCE_S, LiveReader, live_readers
from ffn_edge.runtime.stream.sources import Frame, Source, Stream
from ffn_edge.runtime.stream.stillness import Stillness
from ffn_edge.runtime.stream.window import Timing, Window

_log = logging.getLogger(__name__)
_DEFAULT_TIMING = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What is called as a session goes on.

    Attributes:
        on_frame: with every frame that is handled; on a live source, in its reader's thread.
        on_skip: with each video of several that is broken, and why.
        on_still: with the name of a camera whose scene is still, and the time of the frame whose
            inference was left out.
        on_lost: with the name of a live source that is away or has ended.
    """

    on_frame: Callable[[Frame, Stream], None] | None = None
    on_skip: Callable[[str, VideoError], None] = lambda name, error: None
    on_still: Callable[[str, float], None] = lambda name, time_s: None
    on_lost: Callable[[str], None] = lambda name: None


NO_HOOKS = Hooks()


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
        classifier: Classifier,
        limits: Callable[[], Limits],
        timing: Timing = _DEFAULT_TIMING,
        hooks: Hooks = NO_HOOKS,
        *,
        still: float | None = None,
    ) -> None:
        """Put the parts together. `limits` are asked for before every inference.

        Of a camera, inferences are left out where nothing moves; `still` is the threshold of
        `Stillness`, and None leaves out none.
        """
        self._source = source
        self._classifier = classifier
        self._controller = classifier.new_controller()
        self._limits = limits
        self._timing = timing
        self._hooks = hooks
        self._still = still
        self._stopped = False
        self._start_s = 0.0  # of the stream at hand: the length of those before it
        self._stream_s = 0.0  # its time by the frames that were looked at
        self._live_since_s = math.inf  # on the clock; where no frame comes, time goes on
        self.received = self.dropped = 0

    def stop(self) -> None:
        """End soon, after the inference that runs. For signal handlers and other threads."""
        self._stopped = True

    def __iter__(self) -> Generator[Result, None, None]:
        """Yield a result for each inference.

        Raises:
            VideoError: the source cannot be read, or stops; of several, every video.
            EngineError: an engine failed.
        """
        # Of a limit that nothing can keep one hears at once, and not when the window is full.
        self._classifier.decide(self._controller, self._limits(), time.monotonic())
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
                _log.warning("skipped %s: %s", stream.name, error.message)
                self._hooks.on_skip(stream.name, error)
            finally:
                self._start_s += self._stream_s
                self._stream_s, self._live_since_s = 0.0, math.inf
        if len(broken) == len(self._source.streams):
            raise none_could_be_read(broken)

    def _watch(self, stream: Stream) -> Iterator[Result]:
        with stream, self._open_window(stream) as window:
            for frame in stream:
                window.add(frame)
                self._stream_s = frame.time_s
                if window.is_due(frame.time_s):
                    yield self._classify(window)
                if self._is_over():
                    return
            if window.has_news:
                yield self._classify(window)

    def _watch_live(self, stream: Stream) -> Iterator[Result]:
        window: Window  # of the reader at hand

        def add(frame: Frame) -> None:
            window.add(frame)

        # A file's frames may be any time apart, and none of them be overdue.
        patience_s = PATIENCE_S if stream.comes_back else math.inf
        readers = live_readers(stream, add, self._is_over, patience_s=patience_s)
        with closing(readers):
            for reader in readers:
                try:
                    with self._open_window(stream) as window:
                        yield from self._watch_reader(reader, window)
                finally:
                    self._hooks.on_lost(stream.name)
                    self.received += reader.received
                    self.dropped += reader.dropped

    def _watch_reader(self, reader: LiveReader, window: Window) -> Iterator[Result]:
        reader.start()
        if reader.wait(0.0, self._is_over):
            self._live_since_s = min(self._live_since_s, time.monotonic() - reader.first_s)
            window.due_s += reader.first_s  # one that was lost starts anew
        while reader.wait(window.due_s, self._is_over):
            if window.is_still:
                window.skip()
                self._hooks.on_still(window.stream.name, window.used_s)
            else:
                yield self._classify(window)
        if reader.failure is None and not self._is_over() and window.has_news:
            yield self._classify(window)

    def _open_window(self, stream: Stream) -> AbstractContextManager[Window]:
        gate = None
        if stream.comes_back and self._still is not None:
            gate = Stillness(self._still)
        return self._classifier.open_window(
            *(stream, self._timing, self._start_s, self._hooks.on_frame),
            stillness=gate,
        )

    def _classify(self, window: Window) -> Result:
        result = self._classifier.classify(window, self._limits(), self._controller)
        self._stream_s = max(self._stream_s, result.time_s)
        return result

    def _is_over(self) -> bool:
        stream_s = max(self._stream_s, time.monotonic() - self._live_since_s)
        return self._stopped or self._start_s + stream_s >= self._timing.max_seconds
