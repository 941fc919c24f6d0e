"""From samples to batches: their order, the loader, and the account of broken videos.

Legend: B clips a batch, T frames a clip, frames of S x S pixels. Frames are uint8 RGB up to
`to_model_input`, so that loader, memory and bus carry a quarter of the bytes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.util import Finalize

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffn_edge.errors import DataError, reason_of
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.loader_process import Stacked, receive, serve, stack

# With fewer videos than this, one broken file would be a large share.
_JUDGED_AFTER = 20

# Batches that each loader process is asked for beyond the one in use.
_ASKED_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples, stacked.

    Attributes:
        clips: by frame count, uint8 (B, T, S, S, 3), RGB. Empty if no video could be read.
        labels: int64 (B,). B is the batch size less the videos that could not be read.
        indices: of the samples in the data set, (B,).
        broken: of each video that could not be read, why.
    """

    clips: dict[int, Tensor]
    labels: Tensor
    indices: list[int]
    broken: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU fetches it by itself."""
        pinned = {t: clip.pin_memory() for t, clip in self.clips.items()}
        return Batch(pinned, self.labels.pin_memory(), self.indices, self.broken)


def _batch(stacked: Stacked) -> Batch:
    return Batch(
        clips={t: torch.from_numpy(clips) for t, clips in stacked.clips.items()},
        labels=torch.tensor(stacked.labels, dtype=torch.int64),
        indices=stacked.indices,
        broken=stacked.broken,
    )


def to_model_input(frames: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise frames, on the device where they are.

    Args:
        frames: uint8 (B, T, S, S, 3), RGB.
        mean: of red, green and blue, on a scale of 0..1.
        std: the same.

    Returns:
        float32 (B, T, 3, S, S). Memory keeps its order, so that with B and T flattened this is
        what PyTorch calls channels-last.
    """
    deviation = torch.tensor(std, dtype=torch.float32)
    # Copies that block would wait for all that the device has still to do.
    scale = (1 / (255 * deviation)).to(frames.device, non_blocking=True)
    shift = torch.tensor(mean, dtype=torch.float32) / deviation
    shift = shift.to(frames.device, non_blocking=True)
    return frames.to(torch.float32).mul_(scale).sub_(shift).permute(0, 1, 4, 2, 3)


def model_inputs(
    clips: Mapping[int, Tensor], card: ModelCard, device: torch.device
) -> dict[int, Tensor]:
    """Return clips as a network takes them, on its device: uint8 (B, T, S, S, 3) by frame count."""
    return {
        t: to_model_input(clip.to(device, non_blocking=True), card.mean, card.std)
        for t, clip in clips.items()
    }


