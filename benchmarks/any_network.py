"""Networks of torchvision that the paper never saw, as the README's table of them.

    python -m benchmarks.any_network [--networks s3d,…] [--size 64]

Each is specialised, given random norms and alterations, and exported for one frame count. The
table says where its norms go (into the layer before, into layers after, or nowhere), how many
residual branches have an alteration, how far ONNX Runtime is from PyTorch, relative to the largest
logit, how large the graph is, and whether TensorRT-RTX's parser and builder take it on this
machine's processor in float16 and float32. The networks are those of
tests/export/test_any_network.py. Nothing runs on a GPU.
"""

from __future__ import annotations

import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import FfnEdgeError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network.checkpoint import ModelCard

TESTS = Path(__file__).parents[1] / "tests"
COLUMNS = (
    "frames", "norms before / after / stay", "alterations", "ONNX Runtime − PyTorch", "graph, kB",
    "TensorRT-RTX fp16", "fp32",
)  # fmt: skip


def examine(case: Any, size: int, folder: Path) -> list[str]:
    """Take one network from torchvision to a plan; return the cells of its row."""
    shared = runpy.run_path(str(TESTS / "conftest.py"))  # also sets PyTorch to one thread
    model = shared["_randomise"](case.build())
    report = model.specialized
    norms = list(report.norms.values())
    places = (
        sum(place.producer is not None for place in norms),
        sum(bool(place.consumers) for place in norms),
        sum(bool(place.reason) for place in norms),
    )
    card = ModelCard(classes=tuple("abcde"), size=size, short_side=size)
    bundle = export_bundle(model, card, folder / "bundle", frame_counts=(case.frames,))
    return [
        str(case.frames),
        " / ".join(map(str, places)),
        str(len(report.alterations)),
        f"{shared['_graph_error'](model, bundle, case.frames):.0e}",
        f"{bundle.graph_path(case.frames).stat().st_size / 1000:.0f}",
        *(built(bundle, precision, folder) for precision in ("fp16", "fp32")),
    ]


def built(bundle: Bundle, precision: str, folder: Path) -> str:
    """Build a plan: a tick, or a cross with the error."""
    try:
        options = BuildOptions(target="rtx", precision=precision)
        build_plans(bundle, PlanCache(folder / "cache"), options)
    except FfnEdgeError as error:
        return f"✗ {error}"
    return "✓"


@click.command()
@click.option("--networks", default="", help="Names of torchvision's.  [default: all]")
@click.option("--size", default=64, show_default=True, help="Pixels of a frame's side.")
def main(networks: str, size: int) -> None:
    """Examine and print."""
    cases = runpy.run_path(str(TESTS / "export" / "test_any_network.py"))["CASES"]
    rows = []
    for case in cases:
        if networks and case.name not in networks.split(","):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cells = examine(case, size, Path(folder))
        rows.append(f"| `{case.name}` | {' | '.join(cells)} |")
        click.echo(f"{rows[-1]} ({time.monotonic() - start:.0f} s)", err=True)
    print(describe_machine() + "\n")
    print("| network | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (1 + len(COLUMNS)))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
