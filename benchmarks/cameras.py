"""Several cameras on one machine: whether one starves, and what one that is pulled costs others.

    python -m benchmarks.cameras demo [--seconds 60] [--pulls 20]

`demo` is the folder that `ffn-edge demo` wrote: its bundle and its stream. Four cameras of 1280x720
at 15 frames a second, motion JPEG over HTTP, are sent by another process of this machine. Targets:
the worst camera's share of the inferences is at least 0.8 of the fair one, at the usual hop and
where there is more to do than can be done; the same of those that stay while one is pulled and
returns. One camera shows a still picture in the last run, where the gate for still scenes is on.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import cv2
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.files.secret import Secret
from ffn_edge.media.video import VideoReader
from ffn_edge.runtime.camera_settings import CameraSettings, open_camera
from ffn_edge.runtime.cameras import Cameras
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.engines.engine import EngineOptions
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, Sensors, open_classifier
from ffn_edge.runtime.session import Hooks

CAMERAS = ("door", "yard", "hall", "gate")
RATE = 15.0
SIZE = (1280, 720)
PULLED = CAMERAS[-1]
STILL_THRESHOLD = 8.0
_SECONDS_OF_PICTURES = 12
# A camera that is lost again and again is tried after ever longer pauses, up to 30 s.
_MOST_PULL_S = 45.0


class Run:
    """What a run came to."""

    def __init__(self, results: list[Result], still: dict[str, int], seconds: float) -> None:
        self.seconds = seconds
        self.still = still
        self.by_camera: dict[str, list[Result]] = defaultdict(list)
        for result in results:
            self.by_camera[result.source].append(result)

    def share(self, names: tuple[str, ...] = CAMERAS) -> float:
        """Return the worst camera's inferences over the fair number."""
        counts = [len(self.by_camera[name]) for name in names]
        return min(counts) / (sum(counts) / len(counts))


@click.command(help=__doc__)
@click.argument("demo", type=click.Path(path_type=Path))
@click.option("--seconds", default=60.0, show_default=True, help="Of each run.")
@click.option("--pulls", default=20, show_default=True)
@click.option("--send", is_flag=True, hidden=True)
def main(demo: Path, seconds: float, pulls: int, send: bool) -> None:
    """Measure, and print a table."""
    if send:
        send_pictures(demo)
        return
    os.environ["no_proxy"] = "127.0.0.1"
    console = Console(width=120)
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}")
    table = Table(caption="waited: for other cameras' inferences; share: of the fair number")
    for heading in (
        "run",
        "inferences/s",
        "worst share",
        "mean frames",
        "waited 50 / 95 %",
        "late",
    ):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    with sender(demo / "stream.mp4") as url:
        usual = watch(demo, url, seconds, hop_s=0.25)
        add(table, "every 0.25 s", usual)
        add(table, "every 0.25 s, within 60 ms", watch(demo, url, seconds, latency_ms=60.0))
        add(table, "more than can be done", watch(demo, url, seconds, hop_s=0.0667, frames=16))
        pulled = watch(demo, url, _MOST_PULL_S * pulls, pulls=pulls)
        add(table, f"{PULLED} pulled {pulls} times", pulled, CAMERAS[:-1])
        gated = watch(demo, url, seconds, still=True)
        add(table, f"{PULLED} is still, and gated", gated, CAMERAS[:-1])
    console.print(table)
    rate = [len(run.by_camera[CAMERAS[0]]) / run.seconds for run in (usual, pulled)]
    back = gaps(pulled.by_camera[PULLED])
    console.print(
        f"a camera that stays: {rate[1] / rate[0]:.3f} of its rate while another is pulled; "
        f"{PULLED} came back {len(back)} times of {pulls}\n"
        f"the gate left out {gated.still.get(PULLED, 0)} of "
        f"{gated.still.get(PULLED, 0) + len(gated.by_camera[PULLED])} inferences of the still one, "
        f"and {sum(gated.still.get(name, 0) for name in CAMERAS[:-1])} of the others"
    )


