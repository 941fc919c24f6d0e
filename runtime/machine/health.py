"""Heat, clocks and what holds them down, from the kernel's files. No sensor of power.

Written from public kernels and other projects' samples; not run on a board.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.device.sysfs import number_in, text_of
from ffn_edge.runtime.machine.machine import MEMORY_CLOCK, gpu_devices

_ROOT = Path("/")
# Thermal zones that always show the same: 100 °C on Nano, TX2 and Xavier.
_DUMMIES = ("PMIC-Die",)
# From `hot` on the kernel slows the machine hard, and at `critical` it shuts it down. At `passive`
# it begins to lower clocks, which `throttled` and latency tell; `active` is a fan's.
_ALARMS = ("hot", "critical")
# Cooling devices that take speed away. Of others, such as fans, a state above 0 is no news.
_SLOWS = re.compile(r"cpufreq|devfreq|throt|balanced|heavy|powerclamp|^processor", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReading:
    """The state of a machine at one moment. What is not known is left out, or None.

    Attributes:
        temperatures_c: of each thermal zone.
        trips_c: of each zone that has one, its lowest `hot` or `critical` trip point.
        cooling: of each cooling device its state and the highest one; 0 does nothing.
        over_current_events: since the machine was started.
        gpu_hz: the clock of the GPU; and
        gpu_max_hz: the highest that is allowed, as by the power mode.
        memory_hz: the clock of the memory.
        cpu_hz: the mean clock of the processor's cores.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    trips_c: Mapping[str, float] = field(default_factory=dict)
    cooling: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    over_current_events: int | None = None
    gpu_hz: int | None = None
    gpu_max_hz: int | None = None
    memory_hz: int | None = None
    cpu_hz: int | None = None

    @property
    def hottest_c(self) -> float | None:
        """The temperature of the hottest zone."""
        return max(self.temperatures_c.values(), default=None)

    @property
    def headroom_c(self) -> float | None:
        """How much warmer a zone may get, at least, before it is at its trip point."""
        known = self.temperatures_c.items()
        left_c = [self.trips_c[name] - celsius for name, celsius in known if name in self.trips_c]
        return min(left_c, default=None)

    @property
    def throttled(self) -> str | None:
        """What holds the clocks down, in words; None is nothing that is known."""
        holding = [
            f"{name} at {state} of {highest}"
            for name, (state, highest) in self.cooling.items()
            if state > 0 and _SLOWS.search(name)
        ]
        return ", ".join(holding) or None


class Health:
    """The files that tell of heat and clocks. They are looked for once."""

    def __init__(self, root: Path = _ROOT) -> None:
        """Look for the files."""
        thermal = root / "sys/class/thermal"
        zones = _by_type(thermal.glob("thermal_zone*"))
        self._zones = {name: zone for name, zone in zones.items() if name not in _DUMMIES}
        trips_c = {name: _alarm_c(zone) for name, zone in self._zones.items()}
        self._trips_c = {name: celsius for name, celsius in trips_c.items() if celsius is not None}
        self._cooling = _by_type(thermal.glob("cooling_device*"))
        self._events = sorted((root / "sys/class/hwmon").glob("hwmon*/oc[0-9]*_event_cnt"))
        self._gpu = next(iter(gpu_devices(root)), None)
        self._memory = root / MEMORY_CLOCK / "rate"
        cpus = root / "sys/devices/system/cpu/cpufreq"
        self._cpus = sorted(cpus.glob("policy*/scaling_cur_freq"))

    def clocks_mhz(self) -> tuple[float, ...]:
        """Read the clocks of GPU and memory, as far as they are told. Nothing is raised."""
        gpu_hz = None if self._gpu is None else number_in(self._gpu / "cur_freq")
        if gpu_hz is None or gpu_hz <= 0:
            return ()
        memory_hz = number_in(self._memory)
        known = (gpu_hz,) if memory_hz is None or memory_hz <= 0 else (gpu_hz, memory_hz)
        return tuple(hertz / 1e6 for hertz in known)

    def read(self) -> HealthReading:
        """Read the files. What cannot be read is left out; nothing is raised."""
        celsius = {name: number_in(zone / "temp") for name, zone in self._zones.items()}
        cooling = {
            name: (number_in(device / "cur_state"), number_in(device / "max_state"))
            for name, device in self._cooling.items()
        }
        clocks_khz = _numbers(self._cpus)
        events = [number_in(path) for path in self._events]
        known = [count for count in events if count is not None]
        gpu = self._gpu
        return HealthReading(
            temperatures_c={
                name: milli / 1000
                for name, milli in celsius.items()
                # A zone that is switched off shows -256 °C.
                if milli is not None and -100_000 < milli < 200_000
            },
            trips_c=self._trips_c,
            cooling={
                name: (state, highest)
                for name, (state, highest) in cooling.items()
                if state is not None and highest is not None
            },
            # The sum of some of them would seem to fall, and to rise again.
            over_current_events=sum(known) if known and len(known) == len(events) else None,
            gpu_hz=None if gpu is None else number_in(gpu / "cur_freq"),
            gpu_max_hz=None if gpu is None else number_in(gpu / "max_freq"),
            memory_hz=number_in(self._memory),
            cpu_hz=sum(clocks_khz) * 1000 // len(clocks_khz) if clocks_khz else None,
        )


def _alarm_c(zone: Path) -> float | None:
    """Return a zone's lowest `hot` or `critical` trip point; they do not move."""
    milli = [
        number_in(kind.with_name(kind.name.replace("type", "temp")))
        for kind in zone.glob("trip_point_*_type")
        if text_of(kind) in _ALARMS
    ]
    # One that is not set is 0, -274 °C or as hot as a number can be.
    return min((each / 1000 for each in milli if each and 0 < each <= 200_000), default=None)


def _by_type(folders: Iterable[Path]) -> dict[str, Path]:
    """Name each folder by what its file `type` says, and those that share a type apart."""
    named: dict[str, Path] = {}
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name)):
        name = text_of(folder / "type") or folder.name
        named[f"{name} ({folder.name})" if name in named else name] = folder
    return named


def _numbers(paths: Iterable[Path]) -> list[int]:
    return [number for path in paths if (number := number_in(path)) is not None]
