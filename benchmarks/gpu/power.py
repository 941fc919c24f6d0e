"""The power meter of a graphics card, `NvmlMeter`, against `nvidia-smi`, under load and idle.

In a dry run a meter and an nvidia-smi that always say 100 W stand in.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.gpu.report import Report, run_part
from ffn_edge.runtime.power.meter import Averaging, Meter, PowerReading
from ffn_edge.runtime.power.nvml import NvmlMeter, visible_gpu

_PERIOD_S = 0.1
_AVERAGE_S = 2.0  # the card's figure is an average of about a second: wait for it to be of now
_TOLERANCE = 0.05
_STEADY = "import time\nwhile True: print('100.00', flush=True); time.sleep(0.1)"


@dataclass(frozen=True)
class Means:
    """Watts over one stretch of time: by the meter's power, by its counter, by nvidia-smi."""

    meter_w: float
    counter_w: float | None
    smi_w: float

    def row(self) -> str:
        """Return the figures; raise if they do not agree."""
        others = [self.smi_w, *([] if self.counter_w is None else [self.counter_w])]
        worst = max(abs(other / self.meter_w - 1) for other in others)
        counter = "no counter" if self.counter_w is None else f"{self.counter_w:.1f} W"
        text = f"{self.meter_w:.1f} W, {counter}, {self.smi_w:.1f} W; {worst:.1%} apart"
        assert worst <= _TOLERANCE, text
        return text


def measure(meter: Meter, smi: Sequence[str], seconds: float) -> Means:
    """Watch both for a while.

    Args:
        meter: opened.
        smi: a command that prints watts, line by line, until it is stopped.
        seconds: how long.
    """
    with subprocess.Popen(smi, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout.readline().split()  # so it has started
        first = meter.read(time.monotonic())
        watts: list[float] = []
        end = first.time_s + seconds
        while (now := time.monotonic()) < end:
            reading = meter.read(now)
            if reading.total_w is not None:
                watts.append(reading.total_w)
            time.sleep(_PERIOD_S)
        last = meter.read(time.monotonic())
        process.terminate()
        lines += process.stdout.read().split()
    counter_w = None
    if first.energy_j is not None and last.energy_j is not None:
        counter_w = (last.energy_j - first.energy_j) / (last.time_s - first.time_s)
    return Means(statistics.fmean(watts), counter_w, statistics.fmean(map(float, lines)))


def main(report: Report) -> None:
    """Measure under load, then idle."""
    if report.dry_run:
        meter: Meter = SteadyMeter()
        smi = [sys.executable, "-c", _STEADY]
        load: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        idle_s, load_s = 0.5, 0.5
    else:
        meter = NvmlMeter(visible_gpu())
        smi = ["nvidia-smi", f"--id={visible_gpu()}", "--query-gpu=power.draw"]
        smi += ["--format=csv,noheader,nounits", f"--loop-ms={1000 * _PERIOD_S:.0f}"]
        load, idle_s, load_s = _matrix_products, 5.0, 10.0
    wait_s = 0.0 if report.dry_run else _AVERAGE_S
    report.fact("the meter", meter.scope)
    with load():
        time.sleep(wait_s)
        report.run(
            f"{load_s:.0f} s of load: meter, its counter, nvidia-smi",
            lambda: measure(meter, smi, load_s).row(),
        )
    time.sleep(wait_s)
    report.run(
        f"{idle_s:.0f} s idle: meter, its counter, nvidia-smi",
        lambda: measure(meter, smi, idle_s).row(),
    )
    meter.close()


@contextlib.contextmanager
def _matrix_products() -> Iterator[None]:
    """Keep the card busy, from a thread of its own."""
    import torch

    stop = threading.Event()
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def work() -> None:
        while not stop.is_set():
            for _ in range(20):
                left @ right
            torch.cuda.synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class SteadyMeter:
    """Always 100 W."""

    name = "steady"
    scope = "nothing: 100 W, made up"
    averaging = Averaging()

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def read(self, now: float) -> PowerReading:
        """See `Meter.read`."""
        return PowerReading(
            time_s=now, total_w=100.0, rails_w={}, energy_j=100 * (now - self._start_s)
        )

    def close(self) -> None:
        """Nothing is open."""


if __name__ == "__main__":
    run_part("the power meter", main)
