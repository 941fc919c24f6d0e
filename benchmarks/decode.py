"""What it costs to read videos: a training sample's decode, and preparing a source frame.

    python benchmarks/decode.py

A training sample of a Frame Flexible Network needs a clip of 4, one of 8 and one of 16 frames.
ffn-edge opens the video once and decodes it once for all of them; this is compared with opening
and decoding it for each by itself. Both draw the same number of frames, and run in turns.

The videos are rendered here. OpenCV's wheels encode MPEG-4 part 2, not H.264, whose decoding costs
more: there the ratio is nearer to a third.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe_machine
from rich.console import Console
from rich.table import Table

from ffn_edge.classes import read_classes
from ffn_edge.frames import segment_random
from ffn_edge.opencv import use_one_thread
from ffn_edge.picture import prepare_frame
from ffn_edge.train.clips import render_clips, render_stream
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.video import VideoReader

FRAME_COUNTS = (4, 8, 16)
ROUNDS = 40


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return 1e3 * (time.perf_counter() - start)


def read_together(path: Path, rng: np.random.Generator) -> None:
    """Decode one video once, for the union of all frame counts."""
    with VideoReader(path, threads=1) as video:
        chosen = [segment_random(video.num_frames, t, rng) for t in FRAME_COUNTS]
        video.read(np.unique(np.concatenate(chosen)))


def read_separately(path: Path, rng: np.random.Generator) -> None:
    """Decode one video once for each frame count."""
    for t in FRAME_COUNTS:
        with VideoReader(path, threads=1) as video:
            video.read(segment_random(video.num_frames, t, rng))


def decode_row(name: str, paths: list[Path]) -> tuple[str, ...]:
    """Compare the two ways of reading over `paths`."""
    together, separately = [], []
    for turn in range(ROUNDS):
        path = paths[turn % len(paths)]
        together.append(milliseconds(read_together, path, np.random.default_rng(turn)))
        separately.append(milliseconds(read_separately, path, np.random.default_rng(turn)))
    ours, theirs = statistics.median(together), statistics.median(separately)
    return name, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}x", "0.50x"


def sample_ms(folder: Path, cache_bytes: int) -> float:
    """Return what one training sample of the demo costs, augmentation included."""
    videos = VideoDataset(
        folder / "train.txt",
        FRAME_COUNTS,
        classes=read_classes(folder / "classes.txt"),
        facts=dataset_facts("demo"),
        train=True,
        size=64,
        short_side=64,
        cache_bytes=cache_bytes,
    )
    for index in range(len(videos)):  # fills the cache, and the system's
        videos[0, index]
    return statistics.median(
        milliseconds(videos.__getitem__, (1, turn % len(videos))) for turn in range(10 * ROUNDS)
    )


def main() -> None:
    """Print the tables."""
    use_one_thread()
    console = Console(width=100)
    console.print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        clips, stream = Path(temporary) / "clips", Path(temporary) / "stream.mp4"
        render_clips(clips, train=ROUNDS, val=0, test=0, workers=1)
        render_stream(stream, seconds=12)

        table = Table(title="One training sample's decode, 4 + 8 + 16 frames, median of 40, ms")
        for column in ("video (synthetic)", "once for all", "once for each", "ratio", "at most"):
            table.add_column(column, justify="left" if column.startswith("video") else "right")
        table.add_row(*decode_row("320x240, 288 frames, MPEG-4", [stream]))
        table.add_row(*decode_row("demo clip: 64x64, 48 frames", sorted(clips.glob("train/*.mp4"))))
        console.print(table)

        table = Table(title="One training sample of the demo, decode and augmentation, ms")
        table.add_column("decoded each time", justify="right")
        table.add_column("from the cache", justify="right")
        table.add_row(f"{sample_ms(clips, 0):.2f}", f"{sample_ms(clips, 2**30):.2f}")
        console.print(table)

    frame = np.random.default_rng(0).integers(255, size=(720, 1280, 3), dtype=np.uint8)
    times = [milliseconds(prepare_frame, frame, 256, 224) for _ in range(5 * ROUNDS)]
    table = Table(title="Preparing a 1280x720 frame for a 224x224 network, one thread, ms")
    for column in ("median", "99 %", "at most"):
        table.add_column(column, justify="right")
    table.add_row(f"{statistics.median(times):.2f}", f"{np.quantile(times, 0.99):.2f}", "2.00")
    console.print(table)


if __name__ == "__main__":
    main()
