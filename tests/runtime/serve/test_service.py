"""The service as a process: started, asked, told to read again, given a new bundle, and ended."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ffn_edge.bundle.bundle import MANIFEST, Bundle
from ffn_edge.runtime.cascade.calibration import CALIBRATION

PROGRAM = "import sys; from ffn_edge.cli import main; sys.exit(main())"


class Service:
    """A running `ffn-edge serve`, with what it tells systemd and writes to its log."""

    def __init__(self, process: subprocess.Popen[str], told: socket.socket, url: str) -> None:
        self.process = process
        self.url = url
        self._told = told
        self.log: list[dict[str, Any]] = []
        self._heard = 0  # lines of it
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))

    def told(self, what: str) -> None:
        """Wait until it tells systemd something."""
        until(lambda: what in self._told.recv(4096).decode(), 60)

    def get(self, path: str) -> str:
        """Ask it over HTTP."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def says(self, words: str) -> None:
        """Wait for a line of its log, after the one that was waited for last."""

        def said() -> bool:
            for number, line in enumerate(self.log[self._heard :], start=self._heard + 1):
                if words in line["message"]:
                    self._heard = number
                    return True
            return False

        try:
            until(said)
        except AssertionError as error:
            raise AssertionError(f"it did not say {words}: {self.log}") from error


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


Run = Callable[..., Any]


@pytest.fixture
def run(bundle: Bundle, write_video: Callable[..., Path], tmp_path: Path) -> Callable[[str], Any]:
    """Return what starts the service with lines of TOML after the bundle and the page's port."""
    write_video("red.mp4", ["red"] * 12 + ["blue"] * 12)
    write_video("green.mp4", ["green"] * 20)

    @contextmanager
    def start(text: str, folder: Path = bundle.path) -> Iterator[Service]:
        port = free_port()
        config = tmp_path / "serve.toml"
        config.write_text(f'bundle = "{folder}"\n{text}\n[http]\nport = {port}\n', encoding="utf-8")
        (tmp_path / "notify").unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with (
            listening,
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "serve", str(config)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            try:
                yield Service(process, listening, f"http://127.0.0.1:{port}")
            finally:
                process.kill()

    return start


CAMERAS = """
[engines]
backend = "onnxruntime"
threads = 1
[files]
events = "events.jsonl"
results = "results.jsonl"
[events]
onset = 0.5
[[camera]]
name = "red & blue"
source = "red.mp4"
window_s = 0.4
hop_s = 0.1
loop = true
"""
SECOND = """
[[camera]]
name = "green"
source = "green.mp4"
window_s = 0.4
hop_s = 0.1
loop = true
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count(path: Path, camera: str) -> int:
    if not path.exists():
        return 0
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return sum(json.loads(line)["source"] == camera for line in whole.splitlines())


def test_it_runs_is_asked_reads_again_and_ends(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    with run(CAMERAS) as service:
        service.says("page")
        service.process.send_signal(signal.SIGHUP)  # too early is no end
        service.told("READY=1")
        until(lambda: count(results, "red & blue") > 10)
        assert json.loads(service.get("/healthz"))
        metrics = service.get("/metrics")
        assert 'camera="red & blue"' in metrics
        assert "<html" in service.get("/")

        config = tmp_path / "serve.toml"
        before = config.read_text(encoding="utf-8")
        config.write_text("[[camera", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        service.says("nothing was changed")
        at_error = count(results, "red & blue")
        until(lambda: count(results, "red & blue") > at_error)

        config.write_text(before + SECOND + "[limits]\nlatency_ms = 500\n", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        service.says("again")
        until(lambda: count(results, "green") > 5)

        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=20) == 0
    times = [r["time_s"] for r in lines(results) if r["source"] == "red & blue"]
    assert times == sorted(times)
    assert max(b - a for a, b in itertools.pairwise(times)) < 1.0  # none was lost
    events = lines(tmp_path / "events.jsonl")
    assert {event["class"] for event in events} >= {"red", "blue"}
    begun = [event["id"] for event in events if event["end_s"] is None]
    assert len(begun) == len(set(begun))


def test_what_went_on_when_it_was_killed_is_ended_by_the_next_run(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with run(CAMERAS.replace("red.mp4", "green.mp4")) as service:
        until(lambda: events.exists() and "null" in events.read_text(encoding="utf-8"))
        until((tmp_path / "state" / "open_events.json").exists)
        service.process.kill()
        service.process.wait(timeout=20)
    with run(CAMERAS.replace("red.mp4", "green.mp4")) as service:
        service.told("READY=1")
        service.process.terminate()
        assert service.process.wait(timeout=20) == 0
    found = lines(events)
    begun = {each["id"] for each in found if each["end_s"] is None}
    ended = {each["id"] for each in found if each["end_s"] is not None}
    assert begun == ended


def test_a_new_bundle_takes_over_and_a_broken_one_does_not(
    run: Run, exported: Bundle, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    running = Path(shutil.copytree(exported.path, tmp_path / "running"))
    with run(CAMERAS, running) as service:
        service.told("READY=1")
        until(lambda: count(results, "red & blue") > 5)
        broken = Path(shutil.copytree(running, tmp_path / "broken"))
        (broken / "weights.safetensors").write_bytes(b"\0" * 100)
        replace(running, broken)
        service.says("refused")
        of_another = Path(shutil.copytree(exported.path, tmp_path / "of_another"))
        produced_by(of_another, "a third hand")
        (of_another / CALIBRATION).write_text("{}", encoding="utf-8")
        replace(running, of_another)
        service.says("refused")
        newer = Path(shutil.copytree(exported.path, tmp_path / "newer"))
        produced_by(newer, "another hand")
        replace(running, newer)
        service.says("takes over")
        then = count(results, "red & blue")
        service.says("is closed")
        assert count(results, "red & blue") > then
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(timeout=20) == 0
    times = [r["time_s"] for r in lines(results)]
    assert max(b - a for a, b in itertools.pairwise(times)) < 1.0  # no window was lost


def produced_by(folder: Path, producer: str) -> None:
    """Make another bundle of one."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["producer"] = producer
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def replace(target: Path, new: Path) -> None:
    """Put a folder in place of another."""
    number = len(list(target.parent.glob("before-*")))
    target.rename(target.parent / f"before-{number}")
    new.rename(target)


def test_what_cannot_be_used_is_told_in_one_line_and_nothing_starts(
    run: Run, bundle: Bundle, tmp_path: Path
) -> None:
    with run(CAMERAS + SECOND.replace('"green"', '"red & blue"')) as service:
        service.says("line")
        assert service.process.wait(timeout=30) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "serve.toml"
        text = f'bundle = "{bundle.path}"\n{CAMERAS}\n[http]\nport = {port}\n'
        config.write_text(text, encoding="utf-8")
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, "serve", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert str(port) in found.stderr
    assert not (tmp_path / "results.jsonl").exists()
