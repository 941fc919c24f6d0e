"""The clips of labelled videos: of every frame count, from one decode a video.

Legend: T frames a clip, frames of S x S pixels. Clips are uint8 RGB.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffn_edge.device.plan_cache import default_folder
from ffn_edge.errors import VideoError, reason_of
from ffn_edge.frames import (
    DrawFrames,
    Indices,
    check_frame_counts,
    segment_centres,
    segment_random,
)
from ffn_edge.media.clips import at_window, clips_at, open_video, read_checked_list
from ffn_edge.media.images import Images
from ffn_edge.media.picture import crop_resize, prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import UNLABELLED, Video
from ffn_edge.train.augment import MULTI_SCALE, Variation, draw_variation
from ffn_edge.train.datasets import DatasetFacts
from ffn_edge.train.frame_cache import DamagedError, FrameCache

Clip = npt.NDArray[np.uint8]  # (T, S, S, 3), RGB

# How many videos in a row may be unreadable before a training sample is given up.
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """One video as the network gets it.

    Attributes:
        clips: by frame count, uint8 (T, S, S, 3), RGB. Empty if no video could be read.
        label: of these clips.
        broken: of each video that was tried and could not be read, why.
    """

    clips: dict[int, Clip]
    label: int
    broken: tuple[str, ...] = ()


class VideoDataset:
    """The videos of one list file, each opened and decoded once for all frame counts.

    `videos[epoch, index]` is a `Sample`. What is random in it comes from the seed, the epoch and
    the index alone: neither the number of loader processes nor an interruption changes it.
    """

    def __init__(
        self,
        listed: str | os.PathLike[str] | Sequence[Video],
        frame_counts: Iterable[int],
        *,
        classes: Sequence[str],
        facts: DatasetFacts,
        root: str | os.PathLike[str] | None = None,
        train: bool,
        draw_frames: DrawFrames = segment_random,
        size: int,
        short_side: int,
        window_s: float | None = None,
        scales: tuple[float, ...] = MULTI_SCALE,
        seed: int = 0,
        cache_bytes: int = 0,
        cache_folder: Path | None = None,
        labelled: bool = True,
    ) -> None:
        """Read the list file and open a few of its videos, or take those of one that was read.

        Args:
            listed: a list file, see `read_checked_list`, or its videos.
            frame_counts: of every video a clip of each is made.
            classes: the names of the classes, see `ffn_edge.media.classes.read_classes`.
            facts: of the data set.
            root: the folder that the list's paths are relative to; the list's own if None.
            train: draw frames, crops and symmetries at random, and replace a video that cannot
                be read by the next one that can. Otherwise take centres, and return no clip.
            draw_frames: the rule by which training draws frames; see `Family`.
            size: S.
            short_side: a frame's short side is scaled to this before its centre is cropped; in
                testing.
            window_s: the seconds that clips span: at random in a longer video in training, and in
                its middle in testing; None for whole videos.
            scales: of the random crop, over the frame's short side; in training.
            seed: not negative.
            cache_bytes: keep decoded frames on disk up to this size; see `FrameCache`.
            cache_folder: where; that of other caches if None.
            labelled: otherwise labels are not read, need not be there, and are `UNLABELLED`.

        Raises:
            DataError: the list, its labels or its paths are wrong, or most videos cannot be read,
                or the labels do not fit the classes, or these not the data set.
            FrameCountError: the frame counts are not positive and ascending.
            WriteError: the cache's folder cannot be written.
        """
        facts.check_classes(classes)
        if isinstance(listed, str | os.PathLike):
            self.videos = read_checked_list(
                listed,
                classes=classes if labelled else None,
                root=root,
                frame_pattern=facts.frame_pattern,
            )
        else:
            self.videos = tuple(listed)
        self.frame_counts = check_frame_counts(frame_counts)
        self.train = train
        self._draw_frames = draw_frames
        self._pattern = facts.frame_pattern
        self._symmetries = facts.symmetries(classes)
        self._size = size
        self._short_side = short_side
        self._window_s = window_s
        self._scales = scales
        self._seed = seed
        self._cache: FrameCache | None = None
        if cache_bytes:
            # What the smallest crop, or a test's, leaves is then at least as large as `size`.
            enough = max(short_side, math.ceil(size / min(scales)))
            self._cache = FrameCache(
                cache_folder or default_folder() / "frames", cache_bytes, enough
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample of (epoch, index); index + n · len(self) is that video drawn anew."""
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
            except VideoError as error:
                broken.append(error.message)
            except OSError as error:
                broken.append(f"{video.path} cannot be read: {reason_of(error)}")
            else:
                return Sample(clips, label, tuple(broken))
        return Sample({}, self.videos[index % len(self)].label, tuple(broken))

    def _training_clips(
        self, video: Video, rng: np.random.Generator
    ) -> tuple[dict[int, Clip], int]:
        place = 0.5 if self._window_s is None else rng.random()
        variations: dict[tuple[int, ...], Variation] = {}
        drawn = rng

        def choose(num_frames: int, frames: int) -> Indices:
            nonlocal drawn
            if frames == self.frame_counts[0]:
                # Asked again for another number of frames, it draws as if it were asked once.
                drawn = copy.deepcopy(rng)
                variations.clear()
            return self._draw_frames(num_frames, frames, drawn)

        def prepare(frame: Images) -> Images:
            height, width, _ = size = frame.shape
            if size not in variations:  # the same draw for each, should the size change midway
                variations[size] = draw_variation(
                    height, width, self._size, self._symmetries, self._scales, copy.deepcopy(drawn)
                )
            variation = variations[size]
            return crop_resize(
                frame,
                variation.box,
                self._size,
                mirror=variation.mirror,
                upside_down=variation.upside_down,
            )

        clips = self._clips(video, place, choose, prepare)
        variation = next(iter(variations.values()))
        if variation.backwards:
            clips = {t: clip[::-1] for t, clip in clips.items()}
        if video.label == UNLABELLED:
            return clips, UNLABELLED
        return clips, variation.label(video.label, self._symmetries)

    def _test_clips(self, video: Video) -> dict[int, Clip]:
        return self._clips(
            video,
            0.5,
            segment_centres,
            lambda frame: prepare_frame(frame, self._short_side, self._size),
        )

    def _clips(
        self,
        video: Video,
        place: float,
        choose: Callable[[int, int], Indices],
        prepare: Callable[[Images], Images],
    ) -> dict[int, Clip]:
        """Return a video's clips from one decode, or from the cache; see `clips_at`."""
        window_s, counts = self._window_s, self.frame_counts
        cache = self._cache if video.num_frames is None else None
        kept = None if cache is None else cache.find(video)
        if kept is not None:
            with suppress(DamagedError):
                return clips_at(kept.narrowed(window_s, place), counts, choose, prepare)
        with open_video(video, frame_pattern=self._pattern) as reader:
            if cache is not None and isinstance(reader, VideoReader):
                kept = cache.keep(video, reader)
                if kept is not None:
                    return clips_at(kept.narrowed(window_s, place), counts, choose, prepare)
            return clips_at(at_window(reader, window_s, place), counts, choose, prepare)
