"""Does the memory of `ffn-edge run` stay flat? An hour of a live camera, without a power meter.

    python -m benchmarks.soak [--minutes 60] [--rate 15]

A camera on this machine sends pictures as motion JPEG over HTTP, without an end. The run is a
process of its own, on a small bundle in ONNX Runtime, and looks for sensors in an empty folder.
Every five seconds its resident memory, its threads and its open files are read. The slope is that
of a straight line through the memory after the first tenth of the time, at least one minute.
Target: at most 20 kB a minute (28 MB a day), no thread and no file more. Half a megabyte in all is
what an allocator may take in one step, and no slope. Exit code 1: missed.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from benchmarks.live import camera, picture
from benchmarks.machine import describe_machine
from benchmarks.samples import card, small_network
from ffn_edge.export.bundle_writer import export_bundle

MOST_KB_A_MINUTE = 20.0
_STEP_KB = 512
_EVERY_S = 5.0


@dataclass(frozen=True)
class Sample:
    """What a process held at a time."""

    time_s: float
    rss_kb: int
    threads: int
    files: int


def sample(pid: int, time_s: float) -> Sample:
    """Read what a process holds.

    Raises:
        OSError: it is gone.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Sample(
        time_s,
        int(fields["VmRSS"].split()[0]),
        int(fields["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),
    )


def slope_kb_a_minute(samples: list[Sample]) -> float:
    """Return the slope of the straight line through the samples' memory."""
    minutes = np.array([each.time_s for each in samples]) / 60
    slope: float = np.polyfit(minutes, [each.rss_kb for each in samples], 1)[0]
    return slope


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--rate", default=15.0, show_default=True, help="Frames a second.")
def main(minutes: float, rate: float) -> None:
    """Run, watch and print."""
    os.environ["no_proxy"] = "127.0.0.1"  # FFmpeg would ask one
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    pictures = itertools.cycle([picture(number) for number in range(64)])  # without an end
    with tempfile.TemporaryDirectory() as name, camera(pictures, rate) as (url, _):
        folder = Path(name)
        (folder / "no-sensors").mkdir()
        export_bundle(small_network(), card(), folder / "bundle")
        command = [
            sys.executable, "-m", "ffn_edge", "run", str(folder / "bundle"), "--source", url,
            "--backend", "onnxruntime", "--threads", "1", "--hop", "0.1", "--window", "1",
            "--latency-ms", "50", "--root", str(folder / "no-sensors"), "--json",
        ]  # fmt: skip
        with (
            open(folder / "lines", "w") as lines,
            open(folder / "errors", "w") as errors,
            subprocess.Popen(command, stdout=lines, stderr=errors) as process,
        ):
            found = watch(process, minutes, console)
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        count = len((folder / "lines").read_text().splitlines())
        if code or count < 2:
            console.print((folder / "errors").read_text()[-2000:], markup=False)
            sys.exit(f"FAIL: the run ended with {code} after {count} lines")
    sys.exit(not is_flat(found, minutes, f"{count} answers", console))


def is_flat(found: list[Sample], minutes: float, of_what: str, console: Console) -> bool:
    """Say what the samples of so many minutes come to, and whether that is the target."""
    warm = [each for each in found if each.time_s >= max(60.0, 6 * minutes)]
    if len(warm) < 3:
        sys.exit("too short for a slope: --minutes 2 is the least")
    first, last = warm[0], warm[-1]
    slope = slope_kb_a_minute(warm)
    # Visitors of a page come and go: the most of each tenth at either end.
    tenth = max(len(warm) // 10, 1)
    threads, files = (
        [max(getattr(each, what) for each in part) for part in (warm[:tenth], warm[-tenth:])]
        for what in ("threads", "files")
    )
    console.print(
        f"{(last.time_s - first.time_s) / 60:.1f} minutes after {first.time_s:.0f} s of warming "
        f"up, {of_what}: {first.rss_kb} to {last.rss_kb} kB, {slope:+.1f} kB a minute; "
        f"{threads[0]} to {threads[1]} threads, {files[0]} to {files[1]} files"
    )
    flat = slope <= MOST_KB_A_MINUTE or last.rss_kb - first.rss_kb <= _STEP_KB
    held = threads[1] <= threads[0] and files[1] <= files[0]
    console.print("PASS" if flat and held else f"FAIL: at most {MOST_KB_A_MINUTE} kB a minute")
    return flat and held


def watch(process: subprocess.Popen[bytes], minutes: float, console: Console) -> list[Sample]:
    """Sample a process until the time is over, or it is."""
    start = time.monotonic()
    found: list[Sample] = []
    while (now := time.monotonic() - start) < 60 * minutes and process.poll() is None:
        found.append(sample(process.pid, now))
        if len(found) % 60 == 0:
            newest = found[-1]
            console.print(
                f"{now / 60:.0f} min: {newest.rss_kb} kB, {newest.threads} threads, "
                f"{newest.files} files"
            )
        time.sleep(_EVERY_S)
    return found


if __name__ == "__main__":
    main()
