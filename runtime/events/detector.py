"""A state machine from the probabilities of one source's windows to its events.

A window speaks of its middle: what it says is taken for that time, and between two middles
straight lines connect. So when an event starts does not depend on how often one looks.

Legend: C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules, of_class

Probabilities = npt.NDArray[np.float64]  # (C,)

# What a probability must fall and rise again by for two events rather than one.
_DIP = 0.3
# Windows that touch leave no gap, whatever rounding makes of their times.
_TOUCH_S = 1e-6


@dataclass(frozen=True, slots=True)
class _Window:
    """What was seen last."""

    time_s: float
    middle_s: float
    probabilities: Probabilities


@dataclass(slots=True)
class _Open:
    """An event that goes on, or was over too lately to tell."""

    number: int  # of its class
    start_s: float
    peak: float = 0.0
    peak_s: float = 0.0
    total: float = 0.0
    windows: int = 0
    event: Event | None = None  # as it was told of
    over_s: float | None = None  # where it fell below the offset, unless it comes back
    # Since its probability was highest: the lowest, when that was, and what came after.
    high: float = 0.0
    low: float = math.inf
    low_s: float = 0.0
    since_low: list[tuple[float, float]] = field(default_factory=list)

    def add(self, middle_s: float, probability: float) -> None:
        if probability > self.peak:
            self.peak, self.peak_s = probability, middle_s
        self.total += probability
        self.windows += 1


class Detector:
    """Finds the events of one source: at most one is open at a time.

    Every event is told of twice: when it began, without an end, and when it has ended. The two
    differ in their end, their confidence and their peak alone.

    Attributes:
        onsets: the probability at which an event of each class begins, float64 (C,).
    """

    def __init__(
        self,
        source: str,
        classes: Sequence[str],
        rules: EventRules,
        new_id: Callable[[], str],
    ) -> None:
        """Begin, with nothing seen. `rules` may be changed between two calls."""
        self._source = source
        self._classes = classes
        self.rules = rules
        self._new_id = new_id
        self._last: _Window | None = None
        self._open: _Open | None = None
        self._ended_s: dict[int, float] = {}  # by class

    @property
    def rules(self) -> EventRules:
        """What counts as an event."""
        return self._rules

    @rules.setter
    def rules(self, rules: EventRules) -> None:
        self._rules = rules
        onsets = [
            math.inf if name == rules.nothing else of_class(rules.onset, name, math.inf)
            for name in self._classes
        ]
        offsets = [of_class(rules.offset, name, math.inf) for name in self._classes]
        self.onsets = np.array(onsets)
        # What was an event under other rules, and is none now, is over.
        none = np.isinf(self.onsets)
        self._offsets = np.where(none, math.inf, np.minimum(offsets, self.onsets))

    @property
    def is_open(self) -> bool:
        """Whether there is an event that has not ended, told of or not."""
        return self._open is not None

    @property
    def running(self) -> Event | None:
        """The event that has begun and not ended."""
        return None if self._open is None else self._open.event

    def observe(self, time_s: float, covers_s: float, probabilities: Probabilities) -> list[Event]:
        """Take what a window says, and return what began or ended by it.

        A window that is late, so that a later one which it overlaps has spoken, says nothing. One
        of an earlier time than that begins the source anew; so does one after a gap.

        Args:
            time_s: of its newest frame, in seconds of the source.
            covers_s: the time before that which it speaks of.
            probabilities: of all classes, calibrated, float64 (C,).
        """
        last = self._last
        found: list[Event] = []
        if last is not None:
            if last.time_s - covers_s < time_s <= last.time_s:
                return []
            if time_s <= last.time_s or time_s - covers_s > last.time_s + _TOUCH_S:
                found += self.end()
                last = None
        now = _Window(time_s, time_s - covers_s / 2, probabilities)
        # A window may cover more than the one before, and its middle then lie before that one's.
        if last is not None and now.middle_s <= last.middle_s:
            now = replace(now, middle_s=math.nextafter(last.middle_s, math.inf))
        self._last = now
        if self._open is not None:
            assert last is not None
            found += self._go_on(self._open, last, now)
        if self._open is None or self._open.over_s is not None:
            found += self._begin(last, now, covers_s)
        if self._open is not None:
            found += self._tell(self._open, now)
        return found

    def end(self) -> list[Event]:
        """End what goes on: the source is over, or lost. It lasted as long as it was seen."""
        found: list[Event] = []
        if self._open is not None and self._last is not None:
            over_s = self._open.over_s
            if over_s is None:
                # Nothing is known of a fall: no shift.
                found = self._close(self._open, self._last.time_s, shifted=False)
            else:
                found = self._close(self._open, over_s)
        self._last = None
        self._ended_s.clear()
        return found

    # --- steps ----------------------------------------------------------------------------------

    def _go_on(self, running: _Open, last: _Window, now: _Window) -> list[Event]:
        """Take a window for the event that is open: it goes on, is over, or another begins."""
        number = running.number
        after = float(now.probabilities[number])
        if running.over_s is not None:
            back_s = _crossing(last, now, number, float(self.onsets[number]))
            if after >= self.onsets[number] and back_s - running.over_s < self._rules.merge_s:
                running.over_s = None
            elif now.middle_s - running.over_s >= self._rules.merge_s:
                return self._close(running, running.over_s)
            else:
                return []
        other = self._candidate(now)
        if other is not None and now.probabilities[other] > after:
            return self._close(running, _change(last, now, number, other))
        if after < self._offsets[number]:
            running.over_s = _crossing(last, now, number, float(self._offsets[number]))
            if self._rules.merge_s == 0:
                return self._close(running, running.over_s)
            return []
        if self._rules.merge_s == 0 and self._is_second_peak(running, now, after):
            valley_s, later = running.low_s, running.since_low
            found = self._close(running, valley_s)
            self._open = _Open(number, self._earliest(number, valley_s))
            for middle_s, probability in [*later, (now.middle_s, after)]:
                self._open.add(middle_s, probability)
            self._open.high = after
            return found
        running.add(now.middle_s, after)
        return []

    def _is_second_peak(self, running: _Open, now: _Window, probability: float) -> bool:
        """Follow the dip since the highest probability, and tell whether it has risen again."""
        onset = float(self.onsets[running.number])
        deep = running.high - running.low >= _DIP
        if deep and probability - running.low >= _DIP and probability >= onset:
            return True
        if probability >= running.high:
            running.high, running.low, running.since_low = probability, math.inf, []
        elif probability <= running.low:
            running.low, running.low_s, running.since_low = probability, now.middle_s, []
        else:
            running.since_low.append((now.middle_s, probability))
        return False

    def _begin(self, last: _Window | None, now: _Window, covers_s: float) -> list[Event]:
        """Open an event if a class has risen to its onset."""
        number = self._candidate(now)
        if number is None:
            return []
        found: list[Event] = []
        if self._open is not None:  # it was over, and may not come back now
            if self._open.number == number:
                return []
            assert self._open.over_s is not None
            found = self._close(self._open, self._open.over_s)
        if last is None:
            # Nothing was seen of what was before: it may have begun with the window.
            start_s = now.time_s - covers_s
        else:
            start_s = _crossing(last, now, number, float(self.onsets[number]))
            start_s = max([start_s, *self._ended_s.values()])
        start_s = self._earliest(number, start_s)
        if start_s <= now.middle_s:
            self._open = _Open(number, start_s)
            self._open.add(now.middle_s, float(now.probabilities[number]))
            self._open.high = self._open.peak
        return found

    def _tell(self, running: _Open, now: _Window) -> list[Event]:
        """Tell of an event that has lasted long enough."""
        until_s = now.middle_s if running.over_s is None else running.over_s
        if running.event is not None or until_s - running.start_s < self._rules.least_s:
            return []
        running.event = self._event(running, now.time_s)
        return [running.event]

    def _close(self, running: _Open, end_s: float, *, shifted: bool = True) -> list[Event]:
        """End an event, and tell of it if it was long enough."""
        self._open = None
        end_s = max(end_s, running.start_s)
        if running.event is None and end_s - running.start_s < self._rules.least_s:
            return []
        self._ended_s[running.number] = end_s
        assert self._last is not None
        found = []
        if running.event is None:
            running.event = self._event(running, self._last.time_s)
            found.append(running.event)
        name = self._classes[running.number]
        if shifted:
            end_s += of_class(self._rules.end_shift_s, name, 0.0)
        ended = replace(
            running.event,
            end_s=min(max(end_s, running.event.start_s), self._last.time_s),
            confidence=running.total / running.windows,
            peak=running.peak,
            peak_s=running.peak_s,
        )
        return [*found, ended]

    def _event(self, running: _Open, now_s: float) -> Event:
        name = self._classes[running.number]
        start_s = running.start_s + of_class(self._rules.start_shift_s, name, 0.0)
        return Event(
            id=self._new_id(),
            source=self._source,
            class_name=name,
            start_s=min(max(start_s, 0.0), now_s),
            confidence=running.total / running.windows,
            peak=running.peak,
            peak_s=running.peak_s,
        )

    def _candidate(self, now: _Window) -> int | None:
        """Return the most probable of the classes that have risen to their onset."""
        reached = np.where(now.probabilities >= self.onsets, now.probabilities, -math.inf)
        best = int(reached.argmax())
        return best if reached[best] > -math.inf else None

    def _earliest(self, number: int, start_s: float) -> float:
        """Return when a class may begin again."""
        ended_s = self._ended_s.get(number, -math.inf)
        return max(start_s, ended_s + self._rules.refractory_s)


def _change(last: _Window, now: _Window, old: int, new: int) -> float:
    """Return when one class became more probable than another."""
    before = float(last.probabilities[old] - last.probabilities[new])
    after = float(now.probabilities[old] - now.probabilities[new])
    if before <= 0:
        return last.middle_s
    return last.middle_s + (now.middle_s - last.middle_s) * before / (before - after)


def _crossing(last: _Window, now: _Window, number: int, level: float) -> float:
    """Return when a probability crossed a level between two windows; at the first if it did not."""
    before, after = float(last.probabilities[number]), float(now.probabilities[number])
    if (before >= level) == (after >= level):
        return last.middle_s
    part = (level - before) / (after - before)
    return last.middle_s + (now.middle_s - last.middle_s) * part
