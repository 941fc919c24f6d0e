"""Logs for programs: one line of JSON a record, on stderr.

    {"time": "2026-11-27T23:10:01.250Z", "level": "warning", "logger": "ffn_edge.runtime.session",
     "camera": "door", "message": "it stopped sending frames"}

journald takes the level from a prefix, such as "<4>", which it removes; other readers get none.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TextIO

from ffn_edge.errors import printable
from ffn_edge.files.secret import Secret

_log = logging.getLogger("ffn_edge")

_LEAST_SECRET = 4  # characters; what is shorter stands in too many words


class JsonHandler(logging.Handler):
    """Writes each record as a line of JSON.

    `extra={"camera": name}` of a record becomes a field. What `hide` was told is never written.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._with_priority = _is_journal(stream)
        self._hidden: tuple[str, ...] = ()

    def hide(self, secrets: Iterable[Secret]) -> None:
        """Write "***" for these, too: those of before may be in use until a restart.

        From any thread.
        """
        texts = {secret.reveal() for secret in secrets}.union(self._hidden)
        hidden = (text for text in texts if len(text) >= _LEAST_SECRET)
        self._hidden = tuple(sorted(hidden, key=len, reverse=True))

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        try:
            line = json.dumps(self._fields(record), ensure_ascii=False)
            prefix = f"<{_priority(record.levelno)}>" if self._with_priority else ""
            self._stream.write(f"{prefix}{line}\n")
            self._stream.flush()
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        time = datetime.fromtimestamp(record.created, timezone.utc)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if hasattr(record, "camera"):
            fields["camera"] = self._clean(str(record.camera))
        fields["message"] = self._clean(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self._clean("".join(traceback.format_exception(*record.exc_info)))
        return fields

    def _clean(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return "\n".join(printable(line) for line in text.splitlines())


def _priority(level: int) -> int:
    """Return a level as syslog(3) counts."""
    levels = (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)
    return next((priority for least, priority in levels if level >= least), 7)


def _is_journal(stream: TextIO) -> bool:
    """Return whether journald reads a stream: systemd.exec(5) on JOURNAL_STREAM."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@contextmanager
def logs_for_programs() -> Iterator[JsonHandler | None]:
    """Write logs as JSON unless stderr is a terminal, and yield the handler, if there is one.

    An exception that nobody caught in a thread is logged, too.
    """
    if sys.stderr.isatty():
        yield None
        return
    handler = JsonHandler(sys.stderr)
    root, before, hook = logging.getLogger(), _log.handlers[:], threading.excepthook

    def log_exception(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and failed.exc_type is not SystemExit:
            info = (failed.exc_type, failed.exc_value, failed.exc_traceback)
            name = failed.thread.name if failed.thread else "unknown"
            _log.error("the thread %s has ended", name, exc_info=info)

    _log.handlers[:] = []
    root.addHandler(handler)
    threading.excepthook = log_exception
    try:
        yield handler
    finally:
        threading.excepthook = hook
        root.removeHandler(handler)
        _log.handlers[:] = before
