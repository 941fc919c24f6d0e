"""Streams: work is queued, and runs when somebody waits for it.

A copy reads its source and a kernel its input at the next synchronise and no earlier, so a missing
synchronise, or a staging buffer that is filled again too soon, shows as wrong data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import DeviceFailure

NULL_STREAM = 0


@dataclass(eq=False)
class Work:
    """One thing to do, after all that it waits for."""

    run: Callable[[], None]
    after: list[Work] = field(default_factory=list)
    is_done: bool = False

    def waits_for(self, other: Work) -> bool:
        """Whether this runs after `other` whatever the device does."""
        seen: set[int] = set()
        pending = [self]
        while pending:
            work = pending.pop()
            if work is other:
                return True
            if id(work) not in seen:
                seen.add(id(work))
                pending.extend(work.after)
        return False


@dataclass(eq=False)
class Queue:
    """What one stream has yet to do."""

    handle: int
    blocking: bool = True  # waits for the null stream, and the null stream for it
    pending: deque[Work] = field(default_factory=deque)
    wait_next: list[Work] = field(default_factory=list)  # from `wait_for_event`


class Streams:
    """All queues of a device."""

    def __init__(self) -> None:
        self.failure: str | None = None  # once set, the device is lost
        self.null = Queue(NULL_STREAM)
        self._queues: dict[int, Queue] = {NULL_STREAM: self.null}

    def open(self, handle: int, *, blocking: bool) -> Queue:
        """Create a stream."""
        queue = self._queues[handle] = Queue(handle, blocking)
        return queue

    def close(self, queue: Queue) -> None:
        """Destroy a stream; what is queued still runs, with the null stream."""
        del self._queues[queue.handle]
        self.null.wait_next.extend(queue.pending)

    def find(self, handle: int) -> Queue | None:
        """Return the stream of a handle."""
        return self._queues.get(handle)

    def submit(self, queue: Queue, run: Callable[[], None]) -> Work:
        """Queue work on a stream."""
        after = [*queue.wait_next]
        queue.wait_next.clear()
        if queue.pending:
            after.append(queue.pending[-1])
        if queue is self.null:
            others = self._queues.values()
            after.extend(q.pending[-1] for q in others if q.blocking and q.pending)
        elif queue.blocking and self.null.pending:
            after.append(self.null.pending[-1])
        work = Work(run, after)
        queue.pending.append(work)
        return work

    def finish(self, work: Work) -> None:
        """Do one piece of work and all that comes before it."""
        # Not recursive: a stream may have thousands waiting.
        stack = [work]
        while stack:
            top = stack[-1]
            waiting = [earlier for earlier in top.after if not earlier.is_done]
            if waiting and not top.is_done:
                stack.extend(waiting)
                continue
            stack.pop()
            if not top.is_done:
                self._do(top)
        for queue in self._queues.values():
            while queue.pending and queue.pending[0].is_done:
                queue.pending.popleft()

    def drain(self, queue: Queue) -> None:
        """Do all that a stream has queued."""
        for work in [*queue.wait_next, *queue.pending]:
            self.finish(work)
        queue.wait_next.clear()

    def drain_all(self) -> None:
        """Do all that any stream has queued."""
        for queue in list(self._queues.values()):
            self.drain(queue)

    def _do(self, work: Work) -> None:
        work.is_done = True
        work.after.clear()
        if self.failure is None:  # a lost device does nothing more
            try:
                work.run()
            except DeviceFailure as failure:
                self.failure = str(failure)
        work.run = _nothing  # lets go of what it held


def _nothing() -> None:
    pass
