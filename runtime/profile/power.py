"""What the machine draws at rest, and each engine above that: measured in blocks.

A sensor shows a mean over some time, up to a second, and an inference is shorter than that. So
each engine runs back to back for as long as the sensor needs, and the mean of many samples is
its power; one sample an inference would tell nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ffn_edge.bundle.bundle import Precision
from ffn_edge.errors import SensorError
from ffn_edge.runtime.engines.engine import Backend
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.policy.interface import Sensed
from ffn_edge.runtime.power.find import open_meter
from ffn_edge.runtime.power.meter import Averaging, Meter
from ffn_edge.runtime.power.nvml import visible_gpu
from ffn_edge.runtime.power.sampler import Sampler

_log = logging.getLogger(__name__)

# A graphics card's sensor shows the mean of the last second or so, and clocks take some time to
# rise. Only then is measured.
SETTLE_S = 1.0
MEASURE_S = 2.0

# By precision and frame count: runs one inference.
Work = Mapping[Precision, Mapping[int, Callable[[], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerProfile:
    """The power of each engine, or why it is not known.

    Attributes:
        meter: what measured it, or "none".
        scope: what the meter covers, in words.
        averaging: how its sensor forms what it shows.
        idle_w: what the machine draws while no engine works; None if it was not measured.
        above_idle_w: by precision and frame count, what its engine adds while it works, not below
            0; empty if it was not measured.
        fault: why it was not measured; None if it was.

    Raises:
        ValueError: a power that cannot be, or neither powers nor a fault.
    """

    meter: str
    scope: str
    averaging: Averaging = field(default_factory=Averaging)
    idle_w: float | None = None
    above_idle_w: Mapping[Precision, Mapping[int, float]] = field(default_factory=dict)
    fault: str | None = None

    def __post_init__(self) -> None:
        powers = [watts for each in self.above_idle_w.values() for watts in each.values()]
        powers += [] if self.idle_w is None else [self.idle_w]
        if not all(0 <= power_w < math.inf for power_w in powers):
            raise ValueError("a power is a number of watts that is not negative")
        is_measured = {self.idle_w is not None, bool(self.above_idle_w), self.fault is None}
        if len(is_measured) == 2:
            raise ValueError("there is either the power at rest and of each engine, or a fault")

    def engine_w(self, precision: Precision, frames: int) -> float | None:
        """Return what an engine adds while it works; None if it was not measured."""
        return self.above_idle_w.get(precision, {}).get(frames)

    def is_by(self, meter: Meter) -> bool:
        """Return whether a meter's watts can be compared with these: it covers the same."""
        return (self.meter, self.scope) == (meter.name, meter.scope)


class Sensor(Protocol):
    """What tells the mean power since it was last asked: a `Sampler`."""

    def sense(self, now: float) -> Sensed:
        """Return what was sensed since the last call. See `Sampler`."""


def meter_for(backend: Backend, root: Path = Path("/")) -> Meter:
    """Open the best meter here; a graphics card's only where the engines run on it."""
    return open_meter(root, gpu=None if backend.device == "CPU" else visible_gpu())


def measure_power(
    work: Work,
    meter: Meter,
    health: Health,
) -> PowerProfile:
    """Measure the machine at rest, and then while each engine works.

    Without a meter that works this takes no time.
    """
    try:
        meter.read(time.monotonic())
        seconds = (sum(map(len, work.values())) + 1) * (SETTLE_S + MEASURE_S)
        _log.info("measuring power for %.0f s with %s: %s", seconds, meter.name, meter.scope)
        with Sampler(meter, health) as sensor:
            idle_w, above_idle_w = powers(work, sensor)
    except SensorError as error:
        return PowerProfile(meter=meter.name, scope=meter.scope, fault=error.message)
    return PowerProfile(
        meter=meter.name,
        scope=meter.scope,
        averaging=meter.averaging,
        idle_w=idle_w,
        above_idle_w=above_idle_w,
    )


def joined_power(profiles: Sequence[PowerProfile]) -> PowerProfile:
    """Return one profile of what was measured one after the other, by the same meter.

    The first machine was at rest the longest: what a warmer one drew at rest before the others is
    theirs. Where one has a fault, so has the whole.
    """
    idle_w = profiles[0].idle_w or 0.0
    above_idle_w: dict[Precision, dict[int, float]] = {}
    for profile in profiles:
        if profile.fault is not None:
            return profile
        for precision, by_frames in profile.above_idle_w.items():
            warmer_w = (profile.idle_w or 0.0) - idle_w
            above_idle_w.setdefault(precision, {}).update(
                (frames, round(max(0.0, watts + warmer_w), 3))
                for frames, watts in by_frames.items()
            )
    return dataclasses.replace(profiles[0], above_idle_w=above_idle_w)


def powers(work: Work, sensor: Sensor) -> tuple[float, dict[Precision, dict[int, float]]]:
    """Return the power at rest, and what each engine of `work` adds to it, in watts.

    Whole milliwatts: no sensor tells more. Raises a SensorError if the sensor fails meanwhile.
    """
    idle_w = _mean_power(lambda: time.sleep(0.05), sensor)
    return idle_w, {
        precision: {
            frames: round(max(0.0, _mean_power(infer, sensor) - idle_w), 3)
            for frames, infer in by_frames.items()
        }
        for precision, by_frames in work.items()
    }


def _mean_power(do: Callable[[], object], sensor: Sensor) -> float:
    _repeat(do, SETTLE_S)
    sensor.sense(time.monotonic())
    _repeat(do, MEASURE_S)
    sensed = sensor.sense(time.monotonic())
    if sensed.power_w is None or sensed.fault is not None:
        raise SensorError(sensed.fault or "the sensor showed nothing")
    return round(sensed.power_w, 3)


def _repeat(do: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    do()
    while time.monotonic() < end:
        do()
