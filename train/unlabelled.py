"""Videos to learn from without their labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffn_edge.frames import DrawFrames, segment_random
from ffn_edge.media.clips import read_checked_list
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.datasets import dataset_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Which videos to learn from, and how to read them.

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


def unlabelled_batches(
    clips: Clips,
    frame_counts: Sequence[int],
    card: ModelCard,
    *,
    train: bool,
    draw_frames: DrawFrames = segment_random,
) -> VideoBatches:
    """Read and check the lists, and return the videos to learn from in batches.

    Args:
        clips: which videos.
        frame_counts: of every video a clip of each is made.
        card: how frames are prepared.
        train: draw frames, crops and symmetries as training does, and leave out the last,
            incomplete batch of an epoch. Otherwise take clips as testing does, in batches of
            nearly one size.
        draw_frames: the rule by which training draws frames; see `Family`.

    Raises:
        DataError: a list, or a path in it, is wrong; the data set is not known.
    """
    card = dataclasses.replace(card, dataset=clips.dataset or card.dataset)
    if clips.val_list is not None:  # a bad one should not be found after all the learning
        read_checked_list(
            clips.val_list,
            num_classes=len(card.classes),
            root=clips.root,
            frame_pattern=dataset_facts(card.dataset).frame_pattern,
        )
    videos = videos_for(
        card,
        clips.list_file,
        frame_counts,
        root=clips.root,
        train=train,
        draw_frames=draw_frames,
        labelled=False,
    )
    size = min(clips.batch_size, len(videos))
    if not train:  # each batch normalises itself, the last one too
        size = math.ceil(len(videos) / math.ceil(len(videos) / size))
    # Lists are often in the order of their classes, and statistics should see all in a batch.
    return VideoBatches(videos, batch_size=size, workers=clips.workers, shuffle=True)
