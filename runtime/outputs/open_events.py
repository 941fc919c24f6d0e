"""Events that go on, kept on the disk: a service that was killed ends them when it is back."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ffn_edge.errors import FfnEdgeError, WriteError, counted
from ffn_edge.files.atomic import write_text
from ffn_edge.files.schema import Format
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.background import Background
from ffn_edge.runtime.outputs.output import Output

_log = logging.getLogger(__name__)
_MOST_WAITING = 1000
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    events: Mapping[str, Event]


_FORMAT = Format(cls=_File, kind="a list of events that go on", hint="remove it.")


class OpenEvents(Output):
    """Keeps which events have begun and not ended.

    Attributes:
        left: those that a run before left open, as they are to be ended: at their peak, which is
            when they were known to go on.
    """

    def __init__(self, path: Path) -> None:
        self.left: list[Event] = []
        self._path = path
        self._open: dict[str, Event] = {}
        self._writer: Background[Event] = Background(self._write, "open-events", _MOST_WAITING)

    def __enter__(self) -> OpenEvents:
        """Read what was left. A file that cannot be read is as none, and logged."""
        try:
            found = _FORMAT.read(self._path).events if self._path.exists() else {}
        except FfnEdgeError as error:
            _log.warning("%s", error)
            found = {}
        self._open = dict(found)
        self.left = [
            dataclasses.replace(each, end_s=max(each.start_s, each.peak_s))
            for each in found.values()
        ]
        if self.left:
            _log.info(
                "%s left open, and ended now", counted(len(self.left), "event was", "events were")
            )
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close(_PATIENCE_S)

    def event(self, event: Event) -> None:
        """Take an event."""
        self._writer.put(event)

    def _write(self, events: list[Event]) -> None:
        for event in events:
            if event.end_s is None:
                self._open[event.id] = event
            else:
                self._open.pop(event.id, None)
        fields = {name: dataclasses.asdict(each) for name, each in self._open.items()}
        try:
            write_text(self._path, json.dumps({"schema_version": 1, "events": fields}) + "\n")
        except WriteError as error:
            _log.warning("%s", error)
