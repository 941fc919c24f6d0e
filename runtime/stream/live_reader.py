"""The threads that read a live stream, so that the newest frame is always at hand."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from ffn_edge.errors import VideoError
from ffn_edge.runtime.stream.hand_over import HandOver
from ffn_edge.runtime.stream.sources import Frame, Stream

_log = logging.getLogger(__name__)

# How long a camera's frame may be overdue.
PATIENCE_S = 5.0
# Before each attempt to open a stream that was lost; the last one is repeated.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class LiveReader:
    """A thread that reads every frame of a live stream, and one that handles the newest.

        with LiveReader(stream, take) as reader:      # the stream is open
            reader.start()                            # from here on, `take` gets the newest frame
            while reader.wait(until_s, stopped):
                ...

    Frames that come while one is handled are dropped, but for the last of them: none is older than
    the handling of one when its own begins. The last frame of a stream is always handled.

    The reading thread opens and closes the stream too: a driver that hangs, hangs that thread
    alone. It is then left behind, since nothing can wake it.

    Attributes:
        failure: how a stream that comes back was lost; None while it is there.
        first_s: when the first frame was taken, in seconds of the stream; set once `wait` found
            one.
    """

    first_s: float

    def __init__(
        self,
        stream: Stream,
        take: Callable[[Frame], None],
        *,
        patience_s: float = PATIENCE_S,
        opening_s: float = 40.0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Remember what to read; `take` handles frames, in a thread of its own.

        A frame may be overdue for `patience_s`. Opening may take `opening_s`: a camera on a
        network is tried in three ways. Meanwhile, `stopped` is asked whether to give up.
        """
        self.failure: VideoError | None = None
        self._stream = stream
        self._take = take
        self._frames: HandOver[Frame] = HandOver(self._handle, "live-handler")
        self._patience_s = patience_s
        self._opening_s = opening_s
        self._stopped = stopped
        self._thread = threading.Thread(target=self._run, name="live-reader", daemon=True)
        self._may_start = threading.Event()
        self._must_leave = threading.Event()
        # Guards the fields below, which the threads set.
        self._news = threading.Condition()
        self._is_open = False
        self._has_ended = False
        self._is_takers = False  # the error
        self._error: BaseException | None = None
        self._newest_s = -math.inf
        self._heard = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the reading thread lives. After the end it does only where the driver hangs."""
        return self._thread.is_alive()

    @property
    def received(self) -> int:
        """How many frames came."""
        return self._frames.count

    @property
    def dropped(self) -> int:
        """How many of them a newer one took the place of."""
        return self._frames.dropped

    def __enter__(self) -> LiveReader:
        """Open the stream, or raise a VideoError. Where `stopped` says so first, it is not open."""
        self._heard = time.monotonic()
        self._thread.start()
        try:
            while not self._await(lambda: self._is_open, self._opening_s):
                if self._stopped():
                    return self
                self._raise_error()
        except BaseException:
            self._leave()  # a stream that opens later is closed again
            raise
        self._patience_s += 1 / self._stream.fps
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream; no frame is handled after this."""
        self._leave()
        self._frames.close(discard=True)
        self._thread.join(timeout=1.0)

    def _leave(self) -> None:
        self._must_leave.set()
        self._may_start.set()

    def start(self) -> None:
        """Let the frames come."""
        self._heard = time.monotonic()
        self._may_start.set()

    def wait(self, until_s: float, stopped: Callable[[], bool]) -> bool:
        """Wait until a frame was handled that came at `until_s` or later, in the stream's seconds.

        Args:
            until_s: later than the last frame that was used, so that none is used twice.
            stopped: is asked now and then whether to give up.

        Returns:
            Whether there is one; else the stream has ended or was lost (see `failure`), or
            `stopped` said so.

        Raises:
            VideoError: a stream that does not come back failed, or sent no frame for too long.
            BaseException: what `take` raised.
        """
        try:
            while not stopped():
                if self._await(lambda: self._newest_s >= until_s, self._patience_s):
                    return True
                if self._has_ended:
                    self._raise_error()
                    return False
        except VideoError as error:
            if self._is_takers or not self._stream.comes_back:
                raise
            self.failure = error
        return False

    def _await(self, condition: Callable[[], bool], patience_s: float) -> bool:
        """Wait for `condition`, for a moment only: a signal cannot wake a waiting thread."""
        with self._news:
            self._news.wait_for(lambda: condition() or self._has_ended, timeout=0.05)
            overdue = time.monotonic() - self._heard > patience_s
            if condition() or self._has_ended or not overdue:
                return condition()
        raise VideoError(
            f"{self._stream.name} has sent nothing for {patience_s:.1f} s",
            "check its cable and that no other program uses it, and start again.",
        )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._news:
            yield
            self._news.notify_all()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._stream:
                with self._telling():
                    self._heard = time.monotonic()
                    self._is_open = True
                self._may_start.wait()
                if not self._must_leave.is_set():
                    self._read()
        except BaseException as caught:  # raised again in the thread that waits
            error = caught
        self._frames.wait()  # what came before it
        self._end(error)

    def _read(self) -> None:
        for frame in self._stream:
            if self._must_leave.is_set():
                return
            self._heard = time.monotonic()
            self._frames.put(frame, drop=True)

    def _handle(self, frame: Frame) -> None:
        try:
            self._take(frame)
        except BaseException as error:  # told at once: the next frame may be long in coming
            self._end(error, is_takers=True)
            raise
        with self._telling():
            if self._newest_s == -math.inf:
                self.first_s = frame.time_s
            self._newest_s = frame.time_s

    def _end(self, error: BaseException | None, *, is_takers: bool = False) -> None:
        """Note how it ended; the first end is the cause of a second."""
        with self._telling():
            if not self._has_ended:
                self._error, self._is_takers = error, is_takers
                self._has_ended = True


