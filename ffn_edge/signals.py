"""Ctrl-C, SIGTERM and SIGHUP as a request to end in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return what asks a program to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that goes away.

    Without SIGHUP where it is ignored, which is what `nohup` does.
    """
    ignores = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignores else (signal.SIGHUP,)))


@contextmanager
def on_signals(
    action: Callable[[], object], *numbers: signal.Signals, once: bool = True
) -> Iterator[None]:
    """Call `action` instead of what a signal would do, until the block ends.

    Only in the main thread, where alone Python allows it; in another, the block is left as it is.

    Args:
        action: is called between two steps of Python, so it should only note the request.
        numbers: the signals.
        once: whether the second signal does again what it did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        action()
        if once:
            restore()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
