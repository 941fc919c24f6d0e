"""Lists whose videos can be read, and clips of several frame counts from one decode of a video.

Legend: N frames of a video, T frames of a clip, frames of S x S pixels.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from ffn_edge.errors import DataError, VideoError, counted, reason_of
from ffn_edge.frames import segment_centres
from ffn_edge.media.frame_folder import FrameFolder
from ffn_edge.media.images import Choose, Images, Indices, Key
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video, read_list

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_OPENED = 8  # videos of a list, before it is used


def open_video(video: Video, *, frame_pattern: str | None = None) -> VideoReader | FrameFolder:
    """Return the reader of a line of a list: of a video file, not yet open, or a frame folder.

    Args:
        video: what to read.
        frame_pattern: of the names of a folder's images; see `FrameFolder`.

    Raises:
        VideoError: the frame folder cannot be used.
    """
    if video.num_frames is None:
        return VideoReader(video.path, threads=1, start_s=video.start_s, end_s=video.end_s)
    return FrameFolder(video.path, num_frames=video.num_frames, pattern=frame_pattern)


def read_checked_list(
    list_file: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None,
    root: str | os.PathLike[str] | None = None,
    frame_pattern: str | None = None,
) -> tuple[Video, ...]:
    """Read a list, and open a few of its videos: one of another kind is found out at once.

    As `read_list` does it, every label is checked, and that there is something at every path, by
    one listing of each folder. Of up to 8 videos, spread over the list, a frame is read.

    Args:
        list_file: see `read_list`.
        classes: the same.
        root: the same.
        frame_pattern: see `open_video`.

    Raises:
        DataError: see `read_list`; or more than half of those few cannot be read.
    """
    videos = read_list(list_file, classes=classes, root=root)
    few = videos[:: math.ceil(len(videos) / _OPENED)]
    broken = []
    for video in few:
        try:
            with open_video(video, frame_pattern=frame_pattern) as reader:
                next(iter(reader))
        except (VideoError, OSError) as error:
            broken.append(getattr(error, "message", str(error)))
    if len(broken) > len(few) / 2:
        named = f", with its images named {frame_pattern}" if frame_pattern else ""
        raise DataError(
            f"{list_file}: of {counted(len(few), 'video')} tried, {len(broken)} cannot be read: "
            f"{'; '.join(broken[:3])}" + ("; …" if len(broken) > 3 else ""),
            "copy them again; or is this the list of another data set? A line has a number of "
            f"frames if, and only if, it names a folder of images{named}.",
        )
    return videos


def at_window(
    reader: VideoReader | FrameFolder, window_s: float | None, place: float
) -> VideoReader | FrameFolder:
    """Let an open reader read a window alone; see `VideoReader.narrow`. None is no window.

    A folder of frames, which have no times, is read whole.
    """
    if window_s is not None and isinstance(reader, VideoReader):
        reader.narrow(window_s, place)
    return reader


class Sampled(Protocol):
    """Frames of which choices are made, as of an open `VideoReader`."""

    def sample(
        self, choose: Choose[Key], prepare: Callable[[Images], Images] | None = None
    ) -> dict[Key, Images]:
        """Return several choices of frames; see `VideoReader.sample`."""


def clips_at(
    reader: Sampled,
    frame_counts: Iterable[int],
    choose: Callable[[int, int], Indices],
    prepare: Callable[[Images], Images],
) -> dict[int, Images]:
    """Return each frame count's clip of a video, from one decode.

    Args:
        reader: of the video, open.
        frame_counts: the T that are wanted.
        choose: given N and T, the indices of a clip's frames, in any shape; `segment_centres` are
            those of a test. May be asked again for another N; see `VideoReader.sample`.
        prepare: makes of a frame, uint8 (H, W, 3), BGR, what the network gets of it.

    Returns:
        By T, what `prepare` made of the frames: uint8 (*indices, S, S, 3).

    Raises:
        VideoError: the video cannot be read, or its prepared frames differ in size.
    """
    counts = tuple(frame_counts)
    return reader.sample(lambda n: {t: choose(n, t) for t in counts}, prepare)


def spread(videos: Sequence[_T], count: int) -> list[_T]:
    """Return `count` of some videos, spread evenly over them; all of fewer."""
    count = min(count, len(videos))
    return [videos[i * len(videos) // count] for i in range(count)]


def centre_clips(
    videos: Sequence[Video],
    frame_counts: Iterable[int],
    *,
    short_side: int,
    size: int,
    window_s: float | None,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Video, dict[int, Images]]]:
    """Yield videos with their clips at the segments' centres, as `ffn-edge evaluate` takes them.

    A video that cannot be read is left out, and logged.

    Args:
        videos: files or frame folders.
        frame_counts: the T that are wanted.
        short_side: what a frame's is scaled to, and ...
        size: ... the S of its centre.
        window_s: the seconds that a clip spans, in the video's middle; None for all of it.
        on_video: is called with (videos done, videos in all).

    Yields:
        A video, and by T uint8 (T, S, S, 3), RGB.

    Raises:
        DataError: not one video can be read.
    """
    counts = tuple(frame_counts)
    prepare = partial(prepare_frame, short_side=short_side, size=size)
    found = False
    for number, video in enumerate(videos, start=1):
        try:
            with open_video(video) as reader:
                middle = at_window(reader, window_s, 0.5)
                clips = clips_at(middle, counts, segment_centres, prepare)
        except VideoError as error:
            _log.warning("skipped: %s", error.message)
        except OSError as error:
            _log.warning("skipped: %s cannot be read: %s", video.path, reason_of(error))
        else:
            found = True
            yield video, clips
        on_video(number, len(videos))
    if not found:
        raise DataError(
            f"none of the {counted(len(videos), 'video')} of the list could be read",
            "see the messages above.",
        )
