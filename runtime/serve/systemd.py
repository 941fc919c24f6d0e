"""What systemd is told of the service: sd_notify(3) by the standard library.

Where no service manager listens, none of this does anything.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from ffn_edge.errors import printable

_log = logging.getLogger(__name__)

_TIMEOUT_S = 2.0


def notify(**state: str | int) -> None:
    """Send variables of sd_notify(3): `notify(READY=1, STATUS="4 cameras")`.

    A manager that does not take them is logged; the service goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    lines = (f"{name}={printable(str(value))}".replace("\n", " ") for name, value in state.items())
    if address.startswith("@"):  # in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_TIMEOUT_S)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.warning("systemd cannot be told %s: %s", ", ".join(state), error)


def reloading() -> None:
    """Say that the configuration is being read again; `notify(READY=1)` says that it was."""
    notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


class Watchdog:
    """Tells systemd that the service lives, for as long as it gets on.

        with Watchdog(lambda: loop.last_round_s):
            ...

    Where the unit has a WatchdogSec, a thread asks for progress twice in that time, and says
    nothing if there was none for as long: systemd then starts the service again.
    """

    def __init__(self, progress: Callable[[], float]) -> None:
        """Read what systemd wants.

        Args:
            progress: returns when the loop last went round, in seconds of `time.monotonic`. From a
                thread of this class's own.
        """
        self._progress = progress
        self._most_s = _watchdog_s()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._most_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._most_s is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._most_s is not None
        stood_still = False
        while not self._end.wait(self._most_s / 2):
            still_s = time.monotonic() - self._progress()
            if still_s < self._most_s:
                notify(WATCHDOG=1)
            elif not stood_still:
                _log.error("no progress for %.1f s: systemd will start the service again", still_s)
            stood_still = still_s >= self._most_s


def _watchdog_s() -> float | None:
    """Return the time after which systemd gives up this process; None is never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or int(microseconds) == 0 or process != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
