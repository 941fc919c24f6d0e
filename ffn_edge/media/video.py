"""Video files, or parts of them, frame by frame with their times.

What a header states of a file's frames, rate and length is not believed: what counts is what is
decoded, and the timestamps that go with it. So these are the frames that FFmpeg and players show.

Legend: N frames of height H and width W. Frames are uint8 BGR, until
`ffn_edge.media.picture.crop_resize` makes them RGB.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import VideoError
from ffn_edge.media.frame_folder import read_frame_folder as read_frame_folder
from ffn_edge.media.images import Choose, Images, Indices, Key, check_file, distinct, stacked
from ffn_edge.media.opencv import opencv
from ffn_edge.media.pyav import pyav
from ffn_edge.media.shards import member_of, shard_of

# The rate of a file or camera that does not state one.
UNSTATED_FPS = 30.0
# No camera and no time lapse lies outside; a file that says so knows nothing of its times.
_LEAST_FPS, _MOST_FPS = 1 / 3600, 480.0
# 8K, and some room. A file of a few kilobytes can ask for more than any memory has.
_MOST_PIXELS = 8192 * 4608
# Formats that open other files than the one that is named.
_PLAYLISTS = {"concat", "concatf", "dash", "hls", "image2", "imf", "sdp"}
_MOST_THREADS = 16  # of a decoder, as in FFmpeg
_DECODER = {"max_pixels": str(_MOST_PIXELS)}
# A part that begins earlier is reached as fast without a seek.
_SEEK_FROM_S = 1.0
_ROUNDING_S = 1e-6  # of times that are compared


class Frame(NamedTuple):
    """A frame: uint8 (H, W, 3), BGR, and when it was taken, in seconds of its stream."""

    image: Images
    time_s: float


class VideoReader:
    """A video file, decoded front to back.

        with VideoReader("clip.mp4") as video:
            frames = video.read([0, 10, 20])  # uint8 (3, H, W, 3), BGR

    Nothing is touched before the `with`; inside it, the attributes are set. Of several videos in
    one file, FFmpeg's choice is read, and never a cover picture.

    Attributes:
        path: the file.
        fps: frames a second, on average; `UNSTATED_FPS` where the file states none that can be.
        height: of the first frame, in pixels, upright: a stored rotation or mirroring is applied.
        width: of the first frame, in pixels.
    """

    fps: float
    height: int
    width: int

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        start_s: float = 0.0,
        end_s: float = math.inf,
    ) -> None:
        """Remember the file.

        Args:
            path: a video of any format that FFmpeg decodes, or of a shard; see
                `ffn_edge.media.shards`.
            threads: of the decoder. 0 is what FFmpeg would choose if it knew of a container's
                quota, best for one large video; 1 is faster for small ones, and where several are
                read at once.
            start_s: of the part that is read, in seconds from the file's first frame; everything
                that is said of frames is said of the part's.
            end_s: the first time that is no longer part of it.
        """
        self.path = Path(path)
        self._threads = threads
        self._start_s, self._end_s = start_s, end_s
        self._is_window = False

    def __enter__(self) -> VideoReader:
        """Open the file, and decode its first frame.

        Raises:
            VideoError: it is missing, empty, no video, cut off, too large, of an unknown codec, or
                holds no frame.
        """
        self._locate()
        self._reformatter = pyav().video.reformatter.VideoReformatter()
        self._num_frames: int | None = None  # known once the last one was decoded
        pictures = self._decode()
        first = next(pictures, None)
        if first is None:
            raise self._no_frame()
        self._first_pass: Iterator[Any] | None = itertools.chain([first], pictures)
        stamp_s = self._stamp_s(first)
        if not self._is_part:
            self._origin_s = stamp_s
        elif stamp_s is not None and self._origin_s is not None:
            self._start_s = stamp_s - self._origin_s  # a part begins with its first frame
        # Asked of one picture only: one that was asked lives until Python looks for cycles.
        matrix = first.side_data.get("DISPLAYMATRIX")
        self._matrix = None if matrix is None else np.frombuffer(matrix, np.int32).copy()
        self.height, self.width = first.height, first.width
        if self._matrix is not None and _is_turned(self._matrix):
            self.height, self.width = first.width, first.height
        return self

    def __exit__(self, *_: object) -> None:
        self._first_pass = None  # closes the file, if nobody reads it

    @property
    def num_frames(self) -> int:
        """N. Every frame is decoded to count them, unless that was done before."""
        if self._num_frames is None:
            for _ in self._from_start():
                pass
        assert self._num_frames is not None
        return self._num_frames

    @property
    def stated_frames(self) -> int:
        """What the file says of N: its header where that agrees with its length, or its packets.

        At once or nearly so; but hidden, empty and damaged frames are counted.
        """
        return self._stated_frames if self._header_agrees else self._packets()[0]

    @property
    def _header_agrees(self) -> bool:
        """Whether all is read, and the header's number of frames agrees with its length."""
        return not self._is_part and abs(self._stated_s * self.fps - self._stated_frames) <= 1

    def narrow(self, window_s: float, place: float) -> None:
        """Read only a window of what was to be read, unless that is shorter.

        Where frames lie farther apart than the window is long, it may have none of its own: then it
        is the one before, which is what a player shows.

        Args:
            window_s: its length in seconds.
            place: where it lies in the room that it has: 0 at the beginning, 1 at the end.
        """
        length_s = self._stated_s if self._header_agrees else self._packets()[1]
        room_s = length_s - window_s
        if room_s > 0.5 / self.fps:
            self._start_s += place * room_s
            self._end_s = self._start_s + window_s
            self._is_window = True
            self._num_frames = self._first_pass = None

    def __iter__(self) -> Iterator[Images]:
        """Yield every frame: uint8 (H, W, 3), BGR. A file may change its size on the way."""
        return (frame.image for frame in self.timed())

    def timed(self, wanted: Callable[[float], bool] | None = None) -> Iterator[Frame]:
        """Yield every frame with its time. The first is at 0 s, and each later than the one before.

        Args:
            wanted: is asked with each frame's time; those that are not wanted are left out, and
                cost no conversion. None wants all.
        """
        start_s: float | None = None
        previous_s = -math.inf
        for index, picture in enumerate(self._from_start()):
            stamped_s = self._stamp_s(picture)
            time_s = index / self.fps
            if stamped_s is not None:
                start_s = stamped_s - time_s if start_s is None else start_s
                time_s = stamped_s - start_s
            if time_s <= previous_s:
                time_s = previous_s + 1 / self.fps
            previous_s = time_s
            if wanted is None or wanted(time_s):
                yield Frame(self._image(picture), time_s)

    def sample(
        self, choose: Choose[Key], prepare: Callable[[Images], Images] | None = None
    ) -> dict[Key, Images]:
        """Return several choices of frames from one decode.

            video.sample(lambda n: {t: segment_centres(n, t) for t in (4, 8, 16)})

        The file is decoded to its end, which tells whether `choose` was given the right N. Where
        that was not known before, as with damaged frames, it chooses again and the file is read
        once more.

        Args:
            choose: given N, the indices that are wanted, in any order and shape; some may be equal.
            prepare: is given each frame that is wanted as it is decoded, once, uint8 (H, W, 3),
                BGR, and returns what is kept of it; the frame itself if None.

        Returns:
            By the keys of `choose`, what `prepare` made of the frames: uint8 (*indices, H, W, 3).

        Raises:
            VideoError: what `prepare` returns differs in size, or there is no frame.
        """
        while True:
            count = self.stated_frames if self._num_frames is None else self._num_frames
            wanted = choose(count)
            frames = self._prepared(wanted, prepare)
            if not self._num_frames:
                raise self._no_frame()
            if self._num_frames == count:
                return stacked(frames, wanted, self.path)

    def read(self, indices: Indices) -> Images:
        """Return the frames `indices`, in their order: uint8 (len(indices), H, W, 3), BGR.

        One pass decodes up to the last of them; only these are converted to BGR.

        Args:
            indices: in 0..num_frames-1, in any order; some may be equal.

        Raises:
            IndexError: the file does not have so many frames.
            VideoError: the frames differ in size.
        """
        if not len(indices):
            return np.empty((0, self.height, self.width, 3), np.uint8)
        wanted = {"": np.asarray(indices, np.int64)}
        frames = self._prepared(wanted, None, until=max(indices))
        if not min(indices) >= 0 or max(indices) not in frames:
            raise IndexError(f"{self.path} has {self.num_frames} frames; wanted {list(indices)}")
        return stacked(frames, wanted, self.path)[""]

    def _prepared(
        self,
        wanted: Mapping[Key, Indices],
        prepare: Callable[[Images], Images] | None,
        until: float = math.inf,
    ) -> dict[int, Images]:
        chosen = distinct(wanted)
        frames = {}
        for index, picture in enumerate(self._from_start()):
            if index in chosen:
                image = self._image(picture)
                frames[index] = image if prepare is None else prepare(image)
            if index >= until:
                break
        return frames

    def _locate(self) -> None:
        """Find the file, or the shard that it is in.

        Raises:
            VideoError: there is none, or it is empty.
        """
        shard = shard_of(self.path)
        if shard is None:
            check_file(self.path, "video")
            # With the protocol's name, a colon in the file's is not taken for another protocol.
            self._url, self._size = f"file:{self.path}", self.path.stat().st_size
        else:
            begin, self._size = member_of(shard, self.path)
            self._url = f"subfile,,start,{begin},end,{begin + self._size},,:file:{shard}"

    def _open(self) -> tuple[Any, Any]:
        """Open the file; return its container and the stream of the video. Note what it states."""
        av = pyav()
        try:
            container = av.open(self._url, options=_demuxer_options(), metadata_errors="replace")
        except av.FFmpegError as error:
            raise self._unreadable() from error
        try:
            stream = self._video_of(container)
            stream.codec_context.options = _DECODER
            stream.codec_context.thread_count = self._threads or _decoding_threads()
            stream.codec_context.thread_type = "NONE" if self._threads == 1 else "AUTO"
            rate = stream.average_rate
            self._has_times = rate is None or _LEAST_FPS <= rate <= _MOST_FPS
            self.fps = float(rate) if rate and self._has_times else UNSTATED_FPS
            self._codec = stream.name
            self._stated_frames: int = stream.frames
            self._stated_s = float((stream.duration or 0) * (stream.time_base or 0)) or math.inf
        except BaseException:
            container.close()
            raise
        return container, stream

    def _video_of(self, container: Any) -> Any:
        cover = pyav().stream.Disposition.attached_pic
        videos = [each for each in container.streams.video if not each.disposition & cover]
        if not videos:
            raise self._unreadable()
        best = container.streams.best("video")
        stream = best if best in videos else videos[0]
        if stream.codec_context is None:
            raise VideoError(
                f"{self.path} is of a codec that this FFmpeg cannot decode",
                f"{self._probe} names it; encode the video again, for example as H.264.",
            )
        if stream.width * stream.height > _MOST_PIXELS:
            raise VideoError(
                f"{self.path} has frames of {stream.width}x{stream.height}",
                "scale it down to 8K or less.",
            )
        index = stream.index_entries
        if len(index) and index[-1].pos + index[-1].size > self._size:
            raise self._unreadable()
        return stream

    @property
    def _probe(self) -> str:
        """The command that tells more of the file."""
        return f"`ffprobe {shlex.quote(str(self.path))}`"

    def _no_frame(self) -> VideoError:
        if self._is_part:
            return VideoError(
                f"{self.path} holds no frame from {self._start_s:g} s to {self._end_s:g} s",
                "correct the part, which may lie beyond the video's end.",
            )
        return VideoError(
            f"{self.path} holds no frame that can be decoded as {self._codec}",
            f"copy or record it again; {self._probe} tells what is wrong with it.",
        )

    def _unreadable(self) -> VideoError:
        return VideoError(
            f"{self.path} cannot be read as a video: it is cut off, damaged, or no video",
            f"copy or download it again; {self._probe} tells what is wrong with it.",
        )

    @property
    def _is_part(self) -> bool:
        return (self._start_s, self._end_s) != (0.0, math.inf)

    def _decode(self) -> Iterator[Any]:
        """Yield every picture that can be decoded, as players do.

        From a file that is opened anew, since seeking is not exact; it is closed with the iterator.
        """
        count = 0
        for picture in self._pictures_of_part() if self._is_part else self._all_pictures():
            count += 1
            yield picture
        self._num_frames = count

    def _all_pictures(self) -> Iterator[Any]:
        container, stream = self._open()
        with container:
            yield from self._pictures(container, stream)

    def _pictures_of_part(self) -> Iterator[Any]:
        """Yield the pictures of the part; a seek is used where it proves to have come far enough.

        What a decoder gives before the first whole picture after a seek lies before the part, too.
        """
        container, stream = self._open()
        with container:
            pictures = self._pictures(container, stream)
            first = next(pictures, None)
            if first is None:
                return
            origin_s = self._origin_s = self._stamp_s(first)
            if origin_s is not None and self._seeks(container):
                with suppress(pyav().FFmpegError):
                    offset = int((origin_s + self._start_s) / stream.time_base)
                    container.seek(offset, stream=stream)
                    sought = self._pictures(container, stream)
                    first = next(sought, None)
                    if first is not None and self._is_before(first, origin_s):
                        yield from self._within(itertools.chain([first], sought), origin_s)
                        return
        yield from self._within(self._all_pictures(), origin_s)

    def _seeks(self, container: Any) -> bool:
        """Whether a seek to the part may spare decoding.

        Not in a program stream (*.mpg), where few pictures have a time: those of the others, which
        FFmpeg counts on from where it begins, would differ.
        """
        return self._start_s >= _SEEK_FROM_S and container.format.name != "mpeg"

    def _is_before(self, picture: Any, origin_s: float) -> bool:
        """Whether a picture's time is before the part, or is its beginning."""
        stamp_s = self._stamp_s(picture)
        return stamp_s is not None and stamp_s - origin_s <= self._start_s + _ROUNDING_S

    def _within(self, pictures: Iterator[Any], origin_s: float | None) -> Iterator[Any]:
        """Yield those of the part; a picture without a time follows the one before it."""
        time_s = -1 / self.fps
        before = None  # the picture that a window without any shows
        for picture in pictures:
            stamp_s = self._stamp_s(picture)
            time_s += 1 / self.fps
            if stamp_s is not None and origin_s is not None:
                time_s = stamp_s - origin_s
            if time_s >= self._end_s - _ROUNDING_S:
                break
            if time_s >= self._start_s - _ROUNDING_S:
                before = None
                yield picture
            elif self._is_window:
                before = picture
        if before is not None:
            yield before

    def _packets(self) -> tuple[int, float]:
        """Return the packets of what is read, and the seconds from its start to its last one's end.

        Where it has no times, both follow from the rate.
        """
        container, stream = self._open()
        origin_s, is_part = self._origin_s, self._is_part
        count, last_s = 0, -math.inf
        with container, suppress(pyav().FFmpegError):
            if is_part and origin_s is None:
                count = round((min(self._end_s, self._stated_s) - self._start_s) * self.fps)
                return max(1, count), max(1, count) / self.fps
            if origin_s is not None and is_part and self._seeks(container):
                container.seek(int((origin_s + self._start_s) / stream.time_base), stream=stream)
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                stamp_s = self._stamp_s(packet)
                if stamp_s is None or origin_s is None:
                    count += not is_part
                else:
                    time_s = stamp_s - origin_s
                    if self._start_s <= time_s + _ROUNDING_S < self._end_s:
                        count += 1
                        last_s = max(last_s, time_s)
                    # Later ones may be shown earlier, but none before it is decoded.
                    decoded_s = float((packet.dts or 0) * packet.time_base)
                    if decoded_s - origin_s >= self._end_s:
                        break
        count = max(1, count)
        if last_s == -math.inf:
            return count, count / self.fps
        return count, last_s - self._start_s + 1 / self.fps

    def _stamp_s(self, picture: Any) -> float | None:
        """Return a picture's own time in seconds; None where it, or the file, states none."""
        stamp = picture.dts if picture.pts is None else picture.pts
        return float(stamp * picture.time_base) if stamp is not None and self._has_times else None

    def _pictures(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield what can be decoded from where the container stands to its end."""
        av = pyav()
        packets, ended = container.demux(stream), False
        while not ended:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # what comes after is lost
                packet = None
            ended = packet is None or packet.size == 0
            try:
                pictures = stream.decode(packet)
            except av.FFmpegError:
                continue
            yield from pictures

    def _from_start(self) -> Iterator[Any]:
        """Yield every picture; the first time, with the one that was decoded to open the file."""
        pictures, self._first_pass = self._first_pass, None
        return self._decode() if pictures is None else pictures

    def _image(self, picture: Any) -> Images:
        """Convert a picture: uint8 (H, W, 3), BGR, upright."""
        # More threads than one cost more than they save in all but the largest pictures.
        converted = self._reformatter.reformat(picture, format="bgr24", threads=1)
        image: Images = converted.to_ndarray()
        return image if self._matrix is None else upright(image, self._matrix)


def upright(image: npt.NDArray[Any], matrix: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Turn and mirror a picture as its display matrix says, by whole quarter turns.

    The matrix is ISO 14496-12's: a pixel at (x, y) is shown at (a x + c y, b x + d y).
    """
    cv2 = opencv()
    across, down = matrix[0], matrix[4]
    if _is_turned(matrix):
        image = cv2.transpose(image)
        across, down = matrix[3], matrix[1]
    if across < 0 or down < 0:
        image = cv2.flip(image, -1 if across < 0 and down < 0 else int(across < 0))
    return image


def _is_turned(matrix: npt.NDArray[np.int32]) -> bool:
    """Return whether a display matrix swaps height and width."""
    return abs(float(matrix[0])) < abs(float(matrix[1]))


def _decoding_threads() -> int:
    """Choose as FFmpeg does, which knows of no quota: one more than processors, so none waits."""
    return min(usable_processors() + 1, _MOST_THREADS)


@functools.cache
def _demuxer_options() -> dict[str, str]:
    """Keep a playlist from naming an address, or another file."""
    formats = pyav().formats_available - _PLAYLISTS
    return {"protocol_whitelist": "file,subfile", "format_whitelist": ",".join(sorted(formats))}
