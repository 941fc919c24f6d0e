"""Damaged bundles and other files, in their thousands: is each answered, or refused and explained?

    python -m benchmarks.fuzz [--seed 0] [--bundles 10000] [--files 2000] [--seconds 1500]
    python -m benchmarks.fuzz --seed 0 --only b1234     # one trial again, in detail; f12: a file

A small bundle is damaged in one to three places (half of them get the right hashes again), and
used: loaded, opened in ONNX Runtime, one clip for each frame count, its weights composed. Other
files are read by what reads them. A fault is whatever is neither an answer nor an error that
says what to do: another exception, a hang, more than 2 GiB, the end of the process, a file written
elsewhere, an answer that is no number, a message that would control a terminal. The same seed and
number make the same damage. Exit code 1: there were faults. Target: none.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.samples import Case, damaged_bundle, damaged_file, make_samples, read_all
from ffn_edge.errors import FfnEdgeError

_GIB = 1 << 30
_MOST_BYTES = 2 * _GIB
_NOBODY = 65534  # root may read everything; what is unreadable must be so
_ROOT = Path(__file__).resolve().parent.parent
_LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. `group` says of a fault what kind it is and where it came up."""

    trial: str
    family: str
    said: str
    result: str  # "answered", "refused" or "fault"
    group: str = ""
    detail: str = ""


class Worker:
    """A process that makes trials one after the other, in a folder of its own."""

    def __init__(self, number: int, samples: Path, seed: int, seconds: float) -> None:
        self.folder = samples.parent / f"worker{number}"
        self._arguments = (self.folder, samples, seed, seconds)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.trial = ""
        if self.pipe.poll(120.0):
            self.pipe.recv()  # it is ready
        else:  # a lock of a library that was held while this process forked
            self.end()
            self.start()

    def ask(self, trial: str) -> None:
        """Let it make a trial."""
        self.trial = trial
        self.began = time.monotonic()
        self.pipe.send(trial)

    def end(self) -> int:
        """Kill it; return its exit code."""
        self._process.kill() if self._process.exitcode is None else None
        self._process.join()
        self.pipe.close()
        return self._process.exitcode or 0

    def code(self, seconds: float) -> int | None:
        """Return its exit code if it ends within so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def last_words(self) -> tuple[str, str, str]:
        """Return family and damage of its trial, and its stderr: where it was before its end."""
        family, _, said = (self.folder / "case").read_text(errors="replace").partition("\n")
        return family, said, (self.folder / "stderr").read_text(errors="replace")


def _work(pipe: Connection, folder: Path, samples: Path, seed: int, seconds: float) -> None:
    os.setsid()
    for name in ("home", "tmp", "cwd", "trial"):
        (folder / name).mkdir(parents=True)
        os.chown(folder / name, *((_NOBODY, _NOBODY) if os.geteuid() == 0 else (-1, -1)))
    os.chmod(folder, 0o755)
    os.environ.update(HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "home" / "cache")
    tempfile.tempdir = None
    errors = os.open(folder / "stderr", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666)
    os.dup2(errors, 2)
    told = os.open(folder / "case", os.O_CREAT | os.O_WRONLY, 0o666)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(folder / "cwd")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (folder / "warm").mkdir()
    read_all(samples, folder / "warm")
    _limit_memory()
    if os.geteuid() == 0:
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send("ready")
    while True:
        while not pipe.poll(1.0):
            if os.getppid() == 1:
                return
        trial = pipe.recv()
        os.ftruncate(errors, 0)
        faulthandler.dump_traceback_later(0.8 * seconds, file=errors)
        os.ftruncate(told, 0)
        outcome = _one(trial, folder, samples, seed, told)
        faulthandler.cancel_dump_traceback_later()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) << 10
        if grown > _MOST_BYTES:
            outcome = _fault(
                outcome, f"more than 2 GiB: {outcome.group}", f"{grown / _GIB:.1f} GiB"
            )
        with open(folder / "stderr", errors="replace") as file:
            said = file.read(1 << 20)
        if outcome.result != "fault" and ("Traceback" in said or "Exception ignored" in said):
            outcome = _fault(outcome, "a traceback on stderr", said[-2000:])
        ends = grown > _MOST_BYTES // 2  # the largest that it ever was would hide what comes
        pipe.send((outcome, ends))
        if ends:
            return


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + 2 * _MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _fault(outcome: Outcome, group: str, detail: str) -> Outcome:
    return Outcome(outcome.trial, outcome.family, outcome.said, "fault", group, detail)


def prepare(trial: str, samples: Path, folder: Path, seed: int) -> Case:
    """Damage what the trial of this name damages, in an empty folder."""
    rng = Random(f"{seed} {trial}")
    make = damaged_bundle if trial[0] == "b" else damaged_file
    return make(samples, folder, rng)


def _one(trial: str, folder: Path, samples: Path, seed: int, told: int) -> Outcome:
    place = folder / "trial" / "in"
    _remove(place)
    place.mkdir()
    case = prepare(trial, samples, place, seed)
    os.pwrite(told, f"{case.family}\n{case.said}".encode(errors="replace"), 0)
    before = _listing(folder)
    result, group, detail = "answered", "", ""
    for name, attempt in case.attempts:
        try:
            attempt()
        except FfnEdgeError as error:
            if result == "answered":
                result, group = "refused", f"{name}: {_place(error)}"
            wrong = _wrong_message(f"{error.message}\n{error.hint}") or _wanted_memory(error)
            if wrong:
                result, group = "fault", f"{name}: {wrong} of {_place(error)}"
                detail = ascii(str(error))[:2000]
        except BaseException as error:
            kind = type(error).__name__
            result, group = "fault", f"{name}: {kind} in {_place(error)}"
            detail = "".join(traceback.format_exception(error, limit=-12))[-4000:]
    outcome = Outcome(trial, case.family, case.said, result, group, detail)
    # A resumed run writes its metrics anew; all else reads.
    if case.family != "file, metrics" and (changed := before ^ _listing(folder)):
        return _fault(outcome, "something was written", str(sorted(changed)[:5]))
    return outcome


def _remove(place: Path) -> None:
    if place.is_dir():
        place.chmod(0o700)
        shutil.rmtree(place)


def _listing(folder: Path) -> set[tuple[str, int, int]]:
    """Return all files below a folder, with size and time of change, but for a worker's own."""
    found = set()
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(top, name)
            status = os.lstat(path)
            if name not in ("stderr", "case"):
                is_folder = name in folders
                size = -1 if is_folder else status.st_size
                found.add((path, size, 0 if is_folder else status.st_mtime_ns))
    return found


