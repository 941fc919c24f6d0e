"""The thread that reads the power many times a second, and the machine's health once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from ffn_edge.errors import SensorError
from ffn_edge.runtime.machine.health import Health, HealthReading
from ffn_edge.runtime.policy.interface import Sensed
from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.meter import Meter, PowerReading
from ffn_edge.runtime.power.schedule import Schedule

_HEALTH_S = 1.0
# Some drivers take long to tell a temperature. They may take this share of the time: the longer
# they take, the more seldom they are asked, and the fewer readings of power are late.
_HEALTH_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a sampler knows.

    Attributes:
        power: the latest reading.
        health: the latest of it.
        energy_j: what was drawn since the sampler was started, as far as it was measured; and
        gap_s: the time that it knows nothing of.
        samples: how many readings were taken;
        ignored: could not be true;
        failed: failed;
        missed: were not tried in time at all.
        late_ms: by how much a reading was late, on average; and
        latest_ms: at worst.
    """

    power: PowerReading | None
    health: HealthReading | None
    energy_j: float
    gap_s: float
    samples: int
    ignored: int
    failed: int
    missed: int
    late_ms: float
    latest_ms: float


class Sampler:
    """A thread that reads a meter at a set rate, on a schedule that does not drift.

        with closing(open_meter()) as meter, Sampler(meter, Health()) as sampler:
            ...
            sensed = sampler.sense(time.monotonic())

    A sensor that hangs, hangs the thread alone: it is then left behind, and `sense` tells. Use
    `sense` from one place: each call ends an interval.
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
        self._power: PowerReading | None = None
        self._healthy: HealthReading | None = None
        self._samples = 0
        self._schedule = Schedule(1 / rate_hz)
        self._events: int | None = None  # of over-current, when they were last known
        self._over_current = 0  # events that `sense` has not told yet

    def __enter__(self) -> Sampler:
        self._schedule.start(time.monotonic())
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
            health = self._healthy
        return Sensed(
            power_w=power_w,
            energy_j=energy_j,
            fault=fault,
            temperature_c=None if health is None else health.hottest_c,
            zones_c={} if health is None else health.temperatures_c,
            over_current=over_current,
            throttled=None if health is None else health.throttled,
        )

    def snapshot(self) -> Snapshot:
        """Return what is known now, without ending an interval of `sense`."""
        with self._lock:
            account = self._account
            return Snapshot(
                power=self._power,
                health=self._healthy,
                energy_j=account.energy_j,
                gap_s=account.gap_s,
                samples=self._samples,
                ignored=account.ignored,
                failed=account.failed,
                missed=self._schedule.missed,
                late_ms=self._schedule.late_s * 1e3,
                latest_ms=self._schedule.latest_s * 1e3,
            )

    def _run(self) -> None:
        schedule = self._schedule
        health_due_s = schedule.due_s
        while not self._must_end.wait(max(0.0, schedule.due_s - time.monotonic())):
            now = time.monotonic()
            self._sample(now)
            if now >= health_due_s:
                begin = time.monotonic()
                self._examine()
                took_s = time.monotonic() - begin
                health_due_s = now + max(_HEALTH_S, took_s / _HEALTH_SHARE)
            with self._lock:
                schedule.end(time.monotonic())

    def _sample(self, now: float) -> None:
        reading: PowerReading | None = None
        message = ""
        try:
            reading = self._meter.read(now)
        except SensorError as error:
            message = error.message
        with self._lock:
            self._schedule.begin(now)
            if reading is None:
                self._account.fail(message)
            else:
                self._samples += 1
                self._power = reading
                self._account.add(reading)

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
