"""Videos to learn from without their labels, in batches of clips."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ffn_edge.errors import DataError
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loading import (
    Batch,
    BrokenVideos,
    ResumableSampler,
    make_loader,
    to_model_input,
)
from ffn_edge.video_list import read_list


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Which videos to learn from, and how to read them.

    Attributes:
        list_file: one video a line: a path alone, or as in a training list.
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


class UnlabelledVideos:
    """The videos of a list, in batches of clips, with a progress bar.

    Attributes:
        broken: counts those that cannot be read.
        batches: in an epoch.
    """

    def __init__(
        self, clips: Clips, frame_counts: Sequence[int], card: ModelCard, *, train: bool
    ) -> None:
        """Read the lists; no video is opened.

        Args:
            clips: which videos.
            frame_counts: of every video a clip of each is made.
            card: how frames are prepared.
            train: draw frames, crops and symmetries as training does, and leave out the last,
                incomplete batch of an epoch. Otherwise take clips as testing does, in batches of
                nearly one size.

        Raises:
            DataError: a list, or a path in it, is wrong; the data set is not known.
        """
        self._card = card
        if clips.val_list is not None:  # a bad one should not be found after all the learning
            read_list(clips.val_list, num_classes=len(card.classes), root=clips.root)
        root = clips.root or Path(clips.list_file).parent
        with _with_labels(Path(clips.list_file)) as list_file:
            dataset = VideoDataset(
                list_file,
                frame_counts,
                classes=card.classes,
                facts=dataset_facts(clips.dataset or card.dataset),
                root=root,
                train=train,
                size=card.size,
                short_side=card.short_side,
            )
        self._videos = len(dataset)
        self.broken = BrokenVideos(self._videos)
        # Lists are often in the order of their classes, and statistics should see all in a batch.
        self._sampler = ResumableSampler(self._videos)
        # Statistics give each batch the same weight.
        size = min(clips.batch_size, self._videos)
        if not train:
            size = math.ceil(self._videos / math.ceil(self._videos / size))
        self._loader = make_loader(dataset, self._sampler, batch_size=size, workers=clips.workers)
        self.batches = len(self._loader)

    def __len__(self) -> int:
        return self._videos

    def epoch(self, number: int, description: str) -> Iterator[Batch]:
        """Yield the batches of an epoch that hold a clip."""
        self._sampler.start(number)
        console = Console(stderr=True)
        watched = self.broken.watch(self._loader)
        yield from track(watched, description, self.batches, console=console, transient=True)

    def inputs(self, batch: Batch, device: torch.device) -> dict[int, Tensor]:
        """Return a batch's clips as the network takes them, by frame count."""
        return {
            t: to_model_input(clip.to(device, non_blocking=True), self._card.mean, self._card.std)
            for t, clip in batch.clips.items()
        }


@contextmanager
def _with_labels(list_file: Path) -> Iterator[Path]:
    """Yield a copy of a list in which every video is of the first class: a dataset asks for one.

    A line without a label gets one, and a label of whatever classes is replaced.

    Raises:
        DataError: the list cannot be read, or the dataset refuses it, in terms of the original.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{list_file} cannot be read: {error}", "name a text file in UTF-8, a video a line."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "list"
        unlabelled = [re.sub(r"(\s+-?\d+)?\s*$", "", line, count=1) for line in lines]
        copy.write_text("".join(f"{line} 0\n" if line else "\n" for line in unlabelled), "utf-8")
        try:
            yield copy
        except DataError as error:
            raise DataError(error.message.replace(str(copy), str(list_file)), error.hint) from error
