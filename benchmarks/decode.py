"""What it costs to read videos: a training sample, a whole video, and preparing a frame.

    python -m benchmarks.decode

Files are read with PyAV; beside it, in turns, stands OpenCV as release 0.1 used it, which believes
a header. A training sample of a Frame Flexible Network needs a clip of 4, one of 8 and one of 16
frames; ffn-edge opens and decodes the video once for all of them.

The videos are rendered here (synthetic).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.demo.clips import render_clips
from ffn_edge.frames import Indices, segment_random
from ffn_edge.media.classes import read_classes
from ffn_edge.media.images import Images
from ffn_edge.media.opencv import opencv, use_one_thread
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts

FRAME_COUNTS = (4, 8, 16)
ROUNDS = 40


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return 1e3 * (time.perf_counter() - start)


def render(path: Path, width: int, height: int, frames: int) -> None:
    """Write an H.264 video of drifting waves and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    with VideoWriter(path, 30, width, height) as video:
        for i in range(frames):
            wave = 110 + 90 * np.sin(x / 23 + i / 7) * np.cos(y / 31 - i / 11)
            noise = rng.integers(0, 12, (height, width, 3))
            video.write((wave[..., None] + noise).astype(np.uint8))


def choose(num_frames: int, rng: np.random.Generator) -> dict[int, Indices]:
    """Return the frames of a training sample."""
    return {t: segment_random(num_frames, t, rng) for t in FRAME_COUNTS}


def small(frame: Images) -> Images:
    """Prepare a frame for a 64x64 network."""
    return prepare_frame(frame, 64, 64)


def sample_with_pyav(path: Path, rng: np.random.Generator) -> None:
    """Read a training sample as training does."""
    with VideoReader(path, threads=1) as video:
        video.sample(lambda n: choose(n, rng), small)


def sample_with_opencv(path: Path, rng: np.random.Generator) -> None:
    """Read the same frames up to the last that is wanted, by the header's count."""
    cv2 = opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    chosen = choose(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), rng)
    wanted = set(np.concatenate(list(chosen.values())).tolist())
    for index in range(max(wanted) + 1):
        capture.grab()
        if index in wanted:
            small(capture.retrieve()[1])
    capture.release()


def sample_for_each(path: Path, rng: np.random.Generator) -> None:
    """Open and decode the video once for each frame count."""
    for t in FRAME_COUNTS:
        with VideoReader(path, threads=1) as video:
            video.sample(lambda n, t=t: {t: segment_random(n, t, rng)}, small)


def whole_with_pyav(path: Path, rng: np.random.Generator) -> None:
    """Convert every frame, as `ffn-edge run` does."""
    with VideoReader(path) as video:
        for _ in video.timed():
            pass


def whole_with_opencv(path: Path, rng: np.random.Generator) -> None:
    """Convert every frame."""
    cv2 = opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 0])
    while capture.read()[0]:
        pass
    capture.release()


def row(
    name: str, paths: list[Path], *ways: Callable[[Path, np.random.Generator], None]
) -> tuple[str, ...]:
    """Time the ways of reading over `paths`, by turns."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(ROUNDS):
        for way, found in zip(ways, times, strict=True):
            found.append(milliseconds(way, paths[turn % len(paths)], np.random.default_rng(turn)))
    first, *others = [statistics.median(found) for found in times]
    return name, f"{first:.2f}", *(f"{each:.2f} ({first / each:.2f}x)" for each in others)


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
        folder = Path(temporary)
        clips = folder / "clips"
        render_clips(clips, train=ROUNDS, val=0, test=0, workers=1)
        small_clips = sorted(clips.glob("train/*.mp4"))
        render(folder / "320.mp4", 320, 240, 300)
        render(folder / "720.mp4", 1280, 720, 90)
        videos = {
            "demo clip, 64x64, 48 frames, MPEG-4": small_clips,
            "320x240, 300 frames, H.264": [folder / "320.mp4"],
            "1280x720, 90 frames, H.264": [folder / "720.mp4"],
        }

        table = Table(title=f"One training sample, 4 + 8 + 16 frames, median of {ROUNDS}, ms")
        for column in ("video (synthetic)", "PyAV", "OpenCV", "each by itself"):
            table.add_column(column, justify="left" if column.startswith("video") else "right")
        for name, paths in videos.items():
            table.add_row(*row(name, paths, sample_with_pyav, sample_with_opencv, sample_for_each))
        console.print(table)

        table = Table(title=f"The whole video, every frame converted, median of {ROUNDS}, ms")
        for column in ("video (synthetic)", "PyAV", "OpenCV"):
            table.add_column(column, justify="left" if column.startswith("video") else "right")
        for name, paths in videos.items():
            table.add_row(*row(name, paths, whole_with_pyav, whole_with_opencv))
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
