"""The thread that reads the power many times a second, and the machine's health once."""

from __future__ import annotations

import threading
import time

from ffn_edge.errors import SensorError
from ffn_edge.runtime.machine.clock_state import ClockState
from ffn_edge.runtime.machine.health import Health, HealthReading
from ffn_edge.runtime.policy.interface import Sensed
from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.meter import Meter, PowerReading
from ffn_edge.runtime.power.schedule import Schedule

_HEALTH_S = 1.0
# Some drivers take long to tell a temperature or a clock. They may take this share of the time: the
# longer they take, the more seldom they are asked, and the fewer readings of power are late.
_HEALTH_SHARE = 0.02


class Sampler:
    """A thread that reads a meter at a set rate, on a schedule that does not drift.

        with closing(open_meter()) as meter, Sampler(meter, Health()) as sampler:
            ...
            sensed = sampler.sense(time.monotonic())

    A sensor that hangs, hangs the thread alone: it is then left behind, and `sense` tells. Use
    `sense` from one place: each call ends an interval.

    Attributes:
        schedule: how well the rate was kept.
    """

    def __init__(self, meter: Meter, health: Health, *, rate_hz: float = 20.0) -> None:
        """Remember what to read. The caller closes the meter, after the sampler has ended."""
        self._meter = meter
        self._health = health
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)
        self._must_end = threading.Event()
        # Guards the fields below, which the thread sets. No file is read under it.
        self._lock = threading.Lock()
        self._account = EnergyAccount()
        self._clocks = ClockState()
        self._healthy: HealthReading | None = None
        self.schedule = Schedule(1 / rate_hz)
        self._events: int | None = None  # of over-current, when they were last known
        self._over_current = 0  # events that `sense` has not told yet

    def __enter__(self) -> Sampler:
        self.schedule.start(time.monotonic())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._must_end.set()
        self._thread.join(timeout=1.0)

    def sense(self, now: float) -> Sensed:
        """Return what was sensed since the last call. It never waits for a sensor.

        Args:
            now: `time.monotonic()`.
        """
        with self._lock:
            power_w, energy_j, fault = self._account.take(now)
            over_current, self._over_current = self._over_current, 0
            health, clocks_mhz = self._healthy, self._clocks.at_work_mhz()
        return Sensed(
            power_w=power_w,
            energy_j=energy_j,
            fault=fault,
            temperature_c=None if health is None else health.hottest_c,
            zones_c={} if health is None else health.temperatures_c,
            headroom_c=None if health is None else health.headroom_c,
            clocks_mhz=clocks_mhz,
            over_current=over_current,
            throttled=None if health is None else health.throttled,
        )

    def _run(self) -> None:
        schedule = self.schedule
        health_due_s = clocks_due_s = schedule.due_s
        while not self._must_end.wait(max(0.0, schedule.due_s - time.monotonic())):
            now = time.monotonic()
            clocks_mhz = self._sample(now)
            if clocks_mhz or now >= clocks_due_s:
                begin = time.monotonic()
                self._look_at_clocks(now, clocks_mhz)
                clocks_due_s = now + (time.monotonic() - begin) / _HEALTH_SHARE
            if now >= health_due_s:
                begin = time.monotonic()
                self._examine()
                health_due_s = now + max(_HEALTH_S, (time.monotonic() - begin) / _HEALTH_SHARE)
            with self._lock:
                schedule.end(time.monotonic())

    def _sample(self, now: float) -> tuple[float, ...]:
        """Read the meter; return the clocks that it told with the power."""
        reading: PowerReading | None = None
        message = ""
        try:
            reading = self._meter.read(now)
        except SensorError as error:
            message = error.message
        with self._lock:
            self.schedule.begin(now)
            if reading is None:
                self._account.fail(message)
                return ()
            self._account.worked_s = time.process_time()
            self._account.add(reading)
            return reading.clocks_mhz

    def _look_at_clocks(self, now: float, of_meter_mhz: tuple[float, ...]) -> None:
        try:
            clocks_mhz = of_meter_mhz or self._health.clocks_mhz()
        except Exception:  # as below
            clocks_mhz = ()
        with self._lock:
            self._clocks.add(now, clocks_mhz)

    def _examine(self) -> None:
        try:
            health = self._health.read()
        except Exception:  # whatever a driver may do: power is read on
            health = HealthReading()
        events, before = health.over_current_events, self._events
        with self._lock:
            self._healthy = health
            if events is None:
                return
            if before is not None:
                self._over_current += max(0, events - before)  # a reloaded driver counts anew
            self._events = events
