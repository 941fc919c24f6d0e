"""Clips of several frame counts from one decode of a video.

Legend: N frames of a video, T frames of a clip, frames of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

from ffn_edge.frame_folder import FrameFolder
from ffn_edge.frames import segment_centres
from ffn_edge.images import Images
from ffn_edge.picture import prepare_frame
from ffn_edge.video import VideoReader
from ffn_edge.video_list import Video


def open_video(video: Video, *, frame_pattern: str | None = None) -> VideoReader | FrameFolder:
    """Return the reader of a line of a list: of a video file, not yet open, or a frame folder.

    Args:
        video: what to read.
        frame_pattern: of the names of a folder's images; see `FrameFolder`.

    Raises:
        VideoError: the frame folder cannot be used.
    """
    if video.num_frames is None:
        return VideoReader(video.path, threads=1)
    return FrameFolder(video.path, num_frames=video.num_frames, pattern=frame_pattern)


def centre_clips(
    video: Video,
    frame_counts: Iterable[int],
    *,
    short_side: int,
    size: int,
    frame_pattern: str | None = None,
) -> dict[int, Images]:
    """Return what a network sees of a video at test time: by T, uint8 (T, S, S, 3), RGB.

    The frames that `VideoDataset` takes for evaluation, and prepared as it does.

    Args:
        video: what to read.
        frame_counts: the T that are wanted.
        short_side: see `prepare_frame`.
        size: S.
        frame_pattern: see `open_video`.

    Raises:
        VideoError: the video cannot be read.
    """
    frame_counts = tuple(frame_counts)
    with open_video(video, frame_pattern=frame_pattern) as reader:
        return reader.sample(
            lambda n: {t: segment_centres(n, t) for t in frame_counts},
            lambda frame: prepare_frame(frame, short_side, size),
        )
