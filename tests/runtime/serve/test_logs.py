"""Logs for programs: each record is one line of JSON, without secrets."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ffn_edge.files.secret import Secret
from ffn_edge.runtime.serve.logs import JsonHandler, logs_for_programs

LOG = logging.getLogger("ffn_edge.test")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_is_one_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with logs_for_programs():
        LOG.warning("stopped: %s", "a\nb \x1b[2J größer", extra={"camera": "door"})
    text = capsys.readouterr().err
    (found,) = lines(text)
    assert datetime.fromisoformat(found.pop("time").replace("Z", "+00:00"))
    assert found == {
        "level": "warning",
        "logger": "ffn_edge.test",
        "camera": "door",
        "message": "stopped: a\nb \\x1b[2J größer",
    }
    assert "größer" in text


def test_an_exception_is_in_the_line_however_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        else:
            raise OSError("at the end")

    with logs_for_programs():
        try:
            deep(100)
        except OSError:
            LOG.exception("failed")
    (found,) = lines(capsys.readouterr().err)
    assert found["exception"].endswith("OSError: at the end")
    assert found["exception"].startswith("Traceback")


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_that_ends_a_thread_is_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError("in a thread")

    with logs_for_programs():
        thread = threading.Thread(target=fail, name="reader")
        thread.start()
        thread.join()
    (found,) = lines(capsys.readouterr().err)
    assert "reader" in found["message"] and "in a thread" in found["exception"]


def test_secrets_are_hidden_wherever_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with logs_for_programs() as handler:
        assert handler is not None
        handler.hide([Secret.from_text("hunter2"), Secret.from_text("hunter22"), Secret("a")])
        LOG.warning("rtsp://me:hunter1@host hunter22 a")
        try:
            raise OSError("https://example.org/?token=hunter2")
        except OSError:
            LOG.exception("no answer", extra={"camera": "hunter2"})
        handler.hide([Secret.from_text("hunter3")])
        LOG.warning("hunter2 hunter3")
    first, second, third = lines(capsys.readouterr().err)
    assert first["message"] == "rtsp://...@host *** a"
    assert "hunter" not in str(second)
    assert third["message"] == "*** ***"


def test_warnings_of_libraries_are_lines_too_and_all_is_undone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger, root = logging.getLogger("ffn_edge"), logging.getLogger()
    before = (logger.handlers[:], root.handlers[:], threading.excepthook)
    with logs_for_programs():
        logging.getLogger("paho").warning("lost")
        logging.getLogger("paho").info("a detail")
    assert [each["logger"] for each in lines(capsys.readouterr().err)] == ["paho"]
    assert (logger.handlers, root.handlers, threading.excepthook) == before


def test_a_terminal_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with logs_for_programs() as handler:
        assert handler is None


def test_the_journal_gets_the_level_as_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        handler = JsonHandler(file)
        for level in (
            logging.DEBUG,
            logging.INFO,
            logging.WARNING,
            logging.ERROR,
            logging.CRITICAL,
        ):
            handler.handle(logging.LogRecord("x", level, "", 1, "text", (), None))
    text = (tmp_path / "log").read_text().splitlines()
    assert [line[:3] for line in text] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert json.loads(text[0][3:])["message"] == "text"
