"""The queue on the disk: order, bounds, kills and full disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ffn_edge.errors import OutputError
from ffn_edge.runtime.outputs.spool import Spool


def drained(spool: Spool) -> list[bytes]:
    found = []
    while (first := spool.first()) is not None:
        found.append(first[1])
        spool.done(first[0])
    return found


def test_messages_leave_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", most_mb=1) as spool:
        spool.append([b"a", b"b"])
        spool.append([b"c"])
        assert spool.waiting == 3
        assert drained(spool) == [b"a", b"b", b"c"]
        assert (spool.waiting, spool.dropped, spool.fault) == (0, 0, None)


def test_what_an_earlier_run_left_comes_first(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", most_mb=1) as spool:
        spool.append([b"a", b"b"])
        number, _ = spool.first() or (0, b"")
        spool.done(number)
    with Spool(tmp_path / "spool", most_mb=1) as spool:
        assert spool.waiting == 1
        spool.append([b"c"])
        assert drained(spool) == [b"b", b"c"]


def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Spool(path, most_mb=0.1) as spool:
        for number in range(1000):
            spool.append([b"%4d" % number + b"." * 496])
        left = [int(body[:4]) for body in drained(spool)]
        assert left == list(range(spool.dropped, 1000))
        assert 0.8 * 100_000 < len(left) * 564 <= 100_000
    assert path.stat().st_size < 200_000


def test_a_spool_is_of_one_process(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", most_mb=1), pytest.raises(OutputError, match="locked"):
        Spool(tmp_path / "spool", most_mb=1).__enter__()


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_damaged_spool_is_kept_aside(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "spool"
    with Spool(path, most_mb=1) as spool:
        spool.append([b"x" * 1000] * 100)
    content = path.read_bytes()
    cut = int(len(content) * keep)
    path.write_bytes(content[:cut] + b"?" * (len(content) - cut))
    with Spool(path, most_mb=1) as spool:
        spool.append([b"a"])
        assert drained(spool) == [b"a"]
    assert (tmp_path / "spool.damaged").is_file()


def test_after_the_end_nothing_happens(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", most_mb=1) as spool:
        spool.append([b"a"])
        number, _ = spool.first() or (0, b"")
    spool.done(number)
    spool.append([b"b"])
    assert spool.first() is None
    with Spool(tmp_path / "spool", most_mb=1) as spool:
        assert drained(spool) == [b"a"]


# Appends numbers, telling each when it is kept; of each third it says that it arrived.
_WRITER = """
import sys
from pathlib import Path
from ffn_edge.runtime.outputs.spool import Spool
with Spool(Path(sys.argv[1]), most_mb=1) as spool:
    for number in range(int(sys.argv[2]), 10**6):
        spool.append([b"%d" % number])
        print("kept", number, flush=True)
        if number % 3 == 0:
            first, body = spool.first()
            spool.done(first)
            print("done", int(body), flush=True)
"""


def test_a_kill_loses_nothing_that_was_kept_and_brings_back_nothing_that_arrived(
    tmp_path: Path,
) -> None:
    path, chance = tmp_path / "spool", random.Random(0)
    kept: set[int] = set()
    done: set[int] = set()
    for _ in range(8):
        start = max(kept, default=-1) + 2  # the one after the last may be kept, and not told
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n"):
                word, number = line.split()
                (kept if word == "kept" else done).add(int(number))
        with Spool(path, most_mb=1) as spool:
            left = [int(body) for body in drained(spool)]
            assert left == sorted(left)
            # The last of each may have happened before the kill, and not been told.
            missing, again = kept - done - set(left), done & set(left)
            assert len(missing) <= 1
            assert not again
            done |= set(left) | missing


_ON_A_FULL_DISK = """
import sys
from pathlib import Path
import resource
from ffn_edge.runtime.outputs.spool import Spool
with Spool(Path(sys.argv[1]), most_mb=10) as spool:
    bodies = [b"%4d" % number + b"." * 996 for number in range(300)]
    for body in bodies:
        spool.append([body])
    print(spool.fault is not None, spool.waiting, spool.dropped)
    found = []
    for _ in bodies:
        number, body = spool.first()
        found.append(body)
        spool.done(number)
    print(found == bodies, spool.first(), spool.dropped)
"""


def test_a_full_disk_loses_nothing_while_the_process_lives(
    tmp_path: Path, on_a_full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ran = on_a_full_disk(_ON_A_FULL_DISK, tmp_path / "spool", room=100_000)
    assert ran.stdout.splitlines() == ["True 300 0", "True None 0"], ran.stderr
    with Spool(tmp_path / "spool", most_mb=1) as spool:  # whole, and written again
        spool.append([b"a"])
        assert drained(spool)[-1] == b"a"
