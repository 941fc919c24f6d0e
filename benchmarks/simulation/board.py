"""A simulated board: latency, heat, power and what disturbs them. No value was read off a real one.

Every random number follows from the seed and the number of the hop (of the sample, for the
sensor): all policies meet the same noise, spikes and contention at the same time, and the latency
of *every* frame count is fixed before one is chosen. Only heat depends on what was chosen before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.draws import Draws, generators
from benchmarks.simulation.sensor import SensorSpec, SensorState, SimulatedSensor
from ffn_edge.runtime.policy.interface import Limits, OperatingPoint, Sensed, Setting
from ffn_edge.runtime.power.account import EnergyAccount

PERIOD_S = 0.25  # the hop of `ffn-edge run` ...
WINDOW_S = 2.0  # ... and its window

# A clock that is lowered lets the voltage fall with it: dynamic power goes with f · V², here f².
_POWER_EXPONENT = 2.0
_PROFILED = 50  # inferences that the policy's profile holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A span of time under the same conditions.

    Attributes:
        duration_s: how long.
        deadline: in base latencies of the most frames; None is no deadline.
        power: the budget, where 0 is what the fewest frames draw on average and 1 what the most
            draw, frame counts between are evenly spaced, and more than 1 is so many times what the
            most draw; None is no budget.
        contention: the share of the processor that another process takes.
        memory: how much slower all is by the power mode or the memory clock.
        drift: how much slower the most frames alone are.
        ambient_c: the air's temperature.
        spike_onset: the chance that an inference begins a burst of slow ones.
        sensor: whether the power sensor works.
        sensor_delay_s: how late it is; None is the sensor's own delay.
    """

    duration_s: float
    deadline: float | None = 1.35
    power: float | None = None
    contention: float = 0.0
    memory: float = 1.0
    drift: float = 1.0
    ambient_c: float = 25.0
    spike_onset: float = 0.0005
    sensor: SensorState = "well"
    sensor_delay_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """One step of the clocks: from `trip_c` on they run at `clock` of their full speed."""

    trip_c: float
    clock: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSpec:
    """What a board is like. Synthetic values, with the size of a small Jetson's in mind.

    Attributes:
        points: by ascending frame count, all with accuracy and power. The accuracies are those
            of the paper's FFN TSM-R50 on Something-Something V1 (Table 1); latency and power are
            made up, in proportion to the work and a little less.
        ratios: profiled latencies over their base, ascending, which the noise is drawn from;
            empty is lognormal noise.
        noise: standard deviation of the logarithm of lognormal noise.
        idle_w: drawn at rest.
        contention_w: what the other process would draw, had it the whole processor.
        contention_spread: contention of factor s slows the most frames by s^(1 + this) and the
            fewest by s^(1 - this): what one global slowdown cannot explain.
        spike_stay: the chance that a slow inference is followed by another: 74 % were reported
            on a Jetson, at 0.1 % overall.
        spike_scale: the inferences of a burst take 1 + x times as long, where x is drawn for each
            burst from a generalised Pareto distribution of this scale
        spike_shape: and this shape.
        resistance_c_per_w: how much hotter than the air each watt makes it, in the end.
        time_constant_s: how long 63 % of that take.
        throttle: steps by rising temperature.
        hysteresis_c: a step is left so far below where it began.
        sensor: of the power.
    """

    points: tuple[OperatingPoint, ...] = (
        OperatingPoint(frames=4, base_ms=20.0, accuracy=0.4285, power_w=9.0),
        OperatingPoint(frames=8, base_ms=38.0, accuracy=0.4820, power_w=10.0),
        OperatingPoint(frames=16, base_ms=74.0, accuracy=0.5079, power_w=11.0),
    )
    ratios: tuple[float, ...] = ()
    noise: float = 0.03
    idle_w: float = 5.0
    contention_w: float = 4.0
    contention_spread: float = 0.03
    spike_stay: float = 0.74
    spike_scale: float = 0.5
    spike_shape: float = 0.3
    resistance_c_per_w: float = 4.5
    time_constant_s: float = 40.0
    throttle: tuple[Throttle, ...] = (
        Throttle(trip_c=85.0, clock=0.8),
        Throttle(trip_c=90.0, clock=0.65),
        Throttle(trip_c=95.0, clock=0.5),
    )
    hysteresis_c: float = 3.0
    sensor: SensorSpec = field(default_factory=SensorSpec)

    def setting(self) -> Setting:
        """Return what a policy is told: a profile that was made when nothing interfered."""
        steps = [(number + 0.5) / _PROFILED for number in range(_PROFILED)]
        normal = NormalDist(sigma=self.noise) if self.noise else None
        drawn = tuple(math.exp(normal.inv_cdf(step)) for step in steps) if normal else (1.0,)
        return Setting(
            points=self.points, ratios=self.ratios or drawn, idle_w=self.idle_w, period_s=PERIOD_S
        )

    def streaming(self) -> BoardSpec:
        """Return the same board with a network that streams, one so large that rates matter.

        Each rate's step takes what the most frames took, and draws as much.
        """
        most = self.points[-1]
        points = [
            replace(
                point,
                base_ms=most.base_ms,
                power_w=most.power_w,
                period_s=WINDOW_S / point.frames,
            )
            for point in self.points
        ]
        return replace(self, points=tuple(points))

    def budget_w(self, position: float) -> float:
        """Return the power budget at a position; see `Phase.power`."""
        setting = self.setting()
        drawn_w = [
            self.idle_w
            + (point.power_w or 0.0) * min(1.0, point.base_ms / 1e3 / setting.period_of(point))
            for point in self.points
        ]
        between = float(np.interp(position, np.linspace(0, 1, len(drawn_w)), drawn_w))
        return between * max(1.0, position)


