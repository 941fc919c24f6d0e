"""What the tests of the page share: frames of named cameras, and a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ffn_edge.files.secret import Secret
from ffn_edge.runtime.serve.board import Board
from ffn_edge.runtime.serve.http import HttpServer, HttpSettings
from ffn_edge.runtime.stream.sources import Frame

Show = Callable[..., None]
Serve = Callable[..., HttpServer]


@pytest.fixture
def show() -> Show:
    """A function that gives a board a frame of a camera: grey of some brightness."""

    def give(board: Board, name: str, grey: int = 128) -> None:
        stream: Any = SimpleNamespace(name=name)
        board.frame(Frame(np.full((720, 1280, 3), grey, np.uint8), 0.0), stream)

    return give


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves a board on this machine until the test ends."""
    with ExitStack() as stack:

        def start(board: Board, *, port: int = 0, **fields: Any) -> HttpServer:
            settings = {
                name: fields.pop(name) for name in ("token", "certificate", "key") if name in fields
            }
            if "token" in settings:
                settings["token"] = Secret(settings["token"], settings["token"])
            return stack.enter_context(
                HttpServer(HttpSettings(port=port, **settings), board, **fields)
            )

        yield start
