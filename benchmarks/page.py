"""What the page weighs, how old its pictures are, and what it costs the device.

    python -m benchmarks.page [--seconds 20] [--chromium /usr/bin/chromium] [--shots FOLDER]

Four cameras of 1280x720 pixels and 15 pictures a second, all on this machine: the time of a picture
is drawn into it as 20 squares, and read from the page in a real browser (headless Chromium). An
age is from when the camera's frame was taken to when it is looked at in the page, every 50 ms; so
the time until the next picture counts. Targets: at most 300 ms for 95 of 100; at most 100 kB until
all cameras have a picture. The slow link, of 2 Mbit/s and 100 ms, is the browser's emulation.
`--shots` writes screenshots.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.media.picture import Image
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.output import Status
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed
from ffn_edge.runtime.serve.board import Board
from ffn_edge.runtime.serve.http import HttpServer, HttpSettings
from ffn_edge.runtime.stream.sources import Frame

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CAMERAS = ("front door", "yard", "workbench", "loading dock")
_CLASSES = ("wave", "fall", "pick up", "hand over", "push")
_FPS = 15
_BITS = 20
_SQUARE = 64
_HOP_S = 0.25
_SLOW = ((100, 2.0), "")  # ms and Mbit/s of a link, and no target

_READ_AGES = """async (seconds) => {
  const ages = [], until = performance.now() + seconds * 1000;
  while (performance.now() < until) {
    for (const canvas of document.querySelectorAll(".view canvas")) {
      if (canvas.width < 200) continue;
      const row = Math.round(canvas.height * (1 - 32 / 720)), step = canvas.width / 20;
      const pixels = canvas.getContext("2d").getImageData(0, row, canvas.width, 1).data;
      let sent = 0;
      for (let bit = 0; bit < 20; bit++) {
        if (pixels[4 * Math.round((bit + .5) * step)] > 128) sent += 2 ** bit;
      }
      ages.push((Date.now() - sent + 2 ** 20) % 2 ** 20);
    }
    await new Promise((done) => setTimeout(done, 50));
  }
  return ages;
}"""

_NOTE_PICTURES = """new MutationObserver(() => {
  const all = [...document.querySelectorAll(".view canvas")];
  if (all.length && all.every((each) => each.width !== 300)) window.seenAt ||= performance.now();
}).observe(document, { subtree: true, attributes: true });"""
_COUNT_BYTES = """[...performance.getEntriesByType("resource"),
  ...performance.getEntriesByType("navigation")].reduce((sum, each) =>
  sum + (each.responseEnd <= window.seenAt ? each.transferSize : 0), 0)"""

# What a page asks for, in a process of its own: its cost is not the device's.
_WATCHER = """
import http.client, sys, threading, time
port, watchers, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
def stream():
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    while answer.read1(65536): pass
def pictures():
    connection = http.client.HTTPConnection("127.0.0.1", port)
    seen = [0] * 4
    while True:
        began = time.monotonic()
        connection.request("GET", "/pictures?" + "&".join(f"{i}={n}" for i, n in enumerate(seen)))
        data = connection.getresponse().read()
        while data:
            index, number, size = (int.from_bytes(data[at:at + 4], "big") for at in (0, 4, 8))
            seen[index], data = number, data[12 + size:]
        time.sleep(max(0.0, began + 0.09 - time.monotonic()))
for each in (stream, pictures) * watchers:
    threading.Thread(target=each, daemon=True).start()
