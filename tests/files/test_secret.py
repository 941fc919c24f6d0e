"""Secrets come from where they are kept, and are shown nowhere."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.secret import Secret


def file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Table:
    """What holds a secret."""

    password: Secret


def test_a_secret_is_a_variable_a_file_or_the_text_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR", "hunter2")
    file(tmp_path / "door", b"hunter3\r\n")
    assert Secret.from_text("env:DOOR").reveal() == "hunter2"
    assert Secret.from_text(f"file:{tmp_path}/door").reveal() == "hunter3"
    assert Secret.from_text("file:door").read(tmp_path).reveal() == "hunter3"
    assert Secret.from_text("rtsp://u:p@door").reveal() == "rtsp://u:p@door"


def test_only_newlines_at_the_end_are_stripped(tmp_path: Path) -> None:
    file(tmp_path / "door", b" a \nb \n\n")
    assert Secret.from_text("file:door").read(tmp_path).reveal() == " a \nb "


@pytest.mark.parametrize("text", ["hunter2", "env:HUNTER", "file:hunter"])
def test_nothing_shows_a_secret(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUNTER", "hunter2")
    file(tmp_path / "hunter", b"hunter2")
    secret = Secret.from_text(text).read(tmp_path)
    assert secret.reveal() == "hunter2"
    table = Table(secret)

    shown = [
        *(str(secret), repr(secret), f"{secret}", f"{secret:>20}", "%s %r" % (secret, secret)),  # noqa: UP031
        *(
            str(table),
            repr(asdict(table)),
            str(vars(table)),
            str([secret]),
            json.dumps(str(secret)),
        ),
        *(str(copy.copy(table)), str(copy.deepcopy(table))),
    ]
    for action in (json.dumps, pickle.dumps, vars, iter):
        with pytest.raises(TypeError) as caught:
            action(secret)  # type: ignore[operator]
        shown.append("".join(traceback.format_exception(caught.value)))
    assert not [each for each in shown if "hunter2" in each]


def test_a_secret_does_not_change() -> None:
    secret = Secret.from_text("a")
    with pytest.raises(AttributeError):
        secret._value = "b"


def test_a_secret_that_was_read_stays_and_differs_from_a_new_one(tmp_path: Path) -> None:
    file(tmp_path / "door", b"old")
    before = Secret.from_text("file:door").read(tmp_path)
    assert before == Secret.from_text("file:door").read(tmp_path)
    assert hash(before) == hash(Secret.from_text("file:door").read(tmp_path))
    file(tmp_path / "door", b"new")
    assert before.reveal() == "old"
    assert before != Secret.from_text("file:door").read(tmp_path)


def test_a_secret_that_is_not_there_is_an_error_that_says_where(tmp_path: Path) -> None:
    file(tmp_path / "empty", b"\n")
    file(tmp_path / "bytes", b"\xffhunter2")
    for text, noun in (
        ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
        ("file:absent", "absent"),
        ("file:empty", "empty"),
        ("file:.", "regular"),
        ("file:bytes", "UTF-8"),
    ):
        with pytest.raises(FfnEdgeError, match=noun) as caught:
            Secret.from_text(text).read(tmp_path)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    for text in ("", "env:", "file:"):
        with pytest.raises(ValueError, match="empty"):
            Secret.from_text(text)


def test_a_file_that_everybody_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        file(tmp_path / "mine", b"hunter2", 0o640)
        Secret.from_text("file:mine").read(tmp_path)
        assert not caplog.records
        file(tmp_path / "all", b"hunter2", 0o644)
        Secret.from_text("file:all").read(tmp_path)
    assert "all" in caplog.text and "hunter2" not in caplog.text
