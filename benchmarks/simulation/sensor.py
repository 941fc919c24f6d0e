"""A simulated power sensor: it filters, lags, is noisy, rounds, freezes and goes away."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.simulation.draws import Draws
from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.meter import PowerReading

SensorState = Literal["well", "gone", "frozen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorSpec:
    """A sensor and what samples it. Synthetic values, near an INA3221 at a 5 mΩ shunt.

    Attributes:
        rate_hz: of the samples.
        jitter_s: a sample comes late by up to so much, as a thread's does.
        filter_s: time constant of its averaging, a first-order low pass.
        mean_s: where it averages over the last so long instead, as NVML does; 0 is the low pass.
        every_s: it shows another value so often, and repeats it for the samples between; 0 is at
            each sample.
        delay_s: from what it measures to what it shows; rounded to whole samples.
        noise: standard deviation, as a share of the value.
        quantum_w: it shows multiples of this: 40 µV / 5 mΩ · 5 V.
    """

    rate_hz: float = 20.0
    jitter_s: float = 0.01
    filter_s: float = 0.1
    mean_s: float = 0.0
    every_s: float = 0.0
    delay_s: float = 0.05
    noise: float = 0.01
    quantum_w: float = 0.04


class SimulatedSensor:
    """Shows the power that it is told, to an `EnergyAccount`: the one that runs on the device."""

    def __init__(
        self, spec: SensorSpec, account: EnergyAccount, rngs: tuple[np.random.Generator, ...]
    ) -> None:
        """Start at time 0.

        Args:
            spec: what it is like.
            account: gets the readings.
            rngs: two generators, for noise and jitter.
        """
        self.state: SensorState = "well"
        self._spec = spec
        self._account = account
        noise, jitter = rngs
        self._noise = Draws(lambda count: 1 + spec.noise * noise.standard_normal(count))
        self._jitter = Draws(lambda count: spec.jitter_s * jitter.random(count))
        self._filtered_w: float | None = None
        self._now = 0.0
        self._tick = 0
        self._tick_s = 0.0
        self._shown_w, self._next_shown = 0.0, 0
        self._energy_j = 0.0
        # (time, energy) at each sample of the running mean.
        self._span: deque[tuple[float, float]] = deque(maxlen=round(spec.mean_s * spec.rate_hz) + 1)
        self._rails: dict[str, float] = {}
        self.set_delay(spec.delay_s)

    def set_delay(self, delay_s: float) -> None:
        """Lag so much from now on; what was measured meanwhile is dropped or shown again."""
        length = round(delay_s * self._spec.rate_hz) + 1
        self._waiting: deque[float] = deque(getattr(self, "_waiting", ()), maxlen=length)

    def advance(self, power_w: float, until: float) -> None:
        """Live on to a time, during which the power is constant."""
        spec = self._spec
        filtered_w = power_w if self._filtered_w is None else self._filtered_w
        while self._tick_s <= until:
            elapsed = self._tick_s - self._now
            filtered_w = power_w + (filtered_w - power_w) * math.exp(-elapsed / spec.filter_s)
            self._energy_j += power_w * elapsed
            self._now = self._tick_s
            self._sample(self._mean_w(power_w) if spec.mean_s else filtered_w)
            self._tick += 1
            self._tick_s = max(self._tick / spec.rate_hz + self._jitter.at(self._tick), self._now)
        elapsed = until - self._now
        self._filtered_w = power_w + (filtered_w - power_w) * math.exp(-elapsed / spec.filter_s)
        self._energy_j += power_w * elapsed
        self._now = until

    def _mean_w(self, power_w: float) -> float:
        self._span.append((self._now, self._energy_j))
        begin_s, begin_j = self._span[0]
        elapsed = self._now - begin_s
        return (self._energy_j - begin_j) / elapsed if elapsed else power_w

    def _sample(self, measured_w: float) -> None:
        self._waiting.append(measured_w)
        if self.state == "gone":
            self._account.fail("the sensor does not answer")
            return
        if self.state == "well" and self._tick >= self._next_shown:
            self._next_shown = self._tick + max(1, round(self._spec.every_s * self._spec.rate_hz))
            quantum_w = self._spec.quantum_w
            noisy_w = self._waiting[0] * self._noise.at(self._tick)
            self._shown_w = round(noisy_w / quantum_w) * quantum_w
        self._account.add(
            PowerReading(time_s=self._now, total_w=self._shown_w, rails_w=self._rails)
        )
