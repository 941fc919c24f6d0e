"""systemd is told what sd_notify(3) says, over a real socket."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffn_edge.runtime.serve.systemd import Watchdog, notify, reloading


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What listens as systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        address = str(tmp_path / "notify")
        if request.param == "abstract":
            address = f"@ffn-edge-{uuid.uuid4()}"
        listener.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listener


def test_states_are_sent_as_lines(manager: socket.socket) -> None:
    notify(READY=1, STATUS="2 cameras\nof rtsp://u:p@host/1")
    assert manager.recv(4096) == b"READY=1\nSTATUS=2 cameras of rtsp://...@host/1"
    notify(STOPPING=1)
    assert manager.recv(4096) == b"STOPPING=1"


def test_a_reload_has_its_time(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading()
    found = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(4096))
    assert found and before <= int(found[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_without_a_manager_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY=1)
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify(READY=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_watchdog_is_fed_while_the_loop_gets_on(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with Watchdog(time.monotonic):
        assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_the_watchdog_is_not_fed_when_the_loop_stands(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    stood = time.monotonic() - 10
    asked = []

    def progress() -> float:
        asked.append(1)
        return stood

    with Watchdog(progress):
        while len(asked) < 3:
            time.sleep(0.01)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "wanted", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_nobody_wants_is_not_there(
    wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    with Watchdog(lambda: pytest.fail("asked")) as watchdog:
        assert not watchdog._thread.is_alive()
