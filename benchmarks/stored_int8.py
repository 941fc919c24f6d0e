"""What weights stored as INT8 save and cost: bytes, and accuracy at each frame count.

    python -m benchmarks.stored_int8 CHECKPOINT LIST [CHECKPOINT LIST ...]

Each checkpoint is exported with float32 and with INT8 weights, and ONNX Runtime classifies the
videos of its list of labelled test clips with both. Differences are in points of top-1, INT8 less
float32, with their standard error over the clips, of which both saw the same. More than one
checkpoint, such as those of several seeds with test clips of their own, are also taken together.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.bundle_size import bundle_bytes
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import MOST_LOSS, WEIGHTS, Bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.train.batches import VideoBatches, videos_for

DTYPES = ("fp32", "int8")
HEADINGS = (
    "checkpoint", "frames", "clips", "fp32, %", "int8, %", "difference", "same class, %"
)  # fmt: skip

# By frame count, of each clip: the label, float32's class, INT8's class. int64 (clips, 3).
Answers = Mapping[int, npt.NDArray[np.int64]]


def answers(bundles: Mapping[str, Bundle], card: ModelCard, list_file: str) -> Answers:
    """Classify the videos of a list with each bundle."""
    frame_counts = bundles["fp32"].manifest.frame_counts
    options = EngineOptions(backend="onnxruntime")
    rows: dict[int, list[tuple[int, ...]]] = {frames: [] for frames in frame_counts}
    batches = VideoBatches(videos_for(card, list_file, frame_counts), batch_size=16, workers=0)
    with (
        open_engines(bundles["fp32"], options) as reference,
        open_engines(bundles["int8"], options) as rounded,
    ):
        for batch in batches.epoch(f"classifying {list_file}"):
            for frames in frame_counts:
                clips = batch.clips[frames].numpy()
                for label, clip in zip(batch.labels.tolist(), clips, strict=True):
                    found = (engines[frames].infer(clip[None]) for engines in (reference, rounded))
                    rows[frames].append((label, *(int(logits.argmax()) for logits in found)))
    return {frames: np.array(of_clips) for frames, of_clips in rows.items()}


def add_rows(table: Table, name: str, of: Answers) -> None:
    """Add the row of each frame count."""
    table.add_section()
    for frames, classes in of.items():
        label, reference, rounded = classes.T
        right = 100 * np.stack([reference == label, rounded == label])
        gain = right[1] - right[0]
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        table.add_row(
            name,
            str(frames),
            str(len(gain)),
            *(f"{share:.2f}" for share in right.mean(1)),
            f"{gain.mean():+.2f} ± {error:.2f}",
            f"{100 * (reference == rounded).mean():.2f}",
        )


@click.command()
@click.argument("pairs", metavar="CHECKPOINT LIST ...", nargs=-1, required=True)
def main(pairs: tuple[str, ...]) -> None:
    """Export, classify, print."""
    accuracy = Table(
        title=f"weights stored as INT8; asked for: at most {100 * MOST_LOSS} points lost",
        caption=describe_machine(),
    )
    for heading in HEADINGS:
        accuracy.add_column(heading, justify="left" if heading == "checkpoint" else "right")
    sizes = Table(title="bytes")
    for heading in ("checkpoint", "weights", WEIGHTS, "bundle"):
        sizes.add_column(heading, justify="left" if heading == "checkpoint" else "right")
    found = []
    for path, list_file in zip(pairs[::2], pairs[1::2], strict=True):
        checkpoint = load_checkpoint(path)
        with tempfile.TemporaryDirectory() as folder:
            bundles = {
                dtype: export_bundle(
                    checkpoint.network, checkpoint.card, Path(folder) / dtype, weights_dtype=dtype
                )
                for dtype in DTYPES
            }
            for dtype, bundle in bundles.items():
                weights = (bundle.path / WEIGHTS).stat().st_size
                sizes.add_row(path, dtype, f"{weights:,}", f"{bundle_bytes(bundle):,}")
            found.append(answers(bundles, checkpoint.card, list_file))
        add_rows(accuracy, path, found[-1])
    if len(found) > 1:
        together = {frames: np.concatenate([each[frames] for each in found]) for frames in found[0]}
        add_rows(accuracy, "together", together)
    console = Console(width=120)
    console.print(sizes)
    console.print(accuracy)


if __name__ == "__main__":
    main()
