"""Record what every engine takes on a graphics card beside another process, for the simulator.

The demo's network and TSM-ResNet-50, with random weights, in half precision, channels-last, each
frame count a CUDA graph. The other process multiplies matrices or copies memory for a share of the
time that goes up and down. In each round every engine runs once; see `benchmarks/interference.py`.
Before that, how the meter follows a load that begins and ends. Written to $OUT, in this order:

    gpu-power-step.jsonl.gz    a line each 10 ms: time_s, level, power_w, energy_j, instant_w
    gpu-demo-compute.jsonl.gz gpu-resnet50-{compute,memory}.jsonl.gz    of `benchmarks/simulation`

`python -m benchmarks.trace_figures FILE...` says what is in them. In a dry run a tiny network
runs on the CPU, and the meter always says 100 W.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import c_double
from dataclasses import dataclass, replace
from itertools import cycle
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.gpu.power import SteadyMeter
from benchmarks.gpu.report import Report, run_part
from benchmarks.interference import Engines, profile, record
from benchmarks.machine import describe_machine
from benchmarks.simulation.interference import (
    Conditions,
    Interference,
    RecordedEngine,
    read_interference,
    write_interference,
    write_lines,
)
from benchmarks.trace_figures import read_step, step_figures
from ffn_edge.network import FrameFlexibleNetwork, build
from ffn_edge.runtime.policy.interface import Sensed
from ffn_edge.runtime.power.meter import Meter
from ffn_edge.runtime.power.nvml import NvmlMeter, visible_gpu
from ffn_edge.train.processes import to_channels_last

Kind = Literal["compute", "memory"]

FRAMES = (4, 8, 16)
PERIOD_S, PROFILE_PERIOD_S = 0.05, 0.025
_STEP_PERIOD_S = 0.01  # finer than what the card's average and counter change by
_LEVELS = tuple((level, 1.0) for level in (0.0, 0.2, 0.4, 0.6, 0.8, 0.6, 0.4, 0.2))
_STEP = ((0.0, 1.5), (1.0, 4.0), (0.0, 4.0))  # its average is of about a second
# As of the demo's load, a rhythm that does not fall in step.
_SHORTEST_S, _LONGEST_S = 0.01, 0.03
_STARTED_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How long each thing takes, and where it runs."""

    device: torch.device
    seconds: Mapping[tuple[str, Kind], float]
    sizes: Mapping[str, tuple[str, int]]
    watts_s: float
    step_share: float


def plan_for(dry_run: bool) -> Plan:
    """Return the plan: with a tiny network and short times in a dry run."""
    if dry_run:
        seconds: dict[tuple[str, Kind], float] = {("demo", "compute"): 1.0}
        sizes = {"demo": ("tsm_tiny", 32)}
        return Plan(torch.device("cpu"), seconds, sizes, 0.05, 0.02)
    return Plan(
        torch.device("cuda"),
        {("demo", "compute"): 16.0, ("resnet50", "compute"): 16.0, ("resnet50", "memory"): 16.0},
        {"demo": ("tsm_tiny", 64), "resnet50": ("tsm_resnet50", 224)},
        0.8,
        1.0,
    )


class Card:
    """What NVML tells of the card; in a dry run, what is made up."""

    def __init__(self, dry_run: bool) -> None:
        self._nvml: Any = None
        self._meter: Meter = SteadyMeter()
        self.name = "no card (dry run)"
        if not dry_run:
            self._meter = NvmlMeter(visible_gpu())
            self._nvml = importlib.import_module("pynvml")
            self._card = self._nvml.nvmlDeviceGetHandleByIndex(0)
            driver = self._nvml.nvmlSystemGetDriverVersion()
            self.name = f"{torch.cuda.get_device_name()}, driver {driver}"

    def sense(self) -> Sensed:
        """Return the power that the card shows, and its clocks: SM and memory."""
        reading = self._meter.read(time.monotonic())
        clocks: tuple[float, ...] = ()
        if self._nvml is not None:
            kinds = (self._nvml.NVML_CLOCK_SM, self._nvml.NVML_CLOCK_MEM)
            clocks = tuple(self._nvml.nvmlDeviceGetClockInfo(self._card, kind) for kind in kinds)
        return Sensed(power_w=reading.total_w, clocks_mhz=clocks)

    def row(self) -> dict[str, float | None]:
        """Return all that it tells of power."""
        reading = self._meter.read(time.monotonic())
        instant_w = None
        if self._nvml is not None:
            # Not the average that `nvmlDeviceGetPowerUsage` tells.
            wanted = [self._nvml.NVML_FI_DEV_POWER_INSTANT]
            (found,) = self._nvml.nvmlDeviceGetFieldValues(self._card, wanted)
            if found.nvmlReturn == self._nvml.NVML_SUCCESS:
                instant_w = found.value.uiVal / 1e3
        return {"power_w": reading.total_w, "energy_j": reading.energy_j, "instant_w": instant_w}

    def mean_w(self, work: Callable[[], object], seconds: float) -> float | None:
        """Return what is drawn while something is done over and over, by the counter if any."""
        for length_s in (seconds / 2, seconds):  # the clocks and the average settle first
            first = self._meter.read(time.monotonic())
            while time.monotonic() < first.time_s + length_s:
                work()
            last = self._meter.read(time.monotonic())
        if first.energy_j is None or last.energy_j is None:
            return last.total_w
        return round((last.energy_j - first.energy_j) / (last.time_s - first.time_s), 1)

    def close(self) -> None:
        """Let go of NVML."""
        self._meter.close()


