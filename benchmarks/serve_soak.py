"""Does `ffn-edge serve` stay flat? An hour of four cameras, the page open, metrics each second.

    python -m benchmarks.serve_soak BUNDLE STREAM [--minutes 60]

Four cameras of 1280x720 at 15 frames a second show the pictures of STREAM, a video, as motion JPEG
over HTTP; the service is a process of its own, on ONNX Runtime, with clips of events, lines of
results and a broker that is away. Chromium, where there is one, has the page open. Target: as
`benchmarks.soak` has it, and every scrape of the metrics answered. Exit code 1: missed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from benchmarks.cameras import CAMERAS, sender
from benchmarks.machine import describe_machine
from benchmarks.soak import is_flat, watch

CONFIG = """
bundle = "{bundle}"
[http]
port = {port}
[limits]
latency_ms = 100
[engines]
backend = "onnxruntime"
[mqtt]
host = "127.0.0.1"
port = 9
[files]
events = "events.jsonl"
results = "results.jsonl"
[clips]
folder = "clips"
most_mb = 20
"""
PORT = 8793


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("stream", type=click.Path(path_type=Path))
@click.option("--minutes", default=60.0, show_default=True)
def main(bundle: Path, stream: Path, minutes: float) -> None:
    """Run, watch and print."""
    os.environ["no_proxy"] = "127.0.0.1"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as name, sender(stream) as url:
        folder = Path(name)
        text = CONFIG.format(bundle=bundle.absolute(), port=PORT)
        for number, camera in enumerate(CAMERAS):
            text += f'[[camera]]\nname = "{camera}"\nsource = "{url}/{number}"\n'
        (folder / "serve.toml").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "ffn_edge", "serve", str(folder / "serve.toml")]
        with (
            open(folder / "log", "w") as log,
            subprocess.Popen(command, stderr=log) as process,
        ):
            time.sleep(15)
            with scraping() as scrapes, page(folder):
                found = watch(process, minutes, console)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        if code:
            console.print((folder / "log").read_text()[-2000:], markup=False)
            sys.exit(f"FAIL: the service ended with {code}")
        results = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
        events = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        clips = list((folder / "clips").glob("*.mp4"))
        megabytes = sum(each.stat().st_size for each in clips) / 1e6
        late = statistics.fmean(json.loads(each)["missed"] for each in results)
    flat = is_flat(found, minutes, f"{len(results)} results, {len(events) // 2} events", console)
    console.print(
        f"{late:.1%} of the results late; {len(clips)} clips, {megabytes:.1f} MB; metrics: "
        f"{len(scrapes)} scrapes, the slowest {max(scrapes):.0f} ms, {scrapes.count(-1.0)} failed"
    )
    sys.exit(not flat or -1.0 in scrapes)


@contextmanager
def scraping() -> Iterator[list[float]]:
    """Ask for the metrics each second; yield how long each took, in ms, -1 where it failed."""
    took_ms: list[float] = []
    end = threading.Event()

    def scrape() -> None:
        while not end.wait(1.0):
            begin = time.monotonic()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).read()
                took_ms.append((time.monotonic() - begin) * 1e3)
            except OSError:
                took_ms.append(-1.0)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield took_ms
    finally:
        end.set()
        thread.join()


@contextmanager
def page(folder: Path) -> Iterator[None]:
    """Have the page open in a browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        yield
        return
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command = [chromium, *options, f"--user-data-dir={folder / 'browser'}"]
    with subprocess.Popen(
        [*command, f"http://127.0.0.1:{PORT}/"], stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
