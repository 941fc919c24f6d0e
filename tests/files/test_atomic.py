"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from ffn_edge.errors import FfnEdgeError, WriteError
from ffn_edge.files.atomic import atomic_file, atomic_folder, check_writable, locked, write_text


class BreakdownError(Exception):
    """Stands for whatever goes wrong in the middle of a write."""


def test_a_file_appears_with_its_content_and_the_usual_modes(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()

    write_text(tmp_path / "new" / "file.json", "größer")

    file = tmp_path / "new" / "file.json"
    assert file.read_text(encoding="utf-8") == "größer"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, tmp_path / "ordinary")]
    assert modes[0] == modes[1]


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    file.write_text("before")

    with pytest.raises(BreakdownError), atomic_file(file) as temporary:
        assert temporary.suffix == ".pt"  # some writers choose a format by it
        temporary.write_text("half of")
        raise BreakdownError

    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_the_previous_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    with atomic_file(file) as temporary:
        temporary.write_text("after")
        assert file.read_text() == "before"

    assert file.read_text() == "after"


def test_a_folder_takes_the_place_of_the_previous_one(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").touch()

    with atomic_folder(folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_text("after")
        assert (folder / "old").exists()

    assert [path.name for path in folder.iterdir()] == ["sub"]
    assert (folder / "sub" / "new").read_text() == "after"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failed_write_leaves_the_previous_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("before")

    with pytest.raises(BreakdownError), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
        raise BreakdownError

    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def without_exchange(patch: pytest.MonkeyPatch) -> None:
    """A file system that cannot exchange two names, as FAT and NFS."""
    patch.setattr("ffn_edge.files.atomic._exchanged", lambda *_: False)


def test_a_folder_takes_the_place_of_another_also_where_none_can_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    folder = tmp_path / "bundle"
    for name in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / name).touch()

    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").touch()
    rename = os.rename

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if (Path(source) / "new").exists():
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="no"), atomic_folder(folder) as temporary:
        (temporary / "new").touch()

    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_stop_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    # As a stopped machine would leave it: the old folder aside, no new one yet.
    aside = tmp_path / ".bundle-old"
    aside.mkdir()
    (aside / "old").touch()

    with pytest.raises(BreakdownError), atomic_folder(tmp_path / "bundle"):
        raise BreakdownError

    assert (tmp_path / "bundle" / "old").exists()
    assert not aside.exists()


def test_there_is_a_folder_at_every_moment_of_its_replacement(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with atomic_folder(folder) as temporary:
        (temporary / "file").touch()
    stop, seen = threading.Event(), [0, 0]

    def look() -> None:
        while not stop.is_set():
            seen[(folder / "file").exists()] += 1

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(100):
        with atomic_folder(folder) as temporary:
            (temporary / "file").touch()
    stop.set()
    watcher.join()
    assert seen[True]
    assert not seen[False]


def killed_while(write: Callable[[], None]) -> None:
    """Let a process of its own be killed in the midst of a write."""
    child = os.fork()
    if not child:
        write()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
def test_what_a_killed_process_left_goes_with_the_next_write(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    target = tmp_path / "bundle.pt"
    other = tmp_path / ".bundle-mine.pt"
    other.touch()

    def and_die() -> None:
        with write(target):
            os.kill(os.getpid(), signal.SIGKILL)

    killed_while(and_die)
    killed_while(and_die)
    with atomic_file(tmp_path / "another"):
        assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "another").unlink()
    killed_while(and_die)
    with write(target) as outer, write(target) as inner:  # two at a time leave each other theirs
        assert len(list(tmp_path.iterdir())) == 3
        assert outer.exists()
        assert inner.exists()
    assert sorted(tmp_path.iterdir()) == [other, target]


def test_many_writers_in_one_folder_leave_each_others_temporaries(tmp_path: Path) -> None:
    failures: list[OSError] = []
    together = threading.Barrier(8)

    def write(number: int) -> None:
        together.wait()
        try:
            for _ in range(200):
                write_text(tmp_path / f"{number}.json", "whole")
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {file.read_text() for file in tmp_path.iterdir()} == {"whole"}


@pytest.mark.parametrize("name", ["n" * 250 + ".pt", "長" * 80 + ".pt"])
def test_a_name_as_long_as_names_may_be_is_written_and_named_where_it_fails(
    tmp_path: Path, name: str
) -> None:
    write_text(tmp_path / name, "whole")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with pytest.raises(WriteError, match=name[:50]), atomic_file(tmp_path / name) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
def test_a_link_stays_and_what_it_leads_to_is_replaced(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    (tmp_path / "versions").mkdir()
    link = tmp_path / "current"
    link.symlink_to("versions/1")

    for content in ("new", "newer"):
        with write(link) as temporary:
            (temporary / "file" if temporary.is_dir() else temporary).write_text(content)

    assert os.readlink(link) == "versions/1"
    there = tmp_path / "versions" / "1"
    assert (there / "file" if there.is_dir() else there).read_text() == "newer"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != "file") == [
        "1", "current", "versions",
    ]  # fmt: skip


def test_one_at_a_time_holds_a_folder_and_who_waited_sees_its_successor(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    waits = threading.Event()
    found: list[str] = []

    def wait() -> None:
        with locked(folder, waits.set):
            found.extend(path.name for path in folder.iterdir())

    waiter = threading.Thread(target=wait)
    with locked(folder):
        waiter.start()
        assert waits.wait(10)
        new = tmp_path / "new"
        new.mkdir()
        (new / "file").touch()
        os.rename(folder, tmp_path / "old")
        os.rename(new, folder)
        assert not found
    waiter.join(10)
    assert found == ["file"]


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "sub" / "target.json"


def without_a_device(_: Path) -> Path:
    return Path("/proc/nowhere/target.json")


@pytest.mark.parametrize("place", [below_a_file, without_a_device])
@pytest.mark.parametrize("write", [atomic_file, atomic_folder, check_writable])
def test_what_cannot_be_written_is_named_with_its_reason(
    tmp_path: Path,
    place: Callable[[Path], Path],
    write: Callable[[Path], AbstractContextManager[Path] | None],
) -> None:
    target = place(tmp_path)
    with (
        pytest.raises(WriteError, match=r"target\.json could not be written: ") as caught,
        write(target) or nullcontext(),
    ):
        pass
    assert caught.value.hint
    assert isinstance(caught.value, FfnEdgeError)
    assert caught.value.errno in (errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM)


def test_a_full_disk_is_told_of_the_file_that_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match="file could not be written: No space left"),
        atomic_file(tmp_path / "file"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)


def test_errors_of_other_files_and_of_pipes_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "file"):
        (tmp_path / "another").read_text()
    assert not isinstance(caught.value, FfnEdgeError)
    with pytest.raises(BrokenPipeError), atomic_folder(tmp_path / "folder"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_what_can_be_written_is_not_made_by_the_check(tmp_path: Path) -> None:
    for name in ("file", "new/deep/file"):
        check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
