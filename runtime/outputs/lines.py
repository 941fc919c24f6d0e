"""JSON lines: events and results, appended to files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ffn_edge.errors import reason_of
from ffn_edge.files.atomic import check_writable, written
from ffn_edge.files.regular_file import open_regular
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.line_file import LineFile
from ffn_edge.runtime.outputs.background import Background
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.sinks import result_fields

_log = logging.getLogger(__name__)

_MOST_WAITING = 10_000  # lines, while the disk is slow


class Lines(Output):
    """A line of JSON for each event or each result, after those that the file has.

    A thread writes them. While the disk is full they are dropped and counted.
    """

    def __init__(self, path: Path, *, results: bool = False) -> None:
        """Prepare to write events, or `results`."""
        self._path = path
        self._results = results
        self._sent = 0
        self._unwritten = 0
        self._fault: str | None = None
        self._file: LineFile | None = None
        self._thread = Background(self._write, "lines", _MOST_WAITING)

    def __enter__(self) -> Lines:
        """Begin, or raise a WriteError."""
        check_writable(self._path)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what waits."""
        self._thread.close(timeout_s=3.0)
        self._close()

    def result(self, result: Result) -> None:
        """Take a result."""
        if self._results:
            self._thread.put(result)

    def event(self, event: Event) -> None:
        """Take an event."""
        if not self._results:
            self._thread.put(event)

    def status(self) -> Status:
        """Tell how it does."""
        return Status(
            name="results" if self._results else "events",
            sent=self._sent,
            dropped=self._unwritten + self._thread.dropped,
            waiting=self._thread.waiting,
            fault=self._fault,
        )

    def _write(self, items: Sequence[Result | Event]) -> None:
        try:
            if self._file is None:
                self._file = LineFile(self._path, append=True).__enter__()
                if _is_cut_off(self._path):
                    self._file.write_text("\n")
            self._file.write_text("".join(map(_line, items)))
        except OSError as error:  # a WriteError, or that of a pipe whose reader left
            self._unwritten += len(items)
            reason = f"{self._path} could not be written: {reason_of(error)}"
            if self._fault is None:
                _log.warning("%s; lines are dropped until it can", reason)
            self._fault = reason
            self._close()
        else:
            self._sent += len(items)
            if self._fault is not None:
                _log.info("%s is written again", self._path)
            self._fault = None

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.__exit__(None, None, None)


def _line(item: Result | Event) -> str:
    fields = item.fields() if isinstance(item, Event) else result_fields(item)
    return json.dumps(fields) + "\n"


def _is_cut_off(path: Path) -> bool:
    """Tell whether a file's last line has no end, as after a full disk or a kill."""
    if not path.is_file():  # a pipe has no last line
        return False
    with written(path), open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() not in (b"", b"\n")
