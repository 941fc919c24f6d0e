"""Text files that a user writes: lists of videos, names of classes."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Callable

from ffn_edge.errors import DataError, FfnEdgeError, reason_of
from ffn_edge.files.regular_file import read_bytes

# Of two million videos.
MOST_LIST_BYTES = 1 << 28


def read_lines(
    path: str | os.PathLike[str], what: str, form: str, error: type[FfnEdgeError] = DataError
) -> list[str]:
    """Return the lines of a text file in UTF-8, stripped.

    Args:
        path: of the file.
        what: it should be, such as "a list of videos".
        form: of its lines, such as "one `path` a line".
        error: what to raise.

    Raises:
        FfnEdgeError: `error`: it is missing, cannot be read, or is no text in UTF-8.
    """
    return [line.strip() for line in _text(path, what, form, error).splitlines()]


def read_table(
    path: str | os.PathLike[str], what: str, form: str, error: type[FfnEdgeError] = DataError
) -> list[list[str]]:
    """Return the lines of a table in text (CSV, TSV), each in stripped cells, an empty one in none.

    Cells are separated by tabs, semicolons or commas, the first of these that the first line has,
    and may be quoted, as spreadsheets write them; a German one writes "ü" in cp1252.

    Args:
        path: of the file.
        what: see `read_lines`.
        form: the same.
        error: the same.

    Raises:
        FfnEdgeError: see `read_lines`.
    """
    lines = _text(path, what, form, error, _of_spreadsheet).splitlines()
    first = next(filter(str.strip, lines), "")
    separator = next((each for each in "\t;," if each in first), ",")
    # Line by line: a quote that is never closed spoils one line, and numbers stay right.
    cells = (
        next(csv.reader([line], delimiter=separator)) if line.strip() else [] for line in lines
    )
    return [[cell.strip() for cell in row] for row in cells]


def _text(
    path: str | os.PathLike[str],
    what: str,
    form: str,
    error: type[FfnEdgeError],
    decode: Callable[[bytes], str] = lambda content: content.decode("utf-8-sig"),
) -> str:
    try:
        text = decode(read_bytes(path, MOST_LIST_BYTES))
        if "\0" in text:  # UTF-16, mostly
            raise UnicodeError
    except FileNotFoundError as failure:
        reason, hint = "there is no such file", "check the path."
        raise error(f"{path} cannot be read as {what}: {reason}", hint) from failure
    except OSError as failure:
        hint = "name a file that you may read."
        raise error(f"{path} cannot be read as {what}: {reason_of(failure)}", hint) from failure
    except UnicodeError as failure:
        reason, hint = "it is no text in UTF-8", f"save it as text in UTF-8: {form}."
        raise error(f"{path} cannot be read as {what}: {reason}", hint) from failure
    return text


def _of_spreadsheet(content: bytes) -> str:
    """Decode as spreadsheets encode: UTF-8, UTF-16 with its mark, or Windows' Western code page."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")
