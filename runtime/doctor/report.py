"""What a report of `ffn-edge doctor` consists of: lines in groups, and a verdict. Pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ffn_edge.errors import FfnEdgeError

Status = Literal["ok", "note", "problem"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        found: what was found.
        status: "problem" is to be mended; "note" is good to know, or would make more possible.
        remedy: what to do; empty where there is nothing to do.
    """

    name: str
    found: str
    status: Status = "ok"
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that belong together."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a machine can do.

    Attributes:
        groups: all that was looked at.
        backend: what `ffn-edge run` would use: "tensorrt", "rtx" or "onnxruntime"; None if it
            would not work.
        verdict: the same in one sentence, with the reason.
    """

    groups: tuple[Group, ...]
    backend: str | None
    verdict: str

    @property
    def works(self) -> bool:
        """Whether `ffn-edge run` would work."""
        return self.backend is not None

    def fields(self) -> dict[str, Any]:
        """Return what `ffn-edge doctor --json` prints.

        {"works": true,
         "backend": "tensorrt" | "rtx" | "onnxruntime" | null,
         "verdict": "a sentence",
         "groups": [{"name": "Python",
                     "lines": [{"name": "version", "found": "3.10.12",
                                "status": "ok" | "note" | "problem",
                                "remedy": "" or what to do}]}]}
        """
        return {
            "works": self.works,
            "backend": self.backend,
            "verdict": self.verdict,
            "groups": [dataclasses.asdict(group) for group in self.groups],
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be had, and what to do about it."""

    message: str
    remedy: str
    error: Exception


def attempt(probe: Callable[[], _T]) -> _T | Failure:
    """Return what a probe gives, or how it fails.

    Libraries that do not fit a machine fail in any way when they are imported, and a report is
    wanted most where something is odd: so every exception is caught.
    """
    try:
        return probe()
    except FfnEdgeError as error:
        return Failure(error.message, error.hint, error)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", "", error)
