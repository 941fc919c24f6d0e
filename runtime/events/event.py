"""An event: one action, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One action of one source; it is told when it begins, and again when it has ended.

    Attributes:
        id: the same of both, and of no other event: who gets one twice knows it.
        source: the camera's or the video's name.
        class_name: what happened.
        start_s: when it began, in seconds of the source.
        end_s: when it ended; None while it goes on.
        confidence: the mean probability of its windows so far, in 0..1.
        peak: the highest of them, and
        peak_s: when that was.
        began_at: when it began, in seconds since 1970 (UTC); None of a recording.
    """

    id: str
    source: str
    class_name: str
    start_s: float
    end_s: float | None = None
    confidence: float
    peak: float
    peak_s: float
    began_at: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return the event, ready for JSON: what every output sends."""
        return {
            "id": self.id,
            "phase": "begin" if self.end_s is None else "end",
            "source": self.source,
            "class": self.class_name,
            "start_s": round(self.start_s, 3),
            "end_s": None if self.end_s is None else round(self.end_s, 3),
            "confidence": round(self.confidence, 4),
            "peak": round(self.peak, 4),
            "peak_s": round(self.peak_s, 3),
            "began_at": None if self.began_at is None else round(self.began_at, 3),
        }
