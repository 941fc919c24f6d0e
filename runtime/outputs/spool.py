"""Messages that must arrive, on the disk until they did.

An SQLite file, since that is whole after a kill at any byte, bounded, and in every Python. A
message is flushed to the disk before it is sent; that it arrived is written, but not flushed:
after a cut of the power some may be sent again, and none is lost.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ffn_edge.errors import OutputError
from ffn_edge.files.atomic import check_writable

_log = logging.getLogger(__name__)

_MOST_IN_MEMORY = 1000  # messages, while the disk takes none
_OVERHEAD = 64  # bytes of the file for a message, beside its own


class Spool:
    """A queue on the disk: `with Spool(path, most_mb=20) as spool: spool.append([b"..."])`.

    Beyond `most_mb`, the oldest are dropped and counted. While the disk takes nothing, the newest
    wait in memory, where they are lost with the process. Every method may be called from any
    thread, and after the end does nothing.

    Attributes:
        waiting: messages that have not arrived.
        dropped: messages that never will.
        fault: why the disk takes nothing; None where it does.
    """

    def __init__(self, path: Path, *, most_mb: float) -> None:
        self.waiting = 0
        self.dropped = 0
        self.fault: str | None = None
        self._path = path
        self._most_bytes = most_mb * 1e6
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> Spool:
        """Open the file, with what an earlier run left in it; a damaged one is moved aside.

        Raises:
            WriteError: it cannot be written.
            OutputError: another process uses it.
        """
        check_writable(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"{self._path} cannot be opened: {error}",
                "let each process have a folder of its own, on a disk that has room.",
            ) from error
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            _log.warning("%s is damaged (%s); it is kept as %s", self._path, error, aside.name)
            self._path.replace(aside)
            Path(f"{self._path}-wal").unlink(missing_ok=True)
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                self._write_memory()
                with suppress(sqlite3.Error):
                    self._file.close()
                self._file = None

    def _open(self) -> None:
        file = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            for line in (
                "PRAGMA locking_mode = EXCLUSIVE",
                "PRAGMA journal_mode = WAL",
                "PRAGMA journal_size_limit = 1000000",
                "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
                "BEGIN IMMEDIATE",
                "COMMIT",
            ):
                file.execute(line)
            ((self.waiting, self._bytes, last),) = file.execute(
                "SELECT count(*), coalesce(sum(length(body) + ?), 0), coalesce(max(id), 0) "
                "FROM messages",
                (_OVERHEAD,),
            )
        except BaseException:
            file.close()
            raise
        self._file = file
        self._last: int = last  # of all ids so far
        self._done = 0  # this id and those before it are to be sent no more
        self._memory: deque[tuple[int, bytes]] = deque()  # what the disk did not take; newer

    def append(self, bodies: Sequence[bytes]) -> None:
        """Keep messages; flushed to the disk, if that takes them, when this returns."""
        with self._lock:
            if self._file is None:
                return
            for body in bodies:
                self._last += 1
                self._memory.append((self._last, body))
            self.waiting += len(bodies)
            self._write_memory()
            while len(self._memory) > _MOST_IN_MEMORY:
                self._memory.popleft()
                self._drop(1)

    def first(self) -> tuple[int, bytes] | None:
        """Return the oldest message that has not arrived, and its number."""
        with self._lock:
            if self._file is None:
                return None
            found: tuple[int, bytes] | None = self._file.execute(
                "SELECT id, body FROM messages WHERE id > ? ORDER BY id LIMIT 1", (self._done,)
            ).fetchone()
            return found or (self._memory[0] if self._memory else None)

    def done(self, number: int) -> None:
        """Forget the message of that number, the oldest."""
        with self._lock:
            if self._file is None or number <= self._done:
                return
            self._done = number
            if self._memory and self._memory[0][0] == number:
                self._memory.popleft()
                self.waiting -= 1
                return
            with self._transaction(flush=False) as file:
                self.waiting -= self._delete(file, number)

    def _write_memory(self) -> None:
        if not self._memory:
            return
        with self._transaction(flush=True) as file:
            more = sum(len(body) + _OVERHEAD for _, body in self._memory)
            excess = self._bytes + more - self._most_bytes
            if excess > 0:
                self._drop(self._delete(file, self._last_of_oldest(file, excess)))
            file.executemany("INSERT INTO messages VALUES (?, ?)", self._memory)
            self._bytes += more
            self._memory.clear()

    @contextmanager
    def _transaction(self, *, flush: bool) -> Iterator[sqlite3.Connection]:
        """Change the file, all or nothing; where the disk takes it not, note that and go on."""
        assert self._file is not None
        before = self.waiting, self.dropped, self._bytes, self._memory.copy()
        try:
            self._file.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._file.execute("BEGIN IMMEDIATE")
            yield self._file
            self._file.execute("COMMIT")
            self.fault = None
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # SQLite may have done so itself
                self._file.execute("ROLLBACK")
            self.waiting, self.dropped, self._bytes, self._memory = before
            if self.fault is None:
                _log.warning(
                    "%s takes no more (%s): the newest messages wait in memory", self._path, error
                )
            self.fault = f"{self._path} takes no more: {error}"

    def _delete(self, file: sqlite3.Connection, number: int) -> int:
        """Delete the messages up to that number; return how many they were."""
        ((count, size),) = file.execute(
            "SELECT count(*), coalesce(sum(length(body) + ?), 0) FROM messages WHERE id <= ?",
            (_OVERHEAD, number),
        )
        file.execute("DELETE FROM messages WHERE id <= ?", (number,))
        self._bytes -= size
        return int(count)

    def _last_of_oldest(self, file: sqlite3.Connection, excess: float) -> int:
        """Return up to which number the messages have that many bytes."""
        ((number,),) = file.execute(
            "SELECT coalesce(max(id), 0) FROM (SELECT id, "
            "sum(length(body) + ?) OVER (ORDER BY id) - length(body) - ? AS before FROM messages) "
            "WHERE before < ?",
            (_OVERHEAD, _OVERHEAD, excess),
        )
        return int(number)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self.waiting -= count
