"""Work on videos, shared among processes, with the results in the order of the videos."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from ffn_edge.media.opencv import use_one_thread
from ffn_edge.progress import OnProgress
from ffn_edge.signals import ending_signals

T = TypeVar("T")
_AT_A_TIME = 8  # videos that a process is given


def shared(
    work: Callable[..., T], tasks: Sequence[tuple[Any, ...]], workers: int, on_done: OnProgress
) -> Iterator[T]:
    """Yield `work(*task)` of each task, in their order.

    Args:
        work: a function of a module.
        tasks: its arguments.
        workers: processes; 1 is this one.
        on_done: is called with (tasks done, tasks in all).
    """
    if workers == 1 or len(tasks) <= _AT_A_TIME:
        for number, task in enumerate(tasks, start=1):
            yield work(*task)
            on_done(number, len(tasks))
        return
    context = multiprocessing.get_context("spawn")  # a fork would lack the threads of libraries
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        results = pool.map(work, *zip(*tasks, strict=True), chunksize=_AT_A_TIME)
        for number, result in enumerate(results, start=1):
            yield result
            on_done(number, len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    # A terminal signals every process of the command; who ends the scan ends these.
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    use_one_thread()
