"""Whatever a kernel's files hold, every reader of them goes on without."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ffn_edge.device import sysfs
from ffn_edge.device.cores import cpu_quota
from ffn_edge.device.host_memory import memory_sizes
from ffn_edge.device.jetson import board_model, fastest_power_mode, l4t_release
from ffn_edge.device.sysfs import KernelFile, number_in, text_of
from ffn_edge.errors import SensorError
from ffn_edge.runtime.doctor import hardware
from ffn_edge.runtime.doctor.host import Host
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.machine.machine import clocks_now, cpu_time
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import Meter
from ffn_edge.runtime.power.rapl import RaplMeter
from ffn_edge.runtime.profile.conditions import this_moment

INA = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
FILES = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "45000",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device0/cur_state": "1",
    "sys/class/thermal/cooling_device0/max_state": "4",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "0",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000",
    "sys/kernel/debug/bpmp/debug/clk/emc/min_rate": "204000000",
    "sys/kernel/debug/bpmp/debug/clk/emc/max_rate": "2133000000",
    "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked": "0",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1000000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1000000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2000000",
    f"{INA}/in1_label": "VDD_IN",
    f"{INA}/in1_input": "5000",
    f"{INA}/curr1_input": "1000",
    f"{INA}/in2_label": "VDD_SOC",
    f"{INA}/in2_input": "5000",
    f"{INA}/curr2_input": "100",
    f"{INA}/samples": "1",
    f"{INA}/update_interval": "7",
    "sys/class/powercap/intel-rapl:0/name": "package-0-die-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "sys/class/powercap/intel-rapl:1/name": "package-0-die-1",
    "sys/class/powercap/intel-rapl:1/energy_uj": "1000",
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": "262143328850",
    "sys/fs/cgroup/cpu.max": "100000 100000",
    "proc/self/cgroup": "0::/",
    "proc/self/mountinfo": "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
    "proc/stat": "cpu0 1 1 1 1 1 1 1 1",
    "proc/meminfo": "MemTotal: 1000 kB",
    "proc/device-tree/model": "a board",
    "proc/driver/nvidia/version": "Kernel Module  540.4.0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >",
}


def loop(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, Callable[[Path], object]] = {
    "nothing": Path.touch,
    "blank": lambda path: path.write_bytes(b" \n"),
    "negative": lambda path: path.write_bytes(b"-5\n"),
    "zero": lambda path: path.write_bytes(b"0\n"),
    "no number": lambda path: path.write_bytes(b"nan\n"),
    "infinity": lambda path: path.write_bytes(b"inf inf\n"),
    "huge": lambda path: path.write_bytes(b"9" * 50 + b"\n"),
    "endless": lambda path: path.write_bytes(b"9" * 5000 + b"\n"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00 \x80\n"),
    "a control sequence": lambda path: path.write_bytes(b"\x1b[2J[/b]\n"),
    "a folder": Path.mkdir,
    "a loop": loop,
    "a pipe": os.mkfifo,
}


def power(opener: Callable[[Path], Meter]) -> Callable[[Path], None]:
    """Return what opens a meter and reads it: a SensorError is its word for what it cannot."""

    def read(root: Path) -> None:
        try:
            meter = opener(root)
        except SensorError:
            return
        for now in (0.0, 2.0):
            with suppress(SensorError):
                meter.read(now)
            str(meter.averaging)
        meter.close()

    return read


def check_hardware(root: Path) -> None:
    host = Host(root)
    host.output_of = lambda command: None
    for lines in (hardware.board_lines, hardware.camera_lines, hardware.sensor_lines):
        list(lines(host))
    list(hardware.resource_lines(host, {"disk": root}))


READERS: dict[str, Callable[[Path], object]] = {
    "health": lambda root: Health(root).read().throttled,
    "moment": this_moment,
    "clocks": clocks_now,
    "time": cpu_time,
    "quota": cpu_quota,
    "memory": memory_sizes,
    "board": board_model,
    "release": l4t_release,
    "mode": fastest_power_mode,
    "INA": power(InaMeter),
    "RAPL": power(RaplMeter),
    "doctor": check_hardware,
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine on which each reader finds something."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize("odd", ODD)
def test_no_reader_fails_at_what_a_file_holds(odd: str, machine: Path) -> None:
    for name, text in FILES.items():
        path = machine / name
        path.unlink()
        ODD[odd](path)
        for read in READERS.values():
            read(machine)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_text(text + "\n")


@pytest.mark.parametrize("number", ["9" * 60, "9" * 400, "9" * 5000, "", "-1"])
def test_no_reader_fails_at_the_numbers_in_a_file(number: str, machine: Path) -> None:
    for name, text in FILES.items():
        (machine / name).write_text(re.sub(r"(?<![\w:])\d+", number, text) + "\n")
        for read in READERS.values():
            read(machine)
        (machine / name).write_text(text + "\n")


@pytest.mark.parametrize("odd", ["nothing", "a loop", "a pipe"])
def test_no_reader_fails_where_a_folder_is_none(odd: str, machine: Path) -> None:
    folders = {parent for name in FILES for parent in Path(name).parents if parent.name}
    for folder in sorted(folders):
        (machine / folder).rename(machine / "away")
        ODD[odd](machine / folder)
        for read in READERS.values():
            read(machine)
        (machine / folder).unlink()
        (machine / "away").rename(machine / folder)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EIO, errno.ENODATA, errno.ETIMEDOUT])
def test_no_reader_fails_at_what_the_kernel_answers(
    number: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sysfs.os, "read", fail)
    monkeypatch.setattr(sysfs.os, "pread", fail)
    for read in READERS.values():
        read(machine)
    assert Health(machine).read().temperatures_c == {}


@pytest.mark.parametrize("odd", sorted(ODD.keys() - {"negative", "zero", "huge", "endless"}))
def test_what_is_no_number_is_as_if_it_were_not_there(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "temp"
    assert number_in(path) is None
    assert text_of(path) is None
    ODD[odd](path)
    assert number_in(path) is None
    with pytest.raises((OSError, ValueError)):
        KernelFile(path).number()


def test_a_file_that_comes_in_pieces_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("model name: x\n" * 1000)
    real = os.read
    monkeypatch.setattr(sysfs.os, "read", lambda descriptor, size: real(descriptor, min(size, 99)))
    assert text_of(path) == ("model name: x\n" * 1000).strip()
