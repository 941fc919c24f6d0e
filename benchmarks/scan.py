"""From a folder of short videos to the report: seconds, videos a second, and memory.

    python -m benchmarks.scan

Renders videos (synthetic) in the containers that people have, 8 classes, 320x240, two seconds of
30 frames; every 20th is a copy of the one before, encoded again. Each scan runs as its own command,
whose memory is that of its largest process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.media.opencv import opencv
from ffn_edge.media.pyav import pyav

COUNTS = (500, 2000)
CLASSES = 8
HEIGHT, WIDTH, FRAMES, RATE = 240, 320, 60, 30
# Suffix, encoder and its options.
CONTAINERS = (
    ("mp4", "libx264", {"preset": "veryfast", "crf": "23"}),
    ("mkv", "libx264", {"preset": "veryfast", "crf": "28"}),
    ("avi", "mpeg4", {}),
    ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    ("mov", "mpeg4", {}),
)


def pictures(number: int) -> list[np.ndarray]:
    """Return the frames of a video: a blob that crosses a background of blurred noise."""
    cv2 = opencv()
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    background = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    start, stop = rng.integers(40, (WIDTH - 40, HEIGHT - 40), (2, 2))
    colour = tuple(map(int, rng.integers(0, 256, 3)))
    frames = []
    for i in range(FRAMES):
        x, y = start + (stop - start) * i // FRAMES
        frames.append(cv2.circle(background.copy(), (int(x), int(y)), 30, colour, -1))
    return frames


def write(path: Path, frames: list[np.ndarray], codec: str, options: dict[str, str]) -> None:
    """Write a file of any container that FFmpeg knows."""
    av = pyav()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(RATE), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if codec != "libx264":
            stream.bit_rate = 600_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "bgr24")))
        container.mux(stream.encode(None))


def render(folder: Path, number: int) -> None:
    """Write video `number` of a folder of classes."""
    suffix, codec, options = CONTAINERS[number % len(CONTAINERS)]
    # A copy is of another container than the one before.
    shown = number - 1 if number % 20 == 19 else number
    target = folder / f"class {shown % CLASSES}"
    target.mkdir(parents=True, exist_ok=True)
    write(target / f"{number:05d}.{suffix}", pictures(shown), codec, options)


def main() -> None:
    """Print the table."""
    console = Console(width=100)
    console.print(describe_machine())
    table = Table(title="ffn-edge data scan")
    for column in ("videos", "seconds", "videos/s", "largest process, MB"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        for count in COUNTS:
            videos = Path(temporary) / f"videos-{count}"
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(render, [videos] * count, range(count), chunksize=20))
            output = Path(temporary) / f"data-{count}"
            command = [sys.executable, "-m", "ffn_edge", "data", "scan", videos, "-o", output]
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            # In kilobytes; of the children that have ended, the largest so far.
            memory_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            table.add_row(
                str(count), f"{seconds:.1f}", f"{count / seconds:.0f}", f"{memory_kb / 1000:.0f}"
            )
            console.print(done.stdout)
    console.print(table)


if __name__ == "__main__":
    main()
