"""From samples to batches: their order, the loader, and the account of broken videos.

Legend: B clips a batch, T frames a clip, frames of S x S pixels. Frames are uint8 RGB up to
`to_model_input`, so that loader, memory and bus carry a quarter of the bytes.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ffn_edge.errors import DataError
from ffn_edge.opencv import use_one_thread
from ffn_edge.train.data import Sample, VideoDataset

# With fewer videos than this, one broken file would be a large share.
_JUDGED_AFTER = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples, stacked.

    Attributes:
        clips: by frame count, uint8 (B, T, S, S, 3), RGB. Empty if no video could be read.
        labels: int64 (B,). B is the batch size less the videos that could not be read.
        broken: of each video that could not be read, why.
    """

    clips: dict[int, Tensor]
    labels: Tensor
    broken: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU fetches it by itself."""
        pinned = {t: clip.pin_memory() for t, clip in self.clips.items()}
        return Batch(pinned, self.labels.pin_memory(), self.broken)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch, leaving out those that could not be read."""
    readable = [sample for sample in samples if sample.clips]
    frame_counts = readable[0].clips if readable else ()
    return Batch(
        clips={t: torch.from_numpy(np.stack([s.clips[t] for s in readable])) for t in frame_counts},
        labels=torch.tensor([sample.label for sample in readable], dtype=torch.int64),
        broken=tuple(path for sample in samples for path in sample.broken),
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
    scale = (1 / (255 * deviation)).to(frames.device)
    shift = (torch.tensor(mean, dtype=torch.float32) / deviation).to(frames.device)
    return frames.to(torch.float32).mul_(scale).sub_(shift).permute(0, 1, 4, 2, 3)


class ResumableSampler(Sampler[tuple[int, int]]):
    """The order of samples in an epoch, from any place in it: yields (epoch, index).

    The order depends on the seed and the epoch alone. The loader runs ahead of the training, so
    it is the training loop that knows, and saves, how far it has come.
    """

    def __init__(
        self, size: int, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1
    ) -> None:
        """Share out `size` samples.

        Args:
            size: of the data set.
            seed: not negative; the same on every rank.
            shuffle: for training: a new order each epoch, and as many samples on every rank (up
                to world_size - 1 are left out, others each epoch). Otherwise in order, and each
                sample once.
            rank: of this process.
            world_size: the number of processes.
        """
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
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
            order = rng.permutation(self._size).tolist()
        for place in self._left():
            yield self._epoch, order[place]

    def _left(self) -> range:
        """Return the places in the epoch's order that are this rank's and still to come."""
        end = self._size
        if self._shuffle:
            end -= self._size % self._world_size
        return range(self._rank, end, self._world_size)[self._position :]


def make_loader(
    dataset: VideoDataset, sampler: ResumableSampler, *, batch_size: int, workers: int
) -> DataLoader[Sample]:
    """Return a loader of `Batch`es; in training without the last, incomplete one.

    One loader serves a whole run: give the sampler its epoch, then iterate over the loader again.

    Args:
        dataset: the videos.
        sampler: the order.
        batch_size: in this process.
        workers: processes that decode; 0 decodes in this one.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=dataset.train,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        # PyTorch draws a seed for the workers each epoch, which nothing here uses. Drawn from the
        # global generator, it would change what the network draws after an interruption.
        generator=torch.Generator(),
    )


def _worker_context() -> BaseContext:
    """Return how loader processes start.

    Not by forking this one, whose threads (PyTorch's, OpenCV's, a GPU driver's) would be missing
    in the copy, but from a server that has loaded the code and started no thread.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(_: int) -> None:
    use_one_thread()
    # Ctrl-C reaches every process of the terminal; the training process ends its loaders itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
