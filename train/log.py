"""What a run leaves behind to be read: metrics.jsonl, TensorBoard events, a progress bar."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import CheckpointError, RecipeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.atomic import write_text, written
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.progress import NowAndThen
from ffn_edge.terminal import Terminal

METRICS = "metrics.jsonl"
_MOST_BYTES = 1 << 30  # of millions of steps
_log = logging.getLogger(__name__)


class RunLog:
    """Writes one JSON line per optimiser step and per validation, and shows progress on stderr.

    Args:
        folder: the run's folder.
        total_steps: optimiser steps of the whole run.
        first_step: where a resumed run starts. Later lines, written by a process that died
            after its last checkpoint, are dropped, so that the file reads as one run.
        first_epoch: the first epoch that is not validated yet.
        enabled: False in every process but the first.
        accuracy: of the last validation, by frame count.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int,
        first_step: int,
        first_epoch: int,
        enabled: bool,
        accuracy: Mapping[int, Accuracy] = MappingProxyType({}),
    ) -> None:
        self.enabled = enabled
        self._console = Terminal(stderr=True)
        self._folder = folder
        self._first_step = first_step
        self._first_epoch = first_epoch
        self._total_steps = total_steps
        self._accuracy = accuracy
        self._now_and_then = NowAndThen(_log.info)

    def __enter__(self) -> RunLog:
        """Open the files and show the bar.

        Raises:
            RecipeError: another process is at work in the folder.
            CheckpointError: it cannot be written.
        """
        if not self.enabled:
            return self
        lock = self._take_folder()
        path = self._folder / METRICS
        with self._disk_errors(), ExitStack() as stack:
            stack.callback(lock.release)  # after the files are closed
            keep = [
                line
                for line in _lines(path)
                if _is_before(line, self._first_step, self._first_epoch)
            ]
            write_text(path, "".join(line + "\n" for line in keep))
            self._file = stack.enter_context(open(path, "a", encoding="utf-8"))
            self._board = stack.enter_context(
                SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first_step)
            )
            self._progress = stack.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                    TimeElapsedColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    console=self._console,
                    disable=not self._console.is_terminal,
                )
            )
            self._task = self._progress.add_task(
                "training", total=self._total_steps, completed=self._first_step
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.enabled:
            return
        try:
            with self._disk_errors():
                self._open.close()  # tries once more to write what it holds
        except CheckpointError:
            if error[0] is None:
                raise

    def _take_folder(self) -> FileLock:
        """Lock the folder for as long as this process lives, or until the lock is released."""
        with written(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RecipeError(
                f"another process is training in {self._folder}",
                "wait for it, end it, or name another folder; nothing was changed.",
            ) from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        return lock

    def step(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Record one optimiser step; "distillation/4" is the value 4 of "distillation"."""
        if not self.enabled:
            return
        with self._disk_errors():
            self._line({"step": step, "epoch": epoch, **_nested(values)})
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)
        top1 = [f"  {t}: {value.top1:.0%}" for t, value in self._accuracy.items()]
        description = f"epoch {epoch + 1}  loss {values['loss']:.3f}{''.join(top1)}"
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step + 1, description=description)
        else:
            self._now_and_then(lambda: f"{description}  step {step + 1} of {self._total_steps}")

    def validation(self, step: int, epoch: int, accuracy: Mapping[int, Accuracy]) -> None:
        """Record a validation, and tell it."""
        if not self.enabled:
            return
        self._accuracy = accuracy
        with self._disk_errors():
            by_name = {str(t): dataclasses.asdict(value) for t, value in accuracy.items()}
            self._line({"step": step, "epoch": epoch, "validation": by_name})
            for frames, value in accuracy.items():
                self._board.add_scalar(f"validation/top1_{frames}_frames", value.top1, step)
        top1 = "  ".join(f"{t} frames {value.top1:.1%}" for t, value in accuracy.items())
        _log.info("epoch %d: top-1 %s", epoch + 1, top1)

    def flush(self) -> None:
        """Bring what was recorded to the files, before a checkpoint says it is there."""
        if self.enabled:
            with self._disk_errors():
                self._file.flush()
                self._board.flush()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"could not write the metrics in {self._folder}: {reason_of(error)}",
                "free space on the disk, then continue with --resume.",
            ) from error

    def _line(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")


def _lines(path: Path) -> list[str]:
    """Return the lines of a file that may not be there; a killed run's end may be anything."""
    try:
        return read_bytes(path, _MOST_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class _Line:
    """What is read of a line of metrics."""

    step: int
    epoch: int
    validation: Any = None


def _is_before(line: str, step: int, epoch: int) -> bool:
    """Tell whether a line of metrics is covered by a checkpoint; one that was cut short is not."""
    try:
        values = schema.parse(_Line, schema.load(line))
    except ValueError:
        return False
    return values.step < step if values.validation is None else values.epoch < epoch


def _nested(values: dict[str, float]) -> dict[str, Any]:
    """Turn {"distillation/4": 0.1} into {"distillation": {"4": 0.1}}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        kind, slash, frames = name.partition("/")
        if slash:
            found.setdefault(kind, {})[frames] = value
        else:
            found[name] = value
    return found
