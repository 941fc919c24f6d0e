"""Limits that change while a run goes on: a JSON file that is read again when it changes."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.regular_file import read_text
from ffn_edge.runtime.policy.interface import Limits

_log = logging.getLogger(__name__)

# A camera's battery or a supervisor may change these. A fixed frame count may not: the other
# engines were not opened.
_CHANGEABLE = ("latency_ms", "miss_rate", "power_w")


class LimitsFile:
    """The limits of the command line, and what the file says instead.

        {"latency_ms": 40, "power_w": 8.5}

    Replace the file whole (write another, rename it), so that it is never read half written.
    """

    def __init__(self, path: Path, base: Limits) -> None:
        """Read the file for the first time.

        Args:
            path: it must be there.
            base: the limits where the file says nothing; null is no deadline or budget.

        Raises:
            FfnEdgeError: the file cannot be used.
        """
        self._path = path
        self._base = base
        self._version = self._stat()
        self._limits = self._read()

    def __call__(self) -> Limits:
        """Return the limits of now. A file that is gone or wrong changes nothing, and is logged."""
        version = self._stat()
        if version != self._version:
            self._version = version
            try:
                self._limits = self._read()
                _log.info("limits: %s, as %s says", describe(self._limits), self._path)
            except FfnEdgeError as error:
                _log.warning("%s; the limits stay: %s", error.message, describe(self._limits))
        return self._limits

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Limits:
        example = 'it holds a JSON object such as {"latency_ms": 40, "power_w": 8.5}.'
        try:
            raw = schema.load(read_text(self._path))
        except OSError as error:
            message = f"{self._path} cannot be read: {reason_of(error)}"
            raise FfnEdgeError(message, example) from error
        except ValueError as error:
            raise FfnEdgeError(f"{self._path} is not JSON: {error}", example) from error
        if not isinstance(raw, dict):
            raise FfnEdgeError(f"{self._path} holds no JSON object", example)
        if not set(raw) <= set(_CHANGEABLE):
            raise FfnEdgeError(f"{self._path} may hold {', '.join(_CHANGEABLE)} only", example)
        try:
            return schema.parse(Limits, dataclasses.asdict(self._base) | raw)
        except (ValueError, FfnEdgeError) as error:
            reason = getattr(error, "message", error)
            raise FfnEdgeError(f"{self._path}: {reason}", example) from error


def describe(limits: Limits) -> str:
    """Say limits in words."""
    words = []
    if limits.latency_ms is not None:
        words.append(f"{limits.latency_ms:g} ms in all but {100 * limits.miss_rate:g} %")
    if limits.power_w is not None:
        words.append(f"{limits.power_w:g} W")
    if limits.battery_j is not None:
        words.append(f"{limits.battery_j / 3600:.3g} Wh")
    if limits.frames is not None:
        words.append(f"{limits.frames} frames")
    return ", ".join(words) or "none"
