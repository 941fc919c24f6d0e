"""Secrets: passwords, tokens and addresses of cameras, from where they are kept."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any, NoReturn, final

from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files.regular_file import read_text

_log = logging.getLogger(__name__)

_HINT = 'a secret is written as "env:NAME", as "file:/path", or as it is.'
_MOST_BYTES = 1 << 16  # a token, a password or an address, not a film


@final
class Secret:
    """A text that nothing shows: `Secret.from_text("env:DOOR").reveal()`.

    Printed, formatted or logged it is where it comes from. It cannot be pickled or written as
    JSON, and copies are the same object. Two are equal if they come from the same place and, where
    they were read, say the same.
    """

    __slots__ = ("_origin", "_value")

    _origin: str
    _value: str | None

    def __init__(self, origin: str, value: str | None = None) -> None:
        """Take a text as `from_text` does, and what was read there."""
        object.__setattr__(self, "_origin", origin)
        object.__setattr__(self, "_value", value)

    @classmethod
    def from_text(cls, text: str) -> Secret:
        """Return the secret that a text names: "env:NAME", "file:/path", or else the text itself.

        Nothing is read yet.

        Raises:
            ValueError: it is empty, or names nothing.
        """
        if text in ("", "env:", "file:"):
            raise ValueError("is empty")
        return cls(text)

    @property
    def is_literal(self) -> bool:
        """Whether the secret itself stands in the configuration."""
        return not self._origin.startswith(("env:", "file:"))

    @property
    def was_read(self) -> bool:
        """Whether `reveal` reads nothing."""
        return self._value is not None

    def with_value(self, value: str) -> Secret:
        """Return the same with another value, as after a path in it was made absolute."""
        return Secret(self._origin, value)

    def read(self, folder: Path) -> Secret:
        """Return the same with its value, which stays even if the file changes.

        Args:
            folder: what a relative path is relative to.

        Raises:
            FfnEdgeError: there is no such variable or file, or it is empty.
        """
        kind, _, rest = self._origin.partition(":")
        if self.is_literal:
            value = self._origin
        elif kind == "env":
            value = os.environ.get(rest, "")
        else:
            value = _content(folder / Path(rest).expanduser())
        value = value.rstrip("\r\n")
        if not value:
            raise FfnEdgeError(f"{self._origin} is not set, or empty", _HINT)
        return self.with_value(value)

    def reveal(self) -> str:
        """Return the text. One that was not read yet is read now.

        Raises:
            FfnEdgeError: see `read`.
        """
        return self._value if self._value is not None else self.read(Path()).reveal()

    def __str__(self) -> str:
        return "***" if self.is_literal else self._origin

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return (self._origin, self._value) == (other._origin, other._value)

    def __hash__(self) -> int:
        return hash((self._origin, self._value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


def _content(path: Path) -> str:
    try:
        text = read_text(path, _MOST_BYTES)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise FfnEdgeError(
            f"the secret {path} cannot be read: {reason_of(error)}", _HINT
        ) from error
    except UnicodeDecodeError:
        # Not "from": the error holds the bytes.
        raise FfnEdgeError(f"the secret {path} is no text in UTF-8", _HINT) from None
    if mode & stat.S_IROTH:
        _log.warning("everybody on this machine may read the secret %s: chmod o-r", path)
    return text
