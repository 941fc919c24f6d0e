"""From JSON to dataclasses: the declared types are the schema, checked here and nowhere else.

    class Accuracy:
        top1: Share                     # Annotated[float, Between(0, 1)]
        clips: Count
    accuracy: dict[int, Accuracy]       # {"8": {"top1": 0.9, "clips": 600}}

A field's type may be a scalar, a `Literal`, a tuple, a mapping, another dataclass, a class that
is made `from_text`, a `Path`, or a union, of which the first that fits counts; numbers may be
`Annotated` with bounds. They are finite, whole ones have 64 bits, and texts can be shown on a
terminal. A field that is missing has its default; one that is not declared is passed over: a
newer release may have written it. In a file that people write it is a mistake: `parse_strictly`
refuses it, and tells of everything that is wrong at once. What holds between fields is the
dataclass's own `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files.regular_file import read_text

T = TypeVar("T")
_MOST_FINITE, _MOST_WHOLE = sys.float_info.max, (1 << 63) - 1
_LEAST_ABOVE_0 = sys.float_info.min
# A lone surrogate could not be written anywhere; an escape sequence would act on the terminal.
_UNSHOWN = re.compile(r"[\0-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_Parser = Callable[[object, str], Any]


@dataclass(frozen=True, slots=True)
class Between:
    """The bounds of a number, both included: without any, all that are finite."""

    least: float = -_MOST_FINITE
    most: float = _MOST_FINITE


Count = Annotated[int, Between(0)]
Positive = Annotated[int, Between(1)]
Share = Annotated[float, Between(0, 1)]
NotNegative = Annotated[float, Between(0)]
Above0 = Annotated[float, Between(_LEAST_ABOVE_0)]
Rgb = tuple[float, float, float]
RgbAbove0 = tuple[Above0, Above0, Above0]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a value.

    Attributes:
        name: of the value, as "camera[0].roi[1]"; of one that is missing, what it would have.
        text: what is wrong, with the name.
    """

    name: str
    text: str


class SchemaError(ValueError):
    """What is wrong with a value: one problem, or in `parse_strictly` all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = tuple(problems)


def load(text: str | bytes) -> Any:
    """Return what a JSON text says; bytes are in UTF-8.

    Raises:
        ValueError: it is no JSON, or is nested too deep.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse(kind: type[T], value: object, name: str = "") -> T:
    """Return a value of JSON, or of a file of plain values, as what it must be.

    Args:
        kind: a dataclass, or what a field of one may be declared as.
        value: to check.
        name: of the value, for the message.

    Raises:
        ValueError: it is something else, or out of its bounds.
    """
    kinds: Any = kind
    found: T = _parser(kinds)(value, name)
    return found


def parse_strictly(kind: type[T], value: object) -> T:
    """Return what `parse` does of a file that people write: a key that nobody declared is wrong.

    Raises:
        SchemaError: with every problem that was found.
    """
    kinds: Any = kind
    found: T = _parser(kinds, strict=True)(value, "")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Generic[T]):
    """A kind of JSON file that says which version of its schema it follows.

    Attributes:
        cls: the dataclass that it holds.
        versions: those that its "schema_version" may be.
        kind: what it is, such as "a profile".
        hint: what to do where it is none.
        hint_for_others: what to do where it follows another version; empty is the same.
        error: what to raise.
    """

    cls: type[T]
    versions: tuple[int, ...] = (1,)
    kind: str
    hint: str
    hint_for_others: str = ""
    error: type[FfnEdgeError] = FfnEdgeError

    def read(self, path: Path, missing: str = "") -> T:
        """Return what a file holds.

        Args:
            path: of the file.
            missing: what to say where there is none.

        Raises:
            FfnEdgeError: or `error`: it cannot be read, or see `from_text`.
        """
        try:
            text = read_text(path)
        except UnicodeError as failure:
            raise self.error(f"{path} is no text in UTF-8", self.hint) from failure
        except OSError as failure:
            message = f"{path} cannot be read: {reason_of(failure)}"
            if missing and isinstance(failure, FileNotFoundError):
                message = missing
            raise self.error(message, self.hint) from failure
        return self.from_text(text, str(path))

    def from_text(self, text: str | bytes, where: str) -> T:
        """Return what a text holds that was found at `where`.

        Raises:
            FfnEdgeError: or `error`: it is none, is damaged, or follows another version.
        """
        try:
            raw = load(text)
            found = raw["schema_version"]
        except (ValueError, KeyError, TypeError) as failure:
            raise self.error(f"{where} is not {self.kind}", self.hint) from failure
        if isinstance(found, bool) or found not in self.versions:
            raise self.error(
                f"{where} has schema version {found!r:.50}; "
                f"this release reads {' and '.join(map(str, self.versions))}",
                self.hint_for_others or self.hint,
            )
        try:
            return parse(self.cls, raw)
        except (ValueError, FfnEdgeError) as failure:
            reason = getattr(failure, "message", failure)  # without a hint of its own
            raise self.error(f"{where} is damaged: {reason}", self.hint) from failure


