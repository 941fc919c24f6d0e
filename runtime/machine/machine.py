"""Which machine this is, and how it is set, as far as latency depends on it.

`root` is where its file system begins.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.device.cores import cpu_quota, usable_cores
from ffn_edge.device.jetson import board_model
from ffn_edge.device.sysfs import number_in, text_of
from ffn_edge.files.schema import Above0

# The GPU of a Jetson: "17000000.gpu", on earlier kernels "17000000.ga10b" (Orin) and the like; on a
# Thor "gpu-gpc-0", the part that computes. "gpu-nvd-0" there is its video engines.
_GPU_DEVICE = re.compile(r"(.*\.)?(gpu|ga10b|gv11b|gp10b|gm20b|gb10b)|gpu-gpc-\d+")
MEMORY_CLOCK = "sys/kernel/debug/bpmp/debug/clk/emc"  # of a Jetson; only root may read it
# Governors round: clocks this close are one.
_SAME_CLOCK = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine as a process sees it.

    Attributes:
        cpu: the processor's name, or the board's.
        cores: the physical cores that the process may use.
        system: the operating system, its release and architecture.
        python: the version.
    """

    cpu: str
    cores: int
    system: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRange:
    """Between which rates a governor may choose. `nvpmodel` sets it, `jetson_clocks` makes it one.

    Raises:
        ValueError: a rate that is not positive, or a range that is empty.
    """

    low_hz: float
    high_hz: float

    def __post_init__(self) -> None:
        if not 0 < self.low_hz <= self.high_hz < math.inf:
            raise ValueError("a clock ranges from a positive rate to one that is no lower")

    def is_close_to(self, other: ClockRange) -> bool:
        """Return whether both ends are equal up to 2 %."""
        return math.isclose(self.low_hz, other.low_hz, rel_tol=_SAME_CLOCK) and math.isclose(
            self.high_hz, other.high_hz, rel_tol=_SAME_CLOCK
        )

    def __str__(self) -> str:
        low, high = f"{self.low_hz / 1e6:.0f}", f"{self.high_hz / 1e6:.0f}"
        return f"fixed at {high} MHz" if low == high else f"of {low} to {high} MHz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """What the clocks may be; None where it is not told.

    The rates of the moment say less: a governor lowers them as soon as nothing works. The limits of
    the hardware (`cpuinfo_max_freq`) say less too: no power mode changes them. But since Linux 5.3
    the upper ends of CPU and GPU contain what heat holds down, too: a machine that is being
    throttled has other clocks until it has cooled.

    Attributes:
        cpu: of the fastest cores.
        gpu: of a Jetson's GPU.
        memory: of a Jetson's memory; only root may read it.
    """

    cpu: ClockRange | None = None
    gpu: ClockRange | None = None
    memory: ClockRange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSetting:
    """How a graphics card is set; None where it does not tell.

    Clocks that are locked (`nvidia-smi -lgc`) can be set through NVML, and not be asked for.

    Attributes:
        application_mhz: what its GPU runs at where nothing else limits it; and
        highest_mhz: what it may rise to.
        memory_application_mhz: the same of its memory.
        memory_highest_mhz: the same of its memory.
        power_limit_w: the one that its driver enforces.
    """

    application_mhz: Above0 | None = None
    highest_mhz: Above0 | None = None
    memory_application_mhz: Above0 | None = None
    memory_highest_mhz: Above0 | None = None
    power_limit_w: Above0 | None = None

    def differences(self, other: CardSetting) -> dict[str, tuple[str, str]]:
        """Return of what differs by more than 2 % both values in words, by name."""
        pairs = (
            (what, getattr(self, field), getattr(other, field), unit)
            for what, (field, unit) in _CARD_FIELDS.items()
        )
        return {
            what: (f"{mine:g} {unit}", f"{theirs:g} {unit}")
            for what, mine, theirs, unit in pairs
            if mine and theirs and not math.isclose(mine, theirs, rel_tol=_SAME_CLOCK)
        }


_CARD_FIELDS = {
    "application clock": ("application_mhz", "MHz"),
    "highest clock": ("highest_mhz", "MHz"),
    "memory's application clock": ("memory_application_mhz", "MHz"),
    "memory's highest clock": ("memory_highest_mhz", "MHz"),
    "power limit": ("power_limit_w", "W"),
}


def clocks_now(root: Path = Path("/")) -> Clocks:
    """Read the ranges of the clocks."""
    policies = root.glob("sys/devices/system/cpu/cpufreq/policy*")
    memory = root / MEMORY_CLOCK
    # jetson_clocks locks the memory at its rate, whatever the range.
    is_locked = number_in(memory / "mrq_rate_locked") == 1
    low, high = ("rate", "rate") if is_locked else ("min_rate", "max_rate")
    return Clocks(
        # The kernel gives kHz for processors, and Hz for devices.
        cpu=_fastest(
            _range(each / "scaling_min_freq", each / "scaling_max_freq", 1000) for each in policies
        ),
        gpu=_fastest(_range(each / "min_freq", each / "max_freq") for each in gpu_devices(root)),
        memory=_range(memory / low, memory / high),
    )


def gpu_devices(root: Path = Path("/")) -> list[Path]:
    """Return the folders of a Jetson's GPU, which tell its clock; none elsewhere."""
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    return [each for each in devices if _GPU_DEVICE.fullmatch(each.name)]


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """What the processors that this process may use did, in seconds of all of them together.

    Attributes:
        total_s: what this process might have had of them by its quota; 0 where the system does not
            tell, and then nobody else is seen.
        busy_s: of it, what was worked for anybody, or for another virtual machine on the same
            hardware. With a quota the idle time may be more, and this is negative.
        own_s: worked for this process.
        resolution_s: what the kernel counts in.
    """

    total_s: float
    busy_s: float
    own_s: float
    resolution_s: float

    def share_of_others(self, since: CpuTime) -> float:
        """Return the share of the processors that others took since then, in 0..1, at least."""
        total_s = self.total_s - since.total_s
        if total_s <= 0:
            return 0.0
        others_s = self.busy_s - since.busy_s - (self.own_s - since.own_s) - self.resolution_s
        return max(0.0, others_s / total_s)


