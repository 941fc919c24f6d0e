"""How fast a frame count's weights are composed, on one core.

    python -m benchmarks.composition --arch tsm_resnet50

Every engine is filled from the bundle's one weight file by this: at start-up, and at each switch
with `--resident one`. The figure counts bytes of composed weights. The weight file's pages are in
memory; the hash that proves identity is timed by itself.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.example import example_bundle, example_network
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import ComposedHash, blocks, compose

TARGET_GB_S = 0.5


def compose_only(bundle: Bundle, frames: int) -> int:
    """Compose all weights of a frame count; return their bytes."""
    total = 0
    for _, array in compose(bundle.tensors(), bundle.manifest.layers, frames):
        total += array.nbytes
        del array
    return total


def compose_rounded(bundle: Bundle, frames: int) -> int:
    """The same, and round to float16 piece by piece, as for an fp16 engine."""
    total = 0
    for _, array in compose(bundle.tensors(), bundle.manifest.layers, frames):
        for block in blocks(array):
            block.astype(np.float16)
        total += array.nbytes
        del array
    return total


def compose_hashed(bundle: Bundle, frames: int) -> int:
    """The same in float32, and hash it."""
    total, digest = 0, ComposedHash()
    for name, array in compose(bundle.tensors(), bundle.manifest.layers, frames):
        digest.update(name, array)
        total += array.nbytes
        del array
    return total


WAYS: dict[str, Callable[[Bundle, int], int]] = {
    "compose": compose_only,
    "compose, round to float16": compose_rounded,
    "compose, hash": compose_hashed,
}


@click.command()
@click.option("--arch", default="tsm_resnet50", show_default=True)
@click.option("--frames", default=8, show_default=True)
@click.option("--repeats", default=7, show_default=True)
def main(arch: str, frames: int, repeats: int) -> None:
    """Print gigabytes a second."""
    model = example_network(arch)
    table = Table(
        title=f"composing {arch} for {frames} frames on one core, median of {repeats}",
        caption=describe_machine(),
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for heading in ("stored as", "what", "ms", "GB/s", "target"):
        table.add_column(heading, justify="left" if heading in ("stored as", "what") else "right")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("fp32", "fp16"):
            bundle = example_bundle(model, 64, Path(folder) / dtype, dtype)
            for name, way in WAYS.items():
                way(bundle, frames)  # the weight file's pages come into memory
                seconds = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    size = way(bundle, frames)
                    seconds.append(time.perf_counter() - start)
                median = float(np.median(seconds))
                table.add_row(
                    dtype,
                    name,
                    f"{median * 1e3:.1f}",
                    f"{size / median / 1e9:.2f}",
                    f"at least {TARGET_GB_S}" if name == "compose" else "",
                )
            table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
