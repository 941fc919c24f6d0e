"""What the policy costs: one decision, a run's share of a core, a simulated day's time and memory.

    python -m benchmarks.policy_cost [--seconds 30] [--hours 24]

Targets: to decide and to observe take at most 100 µs together; sensing and policy at most 1 % of
one core at ten inferences a second; a simulated day takes at most 60 s, and its memory does not
grow. The sensors are an emulated Orin NX's, as in sensing.py; not run on a board.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.sensing import emulate_orin_nx
from benchmarks.simulation import baselines, scenarios
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.run import simulate
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    Controller,
    Decision,
    Limits,
    Observation,
    Policy,
    Setting,
)
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.sampler import Sampler

MISS_RATE = 0.05
# A deadline that moves, a budget that is kept, misses in bursts.
COURSES = ("contention", "power", "spikes")
HOP_S = 0.1


@dataclass(frozen=True)
class Timed:
    """A policy that takes down how long it takes, in µs."""

    policy: Policy[Any]
    decide_us: list[float] = field(default_factory=list)
    observe_us: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.policy.name

    def start(self, setting: Setting) -> Any:
        """Return the state before the first inference."""
        return self.policy.start(setting)

    def observe(self, state: Any, observation: Observation) -> Any:
        """Return the state after an inference."""
        start = time.perf_counter()
        after = self.policy.observe(state, observation)
        self.observe_us.append((time.perf_counter() - start) * 1e6)
        return after

    def decide(
        self, state: Any, limits: Limits, now: float, source_frames: float | None = None
    ) -> Decision:
        """Choose the frame count of the next inference."""
        start = time.perf_counter()
        decision = self.policy.decide(state, limits, now, source_frames)
        self.decide_us.append((time.perf_counter() - start) * 1e6)
        return decision

    def cells(self) -> list[str]:
        """Write median and 99 % quantile: to decide, to observe, together."""
        decide, observe = np.asarray(self.decide_us), np.asarray(self.observe_us)
        return [
            f"{np.median(us):.0f} / {np.quantile(us, 0.99):.0f}"
            for us in (decide, observe, decide + observe)
        ]


def decisions() -> Table:
    """Time every policy on simulated boards, one inference right after the other."""
    table = Table(
        title="one inference after the other, in µs: median / 99 %",
        caption=f"target: 100 together; simulated {', '.join(COURSES)}",
    )
    table.add_column("policy")
    for heading in ("decide", "observe", "together"):
        table.add_column(heading, justify="right")
    for name in baselines.NAMES:
        timed = Timed(baselines.named(name))
        for course in COURSES:
            simulate(scenarios.named(course), timed, 0, MISS_RATE)
        table.add_row(name, *timed.cells())
    return table


def share_of_a_core(seconds: float) -> Table:
    """Let the sampler's thread and our policy run as in a session of ten inferences a second."""
    timed = Timed(Adaptive())
    controller = Controller(timed, SYNTHETIC.setting())
    noise = random.Random(0)
    limits = Limits(latency_ms=100.0, miss_rate=MISS_RATE, power_w=12.0)
    base_ms = {point.frames: point.base_ms for point in SYNTHETIC.points}
    emulation_s = 0.0  # of the processor, for what a board does by itself
    with (
        tempfile.TemporaryDirectory() as folder,
        emulated_board(Path(folder)) as (sampler, current),
    ):
        start, begin_s = time.perf_counter(), time.process_time()
        for number in range(round(seconds / HOP_S)):
            time.sleep(max(0.0, start + number * HOP_S - time.perf_counter()))
            before_s = time.thread_time()
            os.pwrite(current, b"%d" % noise.randint(1500, 2500), 0)  # else it would seem frozen
            emulation_s += time.thread_time() - before_s
            now = time.monotonic()
            frames = controller.decide(limits, now).frames
            controller.observe(
                Observation(
                    frames=frames,
                    latency_ms=base_ms[frames] * noise.lognormvariate(0, 0.03),
                    now=now,
                    limits=limits,
                    sensed=sampler.sense(now),
                )
            )
        elapsed_s = time.perf_counter() - start
        used_s = time.process_time() - begin_s - emulation_s
        schedule = sampler.schedule
    table = Table(title=f"20 readings and 10 inferences a second for {elapsed_s:.0f} s, no engine")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("one core's share (target <= 1 %)", f"{used_s / elapsed_s:.2%}")
    for label, cell in zip(("decide", "observe", "together"), timed.cells(), strict=True):
        table.add_row(f"{label}, median / 99 % in µs, after a rest", cell)
    table.add_row("readings / missed", f"{schedule.rounds} / {schedule.missed}")
    return table


@contextmanager
def emulated_board(root: Path) -> Iterator[tuple[Sampler, int]]:
    """Yield a sampler of an Orin NX in a folder, and the open file of its total current, in mA."""
    emulate_orin_nx(root)
    meter = InaMeter(root)
    current = os.open(next(root.glob("sys/bus/i2c/**/curr1_input")), os.O_WRONLY)
    try:
        os.pwrite(current, b"2000\n", 0)
        with Sampler(meter, Health(root)) as sampler:
            yield sampler, current
    finally:
        os.close(current)
        meter.close()


def days(hours: float) -> Table:
    """Simulate an hour and then a day, and look at the peak of the memory after each."""
    table = Table(
        title=f"{hours:g} simulated hours, {Adaptive().name}",
        caption="target: 60 s, no growth of the peak of the resident memory after the first hour",
    )
    for heading in (
        "scenario",
        "inferences",
        "time",
        "after an hour",
        "at the end",
        "growth",
    ):
        table.add_column(heading, justify="left" if heading == "scenario" else "right")
    for name in COURSES:
        scenario = scenarios.named(name)
        simulate(replace(scenario, length_s=3600.0), Adaptive(), 0, MISS_RATE, keep=False)
        before = kibibytes("VmHWM:")
        start = time.perf_counter()
        figures = simulate(
            replace(scenario, length_s=hours * 3600), Adaptive(), 0, MISS_RATE, keep=False
        ).figures
        elapsed_s = time.perf_counter() - start
        peak = kibibytes("VmHWM:")
        table.add_row(
            name,
            f"{figures.inferences:,}",
            f"{elapsed_s:.1f} s",
            f"{before / 1024:.2f} MiB",
            f"{peak / 1024:.2f} MiB",
            f"{peak - before:.0f} KiB",
        )
    return table


def kibibytes(label: str) -> int:
    """Return a figure of this process's memory, as Linux states it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(label))


@click.command(help=__doc__)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="At ten inferences a second.",
)
@click.option("--hours", type=click.FloatRange(1), default=24.0, show_default=True)
def main(seconds: float, hours: float) -> None:
    """Measure, and print three tables."""
    console = Console()
    console.print(f"{describe_machine()}\n")
    console.print(decisions())
    console.print(share_of_a_core(seconds))
    console.print(days(hours))


if __name__ == "__main__":
    main()
