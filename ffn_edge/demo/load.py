"""A background load that comes and goes: processes that keep every core busy, or a part of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from ctypes import c_double
from multiprocessing.synchronize import Barrier
from types import TracebackType

from ffn_edge.device.cores import usable_processors

# A process alternates between work and rest, at a rhythm that is random: a regular one could
# fall in step with what it is to disturb.
_SHORTEST_S, _LONGEST_S = 0.01, 0.03
_STARTED_S = 60.0


class BackgroundLoad:
    """Processes that are started at rest.

        with BackgroundLoad() as load:
            load.set_level(0.6)  # each works 60 % of the time

    The level is what they ask of the processor. Where others want it too, they get less.
    """

    def __init__(self, *, per_core: int = 1) -> None:
        """Remember how many processes a core there will be."""
        self._per_core = per_core

    def __enter__(self) -> BackgroundLoad:
        context = multiprocessing.get_context("spawn")
        processes = self._per_core * usable_processors()
        self._level = context.RawValue(c_double, 0.0)
        started = context.Barrier(processes + 1, timeout=_STARTED_S)
        self._processes = [
            # Daemons: they end with this process, however it ends.
            context.Process(target=_work, args=(started, self._level, os.getpid()), daemon=True)
            for _ in range(processes)
        ]
        for process in self._processes:
            process.start()
        started.wait()  # to start an interpreter is a load, too
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

    def set_level(self, level: float) -> None:
        """Set the share of the time that each process works, in 0..1; at once, or 30 ms later."""
        self._level.value = level


def _work(started: Barrier, level: c_double, parent: int) -> None:
    """Multiply for a share of the time; end when the parent is gone."""
    started.wait()
    rhythm = random.Random(os.getpid())
    while os.getppid() == parent:
        period_s = rhythm.uniform(_SHORTEST_S, _LONGEST_S)
        work_s = level.value * period_s
        _multiply_until(time.perf_counter() + work_s)
        time.sleep(period_s - work_s)


def _multiply_until(end: float) -> None:
    value = 1.0
    while time.perf_counter() < end:
        value = value * 1.0000001 % 7.0
