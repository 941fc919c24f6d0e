"""Files appear whole or not at all: write beside the target, flush to the disk, rename."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ffn_edge.errors import WriteError, reason_of

# In the names of files and folders that are not whole yet.
_UNFINISHED = ".unfinished-"
_LEFTOVER = re.compile(rf"{re.escape(_UNFINISHED)}[a-z0-9_]{{8}}(\..*)?")
# Of Linux: <fcntl.h>, <linux/fs.h>.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong while `path` is written into an error that says so.

    Raises:
        WriteError: in place of an OSError, unless that is of a pipe or names a file elsewhere.
    """
    try:
        yield
    except (WriteError, BrokenPipeError):
        raise
    except OSError as error:
        if isinstance(error.filename, str) and not _belongs(error.filename, path):
            raise
        failure = WriteError(
            f"{path} could not be written: {reason_of(error)}",
            "check that the disk has room and that the folder may be written.",
        )
        failure.errno, failure.strerror = error.errno, reason_of(error)
        failure.filename = error.filename
        raise failure from error


def _belongs(name: str, path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is `path`, a part of it, a temporary of it, or a folder around it."""
    named, target = Path(os.path.abspath(name)), Path(os.path.realpath(path))
    if named in target.parents:
        return True
    if target.parent not in named.parents:
        return False
    beside = named.relative_to(target.parent).parts[0]
    return beside == target.name or beside.startswith(_UNFINISHED)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file or a folder that could not be written, before long work for it.

    Raises:
        WriteError: the folder that it should be in, or it itself if it is one, takes no file.
    """
    with written(path):
        target = Path(os.path.abspath(path))
        # Where folders are to be made, the one to make them in.
        there = next(each for each in (target, *target.parents) if os.path.lexists(each))
        if there == target and not target.is_dir():
            there = target.parent
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror) from error  # its name says nothing


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, else it is removed.

    The temporary name keeps the suffix of `path`, since some writers choose a format by it. Where
    `path` is a link, what it leads to is replaced.

    Raises:
        WriteError: the folder cannot be written, or the disk is full. `path` is then untouched.
    """
    with written(path):
        yield from _atomic_file(Path(os.path.realpath(path)))


def _atomic_file(target: Path) -> Iterator[Path]:
    handle, temporary = _begin(target, _make_file)
    try:
        yield temporary
        # mkstemp makes files that only the owner may read; give them the modes of any new file.
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically.

    Raises:
        WriteError: see `atomic_file`.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the place of `path`.

    Linux exchanges the two in one step. Where the file system cannot (FAT, NFS), the old folder is
    renamed aside first: a stop before the second rename leaves it whole as `.NAME-old`, and the
    next call moves it back. Where `path` is a link, what it leads to is replaced.

    Raises:
        WriteError: the folder cannot be written, or the disk is full. `path` is then untouched.
    """
    with written(path):
        yield from _atomic_folder(Path(os.path.realpath(path)))


def _atomic_folder(target: Path) -> Iterator[Path]:
    aside = target.with_name(f".{target.name}-old")
    if aside.exists() and not target.exists():
        os.rename(aside, target)
    handle, temporary = _begin(target, tempfile.mkdtemp)
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():  # some writers, safetensors among them, let only the owner read
                file.chmod(0o666 & ~_umask())
            _flush(file)
        _flush(temporary)
        if not target.exists():
            os.rename(temporary, target)
        else:
            with locked(target):
                if not _exchanged(temporary, target):
                    _replaced(temporary, target, aside)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _replaced(new: Path, target: Path, aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchanged(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; tell whether the system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library before glibc 2.28
        return False
    code: int = rename(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    return code == 0


@contextmanager
def locked(
    folder: str | os.PathLike[str], waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let one holder at a time change a folder; the lock leaves no file, and ends with its process.

    On NFS folders cannot be locked, and nobody waits.

    Args:
        folder: that exists.
        waiting: is called once if another holds it.

    Raises:
        OSError: there is no such folder.
    """
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # NFS
                pass
            # While it waited another folder may have been put in its place.
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                yield
                return
        finally:
            os.close(handle)


def _begin(target: Path, make: Callable[..., str]) -> tuple[int, Path]:
    """Make a temporary beside `target`; return the handle that locks it, and its path.

    What killed processes left in the folder is removed: its lock went with its process.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(target.parent):
        if _LEFTOVER.fullmatch(entry.name):
            _remove_unless_locked(Path(entry.path))
    while True:
        temporary = Path(make(dir=target.parent, prefix=_UNFINISHED, suffix=target.suffix))
        # Until it is locked another may take it for a leftover.
        with suppress(FileNotFoundError):
            handle = os.open(temporary, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            except OSError:  # NFS
                pass
            if temporary.exists():
                return handle, temporary
            os.close(handle)


def _remove_unless_locked(leftover: Path) -> None:
    with suppress(OSError):
        handle = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        finally:
            os.close(handle)


def _make_file(**where: Any) -> str:
    handle, name = tempfile.mkstemp(**where)
    os.close(handle)
    return str(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Ask the kernel to put `path` (a file or a folder) on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
