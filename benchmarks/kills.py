"""Kill −9 in the midst of writing: is what stood there whole, and nothing left after the next run?

    python -m benchmarks.kills [--moments 200] [--seed 0]    # by the clock
    python -m benchmarks.kills --calls                       # before and after each such call

Work that writes is done in a child process over what stood there before, and killed: at random
moments of the time from its first file to its end, every fourth in its last fifth, where files are
renamed; or before and after every call of the system that makes, moves, flushes or removes a file.
Then what is there is read: it is the old, or the new. The same work is done once more, undisturbed:
the result is the new, the folder holds no file that it would not hold without the kill, and no
process of the killed one is left. Target: no fault. Exit code 1: there was one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.samples import card, small_network
from ffn_edge import network as ffn
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import render_clips
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import is_installed
from ffn_edge.errors import FfnEdgeError
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.runtime.engines.engine import cpu_backend
from ffn_edge.runtime.profile.profile import Latency, load_profile, save_profile
from ffn_edge.train.loop import train
from ffn_edge.train.recipe import Recipe

CALLS = ("open", "mkdir", "replace", "rename", "fsync", "unlink", "rmdir", "link", "chmod")
_PATIENCE_S = 10.0  # until a process without a parent is to be gone


@dataclass(frozen=True)
class Work:
    """Work that writes into a folder.

    Attributes:
        name: of the work.
        prepare: puts there what stood there before.
        work: what is killed.
        state: says in a word what is there, as a user of it would find out; an FfnEdgeError is
            something broken.
        between: whether a state that is neither the old nor the new is one, as of training.
    """

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[Path], object]
    state: Callable[[Path], str]
    between: bool = False


def works(shared: Path) -> list[Work]:
    """Return all kinds of work; `shared` has what they read."""
    recipe = Recipe(
        architecture="tsm_tiny", dataset="custom", frame_counts=(2, 4), size=32, short_side=32,
        train_list=str(shared / "list.txt"), val_list=str(shared / "list.txt"),
        classes=str(shared / "classes.txt"), epochs=2, batch_size=4, precision="fp32",
        checkpoint_minutes=0.0,
    )  # fmt: skip

    def learn(folder: Path, workers: int = 0) -> None:
        run = folder / "run"
        resume = (run / "last.pt").is_file()
        train(recipe, run, resume=resume, device="cpu", workers=workers)

    def small(seed: int, folder: Path) -> None:
        export_bundle(small_network(seed=seed), card(), folder / "bundle", frame_counts=(4,))

    kinds = [
        Work("export", lambda f: small(0, f), lambda f: small(1, f), _bundle),
        Work(
            "export --into",
            lambda f: small(0, f),
            lambda f: update_bundle(small_network(), card(), f / "bundle", (12,)),
            _served,
        ),
        Work("checkpoint", lambda f: _save(0, f), lambda f: _save(1, f), _checkpoint),
        Work("profile", lambda f: _profile(1.0, f), lambda f: _profile(2.0, f), _latency),
        Work("video", lambda f: _video(0, f), lambda f: _video(1, f), _frames),
        Work(
            "clips",
            lambda f: None,
            lambda f: render_clips(f / "clips", train=4, val=2, test=2, workers=1),
            _clips,
        ),
        Work("training", lambda f: None, learn, _run, between=True),
        Work("training, loader", lambda f: None, lambda f: learn(f, 1), _run, between=True),
    ]
    if is_installed("rtx"):
        kinds.append(Work("build", lambda f: small(0, f), _build, _plans, between=True))
    return kinds


def _bundle(folder: Path) -> str:
    return Bundle.load(folder / "bundle").identity


def _served(folder: Path) -> str:
    """What is served; the files of a frame count that is replaced have other names."""
    subs = Bundle.load(folder / "bundle").manifest.sub_networks
    return str({frames: sub.composed_sha256 for frames, sub in subs.items()})


def _save(seed: int, folder: Path) -> None:
    torch.manual_seed(seed)
    names = ModelCard(classes=("a", "b"), size=16, short_side=16)
    network = ffn.build("tsm_tiny", 2, (4, 8))
    for _ in range(3):
        save_checkpoint(folder / "a.pt", network, names)


def _checkpoint(folder: Path) -> str:
    state = load_checkpoint(folder / "a.pt").network.state_dict()
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _profile(ms: float, folder: Path) -> None:
    if not (folder / "bundle").exists():
        export_bundle(small_network(), card(), folder / "bundle", frame_counts=(4, 8))
    bundle = Bundle.load(folder / "bundle")
    for _ in range(20):
        save_profile(bundle, cpu_backend(1), {"fp32": {4: Latency((ms,)), 8: Latency((2 * ms,))}})


def _latency(folder: Path) -> str:
    profile = load_profile(folder / "bundle")
    return "none" if profile is None else str(profile.latencies["fp32"][4].median_ms)


def _video(seed: int, folder: Path) -> None:
    rng = np.random.default_rng(seed)
    with VideoWriter(folder / "a.mp4", 10, 64, 64) as writer:
        for _ in range(60):
            writer.write(rng.integers(0, 256, (64, 64, 3), np.uint8))


def _frames(folder: Path) -> str:
    with VideoReader(folder / "a.mp4", threads=1) as reader:
        digest = hashlib.sha256(b"".join(image.tobytes() for image in reader))
    return digest.hexdigest()


def _clips(folder: Path) -> str:
    clips = folder / "clips"
    if not clips.exists():
        return "none"
    files = sorted(each for each in clips.rglob("*") if each.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(clips)).encode() + file.read_bytes())
    return digest.hexdigest()


def _run(folder: Path) -> str:
    found = []
    for name in ("last.pt", "best.pt"):
        path = folder / "run" / name
        if path.is_file():
            training = load_checkpoint(path).training
            found.append(f"{name} {training['step'] if training else 'alone'}")
    return ", ".join(found)


def _build(folder: Path) -> None:
    options = BuildOptions(target="rtx", precision="fp32")
    build_plans(Bundle.load(folder / "bundle"), PlanCache(folder / "cache"), options)


def _plans(folder: Path) -> str:
    """Return the frame counts of the plans; one that is there and not whole is refused."""
    cache = PlanCache(folder / "cache")
    found = []
    for sidecar in cache.sidecars():
        if cache.find(sidecar.key) is not None:
            found.append(str(sidecar.key.frames))
    return ", ".join(found)


def _shared(folder: Path) -> None:
    """Write the data that trainings read."""
    rng = np.random.default_rng(0)
    for index in range(8):
        with VideoWriter(folder / f"{index}.mp4", 10, 32, 32) as writer:
            for frame in rng.integers(0, 256, (8, 32, 32, 3), np.uint8):
                writer.write(frame)
    (folder / "list.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(8)))
    (folder / "classes.txt").write_text("dark\nbright\n")


# Children.


def start(
    function: Callable[[], object], said: Path, on_call: Callable[[int], None] | None = None
) -> int:
    """Call a function in a child with a session of its own; return its process id.

    What it returns, or the error that it raises, is written to the file `said`. The function has
    begun to write, or is over, when this returns.

    Args:
        function: to call.
        said: a file.
        on_call: is called in the child before the n-th of `CALLS` with 2n, after it with 2n + 1.
    """
    begun, begins = os.pipe()
    pid = os.fork()
    if pid:
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
        return pid
    code = 1
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)

        def watch(at: int) -> None:
            if at == 0:
                os.write(begins, b"x")
            if on_call is not None:
                on_call(at)

        _watch_calls(watch)
        try:
            text, code = str(function()), 0
        except FfnEdgeError as error:
            text = f"{type(error).__name__}: {error.message}"
        except BaseException as error:
            text = f"a traceback: {type(error).__name__}: {error}"
        said.write_text(text)
    finally:
        os._exit(code)


def _watch_calls(watch: Callable[[int], None]) -> None:
    """Call `watch` before the n-th of `CALLS` of this process with 2n, and after it with 2n + 1."""
    seen = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def watched_call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            at, seen = 2 * seen, seen + 1
            watch(at)
            result = call(*args, **kwargs)
            watch(at + 1)
            return result

        return watched_call

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))


def called(function: Callable[[], object], said: Path) -> tuple[bool, str]:
    """Call a function in a child to its end; return whether it went well, and what it said."""
    said.unlink(missing_ok=True)
    _, status = os.waitpid(start(function, said), 0)
    return status == 0, said.read_text() if said.exists() else f"ended with status {status}"


def left_in_session(pid: int) -> list[int]:
    """Return the processes of a session that live."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with contextlib.suppress(OSError):
                after_name = (each / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[3]) == pid and after_name[0] != "Z":
                    found.append(int(each.name))
    return found


