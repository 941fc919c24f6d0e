"""How large a bundle of three frame counts is, against an ordinary model of one.

    python -m benchmarks.bundle_size --arch tsm_resnet50

The ordinary model is the 16-frame network as one float32 ONNX file with its weights inside. And
what it takes to add a frame count to the bundle afterwards: a file of vectors and a graph.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.example import example_bundle, example_network, plain_model
from benchmarks.machine import describe_machine
from ffn_edge import network
from ffn_edge.bundle.bundle import WEIGHTS, Bundle
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, start_from

BUNDLE_TARGET = {"fp32": 1.015, "fp16": 0.51, "int8": 0.27}
GRAPH_TARGET_BYTES = 200_000
ADDED_TARGET = 0.015  # of the bundle's bytes


def bundle_bytes(bundle: Bundle) -> int:
    """Return the size of all files of a bundle."""
    return sum(file.stat().st_size for file in bundle.path.iterdir())


def vector_bytes(bundle: Bundle, frames: int) -> int:
    """Return the size of the vectors that belong to one frame count alone."""
    tensors = bundle.tensors()
    return sum(tensors[name].nbytes for name in tensors if name.startswith(f"frames/{frames}/"))


def added_bytes(model: FrameFlexibleNetwork, bundle: Bundle, frames: int) -> int:
    """Add a frame count to a bundle; return by how many bytes it grew."""
    larger = network.build(
        model.architecture, model.num_classes, sorted({*model.frame_counts, frames})
    )
    start_from(larger, model)
    manifest = bundle.manifest
    card = ModelCard(
        classes=manifest.classes,
        size=manifest.input.height,
        short_side=manifest.input.short_side,
    )
    before = bundle_bytes(bundle)
    update_bundle(larger.eval(), card, bundle.path, (frames,))
    return bundle_bytes(bundle) - before


@click.command()
@click.option("--arch", default="tsm_resnet50", show_default=True)
@click.option("--size", default=224, show_default=True, help="Pixels of a frame.")
def main(arch: str, size: int) -> None:
    """Print the sizes."""
    model = example_network(arch)
    with tempfile.TemporaryDirectory() as folder:
        bundles = {
            dtype: example_bundle(model, size, Path(folder) / dtype, dtype)
            for dtype in BUNDLE_TARGET
        }
        most = max(model.frame_counts)
        plain = plain_model(bundles["fp32"], most, Path(folder) / "plain.onnx").stat().st_size

        table = Table(title=f"size, {arch}, frames of {size} pixels", caption=describe_machine())
        for heading in ("what", "bytes", "of the plain model", "target"):
            table.add_column(heading, justify="left" if heading == "what" else "right")
        table.add_row(f"plain ONNX, {most} frames, fp32", f"{plain:,}", "1", "")
        for dtype, bundle in bundles.items():
            table.add_section()
            served = ", ".join(map(str, bundle.manifest.frame_counts))
            total = bundle_bytes(bundle)
            table.add_row(
                f"bundle, {served} frames, {dtype}",
                f"{total:,}",
                f"{total / plain:.4f}",
                f"{BUNDLE_TARGET[dtype]}",
            )
            weights = (bundle.path / WEIGHTS).stat().st_size
            table.add_row("  weight file", f"{weights:,}", f"{weights / plain:.4f}", "")
            for frames in bundle.manifest.frame_counts:
                own = vector_bytes(bundle, frames)
                table.add_row(
                    f"    of it, {frames} frames' own vectors", f"{own:,}", f"{own / plain:.4f}", ""
                )
            for frames in bundle.manifest.frame_counts:
                graph = bundle.graph_path(frames).stat().st_size
                table.add_row(
                    f"  graph, {frames} frames",
                    f"{graph:,}",
                    f"{graph / plain:.4f}",
                    f"{GRAPH_TARGET_BYTES:,} bytes",
                )
            between = sum(model.frame_counts[-2:]) // 2
            added = added_bytes(model, bundle, between)
            table.add_row(
                f"{between} frames, added afterwards",
                f"{added:,}",
                f"{added / plain:.4f}",
                f"{ADDED_TARGET * total:,.0f} bytes",
            )
            table.add_row("  of the bundle", f"{added / total:.2%}", "", f"{ADDED_TARGET:.1%}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
