"""Every architecture through the whole path, as the README's table of architectures.

    python -m benchmarks.architectures [--architectures tsm_resnet50,…] [--size 64]

For each: an epoch of training and an evaluation on a few of the demo's rendered clips, the import
of a checkpoint with the published code's tensor names and what the published code gives for it
(tests/data/parity), export, verification, ONNX Runtime, and TensorRT-RTX's parser and builder on
this machine's processor in float16 and float32; and `ffn-edge build` in float16 with the proof that
ends it, on the tests' emulator of five versions of TensorRT, with how far the known answers are
off. Weights are random: what is checked is that each step works and that the numbers agree. Nothing
runs on a GPU.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.machine import describe_machine
from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import render_clips
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import Target, load
from ffn_edge.errors import FfnEdgeError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.clips import ClipSet, clips_from_videos
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.export.verify import verify
from ffn_edge.media.video_list import find_videos
from ffn_edge.network.checkpoint import import_file, load_checkpoint
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.engines.tensorrt_group import prove
from ffn_edge.train.evaluate import evaluate_checkpoint
from ffn_edge.train.loop import BEST, train
from ffn_edge.train.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
DATA = Path(__file__).parents[1] / "tests" / "data" / "parity"
COLUMNS = (
    "train", "evaluate", "import", "export", "verify", "ONNX Runtime", "TensorRT-RTX build",
    "built, refitted, tried (emulator)",
)  # fmt: skip


@dataclass
class Row:
    """What was found for one architecture: a cell per column."""

    architecture: str
    cells: dict[str, str] = field(default_factory=dict)

    def fill(self, column: str, step: Callable[[], str]) -> bool:
        """Try a step: a tick with what it says, or a cross with its error."""
        start = time.monotonic()
        try:
            self.cells[column] = f"✓ {step()}".strip()
        except (FfnEdgeError, AssertionError) as error:
            self.cells[column] = f"✗ {error}"
        click.echo(
            f"{self.architecture}, {column}: {self.cells[column]} "
            f"({time.monotonic() - start:.0f} s)",
            err=True,
        )
        return self.cells[column].startswith("✓")


def examine(architecture: str, clips: Path, size: int, folder: Path) -> Row:
    """Take one architecture through the whole path."""
    row = Row(architecture)
    frame_counts = network.family_of(architecture).frame_counts
    run = folder / "run"
    recipe = Recipe(
        architecture=architecture,
        dataset="demo",
        frame_counts=frame_counts,
        train_list=str(clips / "train.txt"),
        val_list=str(clips / "val.txt"),
        classes=str(clips / "classes.txt"),
        size=size,
        short_side=size,
        epochs=1,
        batch_size=4,
        learning_rate=1e-3,
    )

    def trained() -> str:
        result = train(recipe, run)
        assert result.finished
        return ""

    def evaluated() -> str:
        # One that was not trained is among them.
        counts = sorted((*frame_counts, frame_counts[0] + frame_counts[1]))
        rows = evaluate_checkpoint(
            str(run / BEST), counts, list_file=str(clips / "val.txt"), batch_size=4
        )
        assert all(each.clips == rows[0].clips for each in rows)
        return ""

    def exported() -> str:
        checkpoint = load_checkpoint(run / BEST)
        bundle = export_bundle(checkpoint.network, checkpoint.card, folder / "bundle")
        left = len(bundle.manifest.unfolded)
        return f"{left} not folded" if left else ""

    def two_clips() -> ClipSet:
        contract = Bundle.load(folder / "bundle").manifest.input
        return clips_from_videos(find_videos(clips / "val.txt"), contract, frame_counts, 2)

    def verified() -> str:
        bundle = Bundle.load(folder / "bundle")
        found = verify(bundle, two_clips(), checkpoint=load_checkpoint(run / BEST))
        assert all(each.passed for each in found), found
        return f"{max(c.relative for each in found for c in each.comparisons):.0e}"

    def run_by_onnxruntime() -> str:
        given = two_clips().clips
        options = EngineOptions(backend="onnxruntime")
        with open_engines(Bundle.load(folder / "bundle"), options) as opened:
            for frames, engine in opened.items():
                assert np.isfinite(engine.infer(given[frames][:1])).all()
        return ""

    def built() -> str:
        for precision in ("fp16", "fp32"):
            options = BuildOptions(target="rtx", precision=precision)
            build_plans(Bundle.load(folder / "bundle"), PlanCache(folder / "cache"), options)
        return ""

    def tried() -> str:
        from tests.emulator import VERSIONS, Emulator

        bundle = Bundle.load(folder / "bundle")
        off = 0.0
        for version in VERSIONS:
            target: Target = "rtx" if version.startswith("rtx") else "tensorrt"
            load.cache_clear()  # of another emulator
            with Emulator(version):
                built = build_plans(
                    bundle,
                    PlanCache(folder / version),
                    BuildOptions(target=target, precision="fp16"),
                    prove=functools.partial(prove, bundle=bundle),
                )
            assert not any("REFIT_INDIVIDUAL" in each.plan.sidecar.flags for each in built)
            off = max(off, *(each.plan.sidecar.deviation or 0.0 for each in built))
        load.cache_clear()
        return f"{off:.0e}"

    if row.fill("train", trained):
        row.fill("evaluate", evaluated)
        if row.fill("export", exported):
            row.fill("verify", verified)
            row.fill("ONNX Runtime", run_by_onnxruntime)
            row.fill("TensorRT-RTX build", built)
            row.fill("built, refitted, tried (emulator)", tried)
    if (DATA / f"{architecture}.json").is_file():
        row.fill("import", lambda: f"{parity(architecture, folder):.0e}")
    else:
        row.cells["import"] = "none published"
    return row


def parity(architecture: str, folder: Path) -> float:
    """Import a published checkpoint's file; return the largest relative difference of outputs."""
    from tests.data.parity.cases import (
        published_shapes,
        published_tensor,
        read_case,
        relative_error,
    )

    case = read_case(architecture)
    shapes = published_shapes(architecture, case)
    tensors = {name: published_tensor(name, shape) for name, shape in shapes.items()}
    torch.save({"state_dict": tensors}, folder / "published.pth")
    model = import_file(folder / "published.pth", architecture, folder / "imported.pt")
    return max(relative_error(model, each) for each in case["cases"])


@click.command()
@click.option("--architectures", default=",".join(network.ARCHITECTURES), show_default=True)
@click.option("--size", default=64, show_default=True, help="Pixels of a frame's side.")
def main(architectures: str, size: int) -> None:
    """Examine and print."""
    with tempfile.TemporaryDirectory() as name:
        clips = Path(name) / "clips"
        render_clips(clips, train=12, val=12, test=0)
        rows = []
        for architecture in architectures.split(","):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(examine(architecture, clips, size, Path(folder)))
    print_rows(rows)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table as Markdown."""
    print(describe_machine() + "\n")
    print("| architecture | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (1 + len(COLUMNS)))
    for row in rows:
        cells = " | ".join(row.cells.get(column, "–") for column in COLUMNS)
        print(f"| `{row.architecture}` | {cells} |")


if __name__ == "__main__":
    main()
