"""Small files of the kernel: the one place where those of /sys and /proc are read.

For some of them a kernel answers with an error (EAGAIN for the temperature of a unit that is
switched off, EIO, ENODATA), with nothing, or with what is no number. What such a file would tell is
then unknown, as if the file were not there. None of them is waited for.
"""

from __future__ import annotations

import os
from pathlib import Path

_NUMBER_BYTES = 64
_TEXT_BYTES = 1 << 22  # more than /proc/cpuinfo of a thousand processors


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
        if self._descriptor is None:
            self._descriptor = _opened(self.path)
        try:
            return os.pread(self._descriptor, _NUMBER_BYTES, 0)
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


def text_of(path: Path) -> str | None:
    """Return a file's text without its end; None if it is empty or unreadable."""
    return _content(path, _TEXT_BYTES).decode(errors="replace").strip("\0 \n") or None


def number_in(path: Path) -> int | None:
    """Return the whole number in a file; None if it holds none or is unreadable."""
    try:
        return int(_content(path, _NUMBER_BYTES))
    except ValueError:
        return None


def why(error: OSError | ValueError) -> str:
    """Say in a few words why a file could not be read as a number."""
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return "it holds no number"


def _content(path: Path, most: int) -> bytes:
    """Return what a file holds, up to `most` bytes; nothing if it is unreadable."""
    content = b""
    try:
        descriptor = _opened(path)
        try:
            # A file of /proc comes in pieces.
            while len(content) < most and (piece := os.read(descriptor, most - len(content))):
                content += piece
        finally:
            os.close(descriptor)
    except OSError:
        return b""
    return content


def _opened(path: Path) -> int:
    """Open a file to read, so that neither opening nor reading waits for anybody.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