SYNTHETIC = BoardSpec()


class Board:
    """A board that lives through phases, over and over: a `KnownDevice`."""

    def __init__(
        self, spec: BoardSpec, phases: Sequence[Phase], limits: Sequence[Limits], seed: int
    ) -> None:
        """Start cold at time 0.

        Args:
            spec: what it is like.
            phases: what it meets.
            limits: what the user asks for in each phase.
            seed: of all that is random.
        """
        self.setting = spec.setting()
        self.energy_j = 0.0
        self.source_frames = None  # enough for every rate
        self.throttle_step = 0
        self._spec = spec
        self._phases = phases
        self._all_limits = limits
        body, onset, height, *sensing = generators(seed, 5)
        self._body = Draws(lambda count: _body(spec, body, count))
        self._onset = Draws(onset.random)
        self._height = Draws(lambda count: _heights(spec, height, count))
        self._account = EnergyAccount()
        self._sensor = SimulatedSensor(spec.sensor, self._account, (sensing[0], sensing[1]))
        self._now = 0.0
        self._hop = -1
        self._hop_s = min(self.setting.period_of(point) for point in spec.points)
        self.latencies_ms: list[float] = []
        self._in_spike, self._spike = False, 1.0
        self._number = -1
        self._phase_end_s = 0.0
        self._next_phase()
        self.temperature_c = self._ambient_c + spec.resistance_c_per_w * spec.idle_w

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""
        while now >= self._phase_end_s:
            self._next_phase()
        hop = int(now / self._hop_s + 1e-6)
        while self._hop < hop:  # also the hops that a long inference skipped
            self._hop += 1
            if self._in_spike:
                self._in_spike = self._onset.at(self._hop) < self._spec.spike_stay
            elif self._onset.at(self._hop) < self._spike_onset:
                self._in_spike, self._spike = True, self._height.at(self._hop)
        self._throttle()
        factor = self._body.at(hop) / self._clock
        if self._in_spike:
            factor *= self._spike
        self.latencies_ms = [ms * factor for ms in self._phase_ms]
        return self.latencies_ms

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""
        periods_ms = [self.setting.period_of(point) * 1e3 for point in self._spec.points]
        return [
            self._rest_w + working_w * min(1.0, ms / self._clock / period_ms)
            for working_w, ms, period_ms in zip(
                self._working_w, self._phase_ms, periods_ms, strict=True
            )
        ]

    def work(self, index: int, until: float) -> None:
        """Run the engine of `points[index]` to a time."""
        self._account.worked_s += until - self._now
        self._advance(self._rest_w + self._working_w[index], until)

    def rest(self, until: float) -> None:
        """Run no engine to a time."""
        self._advance(self._rest_w, until)

    def sense(self, now: float) -> Sensed:
        """Return what the sensors say."""
        power_w, energy_j, fault = self._account.take(now)
        step = self.throttle_step
        return Sensed(
            power_w=power_w,
            energy_j=energy_j,
            fault=fault,
            temperature_c=round(self.temperature_c * 2) / 2,
            throttled=f"heat: clocks at {self._clock:.0%}" if step else None,
        )

    def _advance(self, power_w: float, until: float) -> None:
        spec = self._spec
        elapsed = until - self._now
        self.energy_j += power_w * elapsed
        final_c = self._ambient_c + spec.resistance_c_per_w * power_w
        decay = math.exp(-elapsed / spec.time_constant_s)
        self.temperature_c = final_c + (self.temperature_c - final_c) * decay
        self._sensor.advance(power_w, until)
        self._now = until

    def _next_phase(self) -> None:
        spec = self._spec
        self._number = (self._number + 1) % len(self._phases)
        phase = self._phases[self._number]
        self._phase_end_s += phase.duration_s
        self.limits = self._all_limits[self._number]
        self._ambient_c = phase.ambient_c
        self._spike_onset = phase.spike_onset
        self._contention = phase.contention
        self._memory = phase.memory
        slowdown = 1 / (1 - phase.contention)
        most = len(spec.points) - 1
        self._phase_ms = [
            point.base_ms
            * phase.memory
            * slowdown ** (1 + spec.contention_spread * (2 * i / max(most, 1) - 1))
            * (phase.drift if i == most else 1.0)
            for i, point in enumerate(spec.points)
        ]
        self._rest_w = spec.idle_w + spec.contention_w * phase.contention
        self._set_clock()
        self._sensor.state = phase.sensor
        delay_s = phase.sensor_delay_s
        self._sensor.set_delay(spec.sensor.delay_s if delay_s is None else delay_s)

    def _throttle(self) -> None:
        """Take or leave one step: the thermal zones are looked at once a hop."""
        steps = self._spec.throttle
        step = self.throttle_step
        if step < len(steps) and self.temperature_c >= steps[step].trip_c:
            self.throttle_step += 1
            self._set_clock()
        elif step and self.temperature_c < steps[step - 1].trip_c - self._spec.hysteresis_c:
            self.throttle_step -= 1
            self._set_clock()

    def _set_clock(self) -> None:
        spec = self._spec
        step = self.throttle_step
        self._clock = spec.throttle[step - 1].clock if step else 1.0
        # While another process has its share of the time, or the memory is waited for, an engine
        # draws less; the energy of a clip stays.
        share = (1 - self._contention) / self._memory * self._clock**_POWER_EXPONENT
        self._working_w = [(point.power_w or 0.0) * share for point in spec.points]


def _body(spec: BoardSpec, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return factors of the latency where nothing interferes."""
    if spec.ratios:
        return rng.choice(np.asarray(spec.ratios), count)
    factors: NDArray[np.float64] = np.exp(spec.noise * rng.standard_normal(count))
    return factors


def _heights(spec: BoardSpec, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return factors of the latency in a spike: 1 + a generalised Pareto variable."""
    tail: NDArray[np.float64] = (1 - rng.random(count)) ** -spec.spike_shape - 1
    return 1 + spec.spike_scale * tail / spec.spike_shape
