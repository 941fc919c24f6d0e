"""Heat and clocks from trees of the kernel's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ffn_edge.runtime.machine.health import Health, HealthReading

Write = Callable[[str, object], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of the machine."""

    def write(path: str, text: object) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        return file

    return write


def zone(write: Write, number: int, kind: str, temp: object) -> None:
    write(f"sys/class/thermal/thermal_zone{number}/type", kind)
    write(f"sys/class/thermal/thermal_zone{number}/temp", temp)


def trip(write: Write, number: int, point: int, kind: str, temp: object) -> None:
    write(f"sys/class/thermal/thermal_zone{number}/trip_point_{point}_type", kind)
    write(f"sys/class/thermal/thermal_zone{number}/trip_point_{point}_temp", temp)


def cooling(write: Write, number: int, kind: str, state: object, highest: int) -> None:
    folder = f"sys/class/thermal/cooling_device{number}"
    write(f"{folder}/type", kind)
    write(f"{folder}/cur_state", state)
    write(f"{folder}/max_state", highest)


def test_a_machine_without_files_knows_nothing(tmp_path: Path) -> None:
    reading = Health(tmp_path).read()
    assert reading == HealthReading()
    assert (reading.hottest_c, reading.throttled) == (None, None)


def test_zones_that_are_off_or_garbage_are_left_out(write: Write, tmp_path: Path) -> None:
    zone(write, 0, "cpu-thermal", 45_250)
    zone(write, 1, "gpu-thermal", -256_000)
    zone(write, 2, "soc-thermal", "garbage")
    zone(write, 10, "cpu-thermal", 47_000)
    zone(write, 3, "cold", -20_500)
    write("sys/class/thermal/thermal_zone4/type", "without")
    (tmp_path / "sys/class/thermal/thermal_zone5/temp").mkdir(parents=True)
    reading = Health(tmp_path).read()
    assert reading.temperatures_c == {
        "cpu-thermal": 45.25,
        "cold": -20.5,
        "cpu-thermal (thermal_zone10)": 47.0,
    }
    assert reading.hottest_c == 47.0


def test_a_fan_holds_no_clock_down(write: Write, tmp_path: Path) -> None:
    cooling(write, 0, "pwm-fan", 3, 4)
    cooling(write, 1, "TCC Offset", 10, 63)
    cooling(write, 2, "intel_powerclamp", -1, 50)
    cooling(write, 3, "cpufreq-cpu0", 0, 12)
    assert Health(tmp_path).read().throttled is None
    cooling(write, 3, "cpufreq-cpu0", 4, 12)
    cooling(write, 4, "devfreq-17000000.gpu", 1, 9)
    reading = Health(tmp_path).read()
    assert reading.throttled == "cpufreq-cpu0 at 4 of 12, devfreq-17000000.gpu at 1 of 9"
    assert reading.cooling["pwm-fan"] == (3, 4)


def test_over_current_events_of_all_lines_are_summed(write: Write, tmp_path: Path) -> None:
    for line, count in ((1, 4), (2, 0), (3, 2)):
        write(f"sys/class/hwmon/hwmon4/oc{line}_event_cnt", count)
        write(f"sys/class/hwmon/hwmon4/oc{line}_throt_en", 1)
    health = Health(tmp_path)
    assert health.read().over_current_events == 6
    (tmp_path / "sys/class/hwmon/hwmon4/oc1_event_cnt").unlink()
    assert health.read().over_current_events is None  # 2 would be a reset, and then 4 new events


def test_a_zone_that_always_shows_100_degrees_is_left_out(write: Write, tmp_path: Path) -> None:
    zone(write, 0, "CPU-therm", 45_250)
    zone(write, 1, "PMIC-Die", 100_000)
    assert Health(tmp_path).read().temperatures_c == {"CPU-therm": 45.25}


