"""From a folder of videos to a bundle in three commands, and what each part of training is worth.

    python -m benchmarks.own_data [--folder FOLDER] [--ablate [EPOCHS]] [--seeds 1]

Eight classes with 60 clips each are rendered (synthetic; 160x120, 2 s, mixed containers), as users
have them: a folder for each class. Then `data scan`, `train --data` and `export` run as commands,
and the network is evaluated on 400 other clips, of which the commands see none. With
--ablate, the fitted recipe is trained again for each change of what suits small data.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.demo.clips import FPS, TEST_SHARE, TRAINING_SHARE
from ffn_edge.demo.scenes import Canvas, render_action
from ffn_edge.media.opencv import use_one_thread

CLASSES = (
    *("left", "right", "up", "down", "approach", "recede"),
    *("clockwise", "counter-clockwise"),
)
PER_CLASS, HELD_OUT = 60, 50
_CANVAS = Canvas(160, 120, scale=120 / 64)
_KINDS = (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("mov", "mpeg4"))
# What `train --data` may do about few clips, each alone beside the recipe that it chose.
CHANGES = {
    "mixup 0.2": {"mixup": "0.2"},
    "cutmix 1": {"cutmix": "1.0"},
    "RandAugment 5": {"rand_augment": "5"},
    "no mirroring": {"mirror": "None"},
    "average of weights": {"ema_decay": "0.99"},
    "no labels for students": {"supervise_all": "False"},
    "64 pixels": {"size": "64"},
    "128 pixels": {"size": "128"},
}


def render(folder: Path, per_class: int, *, training: bool) -> None:
    """Write clips as a user has them: a folder for each class."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    clips = [
        (folder, label, i, training) for label in range(len(CLASSES)) for i in range(per_class)
    ]
    with ProcessPoolExecutor(initializer=use_one_thread) as pool:
        list(pool.map(_render_clip, clips, chunksize=8))


def _render_clip(clip: tuple[Path, int, int, bool]) -> None:
    folder, label, index, training = clip
    suffix, codec = _KINDS[index % len(_KINDS)]
    rng = np.random.default_rng([int(training), label, index])
    share = TRAINING_SHARE if training else TEST_SHARE
    frames = list(render_action(CLASSES[label], share, _CANVAS, rng))
    write(folder / CLASSES[label] / f"clip {index}.{suffix}", codec, frames)


def write(path: Path, codec: str, frames: Sequence[np.ndarray]) -> None:
    """Write a video file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(FPS))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.bit_rate = 1_000_000
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def command(*arguments: str | Path) -> float:
    """Run `ffn-edge`, and return how many seconds it took."""
    began = time.monotonic()
    words = [sys.executable, "-m", "ffn_edge", *map(str, arguments)]
    subprocess.run(words, check=True)
    return time.monotonic() - began


def accuracy(checkpoint: Path, held_out: Path) -> dict[int, float]:
    """Evaluate a checkpoint on the clips that no command has seen."""
    words = [sys.executable, "-m", "ffn_edge", "evaluate", str(checkpoint), "--json"]
    words += ["--list", str(held_out / "list.txt")]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return {row["frames"]: row["top1"] for row in json.loads(said)}


def main() -> None:
    """Render what is missing, run the commands, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--ablate", type=int, nargs="?", const=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--time")
    asked = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        videos, held_out = folder / "videos", folder / "held out"
        if not held_out.exists():
            render(videos, PER_CLASS, training=True)
            render(held_out, HELD_OUT, training=False)
            lines = [f"{p.relative_to(held_out)}\n" for p in sorted(held_out.glob("*/*"))]
            (held_out / "list.txt").write_text("".join(lines))
        console.print(f"{describe_machine()}; rendered clips (synthetic)")
        data = folder / "data"
        scan_s = command("data", "scan", videos, "-o", data)
        if asked.ablate is not None:
            ablate(console, folder, data, held_out, asked.ablate, asked.seeds, asked.jobs)
            return
        run = folder / "run"
        given = ("--time", asked.time) if asked.time else ()
        train_s = command("train", "--data", data, "-o", run, *given)
        export_s = command("export", run / "best.pt", "-o", folder / "bundle")
        found = accuracy(run / "best.pt", held_out)
        clips = len(CLASSES) * HELD_OUT
        console.print(
            f"scan {scan_s:.0f} s, train {train_s / 60:.1f} min, export {export_s:.0f} s: "
            f"{(scan_s + train_s + export_s) / 60:.1f} minutes (target 25)"
        )
        for frames, top1 in found.items():
            error = (top1 * (1 - top1) / clips) ** 0.5
            console.print(f"{frames} frames: {top1:.1%} ± {error:.1%} of {clips} held-out clips")


def ablate(
    console: Console, folder: Path, data: Path, held_out: Path, epochs: int, seeds: int, jobs: int
) -> None:
    """Train the fitted recipe with each change, for some epochs and seeds, and print a table."""
    fitted = folder / "fitted"
    if not (fitted / "recipe.py").exists():
        given = ("--epochs", str(epochs), "--set=cache_gib=2")  # the same clips, sooner
        command("train", "--data", data, "-o", fitted, *given)

    def score(change: dict[str, str], seed: int) -> dict[int, float]:
        name = " ".join(f"{key}={value}" for key, value in change.items()) or "fitted"
        run = folder / "ablate" / name / str(seed)
        if not (run / "best.pt").exists():
            settings = [f"--set={key}={value}" for key, value in change.items()]
            settings += [f"--set=seed={seed}", f"--set=validate_every={epochs}"]
            command("train", fitted / "recipe.py", "-o", run, "--workers", "3", *settings)
        return accuracy(run / "best.pt", held_out)

    changes = {"as fitted": {}, **CHANGES}
    with ThreadPoolExecutor(jobs) as pool:
        coming = {
            name: [pool.submit(score, change, seed) for seed in range(seeds)]
            for name, change in changes.items()
        }
        table = Table(title=f"{epochs} epochs, {seeds} seeds, {len(CLASSES) * HELD_OUT} clips")
        for heading in ("change", "4", "8", "16 frames"):
            table.add_column(heading, justify="right")
        for name, each in coming.items():
            scores = [one.result() for one in each]
            cells = []
            for frames in (4, 8, 16):
                values = [100 * score[frames] for score in scores]
                error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
                cells.append(f"{mean(values):.1f} ± {error:.1f}")
            table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