def cpu_time(root: Path = Path("/")) -> CpuTime:
    """Read what the processors did."""
    own_s = time.process_time()
    total_s = idle_s = tick_s = 0.0
    processors = 0
    with suppress(ValueError, IndexError, AttributeError, OverflowError):  # macOS, Windows
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        for line in (text_of(root / "proc/stat") or "").splitlines():
            name, *numbers = line.split()
            if name in mine:
                ticks = [int(number) for number in numbers[:8]]  # a guest's are the user's, too
                total_s += sum(ticks) * tick_s
                idle_s += (ticks[3] + ticks[4]) * tick_s
                processors += 1
        total_s *= min(1.0, cpu_quota(root) / max(1, processors))
    return CpuTime(
        total_s=total_s,
        busy_s=total_s - idle_s,
        own_s=own_s,
        resolution_s=processors * tick_s,
    )


def _fastest(ranges: Iterable[ClockRange | None]) -> ClockRange | None:
    known = [each for each in ranges if each is not None]
    return max(known, key=lambda each: (each.high_hz, each.low_hz), default=None)


def _range(low: Path, high: Path, unit_hz: int = 1) -> ClockRange | None:
    low_value, high_value = number_in(low), number_in(high)
    if low_value is None or high_value is None or not 0 < low_value <= high_value:
        return None
    return ClockRange(low_hz=low_value * unit_hz, high_hz=high_value * unit_hz)


def _cpu_name() -> str:
    for line in (text_of(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):  # x86
            return line.partition(":")[2].strip()
    # ARM boards name the board instead: "NVIDIA Jetson Orin Nano Developer Kit".
    return board_model() or platform.processor() or platform.machine()
