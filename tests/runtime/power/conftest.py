"""The sysfs trees of boards, file by file as their kernels show them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


class Board:
    """A board's file system, to be equipped."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str | int) -> Path:
        """Write a file as the kernel would show it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        return file

    def hwmon(self, chip: str, rails: list[tuple[str, int, int]], number: int = 1) -> Path:
        """Write an INA3221 as JetPack 5 and later show it: labels, mV and mA."""
        folder = f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon{number}"
        for channel, (name, millivolts, milliamperes) in enumerate(rails, start=1):
            self.write(f"{folder}/in{channel}_label", name)
            self.write(f"{folder}/in{channel}_enable", 1)
            self.write(f"{folder}/in{channel + 3}_input", 12)  # shunt voltage
            self.write(f"{folder}/curr{channel}_crit", 32760)
            if name != "NC":  # the kernel gives an error there
                self.write(f"{folder}/in{channel}_input", millivolts)
                self.write(f"{folder}/curr{channel}_input", milliamperes)
        self.write(f"{folder}/in7_label", "sum of shunt voltages")
        self.write(f"{folder}/in7_input", 123456)
        self.write(f"{folder}/curr4_input", 9999)
        return self.root / folder

    def averages(self, folder: Path, samples: int, update_interval_ms: int) -> None:
        """Write how a chip averages, as JetPack 5 and later show it."""
        (folder / "samples").write_text(f"{samples}\n")
        (folder / "update_interval").write_text(f"{update_interval_ms}\n")

    def iio(self, chip: str, rails: list[tuple[str, int, int]], number: int = 0) -> Path:
        """Write an INA3221 as JetPack 4 shows it: names, and mW beside mV and mA."""
        folder = f"sys/bus/i2c/drivers/ina3221x/{chip}/iio:device{number}"
        for channel, (name, millivolts, milliamperes) in enumerate(rails):
            self.write(f"{folder}/rail_name_{channel}", name)
            self.write(f"{folder}/in_voltage{channel}_input", millivolts)
            self.write(f"{folder}/in_current{channel}_input", milliamperes)
            self.write(f"{folder}/in_power{channel}_input", millivolts * milliamperes // 1000)
        return self.root / folder

    def ina238(self, chip: str, microwatts: int, number: int = 5, label: str | None = None) -> Path:
        """Write an INA238: its power is in µW."""
        folder = f"sys/bus/i2c/drivers/ina238/{chip}/hwmon/hwmon{number}"
        self.write(f"{folder}/name", "ina238")
        self.write(f"{folder}/power1_input", microwatts)
        self.write(f"{folder}/in1_input", 19000)
        self.write(f"{folder}/curr1_input", 2000)
        if label is not None:
            self.write(f"{folder}/label", label)
        return self.root / folder

    def package(
        self, zone: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850
    ) -> Path:
        """Write an energy counter of an x86 processor, or of a part of it."""
        folder = f"sys/class/powercap/{zone}"
        self.write(f"{folder}/name", name)
        self.write(f"{folder}/max_energy_range_uj", range_uj)
        return self.write(f"{folder}/energy_uj", energy_uj)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """A machine without sensors."""
    return Board(tmp_path)


@pytest.fixture
def orin_nx(board: Board) -> Board:
    """An Orin NX that draws 10 W."""
    rails = [("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 400)]
    board.hwmon("1-0040", rails)
    return board


@pytest.fixture
def as_a_user() -> Callable[[], AbstractContextManager[None]]:
    """A block in which this process has not the rights of root."""

    @contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return block


@pytest.fixture
def open_board() -> Iterator[Board]:
    """A machine in a folder that every user may enter: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Board(folder)
    shutil.rmtree(folder)
