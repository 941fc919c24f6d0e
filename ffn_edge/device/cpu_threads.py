"""How many threads compute on a CPU: as many as are quickest now, or as many as were asked for.

PyTorch's threads all wait for the slowest one, at every layer. On a machine where something else
computes, that is the one without a core: beside one busy process on two cores, a step of tsm_tiny
takes twice as long with two threads as with one, and beside several ten times: benchmarks/busy.py.
How the others wait hardly matters, so OMP_WAIT_POLICY and GOMP_SPINCOUNT stay the user's: without
spinning it is as slow then, and by a third slower on an idle machine.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Generator

VARIABLE = "OMP_NUM_THREADS"  # of OpenMP, which PyTorch heeds; torchrun sets it too

_TRIES = 3
_HOPELESS = 2.0  # times the quickest: not tried again
_SLOW = 1.5  # times what the trial saw: something else began to compute
_BETWEEN_TRIALS = 20.0  # times what a trial took


def fixed_threads() -> int | None:
    """Return how many threads `--threads` or OMP_NUM_THREADS asks for; None if neither does."""
    value = os.environ.get(VARIABLE, "").partition(",")[0]  # of the levels of a nest, the first
    return int(value) if value.isdecimal() else None


def choose_threads(most: int) -> Generator[int, float, None]:
    """Yield with how many threads to do the next piece of work; take the seconds that it took.

    In a trial `most` and its halves take turns, and the lowest median is kept. The next trial comes
    after twenty times as long, so that trials cost a twentieth at most, or as soon as three pieces
    in a row are slow and fewer threads may help.
    """
    yield most  # the first piece fills caches, too
    while True:
        took: dict[int, list[float]] = {}
        threads = most
        while threads and not (took and _is_hopeless(took, threads * 2)):
            took[threads] = [(yield threads)]
            threads //= 2
        rivals = [threads for threads in took if not _is_hopeless(took, threads)]
        for _ in range(_TRIES - 1):
            for threads in rivals:
                took[threads].append((yield threads))
        medians = {threads: statistics.median(took[threads]) for threads in rivals}
        best = min(rivals, key=medians.__getitem__)
        left, slow = _BETWEEN_TRIALS * sum(map(sum, took.values())), 0
        while left > 0 and slow < 3:
            seconds = yield best
            left -= seconds
            slow = slow + 1 if best > 1 and seconds > _SLOW * medians[best] else 0


def _is_hopeless(took: dict[int, list[float]], threads: int) -> bool:
    return took[threads][0] > _HOPELESS * min(seconds[0] for seconds in took.values())
