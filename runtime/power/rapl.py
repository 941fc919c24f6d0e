"""The energy counters of x86 processors (RAPL), through sysfs."""

from __future__ import annotations

import re
from pathlib import Path

from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.meter import Averaging, PowerReading
from ffn_edge.sysfs import KernelFile, number_in, text_of, why

_ZONES = "sys/class/powercap"


class _Package:
    """The counter of one processor package.

    It wraps once in some minutes (262 kJ on most processors), and many times a second it is read:
    more than one wrap between two readings would take megawatts.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.file = KernelFile(folder / "energy_uj")
        self._range_uj = number_in(folder / "max_energy_range_uj") or 0
        self._last_uj = self.file.number()
        self.energy_uj = 0

    def advance(self) -> None:
        """Add to `energy_uj` what was used since the last call.

        Raises:
            OSError, ValueError: the counter cannot be read, or is no number.
            SensorError: it ran backwards.
        """
        count_uj = self.file.number()
        used_uj = count_uj - self._last_uj
        self._last_uj = count_uj
        if used_uj < 0:
            used_uj += self._range_uj
            if not 0 <= used_uj < self._range_uj / 2:
                raise SensorError(
                    f"the energy counter of {self.name} ran backwards without having wrapped",
                    "it was reset, as after a suspend; it is read on from here.",
                )
        self.energy_uj += used_uj


class RaplMeter:
    """The packages of all processors: neither memory, nor disks, nor graphics cards."""

    name = "RAPL"
    averaging = Averaging()

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the counters and read them once.

        Raises:
            SensorError: there are none, or this user may not read them.
        """
        # The sub-zones, as intel-rapl:0:0, are parts of their packages; the zone "psys" is the
        # whole machine on some laptops, the packages included.
        folders = {
            folder: name
            for folder in sorted((root / _ZONES).glob("intel-rapl:*"))
            if re.fullmatch(r"intel-rapl:\d+", folder.name)
            if (name := text_of(folder / "name") or folder.name) != "psys"
        }
        if not folders:
            raise SensorError(
                "there is no energy counter of an x86 processor (RAPL)",
                "on such a processor: sudo modprobe intel_rapl_msr. A virtual machine has none.",
            )
        self._packages: list[_Package] = []
        try:
            for folder, name in folders.items():
                self._packages.append(_Package(name, folder))
        except (OSError, ValueError) as error:
            self.close()
            raise _unreadable(folder, error) from error
        self.scope = f"processor packages ({', '.join(folders.values())})"
        self._last: tuple[float, dict[str, int]] | None = None

    def read(self, now: float) -> PowerReading:
        """Read every counter. Power is the mean since the reading before. See `Meter.read`."""
        failed: SensorError | None = None
        for package in self._packages:  # all of them, so that none is read from an older moment
            try:
                package.advance()
            except (OSError, ValueError) as error:
                failed = _unreadable(package.file.path.parent, error)
            except SensorError as error:
                failed = error
        if failed is not None:
            self._last = None
            raise failed
        energies = {package.name: package.energy_uj for package in self._packages}
        rails_w: dict[str, float] = {}
        if self._last is not None and now > self._last[0]:
            elapsed_s, before = now - self._last[0], self._last[1]
            rails_w = {
                name: (energy - before[name]) / 1e6 / elapsed_s for name, energy in energies.items()
            }
        self._last = now, energies
        return PowerReading(
            time_s=now,
            total_w=sum(rails_w.values()) if rails_w else None,
            rails_w=rails_w,
            energy_j=sum(energies.values()) / 1e6,
        )

    def close(self) -> None:
        """Close the files."""
        for package in self._packages:
            package.file.close()


def _unreadable(folder: Path, error: OSError | ValueError) -> SensorError:
    if isinstance(error, PermissionError):
        return SensorError(
            "only root may read the processor's energy counters (RAPL)",
            f"sudo chmod a+r {folder.parent}/intel-rapl:*/energy_uj, after each start of the "
            "machine, or for good with a udev rule: "
            'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj".',
        )
    return SensorError(
        f"the energy counter in {folder} cannot be read: {why(error)}",
        "in a container, mount it: -v /sys/devices/virtual/powercap:"
        "/sys/devices/virtual/powercap:ro.",
    )
