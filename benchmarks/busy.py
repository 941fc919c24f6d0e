"""Training, and an engine, beside processes that keep cores busy: as before, and as now.

"All cores" is how PyTorch and ONNX Runtime are by themselves: a thread for each core, which spins
while it waits. "Measured" and "not spinning" are how `ffn-edge train` and `ffn-edge run` compute.
Both train in a process of their own, on the demo's clips, and take turns, with no, one and two
busy processes. The ratio is to the quickest way alone.

    python -m benchmarks.busy [--rounds 1]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.example import plain_model
from benchmarks.machine import describe_machine
from ffn_edge import network
from ffn_edge.demo.clips import render_clips
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.runtime.engines.onnxruntime import session_options

BUSY = (0, 1, 2)
# What the targets are, beside one busy process, in times of alone.
TARGET = 2.2

_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100000))\n"


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many processes busy; each is ended by its id, or when this one is gone."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(number)]
    try:
        time.sleep(0.5 * bool(number))
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def training_seconds(clips: Path, *, measured: bool) -> float:
    """Seconds of one step of the demo's recipe, decoding and the trials of threads included."""
    # All cores may take ten seconds a step. Trials are for runs longer than these steps.
    epochs = 6 if measured else 2
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "ffn_edge", "train", "demo", "-o", folder, "--device", "cpu",
            "--train-list", str(clips / "train.txt"), "--val-list", str(clips / "val.txt"),
            "--classes", str(clips / "classes.txt"), "--workers", "0", "--json",
            "--epochs", str(epochs), "--set", f"validate_every={epochs}",
        ]  # fmt: skip
        if not measured:
            command += ["--threads", str(torch.get_num_threads())]
        done = subprocess.run(command, check=True, capture_output=True)
        result = json.loads(done.stdout)
        return float(result["seconds"]) / int(result["steps"])


def engine_ms(model: Path, frames: int, *, spinning: bool) -> float:
    """Mean milliseconds of an inference in ONNX Runtime with a thread for each core."""
    if spinning:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
    else:
        options = session_options(torch.get_num_threads())
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    clip = np.zeros((1, frames, 64, 64, 3), np.uint8)
    times = []
    for _ in range(300):
        start = time.perf_counter()
        session.run(None, {"frames": clip})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.fmean(times[20:])


@click.command()
@click.option("--rounds", default=1, show_default=True)
def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = folder / "clips"
        render_clips(clips, train=128, val=8, test=0)
        torch.manual_seed(0)
        card = ModelCard(classes=tuple(map(str, range(8))), size=64, short_side=64)
        bundle = export_bundle(network.build("tsm_tiny", 8).eval(), card, folder / "bundle")
        model = plain_model(bundle, 16, folder / "16.onnx")
        ways: dict[str, Callable[[], float]] = {
            "training, all cores": lambda: training_seconds(clips, measured=False),
            "training, measured": lambda: training_seconds(clips, measured=True),
            "engine, spinning": lambda: engine_ms(model, 16, spinning=True),
            "engine, not spinning": lambda: engine_ms(model, 16, spinning=False),
        }
        found: dict[tuple[str, int], list[float]] = {(w, b): [] for w in ways for b in BUSY}
        for _ in range(rounds):
            for number in BUSY:
                for way, measure in ways.items():
                    with busy_processes(number):
                        found[way, number].append(measure())
    load = os.getloadavg()[2]
    table = Table(
        title="tsm_tiny beside busy processes",
        caption=f"{describe_machine()}. Training: seconds a step; engine: ms at 16 frames. "
        f"{rounds} rounds, medians; load of the last 15 minutes {load:.1f}. Target beside one: "
        f"{TARGET}x of alone.",
    )
    for heading in ("", "alone", *(f"beside {number}" for number in BUSY[1:])):
        table.add_column(heading)
    medians = {key: statistics.median(values) for key, values in found.items()}
    for way in ways:
        kind = way.partition(",")[0]
        alone = min(medians[each, 0] for each in ways if each.startswith(kind))
        cells = [f"{medians[way, b]:.3g} ({medians[way, b] / alone:.2f}x)" for b in BUSY]
        table.add_row(way, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
