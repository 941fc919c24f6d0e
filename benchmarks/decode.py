"""What it costs to read videos: a training sample, a whole video, and preparing a frame.

    python -m benchmarks.decode

Files are read with PyAV; beside it, in turns, stands OpenCV as release 0.1 used it, which believes
a header. A training sample of a Frame Flexible Network needs a clip of 4, one of 8 and one of 16
frames; ffn-edge opens and decodes the video once for all of them.

The last table follows the training's reader from stage to stage, on every processor. Its share of
what the decoder alone gives is to be 90 % at least, where decoding is what costs: a frame that is
wanted is converted, cropped and scaled as well.

The videos are rendered here (synthetic).
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.demo.clips import render_clips
from ffn_edge.device.cores import usable_processors
from ffn_edge.device.host_memory import keep_freed_memory
from ffn_edge.frames import Indices, segment_random
from ffn_edge.media.classes import read_classes
from ffn_edge.media.images import Images
from ffn_edge.media.opencv import opencv, use_one_thread
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.pyav import pyav
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loading import Loader, ResumableSampler

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
        cache_folder=folder.parent / "cache",
    )
    for index in range(len(videos)):  # fills the cache, and the system's
        videos[0, index]
    return statistics.median(
        milliseconds(videos.__getitem__, (1, turn % len(videos))) for turn in range(10 * ROUNDS)
    )


def decode_alone(path: Path) -> None:
    """Decode every picture as FFmpeg gives it, and do nothing with it."""
    with pyav().open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        for _ in container.decode(stream):
            pass


def stages(paths: list[Path], batch_size: int, batches: int, rounds: int) -> tuple[str, ...]:
    """Return the clips a second of each stage of the training's reader, every processor in use."""
    workers = usable_processors()
    videos = VideoDataset(
        [Video(path, 0, None) for path in paths] * (batch_size * batches // len(paths)),
        FRAME_COUNTS,
        classes=["any"],
        facts=dataset_facts("custom"),
        train=True,
        size=224,
        short_side=256,
    )
    keys = [(0, index) for index in range(len(videos))]
    sampler = ResumableSampler(len(videos))
    loader = Loader(videos, sampler, batch_size=batch_size, workers=workers)
    context = multiprocessing.get_context("forkserver")
    with context.Pool(workers, start_loading) as pool:

        def each(function: Callable[..., object], arguments: Iterable[object]) -> None:
            for _ in pool.imap_unordered(function, arguments):
                pass

        ways = (
            lambda: each(decode_alone, (video.path for video in videos.videos)),
            lambda: each(partial(forget, videos), keys),
            lambda: [None for _ in loader],
            # What another device does meanwhile: half of the time is the host's.
            lambda: [time.sleep(pause) for _ in loader],
        )
        pause = 0.0
        for way in ways:  # starts the processes
            way()
        pause = milliseconds(ways[0]) / 1e3 / batches / 2
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(rounds):
            for way, found in zip(ways, times, strict=True):
                found.append(milliseconds(way))
    alone, *others = [1e3 * len(videos) / statistics.median(found) for found in times]
    return f"{alone:.1f}", *(f"{each:.1f} ({each / alone:.0%})" for each in others)


def start_loading() -> None:
    """Make a process what those of the loader are."""
    use_one_thread()
    keep_freed_memory()


def forget(videos: VideoDataset, key: tuple[int, int]) -> None:
    """Make a sample, for nobody."""
    videos[key]


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

        render(folder / "short.mp4", 320, 240, 90)
        render(folder / "long.mp4", 1280, 720, 300)
        table = Table(title="The training's reader for 224x224, on every processor, clips/s")
        for column in ("video (synthetic)", "decoder alone", "samples", "loader", "beside a step"):
            table.add_column(column, justify="left" if column.startswith("video") else "right")
        for name, path, batch_size, batches in (
            ("320x240, 90 frames", "short.mp4", 16, 8),
            ("320x240, 300 frames", "320.mp4", 16, 8),
            ("1280x720, 300 frames", "long.mp4", 2, 4),
        ):
            table.add_row(name, *stages([folder / path], batch_size, batches, rounds=5))
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