@cache
def _parser(kind: Any, strict: bool = False) -> _Parser:
    """Return the function that turns a value into what `kind` declares."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _number(*arguments)
    if origin in (Union, types.UnionType):
        return _any_of(arguments, strict)
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple:
        return _tuple(arguments, strict)
    if origin is Sequence:
        return _tuple((*arguments, ...), strict)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments, strict)
    if kind is Path or hasattr(kind, "from_text"):
        return _from_text(kind if kind is Path else kind.from_text)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, strict)
    if kind in (int, float):
        return _number(kind, Between())
    return {str: _str, bool: _bool, Any: lambda value, name: value}[kind]


def _wrong(value: object, name: str, wanted: str) -> SchemaError:
    # Not what is in it: that may be a secret.
    if isinstance(value, list | dict):
        shown = "a list" if isinstance(value, list) else "an object"
    else:
        shown = f"{value!r:.50}"
    return _problem(name, f"{name or 'the whole':.100} is {shown}, not {wanted}")


def _problem(name: str, text: str) -> SchemaError:
    return SchemaError([Problem(name, text)])


def _every(parsers: Iterable[Callable[[], Any]], strict: bool) -> list[Any]:
    """Return what each of them returns; where `strict`, raise what all of them raise."""
    found: list[Any] = []
    problems: list[Problem] = []
    for parser in parsers:
        try:
            found.append(parser())
        except SchemaError as error:
            if not strict:
                raise
            problems += error.problems
    if problems:
        raise SchemaError(problems)
    return found


def _number(kind: type[int] | type[float], bounds: Between) -> _Parser:
    least, most = bounds.least, bounds.most
    kinds = int if kind is int else int | float
    wanted = "a whole number" if kind is int else "a number"
    if bounds.least == _LEAST_ABOVE_0:
        wanted += " above 0"
    elif bounds.least > -_MOST_FINITE:
        wanted += f" of at least {bounds.least:g}"
    if bounds.most < _MOST_FINITE:
        wanted += f" and at most {bounds.most:g}"

    def parser(value: object, name: str) -> int | float:
        if kind is int and isinstance(value, int) and not -_MOST_WHOLE <= value <= _MOST_WHOLE:
            raise _wrong(value, name, "a whole number of 64 bits")
        # True is 1 to Python. What is not a number is in no bounds.
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise _wrong(value, name, wanted)
        try:
            return kind(value)
        except OverflowError as error:  # a whole number that no float reaches
            raise _wrong(value, name, wanted) from error

    return parser


def _str(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, name, "a text")
    if _UNSHOWN.search(value):
        raise _wrong(value, name, "a text that can be shown")
    return value


def _bool(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, name, "true or false")
    return value


def _from_text(make: Callable[[str], Any]) -> _Parser:
    def parser(value: object, name: str) -> Any:
        if not isinstance(value, str) or _UNSHOWN.search(value):  # it may be a secret: not shown
            raise _problem(name, f"{name:.100} is no text in quotes that can be shown")
        try:
            return make(value)
        except ValueError as error:
            raise _problem(name, f"{name:.100} {error}") from error

    return parser


def _any_of(kinds: tuple[Any, ...], strict: bool) -> _Parser:
    inner = [_parser(kind, strict) for kind in kinds if kind is not types.NoneType]
    or_none = len(inner) < len(kinds)

    def parser(value: object, name: str) -> Any:
        if value is None and or_none:
            return None
        errors = []
        for parser_of_kind in inner:
            try:
                return parser_of_kind(value, name)
            except SchemaError as error:
                errors.append(error)
        # Where something in it is wrong, it was meant to be of that kind.
        raise next((each for each in errors if each.problems[0].name != name), errors[-1])

    return parser


def _one_of(choices: tuple[Any, ...]) -> _Parser:
    def parser(value: object, name: str) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(value, name, f"one of {', '.join(choices)}")
        return value

    return parser


def _tuple(kinds: tuple[Any, ...], strict: bool) -> _Parser:
    any_length = kinds[-1] is Ellipsis
    inner = [_parser(kind, strict) for kind in kinds if kind is not Ellipsis]

    def parser(value: object, name: str) -> Any:
        if not isinstance(value, list | tuple) or (not any_length and len(value) != len(inner)):
            raise _wrong(value, name, "a list" if any_length else f"a list of {len(inner)}")
        each = inner * len(value) if any_length else inner
        items = (
            partial(parser_of_item, item, f"{name}[{place}]")
            for place, (parser_of_item, item) in enumerate(zip(each, value, strict=True))
        )
        return tuple(_every(items, strict))

    return parser


def _mapping(kinds: tuple[Any, ...], strict: bool) -> _Parser:
    key_kind, inner = kinds[0], _parser(kinds[1], strict)

    def parser(value: object, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, name, "a table" if strict else "an object")

        def entry(key: object, item: object) -> tuple[Any, Any]:
            return _key(key, key_kind, name), inner(item, f"{name}.{key}")

        return dict(_every((partial(entry, *each) for each in value.items()), strict))

    return parser


def _key(key: object, kind: Any, name: str) -> Any:
    """Return a key; JSON writes a number as its digits."""
    if kind is int and isinstance(key, str) and re.fullmatch(r"0|[1-9]\d{0,17}", key):
        return int(key)
    try:
        return _parser(kind)(key, f"a key of {name or 'the whole'}")
    except SchemaError as error:
        raise _problem(f"{name}.{key}", str(error)) from error


def parse_fields(cls: type, values: Mapping[str, object], name: str = "") -> dict[str, Any]:
    """Return the values of a dataclass's fields, as far as they are there, as what they must be.

    Raises:
        ValueError: one is something else, or out of its bounds.
    """
    start = name and f"{name}."
    return {
        key: parser(values[key], start + key)
        for key, parser in _parsers(cls).items()
        if key in values
    }


@cache
def _parsers(cls: Any, strict: bool = False) -> dict[str, _Parser]:
    hints = get_type_hints(cls, include_extras=True)
    names = [each.name for each in dataclasses.fields(cls) if each.init]
    return {name: _parser(hints[name], strict) for name in names}


def _dataclass(cls: Any, strict: bool) -> _Parser:
    needed = {
        each.name
        for each in dataclasses.fields(cls)
        if each.init and each.default is each.default_factory is dataclasses.MISSING
    }

    def parser(value: object, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, name, "a table" if strict else "an object")
        if strict:
            return _strictly(cls, value, name, needed)
        if missing := needed - value.keys():
            raise _missing(sorted(missing)[0], name)
        return cls(**parse_fields(cls, value, name))

    return parser


def _missing(key: str, name: str) -> SchemaError:
    key = f"{name and name[:100] + '.'}{key}"
    return _problem(key, f"{key} is missing")


def _strictly(cls: Any, value: dict[str, object], name: str, needed: set[str]) -> Any:
    """Return a dataclass, or raise all that is wrong with its fields, in their order."""
    start = name and f"{name}."
    parsers = _parsers(cls, strict=True)

    def field_of(key: str) -> tuple[str, Any]:
        if key not in parsers:
            raise _unknown(key, name, parsers)
        return key, parsers[key](value[key], start + key)

    def absent(key: str) -> None:
        raise _missing(key, name)

    fields = _every(
        (
            *(partial(field_of, key) for key in value),
            *(partial(absent, key) for key in sorted(needed - value.keys())),
        ),
        strict=True,
    )
    try:
        return cls(**dict(fields))
    except FfnEdgeError as error:
        raise _problem(name, f"{name or 'the whole'}: {error.message}") from error


def _unknown(key: str, name: str, known: Iterable[str]) -> SchemaError:
    near = difflib.get_close_matches(key, known, 1)
    advice = f"did you mean {near[0]}?" if near else f"there may be {', '.join(known)}"
    where = f" in {name:.100}" if name else ""
    return _problem(f"{name and name + '.'}{key}", f"there is no key {key!r:.50}{where}: {advice}")
