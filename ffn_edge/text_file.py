"""Small text files that people write: lists, class names."""

from __future__ import annotations

import os
from pathlib import Path

from ffn_edge.errors import DataError


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a text file in UTF-8.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} cannot be read: there is no such file", "check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}", "name a text file in UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
