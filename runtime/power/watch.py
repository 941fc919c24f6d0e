"""Statistics of several meters over some time, rail by rail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.meter import Meter
from ffn_edge.runtime.power.schedule import Schedule

_PERIOD_S = 0.05


class Range:
    """The mean and the highest of some values."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0
        self.highest = 0.0

    def add(self, value: float) -> None:
        """Take one more."""
        self.highest = value if not self._count else max(self.highest, value)
        self._sum += value
        self._count += 1

    @property
    def mean(self) -> float | None:
        """None before the first value."""
        return self._sum / self._count if self._count else None


class Watched:
    """A meter, and what it has shown.

    Attributes:
        account: the energy.
        total: of the readings' totals, in watts; and
        rails: of each rail.
        ended_s: when it was read last, on the clock of the readings.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.account = EnergyAccount()
        self.total = Range()
        self.rails: dict[str, Range] = {}
        self.ended_s = 0.0

    def sample(self, now: float) -> None:
        """Read the meter. A failure is noted in the account."""
        self.ended_s = now
        try:
            reading = self.meter.read(now)
        except SensorError as error:
            self.account.fail(error.message)
            return
        ignored = self.account.ignored
        self.account.add(reading)
        if self.account.ignored > ignored:
            return  # a spike that cannot be true is no highest value
        if reading.total_w is not None:
            self.total.add(reading.total_w)
        for name, watts in reading.rails_w.items():
            self.rails.setdefault(name, Range()).add(watts)

    @property
    def mean_w(self) -> float | None:
        """The mean power over the time that was measured."""
        covered_s = self.account.covered_s
        return self.account.energy_j / covered_s if covered_s else self.total.mean


def watch(
    meters: Sequence[Watched], seconds: float, every_s: float, stop: threading.Event
) -> Iterator[tuple[float, Schedule]]:
    """Sample meters 20 times a second until `seconds` have passed or `stop` is set.

    Yields:
        The seconds since the start, and how the schedule was kept: every so often, and once at the
        end.
    """
    start = told = time.monotonic()
    schedule = Schedule(_PERIOD_S)
    schedule.start(start)
    while True:
        now = time.monotonic()
        schedule.begin(now)
        for meter in meters:
            meter.sample(now)
        schedule.end(time.monotonic())
        if now - start >= seconds or stop.wait(max(0.0, schedule.due_s - time.monotonic())):
            break
        if now - told >= every_s:
            told = now
            yield now - start, schedule
    yield time.monotonic() - start, schedule
