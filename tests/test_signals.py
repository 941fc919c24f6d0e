"""Ctrl-C, SIGTERM and SIGHUP as a request to end in order."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from ffn_edge.signals import ending_signals, on_signals


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_signal_is_a_request_and_the_second_does_what_it_always_does() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with on_signals(lambda: heard.append("request"), signal.SIGINT):
        interrupt()
        assert heard == ["request"]
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert heard == ["request"]
    assert signal.getsignal(signal.SIGINT) is before


def test_every_signal_can_be_the_same_request() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with on_signals(lambda: heard.append("request"), signal.SIGINT, signal.SIGTERM, once=False):
        interrupt()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["request"] * 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_the_handlers_as_they_are() -> None:
    found: list[object] = []

    def run() -> None:
        with on_signals(lambda: None, signal.SIGINT):
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_terminal_that_goes_away_asks_to_end_but_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert set(ending_signals()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with on_signals(lambda: None, *ending_signals()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
