"""A sink that makes events of results, and writes them: lines, a table, subtitles."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import printable
from ffn_edge.runtime.cascade.calibration import CALIBRATION, load_calibration
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.event_stage import EventStage
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.event_files import COLUMNS, Subtitles, csv_row, csv_text
from ffn_edge.runtime.events.rules import EventRules, of_class
from ffn_edge.runtime.line_file import LineFile

_log = logging.getLogger(__name__)


class EventSetting(NamedTuple):
    """What a bundle's events go by.

    Attributes:
        rules: from probabilities to events.
        temperatures: by frame count.
        still: the threshold of `Stillness` below which no event is lost; None is not known.
    """

    rules: EventRules
    temperatures: Mapping[int, float]
    still: float | None


def event_setting(bundle: Bundle, *, stream: bool) -> EventSetting:
    """Return what was learnt of a bundle's events, or plain rules, and a warning that says so.

    Args:
        bundle: where to look for a calibration.
        stream: whether it is to be followed frame by frame.

    Raises:
        FfnEdgeError: the calibration cannot be read, or belongs to another bundle.
    """
    rules, temperatures, still = None, {}, None
    if (bundle.path / CALIBRATION).exists():
        calibration = load_calibration(bundle)
        temperatures, still = calibration.temperatures, calibration.still
        rules = calibration.step_events if stream else calibration.events
    if rules is not None:
        silent = [
            name
            for name in bundle.manifest.classes
            if name != rules.nothing and of_class(rules.onset, name, math.inf) == math.inf
        ]
        if silent:
            _log.warning(
                "%s %s no events: no threshold kept the rate of false alarms on the streams that "
                "it was calibrated with. More hours of them, or a higher --false-alarms, helps.",
                printable(", ".join(silent)),
                "has" if len(silent) == 1 else "have",
            )
        return EventSetting(rules, temperatures, still)
    rules = EventRules()
    _log.warning(
        "%s has no thresholds of events%s: any class of a probability of %g is one. `ffn-edge "
        "calibrate BUNDLE --list val.txt --stream labelled.csv%s` learns them.",
        bundle.path,
        "" if rules.nothing in bundle.manifest.classes else " and no class that means nothing",
        rules.onset,
        " --frame-by-frame" if stream else "",
    )
    return EventSetting(rules, temperatures, None)


class EventSink:
    """Makes events of results: `with EventSink(...) as events: events.write(result)`."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        stream: bool = False,
        recordings: Collection[str] = (),
        lines: TextIO | Path | None = None,
        csv: Path | None = None,
        subtitles: Path | None = None,
    ) -> None:
        """Read the bundle's rules; open no file yet.

        Args:
            bundle: whose results will come.
            stream: whether it follows the source frame by frame.
            recordings: the sources that are over when another's results come.
            lines: where each event is written as a line of JSON, when it begins and when it ends.
            csv: where it is a row when it has ended.
            subtitles: the folder of a WebVTT file for each recording.

        Raises:
            FfnEdgeError: see `event_setting`.
        """
        self.setting = event_setting(bundle, stream=stream)
        self.stage = EventStage(
            lambda source: self.setting.rules,
            bundle.manifest.classes,
            self.setting.temperatures,
            self._take,
            recordings=recordings,
        )
        self._recordings = recordings
        self._lines = None if lines is None else LineFile(lines)
        self._csv = None if csv is None else LineFile(csv)
        self._folder = subtitles
        self._subtitles: Subtitles | None = None
        self._playing: str | None = None
        self._stack = ExitStack()

    def __enter__(self) -> EventSink:
        """Open the files, or raise a WriteError."""
        with ExitStack() as stack:
            for file in (self._lines, self._csv):
                if file is not None:
                    stack.enter_context(file)
            if self._csv is not None:
                self._csv.write_text(csv_text([COLUMNS]))
            if self._folder is not None:
                self._subtitles = Subtitles(self._folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End what goes on, and close the files. Raises a WriteError, as when the disk is full."""
        with self._stack:
            self._end_recording()
            self.stage.end_all()

    def write(self, result: Result) -> None:
        """Take a result. Raises as `LineFile.write_text`."""
        if result.source != self._playing and result.source in self._recordings:
            self._end_recording()
            self._playing = result.source
        self.stage.result(result)

    def shown(self, source: str) -> str:
        """Return the event of a source that goes on, for people; "" for none."""
        event = self.stage.running(source)
        return "" if event is None else f"{printable(event.class_name)} since {event.start_s:.1f} s"

    def _end_recording(self) -> None:
        if self._playing is not None:
            self.stage.end(self._playing)
            if self._subtitles is not None:
                self._subtitles.end(self._playing)
            self._playing = None

    def _take(self, event: Event) -> None:
        if self._lines is not None:
            self._lines.write_line(event.fields())
        if event.end_s is not None:
            if self._csv is not None:
                self._csv.write_text(csv_text([csv_row(event)]))
            if self._subtitles is not None and event.source in self._recordings:
                self._subtitles.write(event)
