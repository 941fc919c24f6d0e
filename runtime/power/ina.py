"""The INA3221 and INA238 sensors of Jetson boards, through sysfs.

Which rail is a board's total is in `TOTALS`; boards without such a rail are summed. Written from
public kernels, drivers' documentation and other projects' samples; not run on a board.
"""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.device.sysfs import KernelFile, number_in, text_of, why
from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.meter import Averaging, PowerReading

_DRIVERS = "sys/bus/i2c/drivers"
# Each reading is a transfer on the I2C bus, so what the total does not need is read seldom.
_MOST_W = 300.0  # twice what an AGX Thor may draw; a glitch of the bus shows a thousand
_OTHERS_S = 1.0

# Rails that carry all that a board, or its module, draws.
TOTALS = {"VDD_IN": "module input", "POM_5V_IN": "module input", "VIN": "carrier board input"}

# What the other rails feed. VIN_SYS_5V0 is no total, in spite of its name.
RAILS = {
    **TOTALS,
    "POM_5V_GPU": "GPU",
    "POM_5V_CPU": "CPU",
    "VDD_SYS_GPU": "GPU",
    "VDD_SYS_SOC": "SoC",
    "VDD_4V0_WIFI": "Wi-Fi",
    "VDD_SYS_CPU": "CPU",
    "VDD_SYS_DDR": "memory",
    "VDD_MUX": "carrier board",
    "VDD_CPU_GPU_CV": "CPU, GPU and accelerators together",
    "VDD_SOC": "SoC without CPU and GPU",
    "GPU": "GPU",
    "CPU": "CPU",
    "SOC": "SoC without CPU and GPU",
    "CV": "vision accelerators",
    "VDDRQ": "memory",
    "SYS5V": "5 V system rail: I/O",
    "VDD_GPU_SOC": "GPU and SoC",
    "VDD_CPU_CV": "CPU and vision accelerators",
    "VIN_SYS_5V0": "5 V system rail: I/O",
    "VDDQ_VDD2_1V8AO": "memory and always-on parts",
    "VDD_GPU": "GPU",
    "VDD_CPU_SOC_MSS": "CPU, SoC and memory subsystem",
}


@dataclass(frozen=True, slots=True)
class Rail:
    """A rail: its name, and the files whose product, times `scale`, is its power in watts."""

    name: str
    files: tuple[KernelFile, ...]
    scale: float

    def registers(self) -> tuple[int, ...]:
        """Read its files; OSError or ValueError where one cannot be read, or holds no number."""
        return tuple(file.number() for file in self.files)

    def watts(self, registers: tuple[int, ...]) -> float:
        """Return the power that its files told of."""
        return math.prod(registers) * self.scale

    def close(self) -> None:
        """Close its files; the next reading opens them again."""
        for file in self.files:
            file.close()


def find_rails(root: Path) -> list[Rail]:
    """Return the rails of all sensors, read or not; each name once."""
    rails: dict[str, Rail] = {}
    for driver in ("ina3221", "ina3221x", "ina238"):
        for chip in sorted((root / _DRIVERS / driver).glob("*-00*")):
            for rail in _ina238(chip) if driver == "ina238" else _ina3221(chip):
                name = f"{rail.name} ({chip.name})" if rail.name in rails else rail.name
                rails[name] = Rail(name, rail.files, rail.scale)
    return list(rails.values())


def _ina3221(chip: Path) -> Iterator[Rail]:
    """Give the rails of one sensor, but those that are not connected."""
    for channel in (1, 2, 3):  # 4 to 6 are shunt voltages, 7 is labelled as their sum
        for voltage in chip.glob(f"hwmon/hwmon*/in{channel}_input"):  # JetPack 5 and later
            name = text_of(voltage.with_name(f"in{channel}_label"))
            current = voltage.with_name(f"curr{channel}_input")
            if name != "NC":
                files = (KernelFile(voltage), KernelFile(current))
                yield Rail(name or f"{chip.name} channel {channel}", files, 1e-6)  # mV x mA
    for channel in (0, 1, 2):
        for power in chip.glob(f"iio*device*/in_power{channel}_input"):  # JetPack 4
            name = text_of(power.with_name(f"rail_name_{channel}"))
            if name != "NC":
                yield Rail(name or f"{chip.name} channel {channel}", (KernelFile(power),), 1e-3)


def _ina238(chip: Path) -> Iterator[Rail]:
    """Give the rail of one sensor, which on Thor's carrier board is the input."""
    for power in chip.glob("hwmon/hwmon*/power1_input"):
        names = (text_of(power.with_name(name)) for name in ("label", "in1_label", "power1_label"))
        yield Rail(next(filter(None, names), "VIN"), (KernelFile(power),), 1e-6)  # µW


