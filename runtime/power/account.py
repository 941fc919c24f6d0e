"""Energy from readings of power, and what to think of them. No clock, no I/O, no thread.

    account = EnergyAccount()
    account.add(reading)                                # many times a second
    power_w, energy_j, fault = account.take(now)        # after an inference

Power is integrated by the trapezoid rule; a counter of energy needs no more than differences.
"""

from __future__ import annotations

from typing import NamedTuple

from ffn_edge.runtime.power.meter import PowerReading

_PATIENCE_S = 1.0  # a good reading holds so long
_MOST_W = 2000.0  # no machine that this runs on draws more
# Sensors flicker in their last bit. But that is 40 mW at 5 V, and what they show is a mean: on an
# idle board it repeats for seconds.
_FROZEN_S, _FROZEN_READINGS = 30.0, 20


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
    """The energy that was drawn, as far as one meter measured it: it always counts, or never.

    A reading that cannot be true is ignored and counted. More than a second without good readings
    is counted in `gap_s`, and no energy is made up for it. Everything mends itself when good
    readings come.

    Attributes:
        energy_j: in total; it never decreases.
        covered_s: the time that `energy_j` was drawn in.
        gap_s: the time between good readings that `energy_j` knows nothing of.
        power_w: the latest; None before the first that is known.
        ignored: how many readings could not be true.
        failed: how many times there was no reading.
    """

    def __init__(self) -> None:
        self.energy_j = self.covered_s = self.gap_s = 0.0
        self.power_w: float | None = None
        self.ignored = self.failed = 0
        self._last: PowerReading | None = None  # what the next reading is compared with
        self._accepted_s = 0.0  # when the latest good reading came ...
        self._error: str | None = None  # ... and what came instead of one since
        self._same, self._same_since_s = 1, 0.0
        self._marked_j = self._marked_s = 0.0

    def add(self, reading: PowerReading) -> None:
        """Add a reading."""
        watts, last = reading.total_w, self._last
        if watts is not None and not 0 <= watts <= _MOST_W:
            self._ignore(f"it showed {watts:.4g} W, which cannot be")
        elif last is None:
            self._same_since_s = reading.time_s
            self._accept(reading, watts)
        elif reading.energy_j is not None:
            assert last.energy_j is not None
            self._count(reading, reading.energy_j - last.energy_j, reading.time_s - last.time_s)
        else:
            assert watts is not None and last.total_w is not None
            self._integrate(reading, last, (last.total_w + watts) / 2)

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
        if silent_s > _PATIENCE_S:
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

    def _integrate(self, reading: PowerReading, last: PowerReading, mean_w: float) -> None:
        if _shown(reading) == _shown(last):
            self._same += 1
        else:
            self._same, self._same_since_s = 1, reading.time_s
        elapsed_s = reading.time_s - last.time_s
        if elapsed_s > _PATIENCE_S or self._is_frozen(reading.time_s):
            self.gap_s += elapsed_s
        else:
            self.energy_j += mean_w * elapsed_s
            self.covered_s += elapsed_s
        self._accept(reading, reading.total_w)

    def _count(self, reading: PowerReading, used_j: float, elapsed_s: float) -> None:
        if used_j == 0:
            # Some counters move less often than they are read. The next reading covers the time.
            self._error = f"the counter stands at {reading.energy_j:.3f} J"
        elif not 0 < used_j <= _MOST_W * elapsed_s:  # it was reset, and counts on from here
            self.gap_s += elapsed_s
            self._ignore(f"the counter moved by {used_j:.6g} J in {elapsed_s:.2f} s")
            self._last = reading
        else:
            self.energy_j += used_j
            self.covered_s += elapsed_s
            mean_w = used_j / elapsed_s
            self._accept(reading, mean_w if reading.total_w is None else reading.total_w)

    def _accept(self, reading: PowerReading, power_w: float | None) -> None:
        self._last = reading
        self._accepted_s = reading.time_s
        self.power_w = power_w
        self._error = None

    def _ignore(self, message: str) -> None:
        self.ignored += 1
        self._error = message

    def _is_frozen(self, time_s: float) -> bool:
        return self._same >= _FROZEN_READINGS and time_s - self._same_since_s >= _FROZEN_S


def _shown(reading: PowerReading) -> tuple[object, ...]:
    return reading.total_w, reading.rails_w, reading.registers
