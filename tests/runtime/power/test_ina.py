"""Every board of the table, in both layouts of the kernel, and boards that misbehave."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from ffn_edge.device import sysfs
from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import Averaging

NANO = {"6-0040": [("POM_5V_IN", 5000, 800), ("POM_5V_GPU", 5000, 100), ("POM_5V_CPU", 5000, 200)]}
TX2 = {
    "0-0040": [
        ("VDD_SYS_GPU", 19000, 100),
        ("VDD_SYS_SOC", 19000, 50),
        ("VDD_4V0_WIFI", 4800, 10),
    ],
    "0-0041": [("VDD_IN", 19000, 400), ("VDD_SYS_CPU", 19000, 60), ("VDD_SYS_DDR", 19000, 70)],
    "0-0042": [("VDD_MUX", 19000, 500)],
}
NX = {"1-0040": [("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 400)]}
AGX_XAVIER = {
    "1-0040": [("GPU", 19000, 100), ("CPU", 19000, 200), ("SOC", 19000, 300)],
    "1-0041": [("CV", 19000, 10), ("VDDRQ", 19000, 20), ("SYS5V", 19000, 70)],
}
AGX_ORIN = {
    "1-0040": [("VDD_GPU_SOC", 19000, 300), ("VDD_CPU_CV", 19000, 100), ("VIN_SYS_5V0", 5000, 800)],
    "1-0041": [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)],
}
THOR = {
    "2-0040": [("VDD_GPU", 19000, 800), ("VDD_CPU_SOC_MSS", 19000, 300), ("VIN_SYS_5V0", 5000, 900)]
}
INPUT = "module input (VDD_IN)"
FOLDER = "sys/bus/i2c/drivers/ina3221"
BOARDS = {
    "Nano": (NANO, 4.0, "module input (POM_5V_IN)"),
    "TX2": (TX2, 7.6, INPUT),
    "NX class": (NX, 10.0, INPUT),
    "AGX Xavier": (
        AGX_XAVIER,
        13.3,
        "sum of the rails GPU, CPU, SOC, CV, VDDRQ and SYS5V; no rail measures the input",
    ),
    "AGX Orin": (
        AGX_ORIN,
        12.6,
        "sum of the rails VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0 and VDDQ_VDD2_1V8AO; no rail "
        "measures the input",
    ),
    "Thor on another carrier": (
        THOR,
        25.4,
        "sum of the rails VDD_GPU, VDD_CPU_SOC_MSS and VIN_SYS_5V0; no rail measures the input",
    ),
    "an unknown board": (
        {"3-0040": [("VCC_A", 5000, 100), ("VCC_B", 5000, 200)]},
        1.5,
        "sum of the rails VCC_A and VCC_B; no rail measures the input",
    ),
}


@pytest.mark.parametrize("layout", ["hwmon", "iio"])
@pytest.mark.parametrize("name", BOARDS)
def test_the_total_of_a_board_is_the_one_of_the_table(name: str, layout: str, board: Any) -> None:
    chips, total_w, scope = BOARDS[name]
    for number, (chip, rails) in enumerate(chips.items()):
        getattr(board, layout)(chip, rails, number)
    meter = InaMeter(board.root)
    reading = meter.read(7.0)
    assert (reading.time_s, reading.energy_j, meter.scope) == (7.0, None, scope)
    assert reading.total_w == pytest.approx(total_w)
    assert reading.rails_w == {
        rail: pytest.approx(volts * amperes / 1e6)
        for rails in chips.values()
        for rail, volts, amperes in rails
        if rail != "NC"
    }
    meter.close()


@pytest.mark.parametrize("label", [None, "VIN"])
def test_the_total_of_thor_is_its_carrier_board_in_microwatts(
    label: str | None, board: Any
) -> None:
    board.hwmon("2-0040", THOR["2-0040"])
    board.ina238("2-0044", 38_500_000, label=label)
    meter = InaMeter(board.root)
    reading = meter.read(0.0)
    assert reading.total_w == pytest.approx(38.5)
    assert meter.scope == "carrier board input (VIN)"
    assert list(reading.rails_w) == ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"]


def test_a_channel_without_a_name_and_two_of_one_name_are_told_apart(board: Any) -> None:
    (board.hwmon("1-0040", [("A", 1000, 1000)]) / "in1_label").unlink()
    board.hwmon("1-0041", [("B", 1000, 2000)], 2)
    board.hwmon("1-0042", [("B", 1000, 3000)], 3)
    rails = InaMeter(board.root).read(0.0).rails_w
    assert rails == {"1-0040 channel 1": 1.0, "B": 2.0, "B (1-0042)": 3.0}


def test_a_board_without_a_sensor_is_told_so(board: Any) -> None:
    with pytest.raises(SensorError, match="no INA power sensor") as caught:
        InaMeter(board.root)
    assert "-v /sys:/sys:ro" in caught.value.hint


def test_without_permission_the_command_that_gives_it_is_named(
    open_board: Any, as_a_user: Any
) -> None:
    folder = open_board.hwmon("1-0040", NX["1-0040"])
    (folder / "curr1_input").chmod(0)
    with as_a_user(), pytest.raises(SensorError, match="this user may not read") as caught:
        InaMeter(open_board.root)
    assert f"sudo chmod a+r {folder}/*_input" in caught.value.hint


def test_permission_for_a_rail_that_the_total_does_not_need_is_not_needed(
    open_board: Any, as_a_user: Any
) -> None:
    folder = open_board.hwmon("1-0040", NX["1-0040"])
    (folder / "curr2_input").chmod(0)
    with as_a_user():
        reading = InaMeter(open_board.root).read(0.0)
    assert reading.total_w == pytest.approx(10.0)
    assert list(reading.rails_w) == ["VDD_IN", "VDD_SOC"]


def test_a_channel_that_is_switched_off_is_left_out(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.hwmon("1-0040", AGX_XAVIER["1-0040"])
    fail_on(monkeypatch, "in3_input", errno.ENODATA)
    assert InaMeter(board.root).read(0.0).total_w == pytest.approx(5.7)
    fail_on(monkeypatch, "_input", errno.ENODATA)
    with pytest.raises(SensorError, match="switched off"):
        InaMeter(board.root)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EIO])
def test_a_rail_that_tells_nothing_is_no_part_of_a_sum(
    number: int, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.hwmon("1-0040", AGX_XAVIER["1-0040"])
    fail_on(monkeypatch, "in3_input", number)
    meter = InaMeter(board.root)
    assert meter.scope == "sum of the rails GPU and CPU; no rail measures the input"
    assert meter.read(0.0).total_w == pytest.approx(5.7)


def test_no_sum_takes_the_place_of_a_total_that_tells_nothing_yet(
    orin_nx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, "in1_input", errno.EIO)
    meter = InaMeter(orin_nx.root)
    assert meter.scope == INPUT
    with pytest.raises(SensorError, match="VDD_IN"):
        meter.read(0.0)
    monkeypatch.undo()
    assert meter.read(5.0).total_w == pytest.approx(10.0)


def test_a_rail_that_the_total_does_not_need_may_fail(orin_nx: Any) -> None:
    meter = InaMeter(orin_nx.root)
    folder = orin_nx.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    (folder / "in3_input").write_text("?\n")
    reading = meter.read(0.0)
    assert reading.total_w == pytest.approx(10.0)
    assert list(reading.rails_w) == ["VDD_IN", "VDD_CPU_GPU_CV"]
    (folder / "in1_input").write_text("")
    with pytest.raises(SensorError, match=r"VDD_IN .*holds no number"):
        meter.read(0.1)


def test_only_what_the_total_needs_is_read_at_each_turn(
    orin_nx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = InaMeter(orin_nx.root)
    folder = orin_nx.root / FOLDER / "1-0040/hwmon/hwmon1"
    read = reads(monkeypatch)
    assert meter.read(0.0).rails_w["VDD_SOC"] == pytest.approx(2.0)
    (folder / "curr1_input").write_text("3000\n")
    (folder / "curr3_input").write_text("600\n")
    for step in range(1, 20):
        reading = meter.read(step * 0.05)
        # What was read a moment ago is shown until then.
        assert (reading.total_w, reading.rails_w["VDD_SOC"]) == pytest.approx((15.0, 2.0))
    assert meter.read(1.0).rails_w["VDD_SOC"] == pytest.approx(3.0)
    assert [read.count(f"in{channel}_input") for channel in (1, 2, 3)] == [21, 2, 2]


def test_without_a_total_every_rail_is_read_at_each_turn(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.hwmon("1-0040", AGX_XAVIER["1-0040"])
    meter = InaMeter(board.root)
    read = reads(monkeypatch)
    for step in range(5):
        meter.read(step * 0.05)
    assert [read.count(f"curr{channel}_input") for channel in (1, 2, 3)] == [5, 5, 5]


def test_a_reading_holds_the_registers_of_every_rail(orin_nx: Any) -> None:
    assert InaMeter(orin_nx.root).read(0.0).registers == (5000, 2000, 5000, 800, 5000, 400)


def test_what_no_board_draws_is_an_error_and_the_next_reading_counts(board: Any) -> None:
    folder = board.hwmon("1-0040", NX["1-0040"])
    meter = InaMeter(board.root)
    true = (folder / "curr1_input").read_text()
    (folder / "curr1_input").write_text("200000\n")  # mA, a glitch of the bus
    with pytest.raises(SensorError, match="no board draws"):
        meter.read(0.0)
    (folder / "curr1_input").write_text(true)
    assert meter.read(0.1).total_w == pytest.approx(10.0)


def test_a_sensor_tells_how_it_averages(board: Any) -> None:
    slow = board.hwmon("1-0041", NX["1-0040"])
    meter = InaMeter(board.root)
    assert meter.averaging == Averaging()
    board.averages(slow, 512, 430)
    assert meter.averaging == Averaging(samples=512, update_interval_ms=430)
    assert str(meter.averaging) == "mean of 512 samples, a value each 430 ms"
    # Of sensors that the total does not need, it says nothing.
    board.averages(board.hwmon("1-0042", [("VDD_GPU", 5000, 10)], 2), 1024, 99_999)
    assert InaMeter(board.root).averaging == Averaging(samples=512, update_interval_ms=430)


def test_of_several_sensors_the_slowest_tells_how_the_sum_averages(board: Any) -> None:
    board.averages(board.hwmon("1-0040", AGX_XAVIER["1-0040"], 1), 1, 7)
    board.averages(board.hwmon("1-0041", AGX_XAVIER["1-0041"], 2), 64, 54)
    assert InaMeter(board.root).averaging == Averaging(samples=64, update_interval_ms=54)


def test_a_sensor_that_goes_away_while_running_is_read_again_when_it_is_back(
    orin_nx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = InaMeter(orin_nx.root)
    for number in (errno.ENODATA, errno.ENODEV):
        fail_on(monkeypatch, "_input", number)
        with pytest.raises(SensorError):
            meter.read(0.0)
    monkeypatch.undo()
    assert meter.read(20.0).total_w == pytest.approx(10.0)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that will hold the name of each file that is read from here on."""
    real, names = os.pread, []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        return real(descriptor, size, offset)

    monkeypatch.setattr(sysfs.os, "pread", pread)
    return names


def fail_on(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the kernel answer with an error where a file's name ends with `name`."""
    monkeypatch.undo()
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(name):
            raise OSError(number, os.strerror(number))
        return real(descriptor, size, offset)

    monkeypatch.setattr(sysfs.os, "pread", pread)
