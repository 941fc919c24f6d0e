"""Files appear whole or not at all: write beside the target, flush to the disk, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffn_edge.errors import WriteError, reason_of


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
    named, target = Path(os.path.abspath(name)), Path(os.path.abspath(path))
    if named in target.parents:
        return True
    if target.parent not in named.parents:
        return False
    beside = named.relative_to(target.parent).parts[0]
    return beside == target.name or beside.startswith(f".{target.stem}-")


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

    The temporary name keeps the suffix of `path`, since some writers choose a format by it.

    Raises:
        WriteError: the folder cannot be written, or the disk is full. `path` is then untouched.
    """
    with written(path):
        yield from _atomic_file(Path(path))


def _atomic_file(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner may read; give them the modes of any new file.
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


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

    A folder cannot be replaced in one step by portable means: the old one is renamed aside,
    the new one renamed in, then the old one removed. Were the machine to stop between the two
    renames, the old folder would stand whole under `.NAME-old`; the next call moves it back.

    Raises:
        WriteError: the folder cannot be written, or the disk is full. `path` is then untouched.
    """
    with written(path):
        yield from _atomic_folder(Path(os.path.abspath(path)))  # "." has no name to put one beside


def _atomic_folder(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}-old")
    if aside.exists() and not target.exists():
        os.rename(aside, target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():  # some writers, safetensors among them, let only the owner read
                file.chmod(0o666 & ~_umask())
            _flush(file)
        _flush(temporary)
        shutil.rmtree(aside, ignore_errors=True)
        if target.exists():
            os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except OSError:
            if aside.exists():
                os.rename(aside, target)
            raise
        _flush(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
