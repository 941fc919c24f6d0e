"""Files that are written line by line, flushed at once: a reader sees a line when it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO, TypeVar

from ffn_edge.errors import WriteError
from ffn_edge.files.atomic import written

_Self = TypeVar("_Self", bound="LineFile")


class LineFile:
    """Lines to a file or a stream: `with LineFile(path) as lines: lines.write_line({...})`."""

    def __init__(self, target: TextIO | Path, *, append: bool = False) -> None:
        """Remember where to; `append` keeps the lines that a file has."""
        self._target = target
        self._mode: Literal["a", "w"] = "a" if append else "w"
        self._stack = ExitStack()

    def __enter__(self: _Self) -> _Self:
        """Open the file, or raise a WriteError."""
        if isinstance(self._target, Path):
            with written(self._target):
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._file: TextIO = self._stack.enter_context(
                    open(self._target, self._mode, encoding="utf-8", errors="surrogateescape")
                )
        else:
            self._file = self._target
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with written(self._name):
                self._stack.close()  # tries once more to write what it holds
        except WriteError:
            if error is None:
                raise

    def write_line(self, fields: Mapping[str, Any]) -> None:
        """Write a line of JSON. See `write_text`."""
        self.write_text(json.dumps(fields) + "\n")

    def write_text(self, text: str) -> None:
        """Write whole lines.

        Raises:
            WriteError: the disk is full.
            BrokenPipeError: nobody reads on.
        """
        with written(self._name):
            self._file.write(text)
            self._file.flush()

    @property
    def _name(self) -> str:
        return str(self._target) if isinstance(self._target, Path) else self._target.name
