"""Files that are written line by line, flushed at once: a reader sees a line when it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from ffn_edge.errors import FfnEdgeError

_Self = TypeVar("_Self", bound="LineFile")


class LineFile:
    """Lines to a file or a stream: `with LineFile(path) as lines: lines.write_line({...})`."""

    def __init__(self, target: TextIO | Path) -> None:
        """Remember the target.

        Args:
            target: an open text file, or a path that is written from its start. Not atomic:
                every line is whole by itself, and is there when the run is cut off.
        """
        self._target = target
        self._stack = ExitStack()

    def __enter__(self: _Self) -> _Self:
        """Open the file.

        Raises:
            FfnEdgeError: it cannot be written.
        """
        if isinstance(self._target, Path):
            try:
                self._file: TextIO = self._stack.enter_context(
                    open(self._target, "w", encoding="utf-8")
                )
            except OSError as error:
                raise self._unwritten(error) from error
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
            self._stack.close()  # tries once more to write what it holds
        except OSError as failure:
            if error is None:
                raise self._unwritten(failure) from failure

    def write_line(self, fields: Mapping[str, Any]) -> None:
        """Write a line of JSON.

        Raises:
            FfnEdgeError: the disk is full.
            BrokenPipeError: nobody reads on.
        """
        self.write_text(json.dumps(fields) + "\n")

    def write_text(self, text: str) -> None:
        """Write whole lines.

        Raises:
            FfnEdgeError: the disk is full.
            BrokenPipeError: nobody reads on.
        """
        try:
            self._file.write(text)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> FfnEdgeError:
        name = self._target if isinstance(self._target, Path) else self._target.name
        return FfnEdgeError(
            f"{name} could not be written: {error.strerror}",
            "check that the disk has room and that the folder may be written.",
        )
