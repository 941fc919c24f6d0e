"""Which machine this is, as far as latency depends on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


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


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def usable_cores() -> int:
    """Count the physical cores that this process may use.

    Two hardware threads of one core share its arithmetic units; counting both would make a
    matrix product slower.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text())
        except OSError:  # some containers hide it
            return len(allowed)
    return len(siblings)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):  # x86
                return line.partition(":")[2].strip()
        # ARM boards name the board instead: "NVIDIA Jetson Orin Nano Developer Kit".
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0 \n")
    except OSError:
        return platform.processor() or platform.machine()
