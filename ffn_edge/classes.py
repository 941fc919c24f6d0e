"""Class-name files: one name a line, in the order of the labels."""

from __future__ import annotations

import os

from ffn_edge.errors import DataError
from ffn_edge.text_file import read_lines


def read_classes(class_file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the names of the classes, one a line; the first is class 0.

    Raises:
        DataError: the file cannot be read or is empty, or a name comes twice.
    """
    names = [line.strip() for line in read_lines(class_file)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{class_file} names no class", "one class name a line.")
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            raise DataError(
                f"{class_file}, line {number}: "
                + (f"{name!r} is there already" if name else "there is no name"),
                "one class name a line, each different.",
            )
    return tuple(names)