class ResumableSampler:
    """The order of samples in an epoch, from any place in it: yields (epoch, index).

    The order depends on the seed and the epoch alone. The loader runs ahead of the training, so
    it is the training loop that knows, and saves, how far it has come.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        labels: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Share out `size` samples.

        Args:
            size: of the data set.
            seed: not negative; the same on every rank.
            shuffle: for training: a new order each epoch, and as many samples on every rank (up
                to world_size - 1 are left out, others each epoch). Otherwise in order, and each
                sample once.
            labels: of the samples, to shuffle them so that an epoch has each class equally often,
                to one. A sample comes again when its class is used up: for the n-th time as index
                + n · size, so that it is cropped and augmented anew.
            rank: of this process.
            world_size: the number of processes.
        """
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._labels = None if labels is None else np.array(labels)
        self._rank = rank
        self._world_size = world_size
        self.start(0)

    def start(self, epoch: int, position: int = 0) -> None:
        """Let the next pass be `epoch`, without the first `position` samples of this rank."""
        self._epoch = epoch
        self._position = position

    def __len__(self) -> int:
        """Return how many samples are left for this rank."""
        return len(self._left())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = range(self._size)
        if self._shuffle:
            rng = np.random.default_rng([self._seed, self._epoch])
            samples = self._size if self._labels is None else self._balanced(self._labels, rng)
            order = rng.permutation(samples).tolist()
        for place in self._left():
            yield self._epoch, order[place]

    def _balanced(
        self, labels: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Draw as many samples as there are, of each class as many as of any other, to one."""
        classes = rng.permutation(np.unique(labels))  # the first ones get what is left over
        drawn = []
        for number, label in enumerate(classes):
            (own,) = np.nonzero(labels == label)
            wanted = len(range(number, self._size, len(classes)))
            rounds = [rng.permutation(own) + i * self._size for i in range(-(-wanted // len(own)))]
            drawn.append(np.concatenate(rounds)[:wanted])
        return np.concatenate(drawn)

    def _left(self) -> range:
        """Return the places in the epoch's order that are this rank's and still to come."""
        end = self._size
        if self._shuffle:
            end -= self._size % self._world_size
        return range(self._rank, end, self._world_size)[self._position :]


class Loader:
    """Passes over videos in batches; in training without the last, incomplete one.

    One loader serves a whole run: give the sampler its epoch, then iterate over the loader again.
    """

    def __init__(
        self, dataset: VideoDataset, sampler: ResumableSampler, *, batch_size: int, workers: int
    ) -> None:
        """Start no process yet.

        Args:
            dataset: the videos.
            sampler: the order.
            batch_size: in this process.
            workers: processes that decode; 0 decodes in this one.
        """
        self._dataset = dataset
        self._sampler = sampler
        self._batch_size = batch_size
        self._workers = workers
        self._processes: list[_LoaderProcess] = []

    def __len__(self) -> int:
        """Return the number of batches left in the epoch of the sampler."""
        whole, rest = divmod(len(self._sampler), self._batch_size)
        return whole + (rest > 0 and not self._dataset.train)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the sampler's epoch.

        Raises:
            DataError: loader processes cannot be started, or one has ended.
        """
        if not self._workers:
            for keys in self._keys():
                yield _batch(stack({key: self._dataset[key] for key in keys}))
            return
        while len(self._processes) < min(self._workers, len(self)):
            self._processes.append(_LoaderProcess(self._dataset))
        for process in self._processes:
            process.forget()
        asked: deque[_LoaderProcess] = deque()
        turns = itertools.cycle(self._processes)
        left = self._keys()

        def ask_for(number: int) -> None:
            for process, keys in zip(itertools.islice(turns, number), left, strict=False):
                process.ask(keys)
                asked.append(process)

        # A batch is received, and copied for a GPU, while the one before it is learned from.
        with ThreadPoolExecutor(1) as ahead:
            ask_for(_ASKED_AHEAD * self._workers)
            coming = ahead.submit(asked.popleft().batch) if asked else None
            while coming is not None:
                batch = coming.result()
                ask_for(1)
                coming = ahead.submit(asked.popleft().batch) if asked else None
                yield batch

    def _keys(self) -> Iterator[list[tuple[int, int]]]:
        keys = iter(self._sampler)
        for _ in range(len(self)):
            yield list(itertools.islice(keys, self._batch_size))


class _LoaderProcess:
    """A process that decodes, from its start to the end of this object or of this process."""

    def __init__(self, dataset: VideoDataset) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        self._owed = 0
        process = context.Process(target=serve, args=(dataset, theirs), daemon=True)
        try:
            process.start()
        except OSError as error:
            raise DataError(
                f"loader processes cannot be started: {reason_of(error)}",
                "--workers 0 decodes without them.",
            ) from error
        theirs.close()
        self._process = process
        # It ignores the signal by which Python ends such processes, and has nothing to tidy.
        Finalize(self, process.kill, exitpriority=0)

    def ask(self, keys: Sequence[tuple[int, int]]) -> None:
        """Ask for the samples of `keys`."""
        with self._watched():
            self._connection.send(keys)
        self._owed += 1

    def batch(self) -> Batch:
        """Wait for what was asked for first.

        Raises:
            DataError: the process has ended.
        """
        self._owed -= 1
        with self._watched():
            answer = receive(self._connection)
        if isinstance(answer, Exception):
            raise answer
        batch = _batch(answer)
        return batch.pin_memory() if torch.cuda.is_available() else batch

    def forget(self) -> None:
        """Wait for what is still owed to a pass that was broken off."""
        while self._owed:
            self.batch()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Say how the process ended where its socket says that it did."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self._process.join()
            code = self._process.exitcode or 0
            ended = f"exit code {code}"
            if code < 0:
                ended = f"killed by signal {-code}, {signal.strsignal(-code)}"
            raise DataError(
                f"a loader process has ended: {ended}",
                "where memory ran out (see dmesg), take fewer --workers or a smaller batch; a "
                "training continues from its last.pt with --resume.",
            ) from error


def _context() -> ForkServerContext | SpawnContext:
    """Return how loader processes start.

    Not by forking this one, whose threads (PyTorch's, OpenCV's, a GPU driver's) would be missing
    in the copy, but from a server that has loaded the code and started no thread.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    return context


class BrokenVideos:
    """Counts the videos that could not be read, and stops the run when they are too many."""

    def __init__(self, num_videos: int, max_share: float = 0.05) -> None:
        """Start with none.

        Args:
            num_videos: of the data set.
            max_share: of the videos seen, 0..1, may be broken.
        """
        self._num_videos = num_videos
        self._max_share = max_share
        self._broken: dict[str, None] = {}
        self._seen = 0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each broken video could not be read, in the order in which they were met."""
        return tuple(self._broken)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches that hold a clip, and count them all; see `add`."""
        for batch in batches:
            self.add(batch)
            if len(batch.labels):
                yield batch

    def add(self, batch: Batch) -> None:
        """Count a batch.

        Raises:
            DataError: too large a share is broken.
        """
        self._broken.update(dict.fromkeys(batch.broken))
        self._seen += len(batch.labels) + len(batch.broken)
        self._check()

    def merge(self, others: Iterable[BrokenVideos]) -> None:
        """Count what the other processes have counted.

        Raises:
            DataError: too large a share is broken.
        """
        for other in others:
            self._broken.update(other._broken)
            self._seen += other._seen
        self._check()

    def _check(self) -> None:
        seen = min(self._seen, self._num_videos)  # a second epoch meets the same videos
        too_many = len(self._broken) > self._max_share * seen
        judged = seen >= min(_JUDGED_AFTER, self._num_videos)
        if too_many and judged:
            raise DataError(
                f"{len(self._broken)} of {seen} videos cannot be read, which is more than "
                f"{self._max_share:.0%}: {'; '.join(self.reasons[:3])}"
                + ("; …" if len(self._broken) > 3 else ""),
                "copy or download them again, or remove their lines from the list file.",
            )
