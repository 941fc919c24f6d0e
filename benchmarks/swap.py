"""What a camera notices of a bundle that is exchanged while it is watched.

    python -m benchmarks.swap [BUNDLE OTHER] [--swaps 20] [--poll-s 0.5]

One camera of 25 pictures a second, a window each 100 ms, which is the deadline, too. A link leads
to one bundle and to the other by turns: left out, a TSM-tiny at 4, 8 and 16 frames, and at 4 and 8.
For comparison, the same time without a swap. Targets: no window lost, and at most one inference
late for each swap. Memory is the process's resident set, every 20 ms.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.example import CLASSES, example_network
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.files.secret import Secret
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.runtime.camera_settings import CameraSettings
from ffn_edge.runtime.cameras import Cameras
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, Sensors, open_classifier
from ffn_edge.runtime.serve.updates import Updates
from ffn_edge.runtime.stream.sources import Frame
from ffn_edge.runtime.stream.window import Timing

_HOP_S = 0.1
_LIMITS = Limits(latency_ms=_HOP_S * 1e3)
_MB = 1e6


class Camera:
    """A camera of 25 noisy pictures a second."""

    live, comes_back, fps, name = True, True, 25.0, "camera"

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        pictures = np.random.default_rng(0).integers(0, 256, (50, 128, 128, 3), np.uint8)
        start = time.monotonic()
        for number in range(1 << 30):
            time.sleep(max(0.0, start + number / self.fps - time.monotonic()))
            yield Frame(pictures[number % 50], number / self.fps)


@dataclass(slots=True)
class Found:
    """Figures of a run; memory in bytes."""

    results: list[Result] = field(default_factory=list)
    swaps: int = 0
    begin_bytes: int = 0
    peak_bytes: int = 0
    end_bytes: int = 0

    @property
    def lost(self) -> int:
        """Windows that no inference was for."""
        times = np.diff([result.time_s for result in self.results])
        return int(np.maximum(np.round(times / _HOP_S) - 1, 0).sum())

    @property
    def late(self) -> int:
        """Inferences whose answer came after the deadline."""
        return sum(each.latency_ms + each.waited_ms > _HOP_S * 1e3 for each in self.results)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--poll-s", type=float, default=0.5)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        first, other = arguments.bundles or _bundles(Path(folder))
        link = Path(folder) / "current"
        link.symlink_to(Path(first).absolute())
        begin = time.monotonic()
        swapped = run(link, (other, first), arguments.swaps, arguments.poll_s)
        seconds = time.monotonic() - begin
        alone = run(link, (), 0, arguments.poll_s, seconds)
    table = Table(title=f"{seconds:.0f} s of a camera, a window each {_HOP_S * 1e3:.0f} ms")
    for heading in ("", "swaps", "windows", "lost", "late", "p50 ms", "p99 ms", "MB before",
                    "MB most", "MB after"):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, found in (("swapped", swapped), ("alone", alone)):
        latencies = [each.latency_ms + each.waited_ms for each in found.results]
        quantiles = (f"{each:.1f}" for each in np.quantile(latencies, (0.5, 0.99)))
        memory = (found.begin_bytes, found.peak_bytes, found.end_bytes)
        counts = (found.swaps, len(latencies), found.lost, found.late)
        table.add_row(name, *map(str, counts), *quantiles, *(f"{e / _MB:.0f}" for e in memory))
    console.print(table)
    console.print(f"load {os.getloadavg()[0]:.1f}")


def run(
    link: Path, bundles: tuple[Path, ...], swaps: int, poll_s: float, seconds: float = 0.0
) -> Found:
    """Watch a camera, and switch the link so many times; or for so many seconds."""
    found = Found()
    options = RunOptions(hop_s=_HOP_S, window_s=1.0)

    def is_done() -> bool:
        return found.swaps == swaps if swaps else time.monotonic() - begin > seconds

    with Sensors(options.root) as sensors:

        @contextmanager
        def open_(bundle: Bundle) -> Iterator[Classifier]:
            with open_classifier(bundle, _LIMITS, options, sensors, period_s=_HOP_S) as opened:
                yield opened

        with Updates(link, open_, poll_s=poll_s) as updates:
            sensors.start()
            cameras = [(CameraSettings(name="camera", source=Secret("0"), hop_s=_HOP_S), Camera())]
            timing = Timing(window_s=1.0, hop_s=_HOP_S)
            session = Cameras(cameras, updates.classifier, lambda: _LIMITS, timing)
            session.fall_back = updates.failed
            begin, since_swap, asked = time.monotonic(), 0, 0
            with _memory(found), closing(iter(session)) as results:
                for result in results:
                    found.results.append(result)
                    since_swap += 1
                    if asked == found.swaps < swaps and since_swap == 30:  # its trial is over
                        switched = link.with_name("next")
                        switched.symlink_to(Path(bundles[asked % 2]).absolute())
                        switched.replace(link)
                        asked += 1
                    if updates.ran(result) is not None:
                        raise SystemExit("a bundle went back")
                    if (new := updates.take()) is not None:
                        session.swap(new)
                        found.swaps += 1
                        since_swap = 0
                    if since_swap > 30 and is_done():
                        break
    return found


@contextmanager
def _memory(found: Found) -> Iterator[None]:
    must_end = threading.Event()
    found.begin_bytes = _resident()

    def sample() -> None:
        while not must_end.wait(0.02):
            found.peak_bytes = max(found.peak_bytes, _resident())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        found.end_bytes = _resident()
        must_end.set()
        thread.join()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _bundles(folder: Path) -> tuple[Path, Path]:
    network = example_network("tsm_tiny")
    card = ModelCard(classes=tuple(f"class {i}" for i in range(CLASSES)), size=64, short_side=64)
    for name, frames in (("first", (4, 8, 16)), ("other", (4, 8))):
        export_bundle(network, card, folder / name, frame_counts=frames)
    return folder / "first", folder / "other"


if __name__ == "__main__":
    main()
