"""JSON texts with a schema version."""

from __future__ import annotations

import pytest

from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.versioned_json import read_versioned


def read(text: str) -> dict[str, object]:
    return read_versioned(text, 2, where="x.json", kind="a thing", hint="make one.")


def test_the_known_version_is_read() -> None:
    assert read('{"schema_version": 2, "a": 1}')["a"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "2", '"schema_version"', "{}", "null"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(FfnEdgeError, match=r"x\.json is not a thing") as caught:
        read(text)
    assert caught.value.hint == "make one."


@pytest.mark.parametrize("version", ["1", "3", '"2"', "null"])
def test_another_version_is_refused_with_both_numbers(version: str) -> None:
    with pytest.raises(BundleError, match=r"has schema version .*; this release reads 2") as caught:
        read_versioned(
            f'{{"schema_version": {version}}}',
            2,
            where="x.json",
            kind="a thing",
            hint="make one.",
            hint_for_others="update.",
            error=BundleError,
        )
    assert caught.value.hint == "update."
