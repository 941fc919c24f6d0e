"""From the results of all sources to their events: a detector for each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ffn_edge.runtime.cascade.confidence import log_probabilities
from ffn_edge.runtime.classifier import Probabilities, Result
from ffn_edge.runtime.events.detector import Detector
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules


class EventStage:
    """Takes results, and tells of each event when it begins and when it has ended.

    Not for several threads: it is called where the results come.

    Attributes:
        temperatures: by frame count, of the bundle whose results come.
    """

    def __init__(
        self,
        rules: Callable[[str], EventRules],
        classes: Sequence[str],
        temperatures: Mapping[int, float],
        on_event: Callable[[Event], None],
        *,
        recordings: Collection[str] = (),
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Put the parts together.

        Args:
            rules: of a source by its name; asked for at each result, so that they may change.
            classes: the bundle's, in its order.
            temperatures: by frame count; 1 where one is missing.
            on_event: is given each event twice.
            recordings: the sources whose events have no time of day.
            new_id: returns what no event was called before.
            clock: seconds since 1970.
        """
        self._rules = rules
        self._classes = classes
        self.temperatures = temperatures
        self._on_event = on_event
        self._recordings = recordings
        self._new_id = new_id
        self._clock = clock
        self._detectors: dict[str, Detector] = {}
        self._answers: dict[str, tuple[float, Probabilities]] = {}  # covers_s, and what was said
        # Of each source, what time of day its time 0 was; of an event, as it was when it was told.
        self._zero_at: dict[str, float] = {}
        self._began_at: dict[str, float] = {}

    def result(self, result: Result) -> None:
        """Take a result."""
        temperature = self.temperatures.get(result.frames, 1.0)
        if len(result.observation.ran) > 1:  # a cascade's weights are of calibrated answers
            temperature = 1.0
        calibrated = with_temperature(result.probabilities, temperature)
        self._answers[result.source] = result.covers_s, calibrated
        self._observe(result.source, result.time_s, result.latency_ms / 1e3)

    def still(self, source: str, time_s: float) -> None:
        """Take it that nothing has moved up to a time: what was said last still stands."""
        if source in self._answers:
            self._observe(source, time_s, 0.0)

    def running(self, source: str) -> Event | None:
        """Return the event of a source that goes on."""
        detector = self._detectors.get(source)
        return None if detector is None else detector.running

    def end(self, source: str) -> None:
        """End what goes on, and forget the source, which may come back."""
        self._answers.pop(source, None)
        if (detector := self._detectors.pop(source, None)) is not None:
            self._tell(detector.end())

    def end_all(self) -> None:
        """End what goes on anywhere."""
        for source in list(self._detectors):
            self.end(source)

    def _observe(self, source: str, time_s: float, ago_s: float) -> None:
        rules = self._rules(source)
        if source not in self._detectors:
            self._detectors[source] = Detector(source, self._classes, rules, self._new_id)
        detector = self._detectors[source]
        if detector.rules is not rules:
            detector.rules = rules
        self._zero_at[source] = self._clock() - ago_s - time_s
        self._tell(detector.observe(time_s, *self._answers[source]))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.source not in self._recordings:
                began_at = self._zero_at[event.source] + event.start_s
                began_at = self._began_at.setdefault(event.id, began_at)
                event = replace(event, began_at=began_at)
                if event.end_s is not None:
                    del self._began_at[event.id]
            self._on_event(event)


def with_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return the probabilities that logits over a temperature would have had, float64 (C,)."""
    with np.errstate(divide="ignore"):  # what is impossible stays so
        logits = np.log(probabilities)
    calibrated: Probabilities = np.exp(log_probabilities(logits / temperature))
    return calibrated
