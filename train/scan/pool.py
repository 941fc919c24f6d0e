"""Work on videos, shared among processes, with the results in the order of the videos."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ffn_edge.media.opencv import use_one_thread
from ffn_edge.progress import OnProgress
from ffn_edge.signals import ending_signals

T = TypeVar("T")
_AT_A_TIME = 8  # videos that a process is given


def shared(
    work: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    workers: int,
    on_done: OnProgress,
    *,
    lost: T,
) -> Iterator[T]:
    """Yield `work(*task)` of each task, in their order.

    Args:
        work: a function of a module.
        tasks: its arguments.
        workers: processes; 1 is this one.
        on_done: is called with (tasks done, tasks in all).
        lost: is yielded for a task that ends its process, as a fault of a decoder does.
    """
    done = 0
    if workers == 1 or len(tasks) <= _AT_A_TIME:
        for task in tasks:
            yield work(*task)
            done += 1
            on_done(done, len(tasks))
        return
    at_a_time = _AT_A_TIME
    while done < len(tasks):
        # After a process was lost, its few tasks go one by one, each to a process of its own.
        alone = at_a_time == 1
        rest = tasks[done : done + _AT_A_TIME] if alone else tasks[done:]
        try:
            for result in _mapped(work, rest, 1 if alone else workers, at_a_time):
                yield result
                done += 1
                on_done(done, len(tasks))
            at_a_time = _AT_A_TIME
        except BrokenProcessPool:
            if alone:
                yield lost
                done += 1
                on_done(done, len(tasks))
            at_a_time = 1


def _mapped(
    work: Callable[..., T], tasks: Sequence[tuple[Any, ...]], workers: int, at_a_time: int
) -> Iterator[T]:
    context = multiprocessing.get_context("spawn")  # a fork would lack the threads of libraries
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        yield from pool.map(work, *zip(*tasks, strict=True), chunksize=at_a_time)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    # A terminal signals every process of the command; who ends the scan ends these.
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    use_one_thread()
