"""The clips of labelled videos: of every frame count, from one decode a video.

Legend: T frames a clip, frames of S x S pixels. Clips are uint8 RGB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from ffn_edge.errors import VideoError
from ffn_edge.frames import Indices, check_frame_counts, segment_centres, segment_random
from ffn_edge.picture import crop_resize, prepare_frame
from ffn_edge.train.augment import MULTI_SCALE, draw_variation
from ffn_edge.train.datasets import DatasetFacts
from ffn_edge.video import VideoReader, read_frame_folder
from ffn_edge.video_list import UNLABELLED, Video, read_list

Clip = npt.NDArray[np.uint8]  # (T, S, S, 3), RGB
Frames = npt.NDArray[np.uint8]  # (N, H, W, 3), BGR

# How many videos in a row may be unreadable before a training sample is given up.
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """One video as the network gets it.

    Attributes:
        clips: by frame count, uint8 (T, S, S, 3), RGB. Empty if no video could be read.
        label: of these clips.
        broken: the videos that were tried and could not be read.
    """

    clips: dict[int, Clip]
    label: int
    broken: tuple[str, ...] = ()


class VideoDataset(Dataset[Sample]):
    """The videos of one list file, each opened and decoded once for all frame counts.

    `videos[epoch, index]` is a `Sample`. What is random in it comes from the seed, the epoch and
    the index alone: neither the number of loader processes nor an interruption changes it.
    """

    def __init__(
        self,
        list_file: str | os.PathLike[str],
        frame_counts: Iterable[int],
        *,
        classes: Sequence[str],
        facts: DatasetFacts,
        root: str | os.PathLike[str] | None = None,
        train: bool,
        size: int,
        short_side: int,
        scales: tuple[float, ...] = MULTI_SCALE,
        seed: int = 0,
        cache_bytes: int = 0,
        labelled: bool = True,
    ) -> None:
        """Read the list file; no video is opened.

        Args:
            list_file: see `read_list`.
            frame_counts: of every video a clip of each is made.
            classes: the names of the classes, see `ffn_edge.classes.read_classes`.
            facts: of the data set.
            root: the folder that the list's paths are relative to; the list's own if None.
            train: draw frames, crops and symmetries at random, and replace a video that cannot
                be read by the next one that can. Otherwise take centres, and return no clip.
            size: S.
            short_side: a frame's short side is scaled to this before its centre is cropped; in
                testing.
            scales: of the random crop, over the frame's short side; in training.
            seed: not negative.
            cache_bytes: keep decoded videos in memory up to this size, in each loader process.
            labelled: otherwise labels are not read, need not be there, and are `UNLABELLED`.

        Raises:
            DataError: the list, its labels or its paths are wrong, or they do not fit the
                classes, or these not the data set.
            FrameCountError: the frame counts are not positive and ascending.
        """
        facts.check_classes(classes)
        self.videos = read_list(
            list_file, num_classes=len(classes) if labelled else None, root=root
        )
        self.frame_counts = check_frame_counts(frame_counts)
        self.train = train
        self._pattern = facts.frame_pattern
        self._symmetries = facts.symmetries(classes)
        self._size = size
        self._short_side = short_side
        self._scales = scales
        self._seed = seed
        self._cache: dict[Video, Frames] = {}
        self._cache_room = cache_bytes

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample of (epoch, index)."""
        epoch, index = key
        broken: list[str] = []
        for attempt in range(_TRIES if self.train else 1):
            video = self.videos[(index + attempt) % len(self)]
            try:
                if self.train:
                    rng = np.random.default_rng([self._seed, epoch, index])
                    clips, label = self._training_clips(video, rng)
                else:
                    clips, label = self._test_clips(video), video.label
            except VideoError:
                broken.append(str(video.path))
            else:
                return Sample(clips, label, tuple(broken))
        return Sample({}, self.videos[index].label, tuple(broken))

    def _training_clips(
        self, video: Video, rng: np.random.Generator
    ) -> tuple[dict[int, Clip], int]:
        frames, rows = self._decode(video, lambda n, t: segment_random(n, t, rng))
        height, width = frames.shape[1:3]
        variation = draw_variation(height, width, self._size, self._symmetries, self._scales, rng)
        images = np.stack(
            [
                crop_resize(
                    frame,
                    variation.box,
                    self._size,
                    mirror=variation.mirror,
                    upside_down=variation.upside_down,
                )
                for frame in frames
            ]
        )
        step = -1 if variation.backwards else 1
        clips = {t: images[rows[t][::step]] for t in self.frame_counts}
        if video.label == UNLABELLED:
            return clips, UNLABELLED
        return clips, variation.label(video.label, self._symmetries)

    def _test_clips(self, video: Video) -> dict[int, Clip]:
        frames, rows = self._decode(video, segment_centres)
        images = np.stack([prepare_frame(f, self._short_side, self._size) for f in frames])
        return {t: images[rows[t]] for t in self.frame_counts}

    def _decode(
        self, video: Video, choose: Callable[[int, int], Indices]
    ) -> tuple[Frames, dict[int, Indices]]:
        """Read, in one pass, every frame that any frame count needs.

        Args:
            video: what to read.
            choose: given N and T, the T frames of N that make a clip.

        Returns:
            The distinct frames, in order: uint8 (U, H, W, 3), BGR; and for each T the rows of it
            that make its clip: int64 (T,).
        """
        if video in self._cache:
            frames = self._cache[video]
            union, rows = self._union(len(frames), choose)
            return frames[union], rows
        if video.num_frames is not None:
            union, rows = self._union(video.num_frames, choose)
            frames = read_frame_folder(
                video.path, union, num_frames=video.num_frames, pattern=self._pattern
            )
            return frames, rows
        with VideoReader(video.path, threads=1) as reader:
            union, rows = self._union(reader.num_frames, choose)
            size = reader.num_frames * reader.height * reader.width * 3
            if size > self._cache_room:
                return reader.read(union), rows
            frames = reader.read(range(reader.num_frames))
        self._cache[video] = frames
        self._cache_room -= size
        return frames[union], rows

    def _union(
        self, num_frames: int, choose: Callable[[int, int], Indices]
    ) -> tuple[Indices, dict[int, Indices]]:
        chosen = {t: choose(num_frames, t) for t in self.frame_counts}
        union = np.unique(np.concatenate(list(chosen.values())))
        return union, {t: np.searchsorted(union, indices) for t, indices in chosen.items()}
