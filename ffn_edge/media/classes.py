"""Class-name files: one name a line, in the order of the labels."""

from __future__ import annotations

import os

from ffn_edge.errors import DataError, printable
from ffn_edge.files.text_file import read_lines


def read_classes(class_file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the names of the classes, one a line; the first is class 0.

    Raises:
        DataError: the file cannot be read or is empty, or a name comes twice.
    """
    names = read_lines(class_file, "a list of classes", "one class name a line")
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{class_file} names no class", "one class name a line.")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen or printable(name) != name:
            reason = "is there already" if name in seen else "is no name that can be shown"
            raise DataError(
                f"{class_file}, line {number}: {name!r:.50} {reason}",
                "one class name a line, each different.",
            )
        seen.add(name)
    return tuple(names)
