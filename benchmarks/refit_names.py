"""What TensorRT's parser makes of every network: layers, and the names a refit may ask for.

    python -m benchmarks.refit_names [--networks tsm_resnet50,convnext_tiny,…] [--size 64]
        [--build] [--stream]

Each network of the README is exported with random weights, and the graph that `ffn-edge build`
hands to TensorRT is parsed by the real TensorRT-RTX parser, which needs no GPU, for every frame
count in float16 and float32, and in INT8 what this project defines itself. An engine that is
refitted may ask for the names that the parser lets be marked; those that the list beside a plan
lacks would end `run`. There is no list of them to read, so the graph's own names are tried, and the
parser's pattern. Nothing is refitted, and TensorRT itself may name others: `ffn-edge build` finds
out on the device.

With --build, TensorRT-RTX builds the engines as well, which without a GPU hold their weights, and
a row has the sizes of the plans. With --stream it is about causal networks, and the graphs of a
stream's steps.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.example import example_bundle, example_network
from benchmarks.machine import describe_machine
from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.plan_graph import GRAPH, write_plan_graph
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network.checkpoint import ModelCard

PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "int8")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def others() -> dict[str, Any]:
    """Return the cases of torchvision's networks that `specialize` is tested with."""
    cases = runpy.run_path(str(ROOT / "tests/export/test_any_network.py"))["CASES"]
    return {case.name: case for case in cases}


def bundle_of(name: str, size: int, folder: Path, *, stream: bool) -> Bundle:
    """Export a network of the README, or, with `stream`, its causal form."""
    if name in network.ARCHITECTURES:
        return example_bundle(example_network(name, causal=stream), size, folder)
    case = others()[name]
    card = ModelCard(classes=tuple("abcde"), size=size, short_side=size)
    # Some take no fewer frames: they halve time again and again.
    return export_bundle(case.build().eval(), card, folder, frame_counts=(case.frames,))


def row(name: str, bundle: Bundle, folder: Path, *, build: bool, stream: bool) -> str:
    """Return a network's row: frame counts, and layers, names and unknown names by precision.

    With `build`, megabytes of each plan too; with `stream`, of the graphs of steps.
    """
    from benchmarks.example import quantized
    from tests.rtx_parser import parse

    is_quantized = name in network.ARCHITECTURES
    if is_quantized:
        bundle = quantized(bundle, folder / "int8")
    counts = bundle.manifest.frame_counts
    cells = [f"`{name}`", ", ".join(map(str, counts))]
    for precision in PRECISIONS if is_quantized else PRECISIONS[:2]:
        layers, names, unknown = [], [], 0
        for frames in counts:
            weights = write_plan_graph(bundle, frames, precision, folder, step=stream)
            listed = {weight.name for weight in weights}
            parsed = parse(folder / GRAPH)
            layers.append(parsed.layers)
            names.append(len(parsed.refittable))
            unknown += len(parsed.refittable - listed)
        cells += [" / ".join(map(str, dict.fromkeys(each))) for each in (layers, names)]
        cells.append(str(unknown))
        if build:
            options = BuildOptions(target="rtx", precision=precision, stream=stream)
            built = build_plans(bundle, PlanCache(folder / "cache"), options)
            cells.append(" / ".join(f"{each.plan.sidecar.plan.bytes / 1e6:.2f}" for each in built))
    cells += ["–"] * (2 + (3 + build) * len(PRECISIONS) - len(cells))
    return "| " + " | ".join(cells) + " |"


@click.command()
@click.option("--networks", help="Comma-separated; left out, all of the README's.")
@click.option("--size", default=64, show_default=True, help="Pixels of a frame's side.")
@click.option("--build", is_flag=True, help="Build the engines too, and print the plans' sizes.")
@click.option("--stream", is_flag=True, help="The steps of causal networks, in place of clips.")
def main(networks: str | None, size: int, build: bool, stream: bool) -> None:
    """Parse and print."""
    architectures = [n for n in network.ARCHITECTURES if not stream or n.startswith("tsm_")]
    names = networks.split(",") if networks else [*architectures, *({} if stream else others())]
    of_each = ("layers", "names", "unknown", *(["MB"] if build else []))
    columns = [f"{what}, {p}" for p in PRECISIONS for what in of_each]
    print(describe_machine() + "\n")
    print("| network | frames | " + " | ".join(columns) + " |")
    print("|" + "---|" * (2 + len(columns)))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            bundle = bundle_of(name, size, Path(folder) / "bundle", stream=stream)
            print(row(name, bundle, Path(folder), build=build, stream=stream), flush=True)


if __name__ == "__main__":
    main()