def _wrong_message(text: str) -> str:
    if len(text) > _LONGEST_MESSAGE:
        return "a message too long"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a message that cannot be printed"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text):
        return "a message with control characters"
    return ""


def _wanted_memory(error: BaseException) -> str:
    """Tell whether a refusal comes of memory that this process may not have."""
    cause: BaseException | None = error
    while cause is not None:
        texts = r"not enough memory|allocate memory|bad_alloc"
        if type(cause) is MemoryError or re.search(texts, str(cause)):
            return "more than 2 GiB, refused by the system,"
        cause = cause.__cause__
    return ""


def _place(error: BaseException) -> str:
    """Return file and function of this project where an error came up last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if Path(frame.filename).resolve().is_relative_to(_ROOT)
        and ".venv" not in frame.filename
        and "benchmarks" not in frame.filename
    ]
    if not ours:
        return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "nowhere"
    return f"{Path(ours[-1].filename).resolve().relative_to(_ROOT)}:{ours[-1].name}"


def run(
    trials: Iterable[str], samples: Path, seed: int, processes: int, seconds: float
) -> Iterator[Outcome]:
    """Make trials in so many processes; yield their outcomes as they come.

    Args:
        trials: their names.
        samples: the folder that `make_samples` wrote.
        seed: of the damage.
        processes: that work.
        seconds: after which a trial is a hang.
    """
    left = iter(trials)
    workers = [Worker(number, samples, seed, seconds) for number in range(processes)]
    busy: list[Worker] = []

    def next_trial(worker: Worker) -> None:
        trial = next(left, None)
        if trial is not None:
            worker.ask(trial)
            busy.append(worker)

    try:
        for worker in workers:
            next_trial(worker)
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in list(busy):
                if worker.pipe in ready:
                    busy.remove(worker)
                    yield _answer(worker)
                elif time.monotonic() - worker.began > seconds:
                    busy.remove(worker)
                    yield _lost(worker, "a hang")
                    worker.start()
                else:
                    continue
                next_trial(worker)
    finally:
        for worker in workers:
            worker.end()


def _answer(worker: Worker) -> Outcome:
    try:
        outcome, ends = worker.pipe.recv()
    except (EOFError, OSError):
        code = worker.code(5.0) or 0
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        lost = _lost(worker, f"the end of the process ({name})")
        worker.start()
        return lost
    if ends:
        worker.end()
        worker.start()
    assert isinstance(outcome, Outcome)
    return outcome


def _lost(worker: Worker, what: str) -> Outcome:
    """Tell of a trial that did not end."""
    worker.end()
    family, said, words = worker.last_words()
    ours = re.findall(r'File "([^"]+)", line \d+ in (\w+)', words)
    places = [
        f"{Path(file).resolve().relative_to(_ROOT)}:{name}"
        for file, name in ours
        if Path(file).resolve().is_relative_to(_ROOT)
        and not {".venv", "benchmarks"} & set(Path(file).parts)
    ]
    group = f"{what} in {places[0] if places else 'an unknown place'}"
    return Outcome(worker.trial, family, said, "fault", group, words[-3000:])


def _samples_in(folder: Path) -> Path:
    """Write the samples in a process of its own: the one that forks must stay without threads."""
    samples = folder / "samples"
    process = multiprocessing.get_context("fork").Process(target=make_samples, args=(samples,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the samples could not be made")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return samples


def _tables(outcomes: list[Outcome], seed: int, console: Console) -> None:
    places = Counter(each.group for each in outcomes if each.result == "refused")
    table = Table(title=f"damaged files, seed {seed}")
    for heading in ("family", "trials", "answered", "refused", "faults"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        families[each.family][each.result] += 1
        families["all"][each.result] += 1
    for family in sorted(families, key=lambda each: (each == "all", each)):
        count = families[family]
        shown = (count.total(), count["answered"], count["refused"], count["fault"])
        table.add_row(family, *map(str, shown))
    console.print(table)
    refused = ", ".join(f"{place} {count}" for place, count in places.most_common())
    console.print(f"refused in {refused}", highlight=False)
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for each in outcomes:
        if each.result == "fault":
            groups[each.group].append(each)
    for group, found in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = min(found, key=lambda each: len(each.said))
        console.print(
            f"{len(found)} x {group}\n    --only {first.trial} ({first.family}): {first.said}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--bundles", default=10_000, show_default=True)
@click.option("--files", default=2_000, show_default=True)
@click.option("--seconds", type=float, help="End after so many.")
@click.option("--hang-seconds", default=20.0, show_default=True)
@click.option("--processes", default=os.cpu_count() or 1, show_default=True)
@click.option("--only", help="One trial, such as b12 or f3, or several with commas.")
def main(
    seed: int,
    bundles: int,
    files: int,
    seconds: float | None,
    hang_seconds: float,
    processes: int,
    only: str | None,
) -> None:
    """Damage, try, and print what came of it."""
    console = Console(soft_wrap=True)
    console.print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n", highlight=False)
    start = time.monotonic()

    def wanted() -> Iterator[str]:
        if only:
            yield from only.split(",")
            return
        # Both kinds all along, so that a run that is ended early has seen both.
        for number in range(max(bundles, files)):
            if seconds is not None and time.monotonic() - start > seconds:
                return
            if number < bundles:
                yield f"b{number}"
            step = max(1, bundles // files) if files else 0
            if step and number % step == 0 and number // step < files:
                yield f"f{number // step}"

    outcomes = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        samples = _samples_in(Path(name))
        began = time.monotonic()
        for outcome in run(wanted(), samples, seed, processes, hang_seconds):
            outcomes.append(outcome)
            if outcome.result == "fault" or only:
                line = f"{outcome.trial} {outcome.family}: {outcome.result} {outcome.group}"
                console.print(f"{line}: {outcome.said}", markup=False, soft_wrap=True)
            if only:
                console.print(outcome.detail, markup=False)
            if len(outcomes) % 1000 == 0:
                rate = len(outcomes) / (time.monotonic() - began)
                console.print(f"{len(outcomes)} trials, {rate:.1f} a second", highlight=False)
    _tables(outcomes, seed, console)
    took = time.monotonic() - began
    faults = sum(each.result == "fault" for each in outcomes)
    console.print(
        f"{len(outcomes)} trials in {took:.0f} s ({1e3 * took / max(1, len(outcomes)):.0f} ms each "
        f"on {processes} processes), {faults} faults",
        highlight=False,
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
