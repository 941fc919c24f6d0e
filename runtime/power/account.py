"""Energy from readings of power, and what to think of them. No clock, no I/O, no thread.

    account = EnergyAccount()
    account.add(reading)                                # many times a second, or once
    power_w, energy_j, fault = account.take(now)        # after an inference

Power is integrated by the trapezoid rule; a counter of energy needs no more than differences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ffn_edge.runtime.power.meter import PowerReading

# A good reading holds so long: of a sensor that is read once a second one may be late, or missing.
_PATIENCE_S = 2.5
# ... or through so many of its usual intervals, where it speaks more rarely: every ten seconds at
# most.
_INTERVALS, _RAREST_S = 2.5, 10.0
_MOST_W = 2000.0  # no machine that this runs on draws more
# An idle board, a mean over a second and coarse steps repeat exactly, and rightly so. A sensor that
# hangs repeats while the work changes: means over so many seconds by a fifth of a core, which is
# some tenths of a watt. A GPU may work more without that, or all as evenly as ever: where there is
# work at all, some minutes of exactly the same registers on all rails are enough, too.
_WORK_S, _WORK_CHANGES, _IS_WORK = 5.0, 0.2, 0.05
_FROZEN_S, _FROZEN_AT_LAST_S = 30.0, 300.0


class Taken(NamedTuple):
    """What `EnergyAccount.take` gives.

    Attributes:
        power_w: the mean power over the time of `energy_j`; and
        energy_j: what was drawn since the last call that told it. Both are None at a fault, and
            where no reading fell into that time, which is no news and no fault: the next one then
            covers both, so that the energies add up.
        fault: why the power is not known; None is no fault.
    """

    power_w: float | None
    energy_j: float | None
    fault: str | None


class EnergyAccount:
    """The energy that was drawn, as far as one meter measured it: it always counts, or never.

    A reading that cannot be true is ignored and counted. More than 2.5 seconds without good
    readings are counted in `gap_s`, and no energy is made up for them. A sensor that repeats
    exactly is not believed 30 s after the work has changed, or after 5 min of any work: never on
    an idle machine. Everything mends itself when good readings come.

    Attributes:
        worked_s: what this process has worked so far, in seconds of one core, for whoever adds a
            reading to set before. Where nobody does, no sensor is called frozen.
        energy_j: in total; it never decreases.
        covered_s: the time that `energy_j` was drawn in.
        gap_s: the time between good readings that `energy_j` knows nothing of.
        power_w: the latest; None before the first that is known.
        ignored: how many readings could not be true.
        failed: how many times there was no reading.
    """

    def __init__(self) -> None:
        self.worked_s = 0.0
        self.energy_j = self.covered_s = self.gap_s = 0.0
        self.power_w: float | None = None
        self.ignored = self.failed = 0
        self._last: PowerReading | None = None  # what the next reading is compared with
        self._accepted_s = 0.0  # when the latest good reading came ...
        self._error: str | None = None  # ... and what came instead of one since
        self._usual_s = 0.0  # from one good reading to the next
        self._repeats: _Repeats | None = None
        self._marked_j = self._marked_s = 0.0

    def add(self, reading: PowerReading) -> None:
        """Add a reading."""
        watts, last = reading.total_w, self._last
        if watts is not None and not 0 <= watts <= _MOST_W:
            self._ignore(f"it showed {watts:.4g} W, which cannot be")
        elif last is None:
            self._repeats = _Repeats(reading, self.worked_s)
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
        if silent_s > self._patience_s:
            return f"no reading for {silent_s:.1f} s: {self._error or 'the sensor does not answer'}"
        if self._repeats is not None and self._repeats.is_frozen:
            for_s = self._repeats.for_s
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
            return Taken(None, None, None)
        return Taken(energy_j / covered_s, energy_j, None)

    def _integrate(self, reading: PowerReading, last: PowerReading, mean_w: float) -> None:
        if self._repeats is None or not self._repeats.go_on(reading, self.worked_s):
            self._repeats = _Repeats(reading, self.worked_s)
        elapsed_s = reading.time_s - last.time_s
        if elapsed_s > self._patience_s or self._repeats.is_frozen:
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

    @property
    def _patience_s(self) -> float:
        return max(_PATIENCE_S, _INTERVALS * self._usual_s)

    def _accept(self, reading: PowerReading, power_w: float | None) -> None:
        if self._last is not None:
            elapsed_s = min(reading.time_s - self._last.time_s, _RAREST_S)
            self._usual_s += (elapsed_s - self._usual_s) / 4
        self._last = reading
        self._accepted_s = reading.time_s
        self.power_w = power_w
        self._error = None

    def _ignore(self, message: str) -> None:
        self.ignored += 1
        self._error = message


class _Repeats:
    """A reading that repeats exactly, and what was worked meanwhile.

    Attributes:
        for_s: how long.
        is_frozen: whether the sensor hangs.
    """

    def __init__(self, reading: PowerReading, worked_s: float) -> None:
        self._shown = _shown(reading)
        self._since_s = self._block_s = reading.time_s
        self._worked_s = self._block_worked_s = worked_s
        self._least, self._most = math.inf, -math.inf  # cores that worked, each mean of a block
        self._changed_s = math.inf  # when that was seen to change
        self.for_s = 0.0
        self.is_frozen = False

    def go_on(self, reading: PowerReading, worked_s: float) -> bool:
        """Count one more; return False if it is another, and nothing repeats."""
        if _shown(reading) != self._shown:
            return False
        now = reading.time_s
        block_s = now - self._block_s
        if block_s >= _WORK_S:
            cores = (worked_s - self._block_worked_s) / block_s
            self._block_s, self._block_worked_s = now, worked_s
            self._least, self._most = min(self._least, cores), max(self._most, cores)
            if self._most - self._least >= _WORK_CHANGES:
                self._changed_s = min(self._changed_s, now)
        self.for_s = now - self._since_s
        works = worked_s - self._worked_s >= _IS_WORK * self.for_s
        self.is_frozen = now - self._changed_s >= _FROZEN_S or (
            works and self.for_s >= _FROZEN_AT_LAST_S
        )
        return True


def _shown(reading: PowerReading) -> tuple[object, ...]:
    return reading.total_w, reading.rails_w, reading.registers
