"""Errors carry what happened and what to do about it."""

from __future__ import annotations

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
