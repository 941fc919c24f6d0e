"""Work that is shared among processes comes back in order, also where a process is lost."""

from __future__ import annotations

import os
import signal

import pytest

from ffn_edge.train.scan.pool import shared

TASKS = [(i,) for i in range(20)]


def double(number: int) -> int:
    return 2 * number


def killed_by_three_and_eleven(number: int) -> int:
    if number in (3, 11):
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_the_order_of_the_tasks(workers: int) -> None:
    told: list[tuple[int, int]] = []
    made = shared(double, TASKS, workers, lambda done, of: told.append((done, of)), lost=-1)
    assert list(made) == [2 * i for i in range(20)]
    assert told == [(i + 1, 20) for i in range(20)]


def test_a_task_that_ends_its_process_loses_no_other() -> None:
    made = shared(killed_by_three_and_eleven, TASKS, 2, lambda done, of: None, lost=-1)
    assert list(made) == [-1 if i in (3, 11) else 2 * i for i in range(20)]
