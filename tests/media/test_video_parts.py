"""A part of a video has the frames that the whole has in that time, however they are reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.frames import segment_centres
from ffn_edge.media.clips import open_video
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video
from ffn_edge.train.frame_cache import CachedVideo

CODECS = {
    "mp4": "libx264",
    "mkv": "libx264",
    "mov": "mpeg4",
    "avi": "mpeg4",
    "webm": "libvpx-vp9",
    "ts": "libx264",
    "mpg": "mpeg2video",
    "gif": "gif",
}
_FPS = 10


def write(path: Path, times: Sequence[float]) -> Path:
    """A video with key frames 12 frames apart, B-frames between them where the codec has them."""
    codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        rate = 25 if codec == "mpeg2video" else _FPS  # it has no 10
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.gop_size = 12
        if codec == "libx264":
            stream.options = {"bf": "3", "x264-params": "open-gop=1"}
        if codec not in ("mpeg2video", "gif", "mpeg4"):
            stream.codec_context.time_base = Fraction(1, 1000)
        rng = np.random.default_rng(0)
        for number, time_s in enumerate(times):
            image = np.full((64, 64, 3), 40 + number * 3, np.uint8)
            image[rng.integers(60) :, :4] = 255
            picture = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=stream.pix_fmt)
            if codec in ("mpeg2video", "gif", "mpeg4"):
                picture.pts, picture.time_base = number, Fraction(1, rate)
            else:
                picture.pts, picture.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


EVEN = [number / _FPS for number in range(60)]
UNEVEN = [number / _FPS + (0.03 if number % 3 else 0.0) for number in range(60)]
PARTS = [(0.0, 0.75), (0.31, 0.9), (1.15, 2.0), (1.2, 1.25), (2.05, math.inf), (3.3, 99.0)]


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("suffix", CODECS)
def test_a_part_is_what_the_whole_has_in_that_time(
    suffix: str, times: list[float], tmp_path: Path
) -> None:
    path = write(tmp_path / f"a.{suffix}", times)
    with VideoReader(path) as reader:
        whole = list(reader.timed())
    assert len(whole) == 60
    for start_s, end_s in PARTS:
        expected = [frame for frame in whole if start_s - 1e-6 <= frame.time_s < end_s - 1e-6]
        if not expected:
            continue
        with open_video(Video(path, 0, None, start_s, end_s)) as part:
            assert isinstance(part, VideoReader)
            found = list(part.timed())
            clips = part.sample(lambda n: {t: segment_centres(n, t) for t in (2, 5)})
            assert part.num_frames == len(expected)
        assert len(found) == len(expected), (start_s, end_s)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            assert one.time_s == pytest.approx(other.time_s - expected[0].time_s, abs=1e-6)
        for count, clip in clips.items():
            images = np.stack([expected[i].image for i in segment_centres(len(expected), count)])
            np.testing.assert_array_equal(clip, images)


@pytest.mark.parametrize("suffix", CODECS)
def test_what_is_stated_of_a_part_is_its_number_of_packets(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", EVEN)
    for start_s, end_s in ((0.0, 0.75), (1.15, 2.0), (0.5, math.inf)):
        with VideoReader(path, start_s=start_s, end_s=end_s) as part:
            assert abs(part.stated_frames - part.num_frames) <= 1


def test_a_part_of_a_long_video_is_reached_by_a_seek(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mp4", EVEN)
    decoded = 0
    pictures = VideoReader._pictures

    def counted(self: VideoReader, *given: object) -> object:
        nonlocal decoded
        for picture in pictures(self, *given):
            decoded += 1
            yield picture

    monkeypatch.setattr(VideoReader, "_pictures", counted)
    with VideoReader(path, start_s=5.0) as part:
        assert part.num_frames == 10
    assert decoded <= 1 + 12 + 10


@pytest.mark.parametrize(("start_s", "end_s"), [(7.0, 9.0), (0.01, 0.02)])
def test_a_part_without_a_frame_is_refused(start_s: float, end_s: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", EVEN)
    with pytest.raises(VideoError, match="no frame from"):
        VideoReader(path, start_s=start_s, end_s=end_s).__enter__()


# Ten frames a second, none for eight seconds, then two a second.
PAUSED = [*(number / 10 for number in range(30)), *(11 + number / 2 for number in range(10))]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_window_lies_in_the_time_that_a_video_lasts(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", PAUSED)
    with VideoReader(path) as reader:
        whole = list(reader.timed())
        reader.narrow(2.0, 1.0)
        found = list(reader)
    # An MP4 file with B-frames states too short a length.
    assert any(np.array_equal(found[-1], frame.image) for frame in whole[-3:])
    assert len(found) in (4, 5)
    with VideoReader(path, start_s=2.0, end_s=12.1) as part:
        part.narrow(1.0, 1.0)
        shown = list(part)
    np.testing.assert_array_equal(shown[-1], whole[32].image)


def test_a_window_between_two_frames_shows_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", PAUSED)
    with VideoReader(path) as reader:
        whole = list(reader.timed())
        times_s = np.array([frame.time_s for frame in whole])
        kept = CachedVideo(None, path, reader.fps, (64, 64), False, times_s, times_s, 0, 40)
        reader.narrow(2.0, 0.4)
        shown = list(reader)
    assert len(shown) == 1
    np.testing.assert_array_equal(shown[0], whole[29].image)
    window = kept.narrowed(2.0, 0.4)
    assert (window.first, window.last) == (29, 30)
