"""The videos of a list in batches, as the network of a checkpoint takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ffn_edge.frames import DrawFrames, segment_random
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.progress import progress
from ffn_edge.terminal import Terminal
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loading import Batch, BrokenVideos, Loader, ResumableSampler


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
        labelled=labelled,
    )


class VideoBatches:
    """Passes over videos in one process, each with a progress bar.

    Attributes:
        videos: that are passed over.
        broken: counts those that cannot be read.
    """

    def __init__(
        self, videos: VideoDataset, *, batch_size: int, workers: int, shuffle: bool = False
    ) -> None:
        """Open no video yet.

        Args:
            videos: to pass over.
            batch_size: videos at a time.
            workers: processes that decode; 0 decodes in this one.
            shuffle: take another order in each epoch.
        """
        self.videos = videos
        self.broken = BrokenVideos(len(videos))
        self._sampler = ResumableSampler(len(videos), shuffle=shuffle)
        self._loader = Loader(videos, self._sampler, batch_size=batch_size, workers=workers)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._loader)

    def epoch(self, description: str, number: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch that hold a clip, then name the videos newly broken.

        Raises:
            DataError: too many videos are broken.
        """
        console = Terminal(stderr=True)
        known = len(self.broken.reasons)
        self._sampler.start(number)
        batches = self.broken.watch(self._loader)
        with progress(console, description) as show:
            for done, batch in enumerate(batches, start=1):
                show(done, len(self))
                yield batch
        for reason in self.broken.reasons[known:]:
            console.say(f"skipped: {reason}")
