"""Energy from readings of power, and what to think of them. No clock, no I/O, no thread.

    account = EnergyAccount()
    account.add(reading)                                # many times a second
    power_w, energy_j, fault = account.take(now)        # after an inference

Power is integrated by the trapezoid rule; a counter of energy needs no more than differences.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from ffn_edge.runtime.power.meter import PowerReading

_MOST_W = 2000.0  # no machine that this runs on draws more
# A jump is both: twenty times as much (or as little), and 50 W away. It is real once three of the
# last hundred readings agree: a graphics card wakes up from 10 to 400 W, for a burst or for long.
_JUMP_RATIO, _JUMP_W, _AGREEING, _RECENT = 20.0, 50.0, 3, 100
# Sensors flicker in their last bit. But that is 40 mW at 5 V, and what they show is a mean: on an
# idle board it repeats for seconds.
_FROZEN_S, _FROZEN_READINGS = 30.0, 20
# A counter knows what was drawn while nobody read it; after long, it may have wrapped unseen.
_COUNTER_GAP_S = 60.0
_TURNED_BACK = 20  # readings from the past, until the clock is taken to have been set


class Taken(NamedTuple):
    """What `EnergyAccount.take` gives.

    Attributes:
        power_w: the mean since the last call, over the time that was measured; where no reading
            fell into it, the latest power. None at a fault.
        energy_j: what was drawn since the last call. None at a fault, and where no reading fell
            into that time: the next one then covers both.
        fault: why the power is not known.
    """

    power_w: float | None
    energy_j: float | None
    fault: str | None


class EnergyAccount:
    """The energy that was drawn, as far as it was measured.

    A reading that cannot be true is ignored and counted. Time without good readings, or with
    ignored powers, is counted in `gap_s`, and no energy is made up for it. Everything mends itself
    when good readings come.

    Attributes:
        energy_j: in total; it never decreases.
        covered_s: the time that `energy_j` was drawn in.
        gap_s: the time between good readings that `energy_j` knows nothing of.
        power_w: the latest; None before the first that is known.
        ignored: how many readings could not be true.
        failed: how many times there was no reading.
    """

    __slots__ = (
        "_accepted_s", "_error", "_is_doubted", "_last", "_marked_j", "_marked_s", "_patience_s",
        "_recent_w", "_same", "_same_since_s", "_turned_back", "covered_s", "energy_j", "failed",
        "gap_s", "ignored", "power_w",
    )  # fmt: skip

    def __init__(self, *, patience_s: float = 1.0) -> None:
        """Begin at zero.

        Args:
            patience_s: how long a good reading holds.
        """
        self._patience_s = patience_s
        self.energy_j = self.covered_s = self.gap_s = 0.0
        self.power_w: float | None = None
        self.ignored = self.failed = 0
        self._last: PowerReading | None = None  # what the next reading is compared with
        self._accepted_s = 0.0  # when the latest good reading came ...
        self._error: str | None = None  # ... what came instead of one since ...
        self._is_doubted = False  # ... and whether a power was ignored among it
        self._recent_w: deque[float] = deque(maxlen=_RECENT)  # powers, the ignored ones too
        self._same, self._same_since_s = 1, 0.0
        self._turned_back = 0
        self._marked_j = self._marked_s = 0.0

    def add(self, reading: PowerReading) -> None:
        """Add a reading."""
        watts, energy_j = reading.total_w, reading.energy_j
        if watts is not None and not 0 <= watts <= _MOST_W:
            self._doubt(f"it showed {watts:.4g} W, which cannot be")
            return
        last = self._last
        if last is None:
            self._restart(reading)
            return
        elapsed_s = reading.time_s - last.time_s
        if not 0 < elapsed_s < math.inf:
            self._turn_back(reading)
        elif energy_j is not None:
            self._count(reading, last, elapsed_s)
        elif watts is not None:
            self._integrate(reading, last, elapsed_s, watts)
        else:
            self._ignore("it showed neither power nor energy")

    def fail(self, message: str) -> None:
        """Note that there was no reading, and why."""
        self.failed += 1
        self._error = message

    def fault(self, now: float) -> str | None:
        """Say why the power is not known now; None if it is."""
        last = self._last
        if last is None:
            return self._error or "no reading yet"
        silent_s = now - self._accepted_s
        if silent_s > self._patience_s:
            return f"no reading for {silent_s:.1f} s: {self._error or 'the sensor does not answer'}"
        if self._is_frozen(last.time_s):
            for_s = last.time_s - self._same_since_s
            return f"the sensor has shown exactly {last.total_w:.3f} W for {for_s:.0f} s"
        return None

    def take(self, now: float) -> Taken:
        """Return what was drawn since the last call.

        What was measured in an interval that ends with a fault is in `energy_j` alone.
        """
        energy_j, covered_s = self.energy_j - self._marked_j, self.covered_s - self._marked_s
        self._marked_j, self._marked_s = self.energy_j, self.covered_s
        fault = self.fault(now)
        if fault is not None:
            return Taken(None, None, fault)
        if covered_s <= 0:
            return Taken(self.power_w, None, None)
        return Taken(energy_j / covered_s, energy_j, None)

    def _integrate(
        self, reading: PowerReading, last: PowerReading, elapsed_s: float, watts: float
    ) -> None:
        """Add a reading of power alone."""
        before_w = last.total_w
        if before_w is None or last.energy_j is not None:  # a counter went before
            self.gap_s += elapsed_s
            self._restart(reading)
            return
        self._recent_w.append(watts)
        if _shown(reading) == _shown(last):
            self._same += 1
        else:
            if _is_jump(before_w, watts) and not self._is_repeated(watts):
                self._doubt(f"it jumped from {before_w:.1f} to {watts:.1f} W")
                return
            self._same, self._same_since_s = 1, reading.time_s
        is_silent = elapsed_s > self._patience_s
        if is_silent or self._is_doubted or self._is_frozen(reading.time_s):
            self.gap_s += elapsed_s
        else:
            self.energy_j += (before_w + watts) / 2 * elapsed_s
            self.covered_s += elapsed_s
        self._accept(reading, watts)

    def _count(self, reading: PowerReading, last: PowerReading, elapsed_s: float) -> None:
        """Add a reading of a counter."""
        assert reading.energy_j is not None
        if last.energy_j is None:  # power went before
            self.gap_s += elapsed_s
            self._restart(reading)
            return
        used_j = reading.energy_j - last.energy_j
        if used_j == 0:
            # Some counters move less often than they are read. The next reading covers the time.
            self._error = f"the counter stands at {reading.energy_j:.3f} J"
            return
        mean_w = used_j / elapsed_s
        if not 0 < mean_w <= _MOST_W:  # whatever the counter did, it counts on from here
            self.gap_s += elapsed_s
            self._ignore(f"the counter moved by {used_j:.6g} J in {elapsed_s:.2f} s")
            self._last = reading
            return
        if elapsed_s > _COUNTER_GAP_S:
            self.gap_s += elapsed_s
        else:
            self.energy_j += used_j
            self.covered_s += elapsed_s
        self._accept(reading, mean_w if reading.total_w is None else reading.total_w)

    def _accept(self, reading: PowerReading, power_w: float | None) -> None:
        self._last = reading
        self._accepted_s = reading.time_s
        self.power_w = power_w
        self._error = None
        self._is_doubted = False
        self._turned_back = 0

    def _restart(self, reading: PowerReading) -> None:
        """Begin anew with a reading that cannot be compared with the one before."""
        if reading.total_w is None and reading.energy_j is None:
            self._ignore("it showed neither power nor energy")
            return
        if reading.total_w is not None:
            self._recent_w.append(reading.total_w)
        self._same, self._same_since_s = 1, reading.time_s
        self._accept(reading, reading.total_w)

    def _ignore(self, message: str) -> None:
        self.ignored += 1
        self._error = message

    def _doubt(self, message: str) -> None:
        """Ignore a power: what was drawn up to the next good one is not known."""
        self._ignore(message)
        self._is_doubted = True

    def _turn_back(self, reading: PowerReading) -> None:
        """Ignore a reading that is no later than the one before, but not for ever."""
        self._ignore("the clock did not go forward")
        self._turned_back += 1
        if self._turned_back >= _TURNED_BACK and math.isfinite(reading.time_s):
            self._restart(reading)

    def _is_repeated(self, watts: float) -> bool:
        """Whether so much was shown often enough of late to be real."""
        return sum(not _is_jump(seen_w, watts) for seen_w in self._recent_w) >= _AGREEING

    def _is_frozen(self, time_s: float) -> bool:
        return self._same >= _FROZEN_READINGS and time_s - self._same_since_s >= _FROZEN_S


def _shown(reading: PowerReading) -> tuple[object, ...]:
    return reading.total_w, reading.rails_w, reading.registers


def _is_jump(before_w: float, after_w: float) -> bool:
    low_w, high_w = (before_w, after_w) if before_w < after_w else (after_w, before_w)
    return high_w - low_w > _JUMP_W and high_w > _JUMP_RATIO * low_w
