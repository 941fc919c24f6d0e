"""Class-name files: one name a line, in the order of the labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ffn_edge.errors import DataError, printable
from ffn_edge.files.text_file import read_lines


class ClassNames(tuple[str, ...]):
    """The names of classes, and whether lists number the first of them 0 or 1.

    Attributes:
        first: the number.
    """

    first: int

    def __new__(cls, names: Iterable[str], first: int = 0) -> ClassNames:
        """Return the names as a tuple."""
        made = super().__new__(cls, names)
        made.first = first
        return made

    def __reduce__(self) -> tuple[type[ClassNames], tuple[tuple[str, ...], int]]:
        return ClassNames, (tuple(self), self.first)


def read_classes(class_file: str | os.PathLike[str]) -> ClassNames:
    """Read the names of the classes, one a line; the first is class 0.

    The lines may be numbered, from 0 or from 1, as in UCF101's `1 ApplyEyeMakeup`; but a name that
    would come twice then, as of `1 hand` and `2 hand`, begins with its number.

    Raises:
        DataError: the file cannot be read or is empty, or a name comes twice.
    """
    names = read_lines(class_file, "a list of classes", "one class name a line")
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{class_file} names no class", "one class name a line.")
    first = 0
    numbered = [m for name in names if (m := re.fullmatch(r"(\d{1,9})\s+(.+)", name))]
    numbers = [int(match[1]) for match in numbered]
    if len({match[2] for match in numbered}) == len(names):
        for start in (0, 1):
            if numbers == [*range(start, start + len(names))]:
                names, first = [match[2] for match in numbered], start
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen or printable(name) != name:
            reason = "is there already" if name in seen else "is no name that can be shown"
            raise DataError(
                f"{class_file}, line {number}: {name!r:.50} {reason}",
                "one class name a line, each different.",
            )
        seen.add(name)
    return ClassNames(names, first)
