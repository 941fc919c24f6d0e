"""How many threads compute: the quickest number is found, kept, and found again."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
import torch
from click.testing import CliRunner

from ffn_edge.commands.option_types import threads_option
from ffn_edge.device.cpu_threads import choose_threads, fixed_threads
from ffn_edge.network.threads import thread_counts


def chosen(most: int, seconds: Callable[[int, float], float], until: float) -> list[int]:
    """Return the numbers of threads of all pieces of work.

    Args:
        most: the number of cores.
        seconds: what a piece takes with so many threads, at a time.
        until: when to end.
    """
    choice = choose_threads(most)
    threads, now, found = next(choice), 0.0, []
    while now < until:
        found.append(threads)
        took = seconds(threads, now)
        now += took
        threads = choice.send(took)
    return found


@pytest.mark.parametrize("best", [1, 2, 4, 8])
def test_the_quickest_number_of_threads_does_nearly_all_the_work(best: int) -> None:
    found = chosen(8, lambda threads, now: 1.0 if threads == best else 1.4, 1000)
    assert found.count(best) > 0.9 * len(found)


def test_trials_cost_a_twentieth_of_the_time_however_slow_they_are() -> None:
    found = chosen(2, lambda threads, now: 1.0 if threads == 1 else 15.0, 10000)
    assert sum(15.0 for threads in found if threads == 2) < 0.06 * 10000


def test_numbers_that_are_hopeless_are_tried_once_in_a_trial() -> None:
    found = chosen(16, lambda threads, now: 16.0 / threads, 50)
    assert found.count(8) <= 3 * found.count(4) and found.count(4) == 1 and 1 not in found


def test_a_load_that_begins_is_noticed_at_once_and_its_end_by_the_next_trial() -> None:
    def seconds(threads: int, now: float) -> float:
        busy = 100 <= now < 400
        return 1.0 if threads == 1 else (3.0 if busy else 0.6)

    found = chosen(2, seconds, 1000)
    clock, by_time = 0.0, []
    for threads in found:
        by_time.append((clock, threads))
        clock += seconds(threads, clock)
    assert {threads for now, threads in by_time if 20 < now < 60} == {2}
    assert {threads for now, threads in by_time if 120 < now < 140} == {1}
    assert by_time[-1][1] == 2


def test_pytorch_has_its_own_number_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    try:
        used = []
        with thread_counts() as measured_of_kind:
            measured = measured_of_kind()
            for _ in range(8):
                with measured():
                    used.append(torch.get_num_threads())
        assert len(used) == 8 and used[0] == 4 and min(used) < 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


def test_no_more_threads_are_tried_than_a_quota_lets_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ffn_edge.network.threads.cpu_quota", lambda: 1.5)
    torch.set_num_threads(4)
    try:
        with thread_counts() as measured_of_kind:
            measured = measured_of_kind()
            with measured():
                assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("variable", ["3", "4,2"])
def test_a_number_that_the_user_fixed_is_not_measured(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    torch.set_num_threads(3)
    try:
        with thread_counts() as measured_of_kind:
            measured = measured_of_kind()
            for _ in range(8):
                with measured():
                    assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_the_option_fixes_the_number_for_what_is_imported_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen: list[int | None] = []
    command = threads_option(click.Command("x", callback=lambda: seen.append(fixed_threads())))
    assert CliRunner().invoke(command, ["--threads", "3"]).exit_code == 0
    assert CliRunner().invoke(command, []).exit_code == 0
    assert seen == [3, 3]