def live_readers(
    stream: Stream,
    take: Callable[[Frame], None],
    stopped: Callable[[], bool],
    *,
    patience_s: float = PATIENCE_S,
    pauses_s: Sequence[float] = PAUSES_S,
    may_be_away: bool = False,
) -> Generator[LiveReader, None, None]:
    """Yield a reader of a live stream, and another one each time that a lost one is back.

        with closing(live_readers(stream, take, stopped)) as readers:
            for reader in readers:                    # the stream is open
                reader.start()
                while reader.wait(until_s, stopped):
                    ...

    Only a stream that has sent a frame can be lost; one that never did, failed, unless it
    `may_be_away`.

    See `LiveReader`; `pauses_s` are waited before each attempt to open the stream again, of which
    the last is repeated.

    Raises:
        VideoError: the stream cannot be opened, or fails before its first frame.
    """
    has_sent = False
    came_at = math.inf  # when the first frame since the last opening came
    lost_at: float | None = None
    attempts = 0

    def take_and_tell(frame: Frame) -> None:
        nonlocal has_sent, came_at, lost_at
        has_sent = True
        came_at = min(came_at, time.monotonic())
        if lost_at is not None:
            _log.info("%s is back after %.0f s", stream.name, came_at - lost_at)
            lost_at = None
        take(frame)

    while not stopped():
        reader = LiveReader(stream, take_and_tell, patience_s=patience_s, stopped=stopped)
        came_at = math.inf
        try:
            with reader:
                if not stopped():
                    yield reader
            failure = reader.failure
        except VideoError as error:  # it could not be opened
            failure = error
        if failure is None:
            return
        if not (has_sent or may_be_away):
            raise failure
        now = time.monotonic()
        if lost_at is None:
            lost_at = now
            named = "" if failure.message.startswith(stream.name) else f"{stream.name}: "
            _log.warning("%s%s; trying to open it again until it is back", named, failure.message)
        if now - came_at > pauses_s[-1]:  # it held for a while: this is another outage
            attempts = 0
        pause_s = pauses_s[min(attempts, len(pauses_s) - 1)]
        attempts += 1
        # A driver that hangs still has the stream.
        while not stopped() and (reader.is_running or time.monotonic() - now < pause_s):
            time.sleep(0.05)