time.sleep(seconds)
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    table = Table(title="the page, four cameras of 1280x720 at 15 a second")
    for heading in ("", "measured", "target"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("an answer, told to the board", f"{answer_us():.1f} µs", "")
    table.add_row("a frame, told to the board", f"{frame_us():.1f} µs", "")
    for watchers in (0, 1, 4):
        with served() as server:
            share = processor_share(server, watchers, arguments.seconds)
        table.add_row(f"processor, {watchers} watchers", f"{share:.1%} of a core", "")
    with served() as server, chromium(arguments.chromium) as browser:
        first = max(first_view(browser, server.url) for _ in range(5))
        table.add_row("first view, the most of 5", f"{first / 1e3:.0f} kB", "100 kB")
        for link, target in (((), "300 ms"), _SLOW):
            ages = picture_ages(browser, server.url, arguments.seconds, link)
            middle, high = np.quantile(ages, (0.5, 0.95))
            name = "age of the picture" + (", slow link" if link else "")
            table.add_row(f"{name}, median", f"{middle:.0f} ms", "")
            table.add_row(f"{name}, 95 of 100", f"{high:.0f} ms", target)
        if arguments.shots:
            take_shots(browser, server.url, arguments.shots)
    console.print(table)


def answer(
    source: str,
    class_name: str = "wave",
    *,
    frames: int = 8,
    latency_ms: float = 31.0,
    probability: float = 0.9,
    sensed: Sensed | None = None,
    limits: Limits | None = None,
    reason: str = "the most accurate that keeps the deadline",
    warning: str | None = None,
) -> Result:
    """Return an answer as an inference gives it."""
    rejected = {
        4: "less accurate than 8",
        16: "predicted to take 96 ms with a chance of 5 %, more than 80 ms",
    }
    rejected.pop(frames, None)
    limits = limits or Limits(latency_ms=80, power_w=12)
    return Result(
        time_s=2.0,
        elapsed_s=2.0,
        source=source,
        decision=Decision(frames=frames, reason=reason, rejected=rejected, warning=warning),
        observation=Observation(
            frames=frames,
            latency_ms=latency_ms,
            now=0.0,
            limits=limits,
            sensed=sensed or Sensed(power_w=9.4, temperature_c=58.0),
        ),
        engine_ms=latency_ms,
        device_ms=None,
        overhead_ms=0.5,
        top=(Prediction(class_name, probability), Prediction("nothing", 1 - probability)),
        precision="fp32",
        covers_s=2.0,
    )


def event(number: int, source: str, class_name: str, began_at: float, lasted_s: float) -> Event:
    """Return an event that has ended."""
    return Event(
        id=f"{source}-{number}",
        source=source,
        class_name=class_name,
        start_s=0.0,
        end_s=lasted_s,
        confidence=0.86,
        peak=0.97,
        peak_s=lasted_s / 2,
        began_at=began_at,
    )


def answer_us() -> float:
    """Return what an answer costs the thread that infers."""
    board = Board(CAMERAS)
    answers = [answer(name) for name in CAMERAS]

    def tell() -> None:
        for each in answers:
            board.result(each)

    return _fastest_us(tell) / len(answers)


def frame_us() -> float:
    """Return what a frame costs its camera's thread, where somebody watches."""
    board, stream = Board(CAMERAS), _stream(CAMERAS[0])
    frame = Frame(np.zeros((720, 1280, 3), np.uint8), 0.0)
    board.frame(frame, stream)
    board.pictures({0: 0}, wait_s=0.0)
    return _fastest_us(lambda: board.frame(frame, stream))


def _fastest_us(act: Callable[[], None]) -> float:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(500):
            act()
        times.append((time.perf_counter() - began) / 500 * 1e6)
    return min(times)


@contextmanager
def served() -> Iterator[HttpServer]:
    """Serve a board of four cameras that move, answer and see events."""
    statuses = (
        Status(name="mqtt", sent=214),
        Status(name="webhook", sent=31, waiting=4, fault="the other end does not answer"),
        Status(name="files", sent=245),
    )
    ago_s = [0.0]
    board = Board(CAMERAS, lambda: statuses, clock=lambda: time.time() - ago_s[0])
    stop = threading.Event()
    films = [_draw_film(index) for index in range(len(CAMERAS))]
    threads = [
        threading.Thread(target=_play, args=(board, name, film, stop))
        for name, film in zip(CAMERAS, films, strict=True)
    ]
    _fill(board, ago_s)
    threads.append(threading.Thread(target=_answer, args=(board, stop)))
    with ExitStack() as stack:
        server = stack.enter_context(HttpServer(HttpSettings(port=0), board))
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        yield server


@dataclass
class _Named:
    name: str


def _stream(name: str) -> Any:
    return _Named(name)


def _draw_film(index: int) -> list[Image]:
    # As much detail as a furnished room has: it is the pictures that weigh.
    noise = np.random.default_rng(index).integers(0, 44, (180, 320, 1), np.uint8)
    noise = np.repeat(cv2.resize(noise, (1280, 720))[:, :, None], 3, axis=2)
    phases = np.linspace(0, 2 * math.pi, 30, endpoint=False)
    return [np.asarray(cv2.add(_scene(index, phase), noise), np.uint8) for phase in phases]


def _play(board: Board, name: str, scenes: list[Image], stop: threading.Event) -> None:
    stream, start = _stream(name), time.monotonic() + CAMERAS.index(name) / 60
    number = 0
    while not stop.wait(max(0.0, start + number / _FPS - time.monotonic())):
        number += 1
        image = scenes[number % len(scenes)].copy()
        bits = int(time.time() * 1e3) % (1 << _BITS) >> np.arange(_BITS) & 1
        image[-_SQUARE:] = np.repeat(bits.astype(np.uint8) * 255, _SQUARE)[None, :, None]
        board.frame(Frame(image, number / _FPS), stream)


def _scene(index: int, phase: float) -> Image:
    """Draw a room with somebody who waves."""
    rows = np.linspace(0.35, 1.0, 720)[:, None, None]
    wall = np.array([(120, 96, 70), (80, 110, 84), (84, 92, 128), (112, 100, 96)][index])
    image: Image = np.ascontiguousarray(np.broadcast_to(wall * rows, (720, 1280, 3)), np.uint8)
    image[520:] = image[520:] // 2
    across = 640 + round(220 * math.sin(phase + index))
    cv2.circle(image, (across, 230), 60, (172, 190, 216), -1, cv2.LINE_AA)
    cv2.rectangle(image, (across - 60, 300), (across + 60, 540), (150, 120, 60), -1)
    hand = (across + 150, 240 + round(90 * math.sin(2 * phase)))
    cv2.line(image, (across + 50, 330), hand, (150, 120, 60), 34, cv2.LINE_AA)
    return image


def _fill(board: Board, ago_s: list[float]) -> None:
    """Answer for the ten minutes before now."""
    chance = random.Random(0)
    began = time.time() - 598
    for name in CAMERAS:
        at = began + chance.uniform(0, 60)
        for number in range(8):
            lasted_s = chance.uniform(1.5, 24)
            board.event(event(number, name, chance.choice(_CLASSES), at, lasted_s))
            at += lasted_s + chance.uniform(15, 80)
            if at > time.time() - 30:
                break
    ongoing = event(99, CAMERAS[0], "wave", time.time() - 6, 0.0)
    board.event(replace(ongoing, end_s=None))
    for number, late_s in enumerate(np.arange(590.0, 0.0, -_HOP_S / len(CAMERAS))):
        ago_s[0] = late_s
        _answer_once(board, number, chance)
    ago_s[0] = 0.0


def _answer(board: Board, stop: threading.Event) -> None:
    chance, number = random.Random(1), 0
    while not stop.wait(_HOP_S / len(CAMERAS)):
        number += 1
        if CAMERAS[number % len(CAMERAS)] == CAMERAS[-1]:
            board.still(CAMERAS[-1], number * _HOP_S)
        else:
            _answer_once(board, number, chance)


def _answer_once(board: Board, number: int, chance: random.Random) -> None:
    """Answer for one camera, as a device that grows warm and is pressed now and then."""
    phase = number / 400
    pressed = 30 if number % 4800 in range(2400, 2700) else 0
    latency_ms = (8, 12, 4, 8)[number % len(CAMERAS)] * 4.2 + chance.uniform(0, 6) + pressed
    watts = 9.6 + 1.5 * math.sin(phase) + chance.uniform(0, 0.6) + pressed / 25
    sensed = Sensed(power_w=watts, temperature_c=58 + 3 * math.sin(phase / 4))
    board.result(
        answer(
            CAMERAS[number % len(CAMERAS)],
            ("wave", "nothing", "pick up", "nothing")[number % len(CAMERAS)],
            frames=(8, 8, 4, 8)[number % len(CAMERAS)] + (8 if math.sin(phase) > 0.8 else 0),
            latency_ms=latency_ms,
            probability=chance.uniform(0.85, 0.97),
            sensed=sensed,
        )
    )


def processor_share(server: HttpServer, watchers: int, seconds: float) -> float:
    """Return how much of a core this process uses while some watch."""
    port = server.url.rsplit(":", 1)[1].strip("/")
    command = [sys.executable, "-c", _WATCHER, port, str(watchers), str(seconds + 4)]
    with subprocess.Popen(command) as process:
        time.sleep(3)
        began, used = time.monotonic(), time.process_time()
        time.sleep(seconds)
        share = (time.process_time() - used) / (time.monotonic() - began)
        process.terminate()
    return share


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright  # tests of the board use this file without it

    with sync_playwright() as playwright:
        # A page of this machine needs no proxy.
        arguments = ["--no-sandbox", "--no-proxy-server"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def first_view(browser: Browser, url: str) -> int:
    """Return the bytes that came until every camera had a picture."""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    streamed: list[int] = []  # an answer without an end is in no list of the page's own
    streams = set[str]()
    session.on(
        "Network.requestWillBeSent",
        lambda each: streams.add(each["requestId"]) if each["type"] == "EventSource" else None,
    )
    session.on(
        "Network.dataReceived",
        lambda each: streamed.append(each["dataLength"]) if each["requestId"] in streams else None,
    )
    page.add_init_script(_NOTE_PICTURES)
    page.goto(url)
    wait_for_pictures(page)
    total = sum(streamed) + int(page.evaluate(_COUNT_BYTES))
    page.close()
    return total


def wait_for_pictures(page: Page) -> None:
    """Wait until every camera shows one."""
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.view canvas')];"
        " return all.length && all.every((each) => each.width !== 300); }"
    )


def picture_ages(
    browser: Browser, url: str, seconds: float, link: Sequence[float]
) -> Sequence[float]:
    """Return the ages of what the page shows, in ms, over a link of so many ms and Mbit/s."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    if link:
        session = page.context.new_cdp_session(page)
        rate = link[1] * 1e6 / 8
        conditions = {"latency": link[0], "downloadThroughput": rate, "uploadThroughput": rate}
        session.send("Network.emulateNetworkConditions", {"offline": False, **conditions})
    page.goto(url)
    wait_for_pictures(page)
    page.wait_for_timeout(6000)  # until it asks for large ones
    ages: list[float] = page.evaluate(_READ_AGES, seconds)
    page.close()
    return ages


def take_shots(browser: Browser, url: str, folder: Path) -> None:
    """Write what the page looks like."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"desktop": (1280, 800), "phone": (390, 844)}
    wholes = {"desktop-whole": (1280, 1500), "phone-whole": (390, 3000)}
    for name, (width, height) in (sizes | wholes).items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(url)
            page.wait_for_timeout(5000)
            page.screenshot(path=folder / f"{name}-{scheme}.png")
            context.close()


if __name__ == "__main__":
    main()
