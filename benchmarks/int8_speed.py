"""How fast INT8 is against float32 and PyTorch, how small, and how long it takes to get there.

    python -m benchmarks.int8_speed --architectures \\
        tsm_resnet50,tsm_resnet18,tea_resnet50,tsm_mobilenet_v3_large --threads 2

Networks have random weights; neither speed nor size depends on them. Each is quantised on rendered
(synthetic) clips. The two engines of each frame count and PyTorch eager take turns, so that drift
of the machine hits all alike; figures are medians. Where INT8 misses its target, ONNX Runtime's own
profile says on what it spends its time at the highest frame count.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bundle_size import bundle_bytes
from benchmarks.engines import milliseconds, profile_table
from benchmarks.example import example_bundle, example_network
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import render_clips
from ffn_edge.export import quantize
from ffn_edge.export.quantize import QuantizeOptions, quantize_bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines

# INT8 / float32 by frame count; INT8 / PyTorch eager at the highest; the bundle's growth.
TARGETS: dict[str, dict[int, float]] = {
    "tsm_resnet50": {4: 0.6, 8: 0.5, 16: 0.5},
    "slowfast_resnet50": {},
    "uniformer_small": {},
}
OTHERS = dict.fromkeys((4, 8, 16), 0.6)
EAGER_TARGET, GROWTH_TARGET = 0.25, 0.005

Times = dict[tuple[str, int], float]


def times(model: FrameFlexibleNetwork, bundle: Bundle, threads: int, rounds: int) -> Times:
    """Return the median milliseconds of each way and frame count."""
    torch.set_num_threads(threads)
    size = bundle.manifest.input.height
    rng = np.random.default_rng(0)
    taken: dict[tuple[str, int], list[float]] = {}
    options = {
        name: EngineOptions(backend="onnxruntime", threads=threads, precision=name)
        for name in ("fp32", "int8")
    }
    with (
        open_engines(bundle, options["fp32"]) as fp32,
        open_engines(bundle, options["int8"]) as int8,
        torch.inference_mode(),
    ):
        for turn in range(rounds + 1):
            for t in bundle.manifest.frame_counts:
                pixels = rng.integers(0, 256, (1, t, size, size, 3), dtype=np.uint8)
                clip = torch.randn(1, t, 3, size, size)
                for name, action in (
                    ("fp32", lambda t=t, pixels=pixels: fp32[t].infer(pixels)),
                    ("int8", lambda t=t, pixels=pixels: int8[t].infer(pixels)),
                    ("eager", lambda clip=clip: model(clip)),
                ):
                    elapsed_ms = milliseconds(action)
                    if turn:  # the first warms all
                        taken.setdefault((name, t), []).append(elapsed_ms)
    return {key: statistics.median(each) for key, each in taken.items()}


def speed_table(bundle: Bundle, found: Times) -> tuple[Table, bool]:
    """Show what `times` found; say whether a target was missed."""
    targets = TARGETS.get(bundle.manifest.architecture, OTHERS)
    table = Table(title="latency of one clip")
    for heading in ("frames", "eager", "float32", "INT8", "of float32", "target", "of eager"):
        table.add_column(heading, justify="right")
    missed = False
    for t in bundle.manifest.frame_counts:
        ratio = found["int8", t] / found["fp32", t]
        missed = missed or ratio > targets.get(t, 1.0)
        table.add_row(
            str(t),
            *(f"{found[name, t]:.1f} ms" for name in ("eager", "fp32", "int8")),
            f"{ratio:.3f}",
            str(targets.get(t, "")),
            f"{found['int8', t] / found['eager', t]:.3f}",
        )
    table.caption = f"asked for at most {EAGER_TARGET} of eager, at the highest frame count"
    return table, missed


@click.command()
@click.option("--architectures", default="tsm_resnet50", show_default=True, help="With commas.")
@click.option("--size", default=224, show_default=True, help="Pixels of a frame.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Turns that are measured.")
@click.option("--clips", default=32, show_default=True, help="To quantise on; 256 is the default.")
def main(architectures: str, size: int, threads: int, rounds: int, clips: int) -> None:
    """Measure, and print."""
    console = Console(width=100)
    console.print(f"{describe_machine()}; {threads} threads")
    # All answers of a random network are close calls: no layer is at fault for them.
    quantize.LEAST_AGREEMENT = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_clips(folder / "clips", train=clips, val=0, test=0)
        for arch in architectures.split(","):
            console.print(f"\n{arch}, {size} pixels\n")
            model = example_network(arch)
            bundle = example_bundle(model, size, folder / arch)
            before = bundle_bytes(bundle)
            start = time.perf_counter()
            options = QuantizeOptions(clips=clips)
            bundle = quantize_bundle(bundle.path, folder / "clips" / "train.txt", options)
            seconds = time.perf_counter() - start
            grown = bundle_bytes(bundle) - before
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            console.print(
                f"quantised on {clips} clips in {seconds:.0f} s (asked for 25 minutes with 256), "
                f"this process with {peak:.1f} GB at the peak; {grown:,} bytes more, "
                f"{grown / before:.2%} of the bundle (asked for {GROWTH_TARGET:.1%})"
            )
            table, missed = speed_table(bundle, times(model, bundle, threads, rounds))
            console.print(table)
            if missed:
                most = max(bundle.manifest.frame_counts)
                console.print(profile_table(bundle, most, folder, threads, precision="int8"))


if __name__ == "__main__":
    main()
