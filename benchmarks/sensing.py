"""What sensing costs: the thread's share of a core, one reading, one look at the account.

    python -m benchmarks.sensing [--seconds 30]

An Orin NX is emulated as a tree of ordinary files, so what its I2C bus takes is not in the figures:
there a thread waits for the bus without using the processor. Not run on a board. Target: at most
1 % of one core at 20 readings a second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.power.account import EnergyAccount
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import PowerReading
from ffn_edge.runtime.power.sampler import Sampler

_ZONES = ("cpu", "gpu", "cv0", "cv1", "cv2", "soc0", "soc1", "soc2", "tj")
_COOLING = ("pwm-fan", "cpufreq-cpu0", "cpufreq-cpu4", "devfreq-17000000.gpu", "cpu-throttle-alert")


def emulate_orin_nx(root: Path) -> None:
    """Write the files of an Orin NX's sensors."""
    ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    thermal = "sys/class/thermal"
    files: dict[str, object] = {}
    for channel, name in enumerate(("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), start=1):
        files[f"{ina}/in{channel}_label"] = name
        files[f"{ina}/in{channel}_input"] = 5000
        files[f"{ina}/curr{channel}_input"] = 400 * channel
    for number, name in enumerate(_ZONES):
        files[f"{thermal}/thermal_zone{number}/type"] = f"{name}-thermal"
        files[f"{thermal}/thermal_zone{number}/temp"] = 45_000 + number
    for number, name in enumerate(_COOLING):
        files[f"{thermal}/cooling_device{number}/type"] = name
        files[f"{thermal}/cooling_device{number}/cur_state"] = 0
        files[f"{thermal}/cooling_device{number}/max_state"] = 3
    for line in (1, 2, 3):
        files[f"sys/class/hwmon/hwmon2/oc{line}_event_cnt"] = 0
    files["sys/class/devfreq/17000000.gpu/cur_freq"] = 306_000_000
    files["sys/class/devfreq/17000000.gpu/max_freq"] = 918_000_000
    files["sys/kernel/debug/bpmp/debug/clk/emc/rate"] = 2_133_000_000
    for policy in (0, 4):
        files[f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq"] = 1_984_000
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the thread")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{describe_machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        emulate_orin_nx(root)
        console.print(calls(root))
        console.print(thread(root, arguments.seconds))


def calls(root: Path) -> Table:
    """Time each call by itself."""
    meter, health = InaMeter(root), Health(root)
    account = EnergyAccount()
    readings = [
        PowerReading(time_s=0.05 * step, total_w=8 + step % 7, rails_w={})
        for step in range(100_000)
    ]
    upcoming, seconds = iter(readings), itertools.count(1.0)
    sampler = Sampler(meter, health)
    paths = sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/*/*_input"))
    others = (path for path in root.rglob("*") if path.is_file() and "i2c" not in path.parts)
    health_files = sum(path.name != "type" for path in others)  # types are read once
    table = Table(title="one call, the best of five rounds")
    table.add_column("call")
    table.add_column("time", justify="right")
    for label, action in (
        ("read the power: 2 files that stay open", lambda: meter.read(0.0)),
        ("and once a second: 6 files", lambda: meter.read(next(seconds))),
        ("all 6 files, opened for each reading", lambda: [p.read_bytes() for p in paths]),
        (f"read the health: {health_files} files", health.read),
        ("EnergyAccount.add", lambda: account.add(next(upcoming))),
        ("EnergyAccount.take", lambda: account.take(0.0)),
        ("Sampler.sense", lambda: sampler.sense(0.0)),
    ):
        table.add_row(label, f"{microseconds(action):.1f} µs")
    meter.close()
    return table


def microseconds(action: Callable[[], object], rounds: int = 5, times: int = 2000) -> float:
    """Return how long one call takes."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            action()
        best = min(best, time.perf_counter() - start)
    return best / times * 1e6


def thread(root: Path, seconds: float) -> Table:
    """Let the thread run beside a program that asks it ten times a second."""
    meter = InaMeter(root)
    with Sampler(meter, Health(root)) as sampler:
        start, begin = time.perf_counter(), os.times()
        while time.perf_counter() - start < seconds:
            time.sleep(0.1)
            sampler.sense(time.monotonic())
        elapsed_s, end = time.perf_counter() - start, os.times()
        schedule = sampler.schedule
    meter.close()
    used_s = end.user - begin.user + end.system - begin.system
    table = Table(title=f"20 readings a second for {elapsed_s:.0f} s, asked 10 times a second")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("one core's share (target <= 1 %)", f"{used_s / elapsed_s:.2%}")
    table.add_row("readings", str(schedule.rounds))
    table.add_row("missed", str(schedule.missed))
    table.add_row("late, on average", f"{schedule.late_s * 1e3:.2f} ms")
    table.add_row("late, at worst", f"{schedule.latest_s * 1e3:.2f} ms")
    return table


if __name__ == "__main__":
    main()
