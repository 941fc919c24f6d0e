"""How far a long work is."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress

from ffn_edge import progress as progress_module
from ffn_edge.export.report import BuildProgress
from ffn_edge.progress import NowAndThen, progress
from ffn_edge.terminal import Terminal


class Clock:
    """A clock that is set by hand."""

    now_s = 0.0

    def monotonic(self) -> float:
        """Stand for `time.monotonic`."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the module."""
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_a_log_gets_a_line_every_half_minute(clock: Clock) -> None:
    console = Terminal(file=io.StringIO(), force_terminal=False)
    with progress(console, "reading") as show:
        for number in range(1, 101):
            clock.now_s += 1.0
            show(number, 100)
    assert isinstance(console.file, io.StringIO)
    lines = ["reading: 30 of 100", "reading: 60 of 100", "reading: 90 of 100"]
    assert console.file.getvalue().splitlines() == lines


def test_a_short_work_says_nothing(clock: Clock) -> None:
    console = Terminal(file=io.StringIO(), force_terminal=False)
    with progress(console, "reading") as show:
        show(1, 1)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_terminal_gets_a_bar(clock: Clock) -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True, width=80)
    with progress(console, "reading") as show:
        show(3, 9)
    assert isinstance(console.file, io.StringIO)
    assert "33%" in console.file.getvalue()


def test_what_is_not_said_is_not_made(clock: Clock) -> None:
    NowAndThen(print)(lambda: pytest.fail("made"))


def test_a_build_says_its_phase_to_a_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ffn_edge")
    build = BuildProgress(Progress(disable=True))
    build("tactics", 1, 10)
    clock.now_s = 40.0
    build("tactics", 2, 10)
    assert caplog.messages == ["tactics: 2 of 10"]
