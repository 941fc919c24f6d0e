"""TOML, and in which line each of its values stands, which Python's reader does not tell.

What is found in a valid text is named as `ffn_edge.files.schema` names it: "camera[0].roi[1]".
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ffn_edge.errors import FfnEdgeError

_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A date and its time may have a space between them.
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,\]}#]+")
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_NAMED_LAST = re.compile(r"(?:\[\d+\]|\.?[^.\[]+|.)\Z", re.DOTALL)


class TomlError(ValueError):
    """A text that is no TOML, and the line where that is seen."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True, slots=True)
class Toml:
    """What a text says, and where.

    Attributes:
        values: tables are dictionaries.
        lines: of each table, key, and value of an array, by name; the first line is 1.
    """

    values: dict[str, Any]
    lines: Mapping[str, int]

    def line_of(self, name: str) -> int:
        """Return the line of a value, or, where it has none, of what it would stand in."""
        while name and name not in self.lines:
            name = name[: _NAMED_LAST.search(name).start()]  # type: ignore[union-attr]
        return self.lines.get(name, 1)


def load(text: str) -> Toml:
    """Return what a text says, and where.

    Raises:
        TomlError: it is no TOML.
        FfnEdgeError: this Python has no reader of TOML.
    """
    try:
        values = _loads(text)
        return Toml(values, _Scan(text).lines)
    except RecursionError as error:
        raise TomlError("it is nested too deep", 1) from error
    except ValueError as error:
        said = str(error)
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", said)
        line = int(found[1]) if found and found[1] else text.rstrip().count("\n") + 1
        raise TomlError(said[: found.start()] if found else said, line) from error


def _loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib as reader
    else:
        try:
            import tomli as reader
        except ModuleNotFoundError as error:
            raise FfnEdgeError(
                "Python 3.10 reads no TOML by itself", 'pip install "ffn-edge[serve]"'
            ) from error
    return reader.loads(text)


class _Scan:
    """Goes over a text that is known to be TOML, and notes where its keys and values begin."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._place = 0
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._tables: dict[str, int] = {}  # of each array of tables, how many there are so far
        table = ""
        while not self._at_end():
            if text[self._place] != "[":
                self._pair(table)
                continue
            line = self._line()
            brackets = 2 if text.startswith("[[", self._place) else 1
            self._place += brackets
            table = self._table(self._keys(), brackets == 2)
            self._place += brackets
            self.lines.setdefault(table, line)

    def _at_end(self) -> bool:
        self._skip(_BLANK)
        return self._place >= len(self._text)

    def _line(self) -> int:
        return bisect_left(self._newlines, self._place) + 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Go past what is there, and return it."""
        found = pattern.match(self._text, self._place)
        assert found is not None
        self._place = found.end()
        return found[0]

    def _keys(self) -> list[str]:
        """Go past a key, and return its parts."""
        keys = []
        while True:
            self._skip(_SPACES)
            if self._text[self._place] in "\"'":
                keys.append(str(_loads(f"key = {self._skip(_STRING)}")["key"]))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACES)
            if self._text[self._place] != ".":
                return keys
            self._place += 1

    def _table(self, keys: list[str], is_item: bool) -> str:
        """Return the name of a table from its header's keys."""
        name = ""
        for place, key in enumerate(keys):
            name = _join(name, key)
            if is_item and place == len(keys) - 1:
                self._tables[name] = self._tables.get(name, 0) + 1
            if name in self._tables:
                self.lines.setdefault(name, self._line())
                name += f"[{self._tables[name] - 1}]"
        return name

    def _pair(self, name: str) -> None:
        """Go past a key and its value, in a table of some name."""
        line = self._line()
        for key in self._keys():
            name = _join(name, key)
            self.lines.setdefault(name, line)
        self._place += 1  # "="
        self._skip(_SPACES)
        self._value(name)

    def _value(self, name: str) -> None:
        start = self._text[self._place]
        if start in "\"'":
            self._skip(_STRING)
        elif start not in "[{":
            self._skip(_SCALAR)
        else:
            self._place += 1
            index = 0
            while not self._ends("]" if start == "[" else "}"):
                if start == "{":
                    self._pair(name)
                    continue
                item = f"{name}[{index}]"
                index += 1
                self.lines.setdefault(item, self._line())
                self._value(item)

    def _ends(self, closing: str) -> bool:
        """Go past commas, blanks and comments, and past the end of an array or a table."""
        while True:
            self._skip(_BLANK)
            here = self._text[self._place]
            if here in (",", closing):
                self._place += 1
            if here != ",":
                return here == closing


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