# Trials.


class Bench:
    """Tries one kind of work."""

    def __init__(self, kind: Work, folder: Path) -> None:
        """Do it undisturbed, to know the old, the new, what lies there and how long it takes."""
        self.kind = kind
        self._said = folder / "said"
        self._template = folder / "before"
        self._place = folder / "place"
        self._count = folder / "count"
        self._template.mkdir(parents=True)
        self._must(lambda: kind.prepare(self._template))
        self.states = {self._state(self._template)[1]}
        durations = []
        for _ in range(3):
            self._lay()
            pid = start(lambda: kind.work(self._place), self._said)
            began = time.monotonic()
            os.waitpid(pid, 0)
            durations.append(time.monotonic() - began)
        self.seconds = sorted(durations)[1]
        self.after = self._state(self._place)[1]
        self.states.add(self.after)
        self._files = _names(self._place)

    def calls(self) -> int:
        """Return twice the number of calls of `CALLS` that the work makes."""
        self._lay()

        def count(at: int) -> None:
            self._count.write_bytes(b"x" * (at + 1))

        os.waitpid(start(lambda: self.kind.work(self._place), self._said, count), 0)
        return self._count.stat().st_size

    def kill_after(self, seconds: float) -> tuple[bool, list[str]]:
        """Kill the work so many seconds after it began to write; see `_faults`."""
        self._lay()
        pid = start(lambda: self.kind.work(self._place), self._said)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self._faults(pid)

    def kill_at(self, number: int) -> tuple[bool, list[str]]:
        """Kill the work before or after a call, as `start` counts them; see `_faults`."""
        self._lay()

        def kill(at: int) -> None:
            if at == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return self._faults(start(lambda: self.kind.work(self._place), self._said, kill))

    def _faults(self, pid: int) -> tuple[bool, list[str]]:
        """Return whether the work was killed before its end, and what is wrong after it."""
        _, status = os.waitpid(pid, 0)
        faults = []
        until = time.monotonic() + _PATIENCE_S
        while (left := left_in_session(pid)) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            faults.append("a process is left")
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        whole, state = self._state(self._place)
        if not whole:
            faults.append(f"broken: {_plain(state)}")
        elif state not in self.states and not self.kind.between:
            faults.append("neither the old nor the new")
        well, said = called(lambda: self.kind.work(self._place), self._said)
        if not well:
            faults.append(f"the next run fails: {_plain(said)}")
        elif self._state(self._place)[1] != self.after:
            faults.append("the next run does not make the new")
        if litter := _names(self._place) - self._files - _named(self._place):
            faults.append(f"left lying: {sorted(_plain(each) for each in litter)[0]}")
        return os.WIFSIGNALED(status), faults

    def _lay(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._template, self._place)

    def _state(self, folder: Path) -> tuple[bool, str]:
        return called(lambda: self.kind.state(folder), self._said)

    def _must(self, function: Callable[[], object]) -> None:
        well, said = called(function, self._said)
        if not well:
            sys.exit(f"{self.kind.name} fails undisturbed: {said}")


