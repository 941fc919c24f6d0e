"""What a loader process does: decode the samples it is asked for, and hand them over.

It talks with the training through a socket that these two alone hold, so that each notices at
once when the other is gone, however it ended. Frames go over in memory without a name: neither
through /dev/shm, which a container may have made small, nor piece by piece through the socket.
Without PyTorch, whose import alone would take 200 MB in each process.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.device.host_memory import keep_freed_memory
from ffn_edge.errors import DataError, reason_of
from ffn_edge.media.opencv import use_one_thread
from ffn_edge.signals import ending_signals
from ffn_edge.train.data import Sample, VideoDataset

Clips = npt.NDArray[np.uint8]  # (B, T, S, S, 3), RGB


class Stacked(NamedTuple):
    """Samples, stacked; see `ffn_edge.train.loading.Batch`."""

    clips: dict[int, Clips]
    labels: list[int]
    indices: list[int]
    broken: tuple[str, ...]


def stack(
    samples: Mapping[tuple[int, int], Sample],
    empty: Callable[[tuple[int, ...]], Clips] = lambda shape: np.empty(shape, np.uint8),
) -> Stacked:
    """Stack samples, by their keys (epoch, index), leaving out those that could not be read.

    Args:
        samples: to stack.
        empty: returns the memory of a shape in which it is done.
    """
    readable = {index: sample for (_, index), sample in samples.items() if sample.clips}
    first = next(iter(readable.values())).clips if readable else {}
    return Stacked(
        clips={
            t: np.stack(
                [sample.clips[t] for sample in readable.values()],
                out=empty((len(readable), *clip.shape)),
            )
            for t, clip in first.items()
        },
        labels=[sample.label for sample in readable.values()],
        indices=list(readable),
        broken=tuple(reason for sample in samples.values() for reason in sample.broken),
    )


def serve(videos: VideoDataset, training: Connection) -> None:
    """Answer each list of keys with their samples, or an error, until the training is gone."""
    # A terminal or a batch system signals every process; who ends the training ends its loaders.
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    use_one_thread()
    keep_freed_memory()
    with suppress(EOFError, ConnectionError):
        while True:
            keys = training.recv()
            try:
                memory = _Memory()
                batch = stack({key: videos[key] for key in keys}, memory.empty)
            except (OSError, MemoryError) as error:
                training.send(
                    DataError(
                        f"a loader process cannot go on: {reason_of(error) or 'out of memory'}",
                        "fewer --workers need less memory; 0 decodes without loader processes.",
                    )
                )
            except Exception as error:
                training.send(ExceptionWithTraceback(error, error.__traceback__))
            else:
                shapes = {t: clips.shape for t, clips in batch.clips.items()}
                training.send((shapes, *batch[1:]))
                for handle in memory.handles:
                    send_handle(training, handle, None)
                    os.close(handle)
                del batch  # whose memory is now the training's


def receive(connection: Connection) -> Stacked | Exception:
    """Take an answer of `serve`: the batch, or what the loader process met.

    Raises:
        EOFError, ConnectionError: the process is gone.
    """
    answer: Any = connection.recv()
    if isinstance(answer, Exception):
        return answer
    shapes, *others = answer
    return Stacked({t: _mapped(connection, shape) for t, shape in shapes.items()}, *others)


class _Memory:
    """Arrays in files that have no name, in memory if it can be.

    Attributes:
        handles: of the files, by which another process gets the arrays.
    """

    def __init__(self) -> None:
        self.handles: list[int] = []

    def empty(self, shape: tuple[int, ...]) -> Clips:
        """Return an array that is yet to be filled."""
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("clips")
        else:
            with tempfile.TemporaryFile() as file:
                handle = os.dup(file.fileno())
        self.handles.append(handle)
        os.ftruncate(handle, math.prod(shape))
        return _array(handle, shape)


def _mapped(connection: Connection, shape: tuple[int, ...]) -> Clips:
    handle = recv_handle(connection)
    try:
        return _array(handle, shape)
    finally:
        os.close(handle)


def _array(handle: int, shape: tuple[int, ...]) -> Clips:
    """Return a file's content, which is changed with it."""
    # All pages at once, where Linux can, and not with a fault for each.
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    memory = mmap.mmap(handle, math.prod(shape), flags)
    return np.frombuffer(memory, np.uint8).reshape(shape)
