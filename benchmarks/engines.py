"""How fast a bundle's engines run and open.

    python -m benchmarks.engines --threads 2
    python -m benchmarks.engines --rounds 3 --architectures \\
        tsm_resnet50,tsm_mobilenet_v3_large,tea_resnet50,slowfast_resnet50,uniformer_small

Latency: an engine (ONNX Runtime, uint8 frames in) against the same Frame Flexible Network in
PyTorch eager (float32, already normalised), batch 1. Where an engine misses its target, ONNX
Runtime's own profile says on which operations it spends its time at the highest frame count.
Opening: the bundle's engines, whose weights are shared in one file and modulated while loading,
against plain ONNX models with their weights inside, one for each frame count. Whatever is compared
takes turns, so that drift of the machine hits all alike; figures are medians.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.example import example_bundle, example_network, plain_model
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.bundle.onnxruntime_graph import for_onnxruntime
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.engines.onnxruntime import HeldWeights, session_options

# Engine / eager by frame count. A second figure is what a family is held to.
LATENCY_TARGETS: dict[str, dict[int, tuple[float, ...]]] = {
    "tsm_resnet50": {4: (0.55,), 8: (0.43,), 16: (0.35, 0.6)},
    "tsm_mobilenet_v3_large": {16: (0.6,)},
    "tea_resnet50": {16: (0.6,)},
    "slowfast_resnet50": {64: (0.9,)},
    "uniformer_small": {16: (0.9,)},
}
OPENING_TARGET = 1.3
SIZES = {"slowfast_resnet50": 256}  # pixels of a frame in the paper's tests; else 224
PROFILED_RUNS = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians for one clip of one frame count."""

    eager_ms: float
    engine_ms: float
    targets: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Engine / eager."""
        return self.engine_ms / self.eager_ms

    @property
    def missed(self) -> bool:
        """Whether a target is not reached."""
        return any(self.ratio > target for target in self.targets)


def milliseconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def matrix_product_rate(side: int = 2048) -> float:
    """Return how fast PyTorch multiplies float32 matrices on the threads set: GMAC/s."""
    one, other = torch.randn(side, side), torch.randn(side, side)
    times = [milliseconds(lambda: one @ other) for _ in range(12)]
    return side**3 / statistics.median(times[2:]) / 1e6


def latencies(
    model: FrameFlexibleNetwork, bundle: Bundle, threads: int, rounds: int
) -> dict[int, Latency]:
    """Compare engines with PyTorch eager, frame count by frame count."""
    torch.set_num_threads(threads)
    counts, size = bundle.manifest.frame_counts, bundle.manifest.input.height
    rng = np.random.default_rng(0)
    pixels = {t: rng.integers(0, 256, (1, t, size, size, 3), dtype=np.uint8) for t in counts}
    clips = {t: torch.randn(1, t, 3, size, size) for t in counts}
    eager: dict[int, list[float]] = {t: [] for t in counts}
    engine: dict[int, list[float]] = {t: [] for t in counts}
    with open_engines(bundle, EngineOptions(threads=threads)) as engines, torch.inference_mode():
        for _ in range(rounds + 1):
            for t in counts:
                eager[t].append(milliseconds(lambda t=t: model(clips[t])))
                engine[t].append(milliseconds(lambda t=t: engines[t].infer(pixels[t])))
    targets = LATENCY_TARGETS.get(bundle.manifest.architecture, {})
    return {
        # The first turn warms both.
        t: Latency(
            statistics.median(eager[t][1:]), statistics.median(engine[t][1:]), targets.get(t, ())
        )
        for t in counts
    }


def latency_table(bundle: Bundle, found: Mapping[int, Latency], rounds: int) -> Table:
    """Show what `latencies` found."""
    table = Table(title=f"latency of one clip, median of {rounds}")
    for heading in ("frames", "PyTorch eager", "engine", "ratio", "target", "engine, GMAC/s"):
        table.add_column(heading, justify="right")
    rate = matrix_product_rate()
    table.caption = (
        f"A float32 matrix product runs at {rate:.0f} GMAC/s on these threads: no convolution that "
        "multiplies one by one is faster."
    )
    for t, latency in found.items():
        table.add_row(
            str(t),
            f"{latency.eager_ms:.1f} ms",
            f"{latency.engine_ms:.1f} ms",
            f"{latency.ratio:.3f}",
            " / ".join(map(str, latency.targets)),
            f"{bundle.manifest.sub_networks[t].macs / latency.engine_ms / 1e6:.0f}",
        )
    return table


def profile_table(
    bundle: Bundle,
    frames: int,
    folder: Path,
    threads: int,
    rows: int = 8,
    precision: Precision = "fp32",
) -> Table:
    """Show on which operations ONNX Runtime spends its time, by its own profile."""
    graph = bundle.read_graph(frames, precision)
    if precision == "int8":
        graph = for_onnxruntime(graph)
    weights = HeldWeights(bundle.tensors()).of(external_tensors(graph))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.add_external_initializers(list(weights), list(weights.values()))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    size = bundle.manifest.input.height
    clip = np.random.default_rng(0).integers(0, 256, (1, frames, size, size, 3), dtype=np.uint8)
    for _ in range(PROFILED_RUNS + 1):
        session.run(None, {"frames": clip})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    kernels = kernels[len(kernels) // (PROFILED_RUNS + 1) :]  # the first run warms
    spent: dict[str, list[float]] = {}
    for kernel in kernels:
        spent.setdefault(kind_of(kernel["args"]), []).append(kernel["dur"] / 1e3)
    whole = sum(map(sum, spent.values()))
    table = Table(title=f"ONNX Runtime at {frames} frames, mean of {PROFILED_RUNS}")
    for heading in ("operation", "calls", "time", "share"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for operation, times in sorted(spent.items(), key=lambda item: -sum(item[1]))[:rows]:
        table.add_row(
            operation,
            str(len(times) // PROFILED_RUNS),
            f"{sum(times) / PROFILED_RUNS:.1f} ms",
            f"{sum(times) / whole:.0%}",
        )
    return table


def kind_of(kernel: Mapping[str, Any]) -> str:
    """Name the operation of a profile's kernel; convolutions by their kernel's size."""
    if kernel["op_name"] not in ("Conv", "QLinearConv"):
        return str(kernel["op_name"])
    (weight,) = kernel["input_type_shape"][1 if kernel["op_name"] == "Conv" else 3].values()
    if len(weight) < 4:  # packed
        return str(kernel["op_name"])
    depth_wise = ", depth-wise" if weight[1] == 1 else ""
    return f"Conv {'×'.join(map(str, weight[2:]))}{depth_wise}"


def opening_table(bundle: Bundle, folder: Path, threads: int, rounds: int) -> Table:
    """Compare opening the bundle's engines with opening plain models of the same networks."""
    counts = bundle.manifest.frame_counts
    paths = [plain_model(bundle, t, folder / f"{t}.onnx") for t in counts]

    def open_plain() -> None:
        sessions = [
            onnxruntime.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
            for path in paths
        ]
        assert len(sessions) == len(counts)  # and they close together, as the engines do

    def open_ours() -> None:
        with open_engines(bundle, EngineOptions(backend="onnxruntime", threads=threads)):
            pass

    ways = {"plain ONNX models": open_plain, "the bundle's engines": open_ours}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, open_all in ways.items():
            elapsed = milliseconds(open_all)
            if turn:  # the first reads from the disk
                times[way].append(elapsed)
    plain, ours = (statistics.median(each) for each in times.values())
    table = Table(title=f"opening {len(counts)} networks, median of {rounds}")
    for heading in ("what", "time", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("plain ONNX models", f"{plain:.0f} ms", "1", "")
    table.add_row(
        "the bundle's engines", f"{ours:.0f} ms", f"{ours / plain:.3f}", f"{OPENING_TARGET}"
    )
    return table


@click.command()
@click.option("--architectures", default="tsm_resnet50", show_default=True, help="With commas.")
@click.option("--size", type=int, help="Pixels of a frame; left out, as in the paper's tests.")
@click.option("--threads", default=2, show_default=True, help="Of the CPU, for both.")
@click.option("--rounds", default=9, show_default=True, help="Turns that are measured.")
def main(architectures: str, size: int | None, threads: int, rounds: int) -> None:
    """Measure, and print two tables for each architecture."""
    console = Console(width=100)
    console.print(f"{describe_machine()}; {threads} threads")
    for arch in architectures.split(","):
        pixels = size or SIZES.get(arch, 224)
        console.print(f"\n{arch}, {pixels} pixels\n")
        model = example_network(arch)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bundle = example_bundle(model, pixels, folder / "bundle")
            found = latencies(model, bundle, threads, rounds)
            console.print(latency_table(bundle, found, rounds))
            if any(latency.missed for latency in found.values()):
                console.print(profile_table(bundle, max(found), folder, threads))
            console.print(opening_table(bundle, folder, threads, rounds))


if __name__ == "__main__":
    main()