@pytest.mark.parametrize("gpu", ["17000000.gpu", "17000000.ga10b", "gpu-gpc-0"])
def test_clocks_are_read_in_hertz(gpu: str, write: Write, tmp_path: Path) -> None:
    write(f"sys/class/devfreq/{gpu}/cur_freq", 306_000_000)
    write(f"sys/class/devfreq/{gpu}/max_freq", 918_000_000)
    write("sys/class/devfreq/gpu-nvd-0/cur_freq", 1)
    write("sys/class/devfreq/15340000.vic/cur_freq", 1)
    write("sys/kernel/debug/bpmp/debug/clk/emc/rate", 2_133_000_000)
    write("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", 1_000_000)
    write("sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", 2_000_000)
    reading = Health(tmp_path).read()
    assert (reading.gpu_hz, reading.gpu_max_hz) == (306_000_000, 918_000_000)
    assert (reading.memory_hz, reading.cpu_hz) == (2_133_000_000, 1_500_000_000)


def test_a_zone_that_disappears_is_left_out_and_comes_back(write: Write, tmp_path: Path) -> None:
    zone(write, 0, "cpu-thermal", 50_000)
    health = Health(tmp_path)
    path = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    path.unlink()
    assert health.read().temperatures_c == {}
    path.write_text("51000\n")
    assert health.read().hottest_c == 51.0


def test_headroom_is_to_the_lowest_hot_or_critical_trip_point_of_the_nearest_zone(
    write: Write, tmp_path: Path
) -> None:
    zone(write, 0, "cpu-thermal", 80_000)
    trip(write, 0, 0, "active", 50_000)
    trip(write, 0, 1, "passive", 85_000)
    trip(write, 0, 2, "critical", 104_500)
    trip(write, 0, 3, "hot", 102_000)
    zone(write, 1, "tj-thermal", 84_000)
    trip(write, 1, 10, "critical", 99_000)
    zone(write, 2, "soc-thermal", 98_000)
    trip(write, 2, 0, "passive", 99_000)
    reading = Health(tmp_path).read()
    assert reading.trips_c == {"cpu-thermal": 102.0, "tj-thermal": 99.0}
    assert (reading.headroom_c, reading.hottest_c) == (15.0, 98.0)
    write("sys/class/thermal/thermal_zone1/temp", "-256000")
    assert Health(tmp_path).read().headroom_c == 22.0


@pytest.mark.parametrize("temp", [0, -274_000, -1, 200_001, 2**31 - 1, "garbage", ""])
def test_a_trip_point_that_cannot_be_is_none(temp: object, write: Write, tmp_path: Path) -> None:
    zone(write, 0, "cpu-thermal", 80_000)
    trip(write, 0, 0, "critical", temp)
    assert Health(tmp_path).read().headroom_c is None
    trip(write, 0, 1, "critical", 200_000)
    assert Health(tmp_path).read().headroom_c == 120.0


def test_trip_points_are_read_once(write: Write, tmp_path: Path) -> None:
    zone(write, 0, "cpu-thermal", 80_000)
    trip(write, 0, 0, "critical", 100_000)
    health = Health(tmp_path)
    trip(write, 0, 0, "critical", 90_000)
    write("sys/class/thermal/thermal_zone0/temp", 85_000)
    assert health.read().headroom_c == 15.0


@pytest.mark.parametrize("memory", [None, "", 0, -1])
def test_a_user_is_told_the_clock_of_the_gpu_alone(
    memory: object, write: Write, tmp_path: Path
) -> None:
    assert Health(tmp_path).clocks_mhz() == ()
    clock = write("sys/class/devfreq/17000000.gpu/cur_freq", 918_000_000)
    rate = "sys/kernel/debug/bpmp/debug/clk/emc/rate"
    if memory is not None:
        write(rate, memory)
    assert Health(tmp_path).clocks_mhz() == (918.0,)
    write(rate, 3_199_000_000)
    assert Health(tmp_path).clocks_mhz() == (918.0, 3199.0)
    clock.write_text("0\n")
    assert Health(tmp_path).clocks_mhz() == ()