class InaMeter:
    """All INA sensors of a board.

    Where a rail carries the whole input, only that one is needed: others may fail, and are read
    once a second.
    """

    name = "INA"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the sensors and try them.

        Raises:
            SensorError: there is none, or this user may not read what the total needs.
        """
        self._others_s = -math.inf
        self._registers: dict[str, tuple[int, ...]] = {}  # of each rail, when it was read last
        self._rails = _enabled_rails(root)
        names = [rail.name for rail in self._rails]
        total = next((name for name in TOTALS if name in names), None)
        if total is not None:
            self._needed = frozenset([total])
            self.scope = f"{TOTALS[total]} ({total})"
        else:
            self._needed = frozenset(names)
            self.scope = f"sum of the rails {_listed(names)}; no rail measures the input"
        for rail in self._rails:
            if rail.name in self._needed:
                _check_permission(rail)

    @property
    def averaging(self) -> Averaging:
        """Of the slowest sensor that the total needs. The kernel tells it on JetPack 5 and later.

        https://docs.kernel.org/hwmon/ina3221.html
        """
        needed = (rail for rail in self._rails if rail.name in self._needed)
        folders = {rail.files[0].path.parent for rail in needed}
        found = [
            Averaging(
                samples=number_in(folder / "samples"),
                update_interval_ms=number_in(folder / "update_interval"),
            )
            for folder in sorted(folders)
        ]
        return max(found, key=lambda each: each.update_interval_ms or 0)

    def read(self, now: float) -> PowerReading:
        """Read what the total needs, and what it does not once a second. See `Meter.read`."""
        shown = self._registers
        reads_others = abs(now - self._others_s) >= _OTHERS_S
        for rail in self._rails:
            if rail.name not in self._needed and not reads_others:
                continue
            try:
                shown[rail.name] = rail.registers()
            except (OSError, ValueError) as error:
                if rail.name in self._needed:
                    raise _unreadable(rail, error) from error
                shown.pop(rail.name, None)
        if reads_others:
            self._others_s = now
        known = [rail for rail in self._rails if rail.name in shown]
        rails_w = {rail.name: rail.watts(shown[rail.name]) for rail in known}
        total_w = sum(watts for name, watts in rails_w.items() if name in self._needed)
        if total_w > _MOST_W:
            raise SensorError(f"the rails show {total_w:.4g} W, which no board draws")
        return PowerReading(
            time_s=now,
            total_w=total_w,
            rails_w=rails_w,
            registers=tuple(itertools.chain.from_iterable(shown[rail.name] for rail in known)),
        )

    def close(self) -> None:
        """Close the files; the next reading opens them again."""
        for rail in self._rails:
            rail.close()


def _enabled_rails(root: Path) -> list[Rail]:
    """Return the rails that are measured, none of them open."""
    found = find_rails(root)
    if not found:
        raise SensorError(
            "there is no INA power sensor",
            "in a container on a Jetson, mount /sys: -v /sys:/sys:ro. A Nano 2GB and a PC have "
            "none.",
        )
    enabled = [rail for rail in found if _is_enabled(rail)]
    if not enabled:
        raise SensorError(
            "every channel of the INA power sensor is switched off or tells nothing",
            f"echo 1 | sudo tee /{_DRIVERS}/ina3221/*/hwmon/hwmon*/in[1-3]_enable",
        )
    return enabled


def _is_enabled(rail: Rail) -> bool:
    """Whether a rail is measured: the kernel has no data of a channel that is switched off.

    One that tells nothing is left out, too. But a total stays: those that are left would be taken
    for it. It may tell more later.
    """
    try:
        rail.registers()
    except PermissionError:
        pass  # the user can mend it
    except OSError as error:
        return rail.name in TOTALS and error.errno != errno.ENODATA
    except ValueError:
        return rail.name in TOTALS
    finally:
        rail.close()
    return True


def _check_permission(rail: Rail) -> None:
    """Raise a SensorError if this user may not read a rail; other failures may pass by."""
    try:
        rail.registers()
    except PermissionError as error:
        raise _unreadable(rail, error) from error
    except (OSError, ValueError):
        pass
    finally:
        rail.close()


def _unreadable(rail: Rail, error: OSError | ValueError) -> SensorError:
    folder = rail.files[0].path.parent
    if isinstance(error, PermissionError):
        return SensorError(
            f"this user may not read rail {rail.name} in {folder}",
            f"sudo chmod a+r {folder}/*_input, after each start of the machine.",
        )
    message = f"rail {rail.name} cannot be read in {folder}: {why(error)}"
    return SensorError(
        message, "was its driver loaded anew? Then start again; `sudo dmesg` may tell."
    )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
