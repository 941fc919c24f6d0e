"""Videos to scan: rendered, tiny, and of many containers; or empty files where none is opened."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.media.opencv import opencv
from ffn_edge.media.pyav import pyav

Frames = Sequence[Any]
HEIGHT, WIDTH, FRAMES, RATE = 120, 160, 24, 12
ENCODERS = {"avi": "mpeg4", "webm": "libvpx", "mov": "mpeg4"}


def frames_of(scene: int, action: int | None = None, frames: int = FRAMES) -> list[Any]:
    """A disc that wanders before a blurred background: `scene` is the one, `action` the other."""
    cv2 = opencv()
    rng = np.random.default_rng(scene)
    noise = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    background = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng([scene, scene if action is None else action])
    start, stop = rng.integers(20, (WIDTH - 20, HEIGHT - 20), (2, 2))
    bend = rng.normal(0, 12, 2)
    made = []
    for i in range(frames):
        at = start + (stop - start) * i / frames + bend * np.sin(i * rng.uniform(0.4, 0.5))
        image = cv2.circle(background.copy(), tuple(map(int, at)), 14, (250, 250, 250), -1)
        made.append(cv2.circle(image, tuple(map(int, at)), 7, (0, 0, 0), -1))
    return made


def write(path: Path, frames: Frames, *, rate: int = RATE, quality: int = 23) -> Path:
    """Write a video by the suffix of its name."""
    av = pyav()
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = ENCODERS.get(path.suffix[1:], "libx264")
    options = {"crf": str(quality), "preset": "veryfast"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = (side // 2 * 2 for side in frames[0].shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if codec != "libx264":
            stream.bit_rate = 800_000
        for frame in frames:
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, "bgr24")))
        container.mux(stream.encode(None))
    return path


def empty_files(folder: Path, *names: str) -> Path:
    """Make files without content, where names are all that counts."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def scene_of(name: str) -> int:
    """The scene that a video of `videos` shows."""
    return zlib.crc32(name.encode())


@pytest.fixture
def videos(tmp_path: Path) -> Callable[..., Path]:
    """A function that renders videos, each of another scene, and returns their folder."""

    def make(*names: str) -> Path:
        folder = tmp_path / "videos"
        for name in names:
            write(folder / name, frames_of(scene_of(name)))
        return folder

    return make
