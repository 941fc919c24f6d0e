"""Whose frames are ffmpeg's: ours and OpenCV's, of every container and codec that people have.

    python -m benchmarks.video_files

The files are those of tests/media/test_video_files.py, rendered here (synthetic): each shows its
number. Numbers that are right, and at the right place, are counted; times are compared with those
that ffmpeg gives.
"""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.errors import VideoError
from ffn_edge.media.opencv import opencv
from ffn_edge.media.video import VideoReader

TESTS = runpy.run_path(str(Path(__file__).parents[1] / "tests/media/test_video_files.py"))


def read_by_opencv(path: Path) -> tuple[list[np.ndarray], int, np.ndarray]:
    """Return OpenCV's frames, how many the header states, and index / rate as their times."""
    cv2 = opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    times = np.arange(len(frames)) / max(capture.get(cv2.CAP_PROP_FPS), 1e-9)
    capture.release()
    return frames, stated, times


def right(frames: list[np.ndarray], expected: list[np.ndarray]) -> int:
    """Count the frames that are ffmpeg's at their place."""
    numbers_on = TESTS["numbers_on"]
    pairs = zip(numbers_on(frames), numbers_on(expected), strict=False)
    return sum(ours == theirs for ours, theirs in pairs)


def worst_ms(times: np.ndarray, expected: np.ndarray) -> str:
    """Return how far the times are off at most."""
    count = min(len(times), len(expected))
    return f"{1e3 * np.abs(times[:count] - expected[:count]).max(initial=0):.0f}"


def main() -> None:
    """Print the table."""
    console = Console(width=110)
    console.print(describe_machine())
    table = Table(title="Frames that are ffmpeg's, and how far times are off at most, ms")
    for column in ("file", "ffmpeg", "ffn-edge", "off", "OpenCV", "states", "off"):
        table.add_column(column, justify="left" if column == "file" else "right")
    made = {
        kind: lambda folder, name=name, options=options: TESTS["render"](folder / name, *options)
        for kind, (name, options) in TESTS["FILES"].items()
    } | TESTS["ODD"]
    for kind, make in made.items():
        with tempfile.TemporaryDirectory() as temporary:
            path = make(Path(temporary))
            second = kind == "a cover picture, MKV"
            expected, times = TESTS["shown_by_ffmpeg"](path, "0:v:1" if second else "0:V:0")
            try:
                with VideoReader(path, threads=1) as video:
                    ours = list(video.timed())
            except VideoError:
                ours = []
            theirs, stated, guessed = read_by_opencv(path)
        table.add_row(
            kind,
            str(len(expected)),
            str(right([frame.image for frame in ours], expected)),
            worst_ms(np.array([frame.time_s for frame in ours]), times),
            str(right(theirs, expected)),
            str(stated),
            worst_ms(guessed, times),
        )
    console.print(table)


if __name__ == "__main__":
    main()
