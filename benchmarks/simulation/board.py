"""A simulated board: latency, heat, power and what disturbs them. No value was read off a real one.

    latency = (base · noise · contention · memory · own · clocks + cold) + waits + interruptions

Every random number follows from the seed and the number of the hop (of the sample, for the
sensor): all policies meet the same noise, waits, spikes and contention at the same time, and the
latency of *every* frame count is fixed before one is chosen. Only heat, and whether an engine is
cold, depend on what was chosen before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
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
_PAUSE_S = 1.0  # what rested for so long has to wake


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What an inference waits for another program: the same time whatever its frame count.

    Attributes:
        least_ms: the time is uniform between this ...
        most_ms: ... and this.
        chance: that there is a wait at all.
    """

    least_ms: float = 0.0
    most_ms: float
    chance: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSharing:
    """Another program that takes the processor in turns: long inferences alone are interrupted.

    Attributes:
        own_ms: an inference runs for so long before it is interrupted ...
        others_ms: ... for so long. One that runs for L ms is interrupted L / own_ms times on
            average: never, or once, where L is less than own_ms.
    """

    own_ms: float
    others_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A clock that switches between modes by itself, as a governor does.

    Attributes:
        mhz: of each mode, the profile's first; one that is named twice is twice as likely.
        dwell_s: how long it stays in a mode on average; 0 draws another for each inference.
        bound: the share of the latency that goes with it: of the fewest frames, ..., of the most.
        power: dynamic power goes with the clock to this power.
        shown: whether `Sensed.clocks_mhz` tells.
    """

    mhz: tuple[float, ...]
    dwell_s: float
    bound: tuple[float, ...] = (1.0,)
    power: float = _POWER_EXPONENT
    shown: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """In what the policy's profile is wrong. Factors are of what is told over what is true.

    Attributes:
        latency: of the fewest frames, ..., of the most.
        power: likewise.
        accuracy: likewise, but what is added: the error of a validation on few clips.
        clips: of that validation; None leaves the points'.
        idle: of the idle machine.
        noise: what the noise of the profile was; None is the board's.
        period_s: the pace that is told; None is the board's.
    """

    latency: tuple[float, ...] = (1.0,)
    power: tuple[float, ...] = (1.0,)
    accuracy: tuple[float, ...] = (0.0,)
    clips: int | None = None
    idle: float = 1.0
    noise: float | None = None
    period_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A span of time under the same conditions.

    Attributes:
        duration_s: how long.
        deadline: in base latencies of the most frames; None is no deadline.
        deadline_jitter: each inference's deadline is uniform within this share of it.
        power: the budget, where 0 is what the fewest frames draw on average and 1 what the most
            draw, frame counts between are evenly spaced, and more than 1 is so many times what the
            most draw; None is no budget.
        contention: the share of the processor that another process takes.
        memory: how much slower all is by the power mode or the memory clock.
        drift: how much slower the most frames alone are.
        own: how much slower each engine is by itself: the fewest frames, ..., the most. Values
            like these, here and below, are evenly spaced over the engines that there are.
        wait: for another program, which adds to every latency.
        sharing: with another program, which interrupts the long ones.
        load_w: drawn besides, by what slows nothing.
        period_s: of the camera; None is the board's.
        period_jitter: each of its periods is uniform within this share of it.
        pause_s: no frame comes for so long at the end of the phase.
        ambient_c: the air's temperature.
        spike_onset: the chance that an inference begins a burst of slow ones.
        sensor: whether the power sensor works.
        sensor_delay_s: how late it is; None is the sensor's own delay.
    """

    duration_s: float
    deadline: float | None = 1.35
    deadline_jitter: float = 0.0
    power: float | None = None
    contention: float = 0.0
    memory: float = 1.0
    drift: float = 1.0
    own: tuple[float, ...] = (1.0,)
    wait: Wait | None = None
    sharing: TimeSharing | None = None
    load_w: float = 0.0
    period_s: float | None = None
    period_jitter: float = 0.0
    pause_s: float = 0.0
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
        critical_c: the zone's critical trip point, which `Sensed.headroom_c` counts to; None is
            not known.
        sensor: of the power.
        period_s: from one frame of the camera to the next, unless a phase says another.
        clocks: of the GPU, and of the memory.
        cold_ms: how much longer an engine's inference takes that follows another engine's, ...
        wake_ms: ... and one, of any, that follows a pause of more than a second.
        profile: in what the policy's differs from all this.
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
    critical_c: float | None = None
    sensor: SensorSpec = field(default_factory=SensorSpec)
    period_s: float = PERIOD_S
    clocks: tuple[Clock, ...] = ()
    cold_ms: float = 0.0
    wake_ms: float = 0.0
    profile: Profile = field(default_factory=Profile)

    def setting(self) -> Setting:
        """Return what a policy is told: a profile that was made when nothing interfered."""
        told = self.profile
        steps = [(number + 0.5) / _PROFILED for number in range(_PROFILED)]
        noise = self.noise if told.noise is None else told.noise
        normal = NormalDist(sigma=noise) if noise else None
        drawn = tuple(math.exp(normal.inv_cdf(step)) for step in steps) if normal else (1.0,)
        count = len(self.points)
        points = [
            replace(
                point,
                base_ms=point.base_ms * latency,
                power_w=None if point.power_w is None else point.power_w * power,
                accuracy=None if point.accuracy is None else point.accuracy + error,
                clips=told.clips or point.clips,
            )
            for point, latency, power, error in zip(
                self.points,
                _spread(told.latency, count),
                _spread(told.power, count),
                _spread(told.accuracy, count),
                strict=True,
            )
        ]
        return Setting(
            points=tuple(points),
            ratios=self.ratios or drawn,
            idle_w=self.idle_w * told.idle,
            period_s=told.period_s or self.period_s,
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
        drawn_w = sorted(
            self.idle_w
            + (point.power_w or 0.0)
            * min(1.0, point.base_ms / 1e3 / (point.pace_s or self.period_s))
            for point in self.points
        )
        between = float(np.interp(position, np.linspace(0, 1, len(drawn_w)), drawn_w))
        return between * max(1.0, position)


SYNTHETIC = BoardSpec()


class Board:
    """A board that lives through phases, over and over: a `KnownDevice`.

    Attributes:
        setting: what a policy is told.
        points: the engines as they truly are.
    """

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
        self.points = spec.points
        self.energy_j = 0.0
        self.source_frames = None  # enough for every rate
        self.throttle_step = 0
        self._spec = spec
        self._phases = phases
        self._all_limits = limits
        body, onset, height, noise, jitter, *others = generators(seed, 10 + 2 * len(spec.clocks))
        self._body = Draws(lambda count: _body(spec, body, count))
        self._onset = Draws(onset.random)
        self._height = Draws(lambda count: _heights(spec, height, count))
        self._account = EnergyAccount()
        self._sensor = SimulatedSensor(spec.sensor, self._account, (noise, jitter))
        arriving, *more = (Draws(other.random) for other in others)
        self._waits, self._wait, self._turn, self._patience, *modes = more
        count = len(spec.points)
        self._modes = [
            _Modes(clock, modes[2 * i], modes[2 * i + 1], count)
            for i, clock in enumerate(spec.clocks)
        ]
        self._streams = spec.points[0].pace_s is not None
        grid_s = min(point.pace_s or spec.period_s for point in spec.points)
        self._arrivals = _Arrivals(phases, grid_s, arriving)
        self._now = self._worked_s = 0.0
        self._last: int | None = None  # the engine that ran last
        self._hop = -1
        self.latencies_ms: list[float] = []
        self._own = [1.0] * len(spec.points)
        self._in_spike, self._spike = False, 1.0
        self._course = _Course(phases)
        self._phase = self._course.phase
        self._ambient_c, self._phase_ms = 0.0, [0.0]
        self._enter()
        self.temperature_c = self._ambient_c + spec.resistance_c_per_w * spec.idle_w

    @property
    def next_s(self) -> float | None:
        """When the camera's next frame comes, since the latest `begin`; None in a stream."""
        return None if self._streams else self._arrivals.next_s

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""
        while now >= self._course.end_s:
            self._course.next()
            self._enter()
        for hop, phase, elapsed_s in self._arrivals.until(now):  # also those that a long one missed
            self._hop = hop
            if self._in_spike:
                self._in_spike = self._onset.at(hop) < self._spec.spike_stay
            elif self._onset.at(hop) < phase.spike_onset:
                self._in_spike, self._spike = True, self._height.at(hop)
            for modes in self._modes:
                modes.live(hop, elapsed_s)
        self._throttle()
        if self._modes:
            self._set_clock()
        hop, phase = self._hop, self._phase
        factor = self._body.at(hop) / self._clock
        if self._in_spike:
            factor *= self._spike
        own_ms = [ms * factor for ms in self._phase_ms]
        for modes in self._modes:
            own_ms = [ms * slower for ms, slower in zip(own_ms, modes.slower(), strict=True)]
        if self._last is not None:
            wake_ms = self._spec.wake_ms if now - self._worked_s > _PAUSE_S else 0.0
            cold_ms = self._spec.cold_ms
            own_ms = [ms + wake_ms + cold_ms * (i != self._last) for i, ms in enumerate(own_ms)]
        waits_ms = self._waits_ms()
        self.latencies_ms = [ms + waits_ms + self._interrupted_ms(ms) for ms in own_ms]
        self._own = [own / ms for own, ms in zip(own_ms, self.latencies_ms, strict=True)]
        if phase.deadline_jitter and self._limits.latency_ms is not None:
            factor = 1 + phase.deadline_jitter * (2 * self._patience.at(hop) - 1)
            self.limits = replace(self._limits, latency_ms=self._limits.latency_ms * factor)
        return self.latencies_ms

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""
        wait, sharing = self._phase.wait, self._phase.sharing
        waits_ms = wait.chance * (wait.least_ms + wait.most_ms) / 2 if wait else 0.0
        interrupted = sharing.others_ms / sharing.own_ms if sharing else 0.0
        own_ms = [ms / self._clock for ms in self._phase_ms]
        for modes in self._modes:
            own_ms = [ms * slower for ms, slower in zip(own_ms, modes.slower(), strict=True)]
        period_s = self._phase.period_s or self._spec.period_s
        return [
            self._rest_w
            + working_w * ms / max(ms * (1 + interrupted) + waits_ms, 1e3 * (pace_s or period_s))
            for working_w, ms, pace_s in zip(
                self._working_w, own_ms, (point.pace_s for point in self.points), strict=True
            )
        ]

    def work(self, index: int, until: float) -> None:
        """Run the engine of `points[index]` to a time."""
        self._account.worked_s += until - self._now
        self._advance(self._rest_w + self._working_w[index] * self._own[index], until)
        self._last, self._worked_s = index, until

    def rest(self, until: float) -> None:
        """Run no engine to a time."""
        self._advance(self._rest_w, until)

    def sense(self, now: float) -> Sensed:
        """Return what the sensors say."""
        power_w, energy_j, fault = self._account.take(now)
        step = self.throttle_step
        shown_c = round(self.temperature_c * 2) / 2
        critical_c = self._spec.critical_c
        return Sensed(
            power_w=power_w,
            energy_j=energy_j,
            fault=fault,
            temperature_c=shown_c,
            headroom_c=None if critical_c is None else critical_c - shown_c,
            # Heat lowers the first one, the GPU's.
            clocks_mhz=tuple(
                modes.mhz * (1.0 if i else self._clock)
                for i, modes in enumerate(self._modes)
                if modes.clock.shown
            ),
            throttled=f"heat: clocks at {self._clock:.0%}" if step else None,
        )

    def _waits_ms(self) -> float:
        """Return what this inference waits, whatever its frame count."""
        wait = self._phase.wait
        if wait is None or self._waits.at(self._hop) >= wait.chance:
            return 0.0
        return wait.least_ms + (wait.most_ms - wait.least_ms) * self._wait.at(self._hop)

    def _interrupted_ms(self, own_ms: float) -> float:
        """Return for how long an inference that runs for so long is interrupted."""
        sharing = self._phase.sharing
        if sharing is None:
            return 0.0
        return math.floor(own_ms / sharing.own_ms + self._turn.at(self._hop)) * sharing.others_ms

    def _advance(self, power_w: float, until: float) -> None:
        spec = self._spec
        elapsed = until - self._now
        self.energy_j += power_w * elapsed
        final_c = self._ambient_c + spec.resistance_c_per_w * power_w
        decay = math.exp(-elapsed / spec.time_constant_s)
        self.temperature_c = final_c + (self.temperature_c - final_c) * decay
        self._sensor.advance(power_w, until)
        self._now = until

    def _enter(self) -> None:
        """Take over the conditions of the phase that begins."""
        spec, phase = self._spec, self._course.phase
        self._phase = phase
        self.limits = self._limits = self._all_limits[self._course.number]
        self._ambient_c = phase.ambient_c
        slowdown = 1 / (1 - phase.contention)
        most = len(spec.points) - 1
        self._phase_ms = [
            point.base_ms
            * phase.memory
            * slowdown ** (1 + spec.contention_spread * (2 * i / max(most, 1) - 1))
            * (phase.drift if i == most else 1.0)
            * own
            for i, (point, own) in enumerate(
                zip(spec.points, _spread(phase.own, most + 1), strict=True)
            )
        ]
        self._rest_w = spec.idle_w + spec.contention_w * phase.contention + phase.load_w
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
        share = (1 - self._phase.contention) / self._phase.memory * self._clock**_POWER_EXPONENT
        for modes in self._modes:
            share *= (modes.mhz / modes.clock.mhz[0]) ** modes.clock.power
        self._working_w = [(point.power_w or 0.0) * share for point in spec.points]


class _Course:
    """Where in the phases it is; they are played over and over."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._all = cycle(enumerate(phases))
        self.end_s = 0.0
        self.next()

    def next(self) -> None:
        self.number, self.phase = next(self._all)
        self.end_s += self.phase.duration_s


class _Arrivals:
    """When the camera's frames come, whatever a policy does."""

    def __init__(self, phases: Sequence[Phase], period_s: float, jitter: Draws) -> None:
        self._course = _Course(phases)
        self._period_s = period_s
        self._jitter = jitter
        self._hop = -1
        self._latest_s = self.next_s = 0.0

    def until(self, now: float) -> Iterator[tuple[int, Phase, float]]:
        """Yield each frame's number, phase, and time since the one before, up to a time."""
        course = self._course
        while self.next_s <= now + 1e-6 * self._period_s:
            self._hop += 1
            while self.next_s >= course.end_s:
                course.next()
            elapsed_s, self._latest_s = self.next_s - self._latest_s, self.next_s
            phase = course.phase
            period_s = phase.period_s or self._period_s
            if phase.period_jitter:
                period_s *= 1 + phase.period_jitter * (2 * self._jitter.at(self._hop) - 1)
            self.next_s += period_s
            if phase.pause_s and self.next_s > course.end_s - phase.pause_s:
                self.next_s = course.end_s
            yield self._hop, phase, elapsed_s


class _Modes:
    """Which mode a clock is in."""

    def __init__(self, clock: Clock, switching: Draws, choosing: Draws, engines: int) -> None:
        self.clock = clock
        self._switching, self._choosing = switching, choosing
        self._mode = 0
        self._slower = [
            [1 - bound + bound * clock.mhz[0] / mhz for bound in _spread(clock.bound, engines)]
            for mhz in clock.mhz
        ]

    @property
    def mhz(self) -> float:
        """Of the present mode."""
        return self.clock.mhz[self._mode]

    def slower(self) -> list[float]:
        """Return how much slower it makes each engine."""
        return self._slower[self._mode]

    def live(self, hop: int, elapsed_s: float) -> None:
        """Perhaps take another mode, so long after the frame before."""
        count, dwell_s = len(self.clock.mhz), self.clock.dwell_s
        if not dwell_s:
            self._mode = int(count * self._choosing.at(hop))
        elif self._switching.at(hop) > math.exp(-elapsed_s / dwell_s):
            self._mode = (self._mode + 1 + int((count - 1) * self._choosing.at(hop))) % count


def _spread(values: Sequence[float], count: int) -> list[float]:
    """Return as many values, evenly spaced over those given: one is the same for all."""
    spread: list[float] = np.interp(
        np.linspace(0, 1, count), np.linspace(0, 1, len(values)), values
    ).tolist()
    return spread


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
