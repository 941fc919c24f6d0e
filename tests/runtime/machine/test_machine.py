"""The ranges of clocks are read from the files of a Jetson and of a desktop computer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.runtime.machine.machine import ClockRange, Clocks, CpuTime, clocks_now, cpu_time

CPU = "sys/devices/system/cpu/cpufreq/policy{}/scaling_{}_freq"
MEMORY = "sys/kernel/debug/bpmp/debug/clk/emc/"


def write(root: Path, values: dict[str, object]) -> None:
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def mhz(low: float, high: float) -> ClockRange:
    return ClockRange(low_hz=low * 1e6, high_hz=high * 1e6)


def test_the_clocks_of_a_jetson_are_those_of_its_fastest_cores_its_gpu_and_its_memory(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        {
            CPU.format(0, "min"): 115200,
            CPU.format(0, "max"): 729600,
            CPU.format(4, "min"): 115200,
            CPU.format(4, "max"): 1510400,
            "sys/class/devfreq/17000000.gpu/min_freq": 306000000,
            "sys/class/devfreq/17000000.gpu/max_freq": 918000000,
            "sys/class/devfreq/15340000.vic/min_freq": 1,
            "sys/class/devfreq/15340000.vic/max_freq": 10**12,
            MEMORY + "rate": 2133000000,
            MEMORY + "min_rate": 204000000,
            MEMORY + "max_rate": 3199000000,
            MEMORY + "mrq_rate_locked": 0,
        },
    )
    assert clocks_now(tmp_path) == Clocks(
        cpu=mhz(115.2, 1510.4), gpu=mhz(306, 918), memory=mhz(204, 3199)
    )


@pytest.mark.parametrize(
    "name",
    [
        "57000000.gpu",
        "17000000.gp10b",
        "17000000.gv11b",
        "17000000.ga10b",
        "17000000.gpu",
        "gpu-gpc-0",
    ],
)
def test_the_gpu_of_each_generation_is_known(tmp_path: Path, name: str) -> None:
    # Beside it, engines for pictures and videos, and the memory's bandwidth.
    for other in ("15340000.vic", "15480000.nvdec", "gpu-nvd-0", "bwmgr"):
        folder = f"sys/class/devfreq/{other}/"
        write(tmp_path, {folder + "min_freq": 1692000000, folder + "max_freq": 1692000000})
    folder = f"sys/class/devfreq/{name}/"
    write(tmp_path, {folder + "min_freq": 918000000, folder + "max_freq": 918000000})
    assert clocks_now(tmp_path) == Clocks(gpu=mhz(918, 918))


def test_a_memory_that_is_locked_runs_at_its_rate(tmp_path: Path) -> None:
    rates = {"rate": 3199000000, "min_rate": 204000000, "max_rate": 3199000000}
    write(tmp_path, {MEMORY + name: rate for name, rate in rates.items()})
    write(tmp_path, {MEMORY + "mrq_rate_locked": 1})
    assert clocks_now(tmp_path).memory == mhz(3199, 3199)


def test_clocks_that_are_not_told_are_unknown(tmp_path: Path) -> None:
    assert clocks_now(tmp_path) == Clocks()


@pytest.mark.parametrize("text", ["", "<unsupported>", "-1", "0", "9" * 9])
def test_a_clock_that_cannot_be_is_unknown(tmp_path: Path, text: str) -> None:
    write(tmp_path, {CPU.format(0, "min"): text, CPU.format(0, "max"): 1000})
    assert clocks_now(tmp_path).cpu is None


def test_a_range_is_said_in_words() -> None:
    assert str(mhz(306, 918)) == "of 306 to 918 MHz"
    assert str(mhz(918, 918)) == "fixed at 918 MHz"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (-1, 1), (1, float("inf"))])
def test_an_empty_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a clock ranges"):
        ClockRange(low_hz=low, high_hz=high)


def test_the_time_of_others_is_what_the_processors_worked_beyond_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr("time.process_time", lambda: 1.5)
    # user, nice, system, idle, iowait, irq, softirq, stolen; a guest is in user already.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2})
    lines = (
        "cpu  9100 10 20 700 40 1 2 127 100 0",
        "cpu0 90 10 20 500 30 1 2 57 100 0",
        "cpu1 9000 0 0 0 0 0 0 0 0 0",
        "cpu2 10 0 0 200 10 0 0 70 0 0",
        "ctxt 9",
    )
    write(tmp_path, {"proc/stat": "\n".join(lines)})
    found = cpu_time(tmp_path)
    assert (found.total_s, found.busy_s, found.own_s, found.resolution_s) == pytest.approx(
        (10.0, 2.6, 1.5, 0.02)
    )
    before = CpuTime(total_s=6.0, busy_s=0.1, own_s=1.0, resolution_s=0.02)
    assert found.share_of_others(before) == pytest.approx((2.5 - 0.5 - 0.02) / 4.0)
    assert found.share_of_others(found) == 0.0
    # What the kernel counted late is not negative.
    late = CpuTime(total_s=6.0, busy_s=2.6, own_s=1.0, resolution_s=0.02)
    assert found.share_of_others(late) == 0.0


def test_under_a_quota_others_take_only_what_this_process_might_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr("ffn_edge.runtime.machine.machine.cpu_quota", lambda root: 2.0)

    def after(idle: int) -> CpuTime:
        """Ten seconds of four processors, of which so many hundredths were idle."""
        lines = [f"cpu{cpu} {1000 - idle // 4} 0 0 {idle // 4} 0 0 0 0" for cpu in range(4)]
        write(tmp_path, {"proc/stat": "\n".join(lines)})
        return cpu_time(tmp_path)

    write(tmp_path, {"proc/stat": "\n".join(f"cpu{cpu} 0 0 0 0 0 0 0 0" for cpu in range(4))})
    before = cpu_time(tmp_path)
    assert after(idle=2400).share_of_others(before) == 0.0  # two processors are left for it
    assert after(idle=1000).share_of_others(before) == pytest.approx(0.5 - 0.04 / 20)
    assert after(idle=0).share_of_others(before) == pytest.approx(1.0 - 0.04 / 20)


@pytest.mark.parametrize("text", [None, "", "cpu0 1 2", "cpu0 a b c d e f g h"])
def test_where_the_system_does_not_tell_there_are_no_others(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        write(tmp_path, {"proc/stat": text})
    assert cpu_time(tmp_path).share_of_others(cpu_time(tmp_path)) == 0.0
