"""A background load that can be switched on and off: processes that keep every core busy."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from types import TracebackType


class BackgroundLoad:
    """As many busy processes as cores, started idle; `switch(True)` sets them to work.

    with BackgroundLoad() as load:
        load.switch(True)
    """

    def __enter__(self) -> BackgroundLoad:
        context = multiprocessing.get_context("spawn")
        self._busy = context.Event()
        cores = os.cpu_count() or 1
        self._processes = [
            # Daemons: they end with this process, however it ends.
            context.Process(target=_work, args=(self._busy, os.getpid()), daemon=True)
            for _ in range(cores)
        ]
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def switch(self, on: bool) -> None:
        """Set the processes to work, or let them rest."""
        if on:
            self._busy.set()
        else:
            self._busy.clear()


def _work(busy: Event, parent: int) -> None:
    """Multiply while the load is on; end when the parent is gone."""
    while os.getppid() == parent:
        if busy.wait(timeout=1.0):
            end = time.perf_counter() + 0.02
            value = 1.0
            while time.perf_counter() < end:
                value = value * 1.0000001 % 7.0
