"""A thread behind a queue with an end: who puts something in never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """A thread that handles what is put, in that order; the oldest of too many is dropped.

    A daemon: what it does when the process ends is cut off, after `close` waited for it.

    Attributes:
        dropped: items that were never handled.
    """

    def __init__(self, handle: Callable[[list[Item]], None], name: str, most: int) -> None:
        """Prepare a thread that calls `handle` with all that waits; at most `most` items do."""
        self.dropped = 0
        self._handle = handle
        self._items: deque[Item] = deque(maxlen=most)
        self._handling = 0
        self._is_closed = False
        self._changed = threading.Condition()  # guards all of these
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """How many items are still to be handled."""
        return len(self._items) + self._handling

    def start(self) -> None:
        """Let the thread begin."""
        self._thread.start()

    def put(self, item: Item) -> None:
        """Leave an item to the thread; from any other."""
        with self._changed:
            self.dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Wait until all was handled, but no longer than that."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._handling = 0
                self._changed.wait_for(lambda: self._items or self._is_closed)
                items = list(self._items)
                self._items.clear()
                self._handling = len(items)
            if not items:
                return
            self._handle(items)