def _names(folder: Path) -> set[str]:
    """Return all names below a folder; those of TensorBoard tell a time, and are left out."""
    names = {str(each.relative_to(folder)) for each in folder.rglob("*")}
    return {name for name in names if "tfevents" not in name}


def _named(folder: Path) -> set[str]:
    """Return the files that a bundle names: those of a frame count that is replaced are others."""
    with contextlib.suppress(FfnEdgeError):
        return {f"bundle/{name}" for name in Bundle.load(folder / "bundle").manifest.files}
    return set()


def _plain(text: str) -> str:
    """Leave out of a text what differs from run to run, so that faults of a kind are one."""
    text = re.sub(r"\.(\w+)-[a-z0-9_]{8}(?=\b|[./])", r".\1-RANDOM", text)
    return re.sub(r"/\S*/place", "PLACE", text)[:160]


def moments(count: int, seconds: float, rng: Random) -> list[float]:
    """Draw moments of work that takes so long; every fourth in its last fifth."""
    return [
        rng.uniform(0.8 * seconds, 1.05 * seconds) if n % 4 == 0 else rng.uniform(0, seconds)
        for n in range(count)
    ]


@click.command()
@click.option("--moments", "count", default=200, show_default=True, help="Over all kinds of work.")
@click.option("--calls", is_flag=True, help="Kill at each call instead.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", help="Kinds of work, with commas.")
def main(count: int, calls: bool, seed: int, only: str | None) -> None:
    """Kill, look, and print."""
    torch.set_num_threads(1)  # a fork of a process with more could hang
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")
    rng = Random(seed)
    table = Table(title="killed at each call" if calls else f"killed at moments, seed {seed}")
    for heading in ("work", "writes", "kills", "before its end", "faults"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    all_faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        (folder / "shared").mkdir()
        # What is imported late would be most of a child's time.
        export_bundle(small_network(), card(), folder / "warm")
        if not called(lambda: _shared(folder / "shared"), folder / "said")[0]:
            sys.exit("the data could not be made")
        kinds = [
            kind
            for kind in works(folder / "shared")
            if only is None or kind.name in only.split(",")
        ]
        for number, kind in enumerate(kinds):
            bench = Bench(kind, folder / str(number))
            found: list[tuple[bool, list[str]]] = []
            if calls:
                found = [bench.kill_at(at) for at in range(bench.calls())]
            else:
                share = count // len(kinds) + (number < count % len(kinds))
                found = [bench.kill_after(at) for at in moments(share, bench.seconds, rng)]
            faults = Counter(f"{kind.name}: {fault}" for _, each in found for fault in each)
            all_faults += faults
            table.add_row(
                kind.name,
                f"{bench.seconds:.2f} s",
                str(len(found)),
                str(sum(killed for killed, _ in found)),
                str(sum(bool(each) for _, each in found)),
            )
            for fault, times in faults.most_common():
                console.print(f"{times} x {fault}", markup=False, soft_wrap=True)
            shutil.rmtree(folder / str(number))
    console.print(table)
    sys.exit(bool(all_faults))


if __name__ == "__main__":
    main()