class Competitor:
    """A process that keeps the device busy for a share of the time; at rest at first."""

    def __init__(self, kind: Kind, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._level = context.RawValue(c_double, 0.0)
        self._started = context.Barrier(2, timeout=_STARTED_S)
        arguments = (kind, str(device), self._started, self._level, os.getpid())
        # A daemon: it ends with this process, however it ends.
        self._process = context.Process(target=_compete, args=arguments, daemon=True)
        self._process.start()

    def __enter__(self) -> Competitor:
        self._started.wait()  # to load CUDA is a load, too
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def set_level(self, level: float) -> None:
        """Set the share of the time that it works, in 0..1."""
        self._level.value = level


def main(report: Report) -> None:
    """Record, and say what the load did."""
    if report.dry_run:
        torch.set_num_threads(1)  # on a busy machine, threads wait for each other
    plan = plan_for(report.dry_run)
    output = Path(os.environ.get("OUT", "on_gpu_results"))
    card = Card(report.dry_run)
    report.fact("the card", card.name)
    with ExitStack() as stack:
        stack.callback(card.close)
        # Each kind once: a second one would take the place of the first while that starts.
        kinds = dict.fromkeys(kind for _, kind in plan.seconds)
        competitors = {kind: Competitor(kind, plan.device) for kind in kinds}
        for competitor in competitors.values():
            stack.enter_context(competitor)
        report.run(
            "the meter after a step of the load: W, s to 63, 95 %",
            lambda: _step(plan, card, competitors["compute"], output / "gpu-power-step.jsonl.gz"),
        )
        known: dict[str, tuple[Engines, Conditions]] = {}
        for (network, kind), seconds in plan.seconds.items():
            path = output / f"gpu-{network}-{kind}.jsonl.gz"

            def run(
                network: str = network,
                kind: Kind = kind,
                seconds: float = seconds,
                path: Path = path,
            ) -> str:
                if network not in known:
                    known[network] = _prepared(report, plan, card, network)
                engines, conditions = known[network]
                rounds = record(
                    engines,
                    cycle(_LEVELS),
                    competitors[kind].set_level,
                    seconds=seconds,
                    period_s=PERIOD_S,
                    sense=card.sense,
                )
                competitors[kind].set_level(0.0)
                load = f"a process on the same card that does {_WORDS[kind]} a share of the time"
                write_interference(path, replace(conditions, load=load), rounds)
                return _figure(read_interference(path))

            report.run(f"{network} beside {_WORDS[kind]}: ms, idle to most", run)


_WORDS: Mapping[Kind, str] = {"compute": "matrix products", "memory": "copies of memory"}


def _prepared(report: Report, plan: Plan, card: Card, network: str) -> tuple[Engines, Conditions]:
    """Build engines and measure them without the load."""
    architecture, size = plan.sizes[network]
    engines = device_engines(architecture, size, plan.device)
    profiled_ms = profile(engines, PROFILE_PERIOD_S)
    idle_w = card.mean_w(lambda: time.sleep(0.01), 1.5 * plan.watts_s)
    watts = {frames: card.mean_w(run, plan.watts_s) for frames, run in engines.items()}
    found = [
        RecordedEngine(
            frames=frames,
            profiled_ms=profiled_ms[frames],
            power_w=_above(drawn_w, idle_w),
        )
        for frames, drawn_w in watts.items()
    ]
    report.fact(
        f"{architecture} at {size}, {'/'.join(map(str, engines))} frames: ms, W above idle",
        ", ".join(f"{each.latency.median_ms:.3g}, {each.power_w or 0:.0f}" for each in found)
        + f"; idle {idle_w or 0:.0f} W",
    )
    return engines, Conditions(
        machine=f"{card.name}; {describe_machine()}; {architecture} at {size}×{size} in PyTorch, "
        "half precision, channels-last, CUDA graphs",
        load="none",
        period_s=PERIOD_S,
        engines=tuple(found),
        idle_w=idle_w,
    )


def _above(drawn_w: float | None, idle_w: float | None) -> float | None:
    return None if drawn_w is None or idle_w is None else round(max(0.0, drawn_w - idle_w), 1)


def device_engines(architecture: str, size: int, device: torch.device) -> Engines:
    """Return what runs each frame count: upload, normalise, network, download."""
    model = build(architecture, 174, FRAMES).eval().to(device)
    to_channels_last(model)
    cuda = device.type == "cuda"
    dtype = torch.float16 if cuda else torch.float32
    model = model.to(dtype)
    return {frames: _engine(model, frames, size, device, dtype) for frames in FRAMES}


def _engine(
    model: FrameFlexibleNetwork, frames: int, size: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, frames, size, size, 3)
    host = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    given = host.to(device)

    @torch.inference_mode()
    def forward() -> Tensor:
        # (1, T, 3, S, S), which with its first dimensions flattened is channels-last.
        logits: Tensor = model((given.to(dtype) / 128 - 1).permute(0, 1, 4, 2, 3), frames)
        return logits

    if device.type != "cuda":
        return forward
    host = host.pin_memory()
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # cuDNN chooses and loads its kernels
            forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = forward()

    def infer() -> Tensor:
        given.copy_(host, non_blocking=True)
        graph.replay()
        return logits.cpu()  # waits

    return infer


def _step(plan: Plan, card: Card, competitor: Competitor, path: Path) -> str:
    """Sample the meter over a step up and down; return how it follows."""
    rows: list[dict[str, float | None]] = []
    begin_s = time.monotonic()
    until_s = begin_s
    for level, seconds in _STEP:
        competitor.set_level(level)
        until_s += seconds * plan.step_share
        while (now_s := time.monotonic()) < until_s:
            rows.append({"time_s": round(now_s - begin_s, 4), "level": level, **card.row()})
            time.sleep(max(0.0, _STEP_PERIOD_S - (time.monotonic() - now_s)))
    head = {"schema_version": 1, "machine": card.name, "load": _WORDS["compute"]}
    write_lines(path, [head, *rows])
    return f"{step_figures(read_step(path))}; {len(rows)} rows"


def _figure(recorded: Interference) -> str:
    """Return the median latencies without load and with the most of it."""
    shown = []
    for level in (recorded.level.min(), recorded.level.max()):
        chosen = recorded.latency_ms[recorded.level == level]
        shown.append("/".join(f"{statistics.median(each):.3g}" for each in chosen.T))
    return f"{shown[0]} to {shown[1]}; {len(recorded.time_s)} rounds"


def _compete(kind: Kind, device: str, started: Barrier, level: c_double, parent: int) -> None:
    """Work for a share of the time; end when the parent is gone."""
    work = _competing(kind, torch.device(device))
    work()
    started.wait()
    rhythm = random.Random(0)
    while os.getppid() == parent:
        period_s = rhythm.uniform(_SHORTEST_S, _LONGEST_S)
        work_s = level.value * period_s
        end_s = time.perf_counter() + work_s
        while time.perf_counter() < end_s:
            work()
        time.sleep(period_s - work_s)


def _competing(kind: Kind, device: torch.device) -> Callable[[], None]:
    """Return what keeps the device busy for about a millisecond, and waits for it."""
    cuda = device.type == "cuda"
    side = {"compute": 4096, "memory": 16384}[kind] if cuda else 64
    dtype = torch.bfloat16 if cuda else torch.float32
    left, right, result = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))

    def work() -> None:
        for _ in range(4):
            if kind == "compute":
                torch.mm(left, right, out=result)
            else:
                result.copy_(left)
        if cuda:
            torch.cuda.synchronize()

    return work


if __name__ == "__main__":
    run_part("recorded traces", main)
