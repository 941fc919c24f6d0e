"""PyTorch's threads on a CPU, as many as are quickest for each kind of work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ffn_edge.device.cores import cpu_quota
from ffn_edge.device.cpu_threads import choose_threads, fixed_threads

Measured = Callable[[], AbstractContextManager[None]]


@contextmanager
def thread_counts() -> Iterator[Callable[[], Measured]]:
    """Yield what makes a `Measured` for work of one kind: a context for each piece of it.

    Pieces of a kind should be alike; each runs with as many threads as pieces before it show to be
    quickest, and so does what comes after it. PyTorch has its own number again at the end. Where
    the number is fixed, nothing is measured.
    """
    before = torch.get_num_threads()
    most = max(1, math.ceil(min(before, cpu_quota())))  # PyTorch knows nothing of a quota
    if before == 1 or fixed_threads() is not None:
        yield lambda: nullcontext
        return
    try:
        yield lambda: _measured(choose_threads(most), torch.set_num_threads)
    finally:
        torch.set_num_threads(before)


def _measured(choice: Generator[int, float, None], use: Callable[[int], None]) -> Measured:
    threads = next(choice)

    @contextmanager
    def piece() -> Iterator[None]:
        nonlocal threads
        use(threads)
        start = time.perf_counter()
        yield
        threads = choice.send(time.perf_counter() - start)

    return piece
