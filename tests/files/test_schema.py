"""JSON becomes dataclasses by their declared types, or is refused by the name of what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.files.schema import (
    Above0,
    Between,
    Count,
    Format,
    Positive,
    SchemaError,
    Share,
    load,
    parse,
    parse_strictly,
)

DEEP = "[" * 100_000 + "]" * 100_000


@dataclass(frozen=True)
class Part:
    """A dataclass in another."""

    share: Share
    name: str = "none"

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise FfnEdgeError("a part is forbidden", "its own hint")


@dataclass(frozen=True)
class Whole:
    """A dataclass with a field of every kind."""

    count: Count
    parts: dict[int, Part]
    kind: Literal["small", "large"] = "small"
    size: tuple[Positive, Positive] | None = None
    notes: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[bool | int | float, ...] = ()
    any_number: Annotated[float, Between(-math.inf, math.inf)] = 0.0


GOOD: dict[str, Any] = {
    "count": 3,
    "parts": {"4": {"share": 0.5}, "16": {"share": 1, "name": "größer [/b]"}},
    "kind": "large",
    "size": [2, 1],
    "notes": ["a", "b c"],
    "more": {"x": [None]},
    "values": [True, 1, 1.0],
    "any_number": math.inf,
    "of a newer release": 1,
}
FORMAT = Format(cls=Whole, versions=(2, 4), kind="a thing", hint="make one.", error=BundleError)


def test_what_is_declared_is_read_and_what_is_not_is_passed_over() -> None:
    found = parse(Whole, load(json.dumps(GOOD)))
    assert found == Whole(
        count=3,
        parts={4: Part(0.5), 16: Part(1.0, "größer [/b]")},
        kind="large",
        size=(2, 1),
        notes=("a", "b c"),
        more={"x": [None]},
        values=(True, 1, 1.0),
        any_number=math.inf,
    )
    assert [type(value) for value in found.values] == [bool, int, float]
    assert isinstance(found.parts[16].share, float)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("count",), -1, "count"),
        (("count",), True, "count"),
        (("count",), 1.0, "count"),
        (("count",), 1 << 63, "count"),
        (("count",), 10**4000, "count"),
        (("count",), None, "count"),
        (("parts",), [], "parts"),
        (("parts",), {"4": 1}, r"parts\.4"),
        (("parts",), {"04": {"share": 0.5}}, "key of parts"),
        (("parts",), {"-4": {"share": 0.5}}, "key of parts"),
        (("parts", "4", "share"), 1.5, r"parts\.4\.share"),
        (("parts", "4", "share"), math.nan, r"parts\.4\.share"),
        (("parts", "4", "share"), math.inf, r"parts\.4\.share"),
        (("parts", "4", "share"), 10**400, r"parts\.4\.share"),
        (("parts", "4", "share"), "1", r"parts\.4\.share"),
        (("parts", "4", "name"), 7, r"parts\.4\.name"),
        (("parts", "4", "name"), "\x1b[2J", r"parts\.4\.name"),
        (("parts", "4", "name"), "\ud800", r"parts\.4\.name"),
        (("kind",), "other", "small, large"),
        (("kind",), ["small"], "kind"),
        (("size",), [1, 2, 3], "size"),
        (("size",), [1, 0], r"size\[1\]"),
        (("size",), 4, "size"),
        (("notes",), "text", "notes"),
        (("notes",), ["a", 1], r"notes\[1\]"),
        (("values",), [None], r"values\[0\]"),
        (("any_number",), math.nan, "any_number"),
        (("any_number",), 10**400, "any_number"),
    ],
)
def test_what_is_of_another_kind_or_out_of_bounds_is_named(
    place: tuple[str, ...], value: object, named: str
) -> None:
    fields = json.loads(json.dumps(GOOD))
    holder = fields
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(ValueError, match=named) as caught:
        parse(Whole, fields)
    assert len(str(caught.value)) < 300


def test_bounds_are_told_in_words() -> None:
    for kind, value, words in (
        (Above0, 0, "a number above 0"),
        (Share, 2, "at least 0 and at most 1"),
        (Count, -1, "a whole number of at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            parse(kind, value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"parts\.4\.share"):
        parse(Whole, {"count": 1, "parts": {"4": {}}})


def text(**changes: Any) -> str:
    return json.dumps({"schema_version": 2, **GOOD, **changes})


def test_a_format_reads_the_versions_that_it_knows() -> None:
    assert FORMAT.from_text(text(), "x") == FORMAT.from_text(text(schema_version=4).encode(), "x")


@pytest.mark.parametrize(
    "text_of_it",
    ["", "{", "[]", "3", "null", "\x00", '{"schema_version": ' + "9" * 5000 + "}", DEEP,
     '{"schema_version": 2, "x": ' + DEEP + "}", "{}"],
)  # fmt: skip
def test_what_is_none_is_refused_with_its_hint(text_of_it: str) -> None:
    with pytest.raises(BundleError, match="a thing") as caught:
        FORMAT.from_text(text_of_it, "x.json")
    assert caught.value.hint == "make one."


@pytest.mark.parametrize("version", [1, 3, "2", True, None, [2], {}])
def test_another_version_is_refused_by_its_number(version: object) -> None:
    with pytest.raises(BundleError, match="version"):
        FORMAT.from_text(text(schema_version=version), "x.json")


def test_what_is_damaged_is_refused_with_the_place() -> None:
    with pytest.raises(BundleError, match=r"x\.json is damaged: count"):
        FORMAT.from_text(text(count="3"), "x.json")
    with pytest.raises(BundleError, match="a part is forbidden") as caught:
        FORMAT.from_text(text(parts={"4": {"share": 0, "name": "forbidden"}}), "x.json")
    assert caught.value.hint == "make one."


def test_a_file_that_cannot_be_read_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing here"):
        FORMAT.read(tmp_path / "none.json", missing="nothing here")
    for content in (b"\xff\xfe{", b""):
        (tmp_path / "some.json").write_bytes(content)
        with pytest.raises(BundleError, match=r"some\.json"):
            FORMAT.read(tmp_path / "some.json", missing="nothing here")


def test_strictly_everything_that_is_wrong_is_told_by_its_name() -> None:
    wrong = {
        "cuont": 3,
        "parts": {"4": {"share": 2, "nam": "x"}, "5": {}, "6": 7},
        "size": [1, 0],
        "notes": [1, "a", 2],
    }
    with pytest.raises(SchemaError) as caught:
        parse_strictly(Whole, wrong)
    assert sorted(problem.name for problem in caught.value.problems) == [
        "count",
        "cuont",
        "notes[0]",
        "notes[2]",
        "parts.4.nam",
        "parts.4.share",
        "parts.5.share",
        "parts.6",
        "size[1]",
    ]
    assert "did you mean count?" in str(caught.value)


def test_strictly_what_holds_between_fields_is_told_with_the_table() -> None:
    with pytest.raises(SchemaError, match=r"parts\.4: a part is forbidden") as caught:
        parse_strictly(Whole, {"count": 1, "parts": {"4": {"share": 0, "name": "forbidden"}}})
    assert [problem.name for problem in caught.value.problems] == ["parts.4"]


def test_strictly_what_is_right_is_read_as_ever() -> None:
    good = {key: value for key, value in GOOD.items() if key != "of a newer release"}
    assert parse_strictly(Whole, good) == parse(Whole, GOOD)


class Token:
    """A text that is not to be seen."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def from_text(cls, text: str) -> Token:
        """Return it, unless it is empty."""
        if not text:
            raise ValueError("is empty")
        return cls(text)


@dataclass(frozen=True)
class Door:
    """A dataclass with what is made of texts."""

    token: Token
    path: Path | None = None


def test_what_is_made_of_a_text_is_made_of_it_and_never_shown() -> None:
    found = parse(Door, {"token": "hunter2", "path": "a/b"})
    assert (found.token.text, found.path) == ("hunter2", Path("a/b"))
    for wrong in (["hunter2"], {"hunter2": 1}, "hunter2\x1b", "", 22):
        with pytest.raises(SchemaError, match="token") as caught:
            parse(Door, {"token": wrong})
        assert "hunter2" not in str(caught.value) and "22" not in str(caught.value)
    with pytest.raises(SchemaError) as caught:
        parse_strictly(Door, [{"token": "hunter2"}])
    assert "hunter2" not in str(caught.value)
