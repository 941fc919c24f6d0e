"""How old the newest frame of a camera is where handling is slow, and what the clip buffer costs.

    python -m benchmarks.live [--seconds 10] [--rate 30] [--handling-ms 60]

A camera on this machine sends numbered pictures as motion JPEG over HTTP. Target: the newest frame
is never older than one handling and one frame; for comparison, the same where each frame is handled
in its turn. The buffer holds 224x224 frames of two seconds at 25 a second. Target: gathering a clip
takes no longer where the camera is faster than it states.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.errors import VideoError
from ffn_edge.runtime.stream.clip_buffer import ClipBuffer, HostRing, window_capacity
from ffn_edge.runtime.stream.live_reader import live_readers
from ffn_edge.runtime.stream.sources import CameraStream, Frame

_BITS = 12  # of a picture's number, each as a block of 16 x 16 pixels
_BLOCK = 16


class Taker:
    """Takes frames as `Session` does, and then handles each for a while."""

    def __init__(self, sent_s: list[list[float]], handling_s: float) -> None:
        self.ages_s: list[float] = []  # of the newest frame, just before a newer one is taken
        self._sent_s = sent_s
        self._handling_s = handling_s
        self._newest: int | None = None

    def __call__(self, frame: Frame) -> None:
        """Take a frame."""
        if self._newest is not None:
            self.ages_s.append(time.monotonic() - self._sent_s[-1][self._newest])
        blocks = frame.image[_BLOCK // 2, _BLOCK // 2 :: _BLOCK, 0] > 128
        self._newest = int(blocks.dot(1 << np.arange(_BITS)))
        time.sleep(self._handling_s)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument("--handling-ms", type=float, default=60.0)
    arguments = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"  # FFmpeg would ask one
    console = Console()
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    console.print(ages(arguments.seconds, arguments.rate, arguments.handling_ms / 1e3))
    console.print(buffers())


@contextmanager
def camera(pictures: Iterable[bytes], rate: float) -> Iterator[tuple[str, list[list[float]]]]:
    """Run a camera of JPEG pictures; yield its URL, and for each client when each was sent."""
    sent_s: list[list[float]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
            self.end_headers()
            to_client: list[float] = []
            sent_s.append(to_client)
            start = time.monotonic()
            try:
                for number, jpeg in enumerate(pictures):
                    time.sleep(max(0.0, start + number / rate - time.monotonic()))
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    to_client.append(time.monotonic())
                    self.wfile.write(b"--frame\r\n" + head.encode() + jpeg + b"\r\n")
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/camera", sent_s
        server.shutdown()


def picture(number: int) -> bytes:
    """Return a JPEG that shows a number."""
    bits = number >> np.arange(_BITS) & 1
    row = np.repeat(bits.astype(np.uint8) * 255, _BLOCK)
    return bytes(cv2.imencode(".jpg", np.broadcast_to(row[None, :, None], (32, len(row), 3)))[1])


def ages(seconds: float, rate: float, handling_s: float) -> Table:
    """Let the newest frame age, with the reader's two threads and with one loop."""
    table = Table(
        title=f"age of the newest frame, {rate:g} frames a second, {handling_s * 1e3:.0f} ms each"
    )
    for heading in ("", "mean", "95 %", "most", "dropped"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, watch in (("the newest first", watch_newest), ("each in its turn", watch_all)):
        pictures = [picture(n) for n in range(min(1 << _BITS, int(rate * (seconds + 5))))]
        with camera(pictures, rate) as (url, sent_s):
            taker = Taker(sent_s, handling_s)
            dropped = watch(CameraStream(url), taker, seconds)
        # Without the first second, which begins with what came while the camera was opened.
        newest = taker.ages_s[int(len(taker.ages_s) / seconds) :]
        figures = statistics.mean(newest), float(np.quantile(newest, 0.95)), max(newest)
        table.add_row(label, *(f"{age_s * 1e3:.0f} ms" for age_s in figures), dropped)
    most_s = handling_s + 1 / rate
    table.caption = f"target: at most {most_s * 1e3:.0f} ms, and the way from camera to decoder"
    return table


def watch_newest(stream: CameraStream, take: Callable[[Frame], None], seconds: float) -> str:
    """Watch as `ffn-edge run` does; return the share of the frames that was dropped."""
    until = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() > until

    with closing(live_readers(stream, take, is_over)) as readers:
        for reader in readers:
            reader.start()
            while reader.wait(float("inf"), is_over):
                pass
    return f"{reader.dropped / reader.received:.0%}"


def watch_all(stream: CameraStream, take: Callable[[Frame], None], seconds: float) -> str:
    """Handle every frame where it is read."""
    until = time.monotonic() + seconds
    with stream:
        try:
            for frame in stream:
                take(frame)
                if time.monotonic() > until:
                    break
        except VideoError:  # it sent all it has
            pass
    return "0%"


def buffers() -> Table:
    """Time the buffer at the stated rate and above."""
    stated, window_s, size = 25.0, 2.0, 224
    frame = np.zeros((size, size, 3), np.uint8)
    table = Table(title="the clip buffer, 16 of 50 frames of 224x224")
    for heading in ("frames a second", "append", "gather"):
        table.add_column(heading, justify="right")
    for rate in (stated, 2.4 * stated):
        ring = HostRing(window_capacity(window_s, stated), 16, size, size)
        buffer = ClipBuffer(ring, window_s=window_s, fps=stated)
        appended, gathered = [], []
        for number in range(2000):
            start = time.perf_counter()
            buffer.append(frame, number / rate)
            middle = time.perf_counter()
            buffer.gather(16)
            appended.append(middle - start)
            gathered.append(time.perf_counter() - middle)
        table.add_row(
            f"{rate:g}", *(f"{statistics.median(s) * 1e6:.0f} µs" for s in (appended, gathered))
        )
    return table


if __name__ == "__main__":
    main()
