"""The thread that reads a live stream, so that the newest frame is always at hand."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ffn_edge.errors import VideoError
from ffn_edge.runtime.sources import Frame, Stream


class LiveReader:
    """A thread that takes every frame of a live stream as it comes.

        with LiveReader(stream, take) as reader:      # the stream is open
            reader.start()                            # from here on, `take` gets each frame
            while reader.wait(until_s, stopped):
                ...

    The thread opens and closes the stream too: a driver that hangs, hangs the thread alone. It
    is then left behind, since nothing can wake it.
    """

    def __init__(
        self, stream: Stream, take: Callable[[Frame], None], *, patience_s: float = 5.0
    ) -> None:
        """Remember what to read.

        Args:
            stream: not yet open.
            take: is called with each frame, in the thread.
            patience_s: how long the stream may take to open, and a frame may be overdue.
        """
        self._stream = stream
        self._take = take
        self._patience_s = patience_s
        self._thread = threading.Thread(target=self._run, name="live-reader", daemon=True)
        self._may_start = threading.Event()
        self._must_leave = threading.Event()
        # Guards the fields below, which the thread sets.
        self._news = threading.Condition()
        self._is_open = False
        self._has_ended = False
        self._error: BaseException | None = None
        self._newest_s = -math.inf
        self._heard = 0.0

    def __enter__(self) -> LiveReader:
        """Open the stream.

        Raises:
            VideoError: it cannot be opened, or does not answer.
        """
        self._heard = time.monotonic()
        self._thread.start()
        while not self._await(lambda: self._is_open):
            self._raise_error()
        self._patience_s += 1 / self._stream.fps
        return self

    def __exit__(self, *_: object) -> None:
        self._must_leave.set()
        self._may_start.set()
        self._thread.join(timeout=1.0)

    def start(self) -> None:
        """Let the frames come."""
        self._heard = time.monotonic()
        self._may_start.set()

    def wait(self, until_s: float, stopped: Callable[[], bool]) -> bool:
        """Wait for a frame that was taken at `until_s` or later, in seconds of the stream.

        Args:
            until_s: later than the last frame that was used, so that none is used twice.
            stopped: is asked now and then whether to give up.

        Returns:
            Whether there is one; else the stream has ended, or `stopped` said so.

        Raises:
            VideoError: no frame came for too long, or the stream failed.
        """
        while not stopped():
            if self._await(lambda: self._newest_s >= until_s):
                return True
            if self._has_ended:
                self._raise_error()
                return False
        return False

    def _await(self, condition: Callable[[], bool]) -> bool:
        """Wait for `condition`, for a moment only: a signal cannot wake a waiting thread."""
        with self._news:
            self._news.wait_for(lambda: condition() or self._has_ended, timeout=0.05)
            overdue = time.monotonic() - self._heard > self._patience_s
            if condition() or self._has_ended or not overdue:
                return condition()
        raise VideoError(
            f"{self._stream.name} has sent nothing for {self._patience_s:.1f} s",
            "check its cable and that no other program uses it, and start again.",
        )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._news:
            yield
            self._heard = time.monotonic()
            self._news.notify_all()

    def _run(self) -> None:
        try:
            with self._stream:
                with self._telling():
                    self._is_open = True
                self._may_start.wait()
                if not self._must_leave.is_set():
                    self._read()
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        finally:
            with self._telling():
                self._has_ended = True

    def _read(self) -> None:
        for frame in self._stream:
            if self._must_leave.is_set():
                return
            self._take(frame)
            with self._telling():
                self._newest_s = frame.time_s
