"""What INT8 costs in accuracy: at each frame count, by each method, on clips of several seeds.

    ffn-edge compare demo --methods ffn --seeds 0,1,2 -o FOLDER       # 20 minutes on two cores
    python -m benchmarks.int8_accuracy FOLDER/clips/train/train.txt \\
        FOLDER/seed-0/ffn/best.pt FOLDER/clips/test-0/test.txt \\
        FOLDER/seed-1/ffn/best.pt FOLDER/clips/test-1/test.txt …

Each checkpoint is exported, quantised on 256 clips of the first list, without their labels, and
classifies its own labelled test clips. Differences are in points of top-1, INT8 less float32, with
their standard error over the clips, of which both saw the same. "as TensorRT rounds" has 127 steps
for what is never negative, as TensorRT's int8; ONNX Runtime's uint8 has 254, and runs so.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import MOST_LOSS, Bundle
from ffn_edge.bundle.onnxruntime_graph import for_onnxruntime
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.graph_session import GraphSession
from ffn_edge.export.quantize import LEAST_AGREEMENT, QuantizeOptions, quantize_bundle
from ffn_edge.export.ranges import METHODS
from ffn_edge.media.clips import centre_clips
from ffn_edge.media.video_list import read_list
from ffn_edge.network.checkpoint import load_checkpoint

# By way and frame count, the logits (clips, classes).
Answers = dict[tuple[str, int], npt.NDArray[np.float32]]


def quantized_ways(
    bundle: Bundle, folder: Path, calibration: Path
) -> tuple[dict[tuple[str, int], GraphSession], list[str]]:
    """Quantise copies of a bundle by each method; return what to run, and what was found."""
    tensors = bundle.tensors()
    sessions = {
        ("float32", t): GraphSession(bundle.read_graph(t), tensors)
        for t in bundle.manifest.frame_counts
    }
    said = []
    for method in METHODS:
        copy = folder / method
        shutil.copytree(bundle.path, copy)
        start = time.perf_counter()
        quantized = quantize_bundle(copy, calibration, QuantizeOptions(method=method))
        seconds = time.perf_counter() - start
        for t, found in quantized.manifest.quantized.items():
            graph = quantized.read_graph(t, "int8")
            sessions[method, t] = GraphSession(for_onnxruntime(graph), tensors)
            sessions[f"{method}, as TensorRT rounds", t] = GraphSession(graph, tensors)
            said.append(
                f"{method}, {t} frames: {seconds:.0f} s for all; on the calibration clips "
                f"{found.agreement:.2%} the same class, known answers off by "
                f"{found.deviation:.1%}; in float32 {len(found.in_float32)} layers"
            )
    return sessions, said


def answers(
    sessions: Mapping[tuple[str, int], GraphSession], bundle: Bundle, list_file: Path
) -> tuple[Answers, npt.NDArray[np.int64]]:
    """Classify the videos of a list in each way; return the labels, too."""
    manifest = bundle.manifest
    videos = read_list(list_file, classes=manifest.classes)
    found: dict[tuple[str, int], list[npt.NDArray[np.float32]]] = {way: [] for way in sessions}
    labels = []
    for video, clips in centre_clips(
        videos,
        manifest.frame_counts,
        short_side=manifest.input.short_side,
        size=manifest.input.height,
        window_s=manifest.input.window_s,
    ):
        labels.append(video.label)
        for (name, t), session in sessions.items():
            found[name, t].append(session.run(clips[t][None])[0][0])
    return {way: np.stack(each) for way, each in found.items()}, np.asarray(labels)


def add_rows(table: Table, name: str, found: Answers, labels: npt.NDArray[np.int64]) -> None:
    """Add a row for each frame count and way of INT8."""
    table.add_section()
    for (way, t), logits in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        if way == "float32":
            continue
        reference = found["float32", t]
        one, other = reference.argmax(1), logits.argmax(1)
        gain = 100.0 * ((other == labels).astype(float) - (one == labels))
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        moved = np.abs(logits - reference).max(1) / np.abs(reference).max(1)
        table.add_row(
            name,
            str(t),
            way,
            f"{100 * (one == labels).mean():.2f}",
            f"{100 * (other == labels).mean():.2f}",
            f"{gain.mean():+.2f} ± {error:.2f}",
            f"{100 * (one == other).mean():.2f}",
            f"{100 * moved.mean():.2f}",
        )


@click.command()
@click.argument("calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("pairs", metavar="CHECKPOINT LIST ...", nargs=-1, required=True)
def main(calibration: Path, pairs: tuple[str, ...]) -> None:
    """Export, quantise, classify, print."""
    table = Table(
        title=f"INT8 against float32; asked for: at most {100 * MOST_LOSS} points lost, "
        f"{LEAST_AGREEMENT:.0%} the same class",
        caption=f"{describe_machine()}. moved: the mean of max|Δlogit| / max|logit|",
    )
    for heading in (
        *("checkpoint", "frames", "ranges by", "float32, %", "INT8, %", "difference"),
        *("same class, %", "moved, %"),
    ):
        table.add_column(heading, justify="left" if heading == "ranges by" else "right")
    every: list[tuple[Answers, npt.NDArray[np.int64]]] = []
    console = Console(width=130)
    for path, list_file in zip(pairs[::2], pairs[1::2], strict=True):
        checkpoint = load_checkpoint(path)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bundle = export_bundle(checkpoint.network, checkpoint.card, folder / "bundle")
            sessions, said = quantized_ways(bundle, folder, calibration)
            console.print(f"{path}\n  " + "\n  ".join(said))
            every.append(answers(sessions, bundle, Path(list_file)))
        add_rows(table, str(len(every)), *every[-1])
    if len(every) > 1:
        together = {way: np.concatenate([found[way] for found, _ in every]) for way in every[0][0]}
        add_rows(table, "together", together, np.concatenate([labels for _, labels in every]))
    console.print(table)


if __name__ == "__main__":
    main()
