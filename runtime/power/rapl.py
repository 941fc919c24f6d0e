"""The energy counters of x86 processors (RAPL), through sysfs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ffn_edge.device.sysfs import KernelFile, number_in, text_of, why
from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.meter import Averaging, PowerReading

_ZONES = "sys/class/powercap"
_NO_RANGE = 1 << 64  # of a counter that does not tell where it wraps


def find_packages(root: Path) -> dict[str, list[Path]]:
    """Return the folders of the counters of each processor package, by its name.

    A package has one, "package-0", or one a die, "package-0-die-0". Not among them are the parts of
    a package (intel-rapl:0:0), the whole machine ("psys", of the second socket "psys-1"), and the
    same packages once more through another interface (intel-rapl-mmio:0). The names are those of
    the kernel's drivers/powercap/intel_rapl_common.c.
    """
    packages: dict[str, list[Path]] = {}
    for folder in sorted((root / _ZONES).glob("intel-rapl:*"), key=_number):
        name = text_of(folder / "name") or folder.name
        if not re.fullmatch(r"intel-rapl:\d+", folder.name) or re.fullmatch(r"psys(-\d+)?", name):
            continue
        die = re.fullmatch(r"(.+)-die-\d+", name)
        if die:
            packages.setdefault(die[1], []).append(folder)
        else:
            packages[f"{name} ({folder.name})" if name in packages else name] = [folder]
    return packages


class _Package:
    """The counters of one processor package, one a die.

    They wrap once in some minutes (262 kJ on most processors), and many times a second they are
    read: half a wrap between two readings would take megawatts.

    Some processors (AMD's, by kernels that tell their dies apart) have one counter a package, and
    each die's file shows it. Such mirrors show, at every reading, no less than the first file a
    moment before and no more than the first file a moment later.
    """

    def __init__(self, name: str, folders: Sequence[Path]) -> None:
        self.name = name
        self.folder = folders[0]
        self._files = [KernelFile(folder / "energy_uj") for folder in folders]
        self._range_uj = number_in(self.folder / "max_energy_range_uj") or _NO_RANGE
        self._are_mirrors = len(folders) > 1
        self.energy_uj = 0
        try:
            self._counts_uj = self._read()
        except BaseException:
            self.close()
            raise

    def advance(self) -> None:
        """Add to `energy_uj` what was used since the last call.

        Raises:
            OSError, ValueError: a counter cannot be read, or is no number.
            SensorError: one ran backwards.
        """
        counts_uj, before_uj = self._read(), self._counts_uj
        used_uj = [
            (now - before) % self._range_uj
            for now, before in zip(counts_uj, before_uj, strict=True)
        ]
        self._counts_uj = counts_uj
        if max(used_uj) >= self._range_uj / 2:
            raise SensorError(
                f"the energy counter of {self.name} ran backwards without having wrapped",
                "it was reset, as after a suspend; it is read on from here.",
            )
        self.energy_uj += used_uj[0] if self._are_mirrors else sum(used_uj)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _read(self) -> list[int]:
        counts_uj = [file.number() for file in self._files]
        if self._are_mirrors:
            first = counts_uj[0]
            passed_uj = (self._files[0].number() - first) % self._range_uj
            self._are_mirrors = all(
                (count - first) % self._range_uj <= passed_uj for count in counts_uj
            )
        return counts_uj


class RaplMeter:
    """The packages of all processors: neither memory, nor disks, nor graphics cards."""

    name = "RAPL"
    averaging = Averaging()

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the counters and read them once. Those that tell nothing are left out.

        Raises:
            SensorError: there are none, or this user may not read them.
        """
        self._packages: list[_Package] = []
        self._last: tuple[float, dict[str, int]] | None = None
        failure = SensorError(
            "there is no energy counter of an x86 processor (RAPL)",
            "on such a processor: sudo modprobe intel_rapl_msr. A virtual machine has none.",
        )
        for name, folders in find_packages(root).items():
            try:
                self._packages.append(_Package(name, folders))
            except (OSError, ValueError) as error:
                failure = _unreadable(folders[0], error)
                if isinstance(error, PermissionError):
                    self.close()
                    raise failure from error
        if not self._packages:
            raise failure
        self.scope = f"processor packages ({', '.join(each.name for each in self._packages)})"

    def read(self, now: float) -> PowerReading:
        """Read every counter. Power is the mean since the reading before. See `Meter.read`."""
        failed: SensorError | None = None
        for package in self._packages:  # all of them, so that none is read from an older moment
            try:
                package.advance()
            except (OSError, ValueError) as error:
                failed = _unreadable(package.folder, error)
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
            package.close()


def _number(folder: Path) -> tuple[int, str]:
    return len(folder.name), folder.name  # 10 comes after 9


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
