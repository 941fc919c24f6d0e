"""The videos of a list in batches, as the network of a checkpoint takes them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ffn_edge.frames import DrawFrames, segment_random
from ffn_edge.media.clips import read_checked_list
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.progress import OnProgress, progress
from ffn_edge.terminal import Terminal
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loading import Batch, BrokenVideos, Loader, ResumableSampler
from ffn_edge.train.processes import ALONE, Processes

_log = logging.getLogger(__name__)


def videos_for(
    card: ModelCard,
    list_file: str,
    frame_counts: Sequence[int],
    *,
    root: str | None = None,
    train: bool = False,
    draw_frames: DrawFrames = segment_random,
    labelled: bool = True,
) -> VideoDataset:
    """Return the videos of a list, prepared as a network's card says; see `VideoDataset`.

    Raises:
        DataError: the list, or a path in it, is wrong; the data set is not known.
    """
    return VideoDataset(
        list_file,
        frame_counts,
        classes=card.classes,
        facts=dataset_facts(card.dataset),
        root=root,
        train=train,
        draw_frames=draw_frames,
        size=card.size,
        short_side=card.short_side,
        window_s=card.window_s,
        labelled=labelled,
    )


class VideoBatches:
    """Passes over videos, shared out among processes, each with a progress bar.

    Attributes:
        videos: that are passed over.
        broken: counts those that cannot be read; after a pass, those of every process.
    """

    def __init__(
        self,
        videos: VideoDataset,
        *,
        batch_size: int,
        workers: int,
        shuffle: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """Open no video yet.

        Args:
            videos: to pass over.
            batch_size: videos at a time, in each process.
            workers: processes that decode for each; 0 decodes in this one.
            shuffle: take another order in each epoch.
            processes: that share the videos.
        """
        self.videos = videos
        self.broken = BrokenVideos(len(videos))
        self._processes = processes
        self._sampler = ResumableSampler(
            len(videos), shuffle=shuffle, rank=processes.rank, world_size=processes.world_size
        )
        self._loader = Loader(videos, self._sampler, batch_size=batch_size, workers=workers)

    def __len__(self) -> int:
        """Return the number of batches in an epoch of this process."""
        return len(self._loader)

    def epoch(self, description: str, number: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch that hold a clip, then name the videos newly broken.

        Raises:
            DataError: too many videos are broken.
        """
        known = len(self.broken.reasons)
        self._sampler.start(number)
        with self._progress(description) as show:
            for done, batch in enumerate(self.broken.watch(self._loader), start=1):
                show(done, len(self))
                yield batch
        of_all = self._processes.gather(self.broken)
        self.broken.merge(each for rank, each in enumerate(of_all) if rank != self._processes.rank)
        for reason in self.broken.reasons[known:]:
            _log.warning("skipped: %s", reason)

    def _progress(self, description: str) -> AbstractContextManager[OnProgress]:
        if self._processes.first:
            return progress(Terminal(stderr=True), description)
        return nullcontext(lambda done, total: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Which videos to learn from without their labels, and how to read them.

    Attributes:
        list_file: one `path` a line, or `path num_frames` for a frame folder; a label after it is
            not read. See `ffn_edge.media.video_list.read_list`.
        root: the folder that paths start from; the list file's own if None.
        dataset: names the facts of the data set; None for those of the training's.
        val_list: labelled videos to validate on; None for no validation.
        batch_size: videos at a time.
        workers: processes that decode; 0 decodes in this one.
    """

    list_file: str
    root: str | None = None
    dataset: str | None = None
    val_list: str | None = None
    batch_size: int = 16
    workers: int = 0

    def batches(
        self,
        frame_counts: Sequence[int],
        card: ModelCard,
        *,
        train: bool,
        draw_frames: DrawFrames = segment_random,
    ) -> VideoBatches:
        """Read and check the lists, and return the videos to learn from in batches.

        Args:
            frame_counts: of every video a clip of each is made.
            card: how frames are prepared.
            train: draw frames, crops and symmetries as training does, and leave out the last,
                incomplete batch of an epoch. Otherwise take clips as testing does, in batches of
                nearly one size.
            draw_frames: the rule by which training draws frames; see `Family`.

        Raises:
            DataError: a list, or a path in it, is wrong; the data set is not known.
        """
        card = dataclasses.replace(card, dataset=self.dataset or card.dataset)
        if self.val_list is not None:  # a bad one should not be found after all the learning
            read_checked_list(
                self.val_list,
                classes=card.classes,
                root=self.root,
                frame_pattern=dataset_facts(card.dataset).frame_pattern,
            )
        videos = videos_for(
            card,
            self.list_file,
            frame_counts,
            root=self.root,
            train=train,
            draw_frames=draw_frames,
            labelled=False,
        )
        size = min(self.batch_size, len(videos))
        if not train:  # each batch normalises itself, the last one too
            size = math.ceil(len(videos) / math.ceil(len(videos) / size))
        # Lists are often in the order of their classes; statistics should see all in a batch.
        return VideoBatches(videos, batch_size=size, workers=self.workers, shuffle=True)