def watch(
    demo: Path,
    url: str,
    seconds: float,
    *,
    hop_s: float = 0.25,
    latency_ms: float | None = None,
    frames: int | None = None,
    pulls: int = 0,
    still: bool = False,
) -> Run:
    """Run all cameras for a while."""
    limits = Limits(latency_ms=latency_ms, frames=frames)
    options = RunOptions(engines=EngineOptions(backend="onnxruntime"), max_seconds=seconds)
    skipped: dict[str, int] = defaultdict(int)

    def count(name: str, time_s: float) -> None:
        skipped[name] += 1

    cameras = []
    for number, name in enumerate(CAMERAS):
        path = "still" if still and name == PULLED else str(number)
        settings = CameraSettings(name=name, source=Secret(f"{url}/{path}"), hop_s=hop_s)
        cameras.append((settings, open_camera(settings)))
    results: list[Result] = []
    with Sensors(Path("/")) as sensors:
        bundle = Bundle.load(demo / "bundle")
        with open_classifier(bundle, limits, options, sensors, period_s=hop_s) as classifier:
            sensors.start()
            session = Cameras(
                cameras,
                classifier,
                lambda: limits,
                options,
                Hooks(on_still=count),
                still=STILL_THRESHOLD if still else None,
            )
            begin = time.monotonic()
            pulled, answers = 0, 0  # of the camera that is pulled, since it is there
            with closing(iter(session)) as running:
                for result in running:
                    results.append(result)
                    answers += result.source == PULLED
                    if pulls and answers >= 2:
                        if pulled == pulls:
                            break
                        answers, pulled = 0, pulled + 1
                        urllib.request.urlopen(f"{url}/pull", timeout=5).close()
    return Run(results, skipped, time.monotonic() - begin)


def gaps(results: list[Result]) -> list[float]:
    """Return the pauses of a camera that was away and came back."""
    times = [result.elapsed_s for result in results]
    return [b - a for a, b in itertools.pairwise(times) if b - a > 1.5]


def add(table: Table, name: str, run: Run, cameras: tuple[str, ...] = CAMERAS) -> None:
    """Add a run's row."""
    results = [result for name in cameras for result in run.by_camera[name]]
    waited = sorted(result.waited_ms for result in results)
    table.add_row(
        name,
        f"{len(results) / run.seconds:.1f}",
        f"{run.share(cameras):.3f}",
        f"{statistics.fmean(result.frames for result in results):.1f}",
        f"{waited[len(waited) // 2]:.1f} / {waited[int(0.95 * len(waited))]:.1f} ms",
        f"{statistics.fmean(result.missed for result in results):.1%}",
    )


# --- the process that sends


@contextmanager
def sender(stream: Path) -> Iterator[str]:
    """Start the process that sends a video's pictures, and yield its address."""
    command = [sys.executable, "-m", "benchmarks.cameras", str(stream), "--send"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def send_pictures(stream: Path) -> None:
    """Send the stream's pictures to whoever asks, each camera from another place on."""
    pictures = []
    with VideoReader(stream) as video:
        for frame in video.timed():
            if len(pictures) / RATE <= frame.time_s:
                image = cv2.resize(frame.image, SIZE)
                pictures.append(
                    bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])
                )
            if len(pictures) >= _SECONDS_OF_PICTURES * RATE:
                break
    pulled = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/pull":
                pulled[0] += 1
                self.send_response(204)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
            self.end_headers()
            is_still = self.path == "/still"
            offset = 0 if is_still else int(self.path[1:]) * len(pictures) // len(CAMERAS)
            can_be_pulled, before = self.path == f"/{len(CAMERAS) - 1}", pulled[0]
            start = time.monotonic()
            try:
                for number in itertools.count():
                    if can_be_pulled and pulled[0] != before:
                        return
                    time.sleep(max(0.0, start + number / RATE - time.monotonic()))
                    jpeg = pictures[0 if is_still else (offset + number) % len(pictures)]
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(b"--frame\r\n" + head.encode() + jpeg + b"\r\n")
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
