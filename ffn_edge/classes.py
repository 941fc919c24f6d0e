"""Class-name files: one name a line, in the order of the labels."""

from __future__ import annotations

import os
from pathlib import Path

from ffn_edge.errors import DataError


def read_classes(class_file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the names of the classes, one a line; the first is class 0.

    Raises:
        DataError: the file cannot be read or is empty, or a name comes twice.
    """
    try:
        lines = Path(class_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{class_file} cannot be read: {error}", "name a text file in UTF-8."
        ) from error
    names = [line.strip() for line in lines]
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
