"""JSON texts with a schema version."""

from __future__ import annotations

import pytest

from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.versioned_json import read_versioned


def read(text: str) -> dict[str, object]:
    return read_versioned(text, (2, 4), where="x.json", kind="a thing", hint="make one.")


@pytest.mark.parametrize("version", [2, 4])
def test_each_known_version_is_read(version: int) -> None:
    assert read(f'{{"schema_version": {version}, "a": 1}}') == {"schema_version": version, "a": 1}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "2", '"schema_version"', "{}", "null", "[" * 100_000]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(FfnEdgeError, match=r"x\.json is not a thing") as caught:
        read(text)
    assert caught.value.hint == "make one."


@pytest.mark.parametrize("version", ["1", "3", '"2"', "null"])
def test_another_version_is_refused_with_all_numbers(version: str) -> None:
    message = r"has schema version .*; this release reads 2 and 4"
    with pytest.raises(BundleError, match=message) as caught:
        read_versioned(
            f'{{"schema_version": {version}}}',
            (2, 4),
            where="x.json",
            kind="a thing",
            hint="make one.",
            hint_for_others="update.",
            error=BundleError,
        )
    assert caught.value.hint == "update."
