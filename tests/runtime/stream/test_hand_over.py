"""Items go from thread to thread; the newest first, or each in its turn."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from ffn_edge.runtime.stream.hand_over import HandOver


def test_every_item_is_handled_in_its_turn_where_none_may_be_dropped() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        time.sleep(0.001)
        handled.append(item)

    hand: HandOver[int] = HandOver(handle, "test")
    for number in range(50):
        hand.put(number, drop=False)
    hand.close()
    assert handled == list(range(50))
    assert (hand.count, hand.dropped) == (50, 0)


def test_at_most_one_item_waits_and_the_newest_is_handled_last() -> None:
    handled: list[int] = []
    begun, may_end = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        handled.append(item)
        begun.set()
        may_end.wait(timeout=10)

    hand: HandOver[int] = HandOver(handle, "test")
    hand.put(0, drop=True)
    begun.wait(timeout=10)
    for number in range(1, 9):
        hand.put(number, drop=True)
    may_end.set()
    hand.wait()
    assert handled == [0, 8]
    assert (hand.count, hand.dropped) == (9, 7)
    hand.put(9, drop=True)  # the thread is idle, and wakes up
    hand.wait()
    hand.close()
    hand.put(10, drop=False)
    assert handled == [0, 8, 9]


def test_what_fails_is_raised_where_the_next_item_is_put() -> None:
    def handle(item: int) -> None:
        raise OSError("the disk is full")

    hand: HandOver[int] = HandOver(handle, "test")
    hand.put(0, drop=False)
    with pytest.raises(OSError, match="disk is full"):
        for number in range(3):
            hand.put(number, drop=False)
    hand.close()
    assert isinstance(hand.error, OSError)


def test_python_waits_for_a_thread_that_nobody_closed() -> None:
    program = """
import time
from ffn_edge.runtime.stream.hand_over import HandOver
hand = HandOver(lambda item: (time.sleep(0.3), print(item, flush=True)), "test")
hand.put("first", drop=True)
time.sleep(0.1)
hand.put("second", drop=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["first", "second"], "")
