"""Events that must arrive at another machine: kept on the disk, sent in order, sent again."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ffn_edge.errors import OutputError, counted, printable
from ffn_edge.files.schema import load
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.background import Background
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.outputs.spool import Spool

_log = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="Sender")

# Before each attempt after a failure, less a random part of it, so that many devices do not come
# back at once; the last one is repeated.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_MOST_MB = 20.0  # on the disk: tens of thousands of events
_MOST_IN_QUEUE = 1000  # events on their way to the disk
_PATIENCE_S = 1.5  # at the end, of each thread


class RefusedError(OutputError):
    """The other end is there, and will never take this message."""


class Sender(Output):
    """Sends each event when it begins and when it ends, one after the other, at least once.

    A message is an event's `fields`, whose "id" and "phase" tell a repeat. A thread writes them to
    the disk, another sends what is there, first that of an earlier run. Neither is waited for.

    How, a subclass says. Its methods are called in the sending thread alone, and raise an
    `OutputError`, or any error of the system, where the other end is away.
    """

    def __init__(
        self,
        name: str,
        spool: Path,
        *,
        most_mb: float = _MOST_MB,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """Prepare.

        Args:
            name: of the output, for people.
            spool: the file that keeps messages until they arrive; of no other process.
            most_mb: of that file; beyond it the oldest messages are dropped and counted.
            pauses_s: before each attempt after a failure, of which the last is repeated.
        """
        self._name = name
        self._spool = Spool(spool, most_mb=most_mb)
        self._pauses_s = pauses_s
        self._sent = 0
        self._refused = 0
        self._fault: str | None = None
        self._said: set[str] = set()  # of this outage
        self._lost_at = 0.0
        self._keeper = Background(self._keep, f"{name}-spool", _MOST_IN_QUEUE)
        self._thread = threading.Thread(target=self._run, name=f"{name}-sender", daemon=True)
        self._news = threading.Event()
        self._is_ending = threading.Event()

    def __enter__(self: _Self) -> _Self:
        """Begin to send what an earlier run left.

        Raises:
            FfnEdgeError: the spool cannot be used.
        """
        self._spool.__enter__()
        self._keeper.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send what waits if that is quick; what does not arrive stays on the disk."""
        self._keeper.close(_PATIENCE_S)
        self._is_ending.set()
        self._news.set()
        self._thread.join(_PATIENCE_S)
        self._spool.__exit__(kind, error, trace)
        if self._spool.waiting:
            _log.warning(
                "%s: %s left to the next run",
                self._name,
                counted(self._spool.waiting, "message"),
            )

    def event(self, event: Event) -> None:
        """Take an event."""
        self._keeper.put(json.dumps(event.fields()).encode())

    def status(self) -> Status:
        """Tell how it does."""
        return Status(
            name=self._name,
            sent=self._sent,
            dropped=self._keeper.dropped + self._spool.dropped + self._refused,
            waiting=self._keeper.waiting + self._spool.waiting,
            fault=self._fault or self._spool.fault,
        )

    def _open(self) -> None:
        """Reach the other end, if that needs more than `_send`."""

    @abstractmethod
    def _send(self, message: dict[str, Any], body: bytes) -> None:
        """Send a message, and return when it arrived.

        Args:
            message: see the class.
            body: the same as JSON.

        Raises:
            RefusedError: it never will; any other error: it may later.
        """

    def _pulse(self) -> None:
        """Do what else is due; is called between messages, and each second."""

    def _close(self) -> None:
        """Leave the other end, also where `_open` failed."""

    def _keep(self, bodies: Sequence[bytes]) -> None:
        self._spool.append(bodies)
        self._news.set()

    def _run(self) -> None:
        attempts = 0
        while not self._is_ending.is_set():
            start = time.monotonic()
            sent = self._sent
            try:
                self._open()
                self._serve()
            except Exception as error:  # whatever it is, what waits is sent later
                self._tell(error)
            finally:
                self._close()
            # It held for a while: this is another outage.
            if self._sent > sent or time.monotonic() - start > self._pauses_s[-1]:
                attempts = 0
            pause_s = self._pauses_s[min(attempts, len(self._pauses_s) - 1)]
            attempts += 1
            self._is_ending.wait(pause_s * random.uniform(0.5, 1))

    def _serve(self) -> None:
        """Send what comes until the end, and then what is there."""
        while True:
            self._news.clear()
            self._pulse()
            first = self._spool.first()
            if first is None:
                self._tell(None)
                if self._is_ending.is_set():
                    return
                self._news.wait(1.0)
                continue
            number, body = first
            try:
                message = load(body)
            except ValueError as error:  # the disk has damaged it
                _log.warning("%s: message %d is dropped: %s", self._name, number, error)
                self._refused += 1
                self._spool.done(number)
                continue
            try:
                self._send(message, body)
                self._sent += 1
            except RefusedError as error:
                self._refused += 1
                _log.warning("%s; event %s is dropped", error, printable(message["id"]))
            self._spool.done(number)
            self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        """Note that the other end is there or not; say it once, and a new reason as well."""
        if error is None:
            if self._fault is not None:
                _log.info("%s is back after %.0f s", self._name, time.monotonic() - self._lost_at)
            self._fault = None
            self._said.clear()
            return
        if self._fault is None:
            self._lost_at = time.monotonic()
        self._fault = printable(getattr(error, "message", None) or str(error) or repr(error))
        if self._fault not in self._said:
            self._said.add(self._fault)
            hint = getattr(error, "hint", "")
            _log.warning(
                "%s: %s; events wait until it is back%s",
                self._name,
                self._fault,
                f"\nHint: {hint}" if hint else "",
            )
