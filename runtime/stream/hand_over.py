"""Items that one thread leaves to another: what is not taken in time is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class HandOver(Generic[Item]):
    """A thread that handles one item after the other; at most one more waits.

    An executor's thread: Python waits for it before it ends, even where nobody closed this, so
    that it is never cut off inside native code, for which the process would abort.

    Attributes:
        count: items that were put.
        dropped: of them, those that a newer one took the place of.
        error: what `handle` raised; nothing is handled after it.
    """

    def __init__(self, handle: Callable[[Item], None], name: str) -> None:
        """Prepare; the thread calls `handle` with each item, and starts with the first."""
        self.count = 0
        self.dropped = 0
        self.error: BaseException | None = None
        self._handle = handle
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._changed = threading.Condition()  # guards what follows and the counts
        self._waiting: list[Item] = []
        self._is_busy = False
        self._is_closed = False

    def put(self, item: Item, *, drop: bool) -> None:
        """Leave an item to the thread; it is ignored after `close`.

        It takes the place of one that waits (`drop`), or waits until that is handled. Raises what
        `handle` raised earlier.
        """
        with self._changed:
            if not drop:
                self._changed.wait_for(lambda: not self._waiting)
            if self.error is not None:
                raise self.error
            if self._is_closed:
                return
            self.count += 1
            self.dropped += len(self._waiting)
            self._waiting = [item]
            if not self._is_busy:
                self._executor.submit(self._work)
                self._is_busy = True

    def wait(self) -> None:
        """Wait until every item was handled."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_busy)

    def close(self, *, discard: bool = False) -> None:
        """End the thread, after what it does and, unless `discard`, what waits."""
        with self._changed:
            self._is_closed = True
            if discard:
                self._waiting = []
        self._executor.shutdown()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._handle(item[0])
            except BaseException as error:  # raised again in the thread that puts the next item
                with self._changed:
                    self.error = error
                    self._waiting = []

    def _next(self) -> list[Item] | None:
        """Take what waits, in a list; None ends the work for now."""
        with self._changed:
            item, self._waiting = self._waiting, []
            self._is_busy = bool(item)
            self._changed.notify_all()
            return item or None
