"""Small files of the kernel, read again and again."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class KernelFile:
    """A file of sysfs that stays open between readings.

    The kernel fills it anew at each reading from its start, so that opening it once is enough.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Return what the file holds now.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return os.pread(self._open(), 64, 0)
        except OSError as error:
            self.close()
            if error.errno != errno.ENODEV:
                raise
        # The driver was reloaded: what was open is the file of a device that is gone.
        try:
            return os.pread(self._open(), 64, 0)
        except OSError:
            self.close()
            raise

    def number(self) -> int:
        """Return the whole number that the file holds now.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds something else.
        """
        return int(self.read())

    def close(self) -> None:
        """Close the file; the next reading opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor


def text_of(path: Path) -> str | None:
    """Return the text of a small file without its end; None if it is empty or unreadable."""
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """Return the whole number in a small file; None if it holds none or is unreadable."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None


def why(error: OSError | ValueError) -> str:
    """Say in a few words why a file could not be read as a number."""
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return "it holds no number"
