"""Errors carry what happened and what to do about it."""

from __future__ import annotations

import os
import pickle

import pytest

from ffn_edge import errors
from ffn_edge.errors import FfnEdgeError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_an_error_shows_its_hint() -> None:
    assert str(FfnEdgeError("no room", "free some")) == "no room\nHint: free some"
    assert str(FfnEdgeError("no room")) == "no room"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_through_a_pickle_with_its_hint(kind: type[FfnEdgeError]) -> None:
    # As from a data-loader worker to the main process.
    error = pickle.loads(pickle.dumps(kind("no room", "free some")))

    assert type(error) is kind
    assert (error.message, error.hint) == ("no room", "free some")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_that_the_command_line_explains(kind: type[FfnEdgeError]) -> None:
    assert issubclass(kind, FfnEdgeError)
    assert kind.__doc__


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://me:hunter2@host/live",
        "rtsp:/me:hunter2@host/live",  # as a path has it
        "rtps://me:hunter2@host",
        "rtsp://me:hunter2/with@slash@host/live?key=1",
        "videos/rtsp:/me:hunter2 with space@host",
    ],
)
def test_no_error_shows_user_or_password(address: str) -> None:
    error = FfnEdgeError(f"there is no video at {address}", f"look at {address}.")
    for text in (str(error), repr(error), error.hint):
        assert "hunter2" not in text
        assert "@" in text


def test_a_name_that_is_no_text_can_be_printed() -> None:
    error = FfnEdgeError(f"there is no video at {os.fsdecode(bytes([97, 255]))}.mp4")
    str(error).encode("utf-8")
    assert "a?.mp4" in error.message


def test_what_would_act_on_a_terminal_is_shown_as_it_is_written() -> None:
    error = FfnEdgeError("no \x1b[2J\x9b\u202e.mp4", "a\nline stays")
    assert error.message == r"no \x1b[2J\x9b\u202e.mp4"
    assert error.hint == "a\nline stays"


def test_a_message_has_an_end_and_no_secret_at_its_cut() -> None:
    error = FfnEdgeError(f"there is no video at rtsp://me:hunter2{'x' * 100_000}@host")
    assert "hunter2" not in error.message
    assert len(FfnEdgeError("x" * 100_000).message) < 3000


def test_texts_without_an_address_stay() -> None:
    for text in ("me@host", "a:b@c", "/videos/a@b.mp4", "http://host/a"):
        assert FfnEdgeError(text).message == text
