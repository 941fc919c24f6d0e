"""How fast a bundle's engines run and open.

    python benchmarks/engines.py --arch tsm_resnet50 --size 224 --threads 2

Latency: an engine (ONNX Runtime, uint8 frames in) against the same Frame Flexible Network in
PyTorch eager (float32, already normalised), batch 1. Opening: the bundle's three engines, whose
weights are shared in one file and modulated while loading, against three plain ONNX models with
their weights inside. Whatever is compared takes turns, so that drift of the machine hits all
alike; figures are medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import torch
from example import example_bundle, example_network, plain_model
from machine import describe_machine
from rich.console import Console
from rich.table import Table

from ffn_edge.bundle import Bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.runtime.engine import EngineOptions, open_engines
from ffn_edge.runtime.onnxruntime_engine import OnnxRuntimeEngine

LATENCY_TARGET = {4: 0.55, 8: 0.43, 16: 0.35}
OPENING_TARGET = 1.3


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


def latency_table(model: FrameFlexibleNetwork, bundle: Bundle, threads: int, rounds: int) -> Table:
    """Compare engines with PyTorch eager, frame count by frame count."""
    table = Table(title=f"latency of one clip, median of {rounds}")
    for heading in ("frames", "PyTorch eager", "engine", "ratio", "target", "engine, GMAC/s"):
        table.add_column(heading, justify="right")
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
    rate = matrix_product_rate()
    table.caption = (
        f"A float32 matrix product runs at {rate:.0f} GMAC/s on these threads: no convolution that "
        "multiplies one by one is faster."
    )
    for t in counts:
        # The first turn warms both.
        theirs, ours = statistics.median(eager[t][1:]), statistics.median(engine[t][1:])
        table.add_row(
            str(t),
            f"{theirs:.1f} ms",
            f"{ours:.1f} ms",
            f"{ours / theirs:.3f}",
            f"{LATENCY_TARGET.get(t, '')}",
            f"{bundle.manifest.sub_networks[t].macs / ours / 1e6:.0f}",
        )
    return table


def opening_table(bundle: Bundle, folder: Path, threads: int, rounds: int) -> Table:
    """Compare opening the bundle's engines with opening plain models of the same networks."""
    counts = bundle.manifest.frame_counts
    ways = {
        "plain ONNX models": {t: plain_model(bundle, t, folder / f"{t}.onnx") for t in counts},
        "the bundle's engines": {t: bundle.graph_path(t) for t in counts},
    }

    def open_all(paths: dict[int, Path]) -> None:
        with ExitStack() as stack:
            for frames, path in paths.items():
                engine = OnnxRuntimeEngine(
                    path, frames=frames, manifest=bundle.manifest, threads=threads
                )
                stack.enter_context(engine)

    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, paths in ways.items():
            elapsed = milliseconds(lambda paths=paths: open_all(paths))
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
@click.option("--arch", default="tsm_resnet50", show_default=True)
@click.option("--size", default=224, show_default=True, help="Pixels of a frame.")
@click.option("--threads", default=2, show_default=True, help="Of the CPU, for both.")
@click.option("--rounds", default=9, show_default=True, help="Turns that are measured.")
def main(arch: str, size: int, threads: int, rounds: int) -> None:
    """Measure, and print two tables."""
    console = Console(width=100)
    console.print(f"{describe_machine()}; {arch}, {size} pixels, {threads} threads\n")
    model = example_network(arch)
    with tempfile.TemporaryDirectory() as folder:
        bundle = example_bundle(model, size, Path(folder) / "bundle")
        console.print(latency_table(model, bundle, threads, rounds))
        console.print(opening_table(bundle, Path(folder), threads, rounds))


if __name__ == "__main__":
    main()
