"""Events as files: lines of JSON, a table, and subtitles that a player shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from ffn_edge.errors import printable
from ffn_edge.files.atomic import write_text, written
from ffn_edge.runtime.events.event import Event

COLUMNS = ("source", "start_s", "end_s", "class", "confidence", "peak", "peak_s", "began_at", "id")
# A player shows no cue that takes no time.
_LEAST_CUE_S = 0.001


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_row(event: Event) -> list[object]:
    """Return an event as a row under `COLUMNS`."""
    fields = event.fields()
    return [fields[name] for name in COLUMNS]


class Subtitles:
    """A WebVTT file for each source, in one folder, beside which a player needs the video alone.

    Each has the name of its video with the suffix .vtt, and a number where there were two.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            WriteError: it cannot be made.
        """
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: set[str] = set()
        self._ended: dict[str, list[Event]] = {}

    def write(self, event: Event) -> None:
        """Keep an event that has ended for the file of its source."""
        if event.end_s is not None:
            self._ended.setdefault(event.source, []).append(event)

    def end(self, source: str) -> None:
        """Write the file of a source that is over, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        stem = PurePath(source).stem or "video"
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name)
        write_text(self._folder / f"{name}.vtt", vtt_text(self._ended.pop(source, [])))


def vtt_text(events: Iterable[Event]) -> str:
    """Return events that have ended as WebVTT (https://www.w3.org/TR/webvtt1/)."""
    cues = ["WEBVTT\n"]
    for event in sorted(events, key=lambda each: each.start_s):
        assert event.end_s is not None
        end_s = max(event.end_s, event.start_s + _LEAST_CUE_S)
        name = printable(" ".join(event.class_name.split()))
        for mark, written_as in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            name = name.replace(mark, written_as)
        cues.append(f"{_clock(event.start_s)} --> {_clock(end_s)}\n{name} {event.confidence:.2f}\n")
    return "\n".join(cues)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
