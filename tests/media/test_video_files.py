"""Files of every container and codec that people have: our frames and times are FFmpeg's.

The files are rendered here, synthetic: frame i shows the bits of i as eight upright bars.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.frames import segment_centres
from ffn_edge.media.video import UNSTATED_FPS, VideoReader
from ffn_edge.runtime.stream.clip_buffer import ClipBuffer, HostRing, window_capacity
from ffn_edge.runtime.stream.sources import VideoStream

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAMES, RATE = 48, 24
HEIGHT, WIDTH = 96, 128


def ffmpeg(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [FFMPEG, "-hide_banner", "-nostdin", "-y", *map(str, arguments)]
    if stdin is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done


def bars(index: int) -> np.ndarray:
    row = np.repeat(((index >> np.arange(8)) & 1) * 180 + 30, WIDTH // 8)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)


def numbers_on(images: list[np.ndarray]) -> list[int]:
    columns = [image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1) for image in images]
    return [int((column > 120) @ (1 << np.arange(8))) for column in columns]


def render(path: Path, *options: object, frames: int = FRAMES, rate: int = RATE) -> Path:
    """Write a file of numbered frames; `options` stand before its name."""
    raw = b"".join(bars(i).tobytes() for i in range(frames))
    source = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate)
    ffmpeg(*source, "-i", "-", *options, path, stdin=raw)
    return path


def shown_by_ffmpeg(path: Path, stream: str = "0:V:0") -> tuple[list[np.ndarray], np.ndarray]:
    """The pictures that ffmpeg itself gives, upright, and their times from the first."""
    output = ("-fps_mode", "passthrough", "-vf", "showinfo", "-f", "rawvideo", "-pix_fmt", "bgr24")
    done = ffmpeg("-i", path, "-map", stream, *output, "-")
    text = done.stderr.decode()
    times = [float(found) for found in re.findall(r"n: *\d+ pts:.*?pts_time:([-\d.]+)", text)]
    sizes = re.findall(r" fmt:.* s:(\d+)x(\d+)", text)
    width, height = map(int, sizes[0])
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return list(pictures), np.asarray(times) - times[0]


H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", 12)
VARIABLE = ("-vf", r"setpts='if(lt(N,24),N*2,N+24)/24/TB'", "-fps_mode", "vfr")

FILES: dict[str, tuple[str, tuple[object, ...]]] = {
    "MP4, H.264": ("a.mp4", H264),
    "MP4 in fragments": ("a.mp4", (*H264, "-movflags", "frag_keyframe+empty_moov", "-g", 8)),
    "MOV, H.264 without B-frames": ("a.mov", (*H264, "-bf", 0)),
    "MP4, H.265": ("a.mp4", ("-c:v", "libx265", "-crf", 12, "-x265-params", "log-level=none")),
    "MP4, H.265 of ten bits": (
        "a.mp4",
        ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=none"),
    ),
    "MP4, AV1": ("a.mp4", ("-c:v", "libsvtav1", "-crf", 20)),
    "MP4, MPEG-4 with B-frames": ("a.mp4", ("-c:v", "mpeg4", "-bf", 2, "-q:v", 2)),
    "MKV, H.264": ("a.mkv", H264),
    "MKV, FFV1": ("a.mkv", ("-c:v", "ffv1")),
    "MKV, rate falls": ("a.mkv", (*H264, *VARIABLE)),
    "MP4, rate falls": ("a.mp4", (*H264, *VARIABLE)),
    "WebM, VP8 with hidden frames": (
        "a.webm",
        ("-c:v", "libvpx", "-b:v", "1M", "-auto-alt-ref", 1, "-lag-in-frames", 16, "-qmax", 20),
    ),
    "WebM, VP9": ("a.webm", ("-c:v", "libvpx-vp9", "-b:v", "1M", "-lag-in-frames", 16)),
    "WebM, VP9, rate falls": ("a.webm", ("-c:v", "libvpx-vp9", "-b:v", "1M", *VARIABLE)),
    "TS, H.264": ("a.ts", H264),
    "TS, MPEG-2": ("a.ts", ("-c:v", "mpeg2video", "-q:v", 2, "-bf", 2)),
    "MPG, MPEG-1": ("a.mpg", ("-c:v", "mpeg1video", "-q:v", 2)),
    "AVI, MPEG-4 with B-frames": ("a.avi", ("-c:v", "mpeg4", "-bf", 2, "-q:v", 2)),
    "AVI, MJPEG": ("a.avi", ("-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p")),
    "WMV": ("a.wmv", ("-c:v", "wmv2", "-q:v", 2)),
    "FLV": ("a.flv", ("-c:v", "flv1", "-q:v", 2)),
    "3GP": ("a.3gp", H264),
    "GIF": ("a.gif", ()),
    "interlaced H.264": ("a.mp4", (*H264, "-flags", "+ilme+ildct", "-x264opts", "tff=1")),
    "interlaced MPEG-2": ("a.ts", ("-c:v", "mpeg2video", "-q:v", 2, "-flags", "+ilme+ildct")),
    "raw H.264": ("a.h264", H264),
}


@pytest.mark.parametrize("kind", FILES)
def test_frames_and_times_are_those_that_ffmpeg_shows(kind: str, tmp_path: Path) -> None:
    name, options = FILES[kind]
    path = render(tmp_path / name, *options)
    expected, times = shown_by_ffmpeg(path)
    assert numbers_on(expected) == list(range(FRAMES))
    with VideoReader(path, threads=1) as video:
        frames = list(video.timed())
        assert video.num_frames == FRAMES
    assert numbers_on([frame.image for frame in frames]) == list(range(FRAMES))
    # Colour conversion rounds in other ways: by some levels, and no frame is another one.
    worst = max(
        np.abs(frame.image.astype(int) - picture).mean()
        for frame, picture in zip(frames, expected, strict=True)
    )
    assert worst < 3
    if not name.endswith(".h264"):  # which has no times
        assert np.abs([frame.time_s for frame in frames] - times).max() < 2e-3

    # Evaluation and the runtime take the same of them.
    length_s = 10.0  # longer than the file
    with VideoStream(path) as stream:
        ring = HostRing(window_capacity(length_s, stream.fps), 16, HEIGHT, WIDTH)
        buffer = ClipBuffer(ring, window_s=length_s, fps=stream.fps)
        for frame in stream:
            buffer.append(frame.image, frame.time_s)
    with VideoReader(path, threads=1) as video:
        evaluated = video.sample(lambda n: {t: segment_centres(n, t) for t in (4, 8, 16)})
    for t, clip in evaluated.items():
        assert numbers_on(list(clip)) == segment_centres(FRAMES, t).tolist()
        assert np.array_equal(clip, buffer.gather(t)[0][0])


def cut(tmp_path: Path, name: str) -> Path:
    whole = render(tmp_path / f"whole-{name}", *H264, "-g", 24)
    ffmpeg("-ss", 0.5, "-i", whole, "-c", "copy", tmp_path / name)
    return tmp_path / name


def with_long_sound(tmp_path: Path, name: str) -> Path:
    sound = ("-f", "lavfi", "-i", "sine=d=8", "-map", 0, "-map", 1, "-c:a", "aac")
    return render(tmp_path / name, *sound, *H264)


def with_a_cover(tmp_path: Path, name: str) -> Path:
    cover, video = tmp_path / "cover.png", tmp_path / f"plain-{name}"
    render(cover, "-frames:v", 1, "-update", 1, "-vf", "negate")
    render(video, *H264)
    inputs = ("-i", cover, "-i", video, "-map", 0, "-map", 1, "-c", "copy")
    ffmpeg(*inputs, "-disposition:v:0", "attached_pic", tmp_path / name)
    return tmp_path / name


ODD: dict[str, Callable[[Path], Path]] = {
    "cut without encoding, MP4": lambda folder: cut(folder, "a.mp4"),
    "cut without encoding, MKV": lambda folder: cut(folder, "a.mkv"),
    "cut without encoding, TS": lambda folder: cut(folder, "a.ts"),
    "sound that is longer, MP4": lambda folder: with_long_sound(folder, "a.mp4"),
    "sound that is longer, MKV": lambda folder: with_long_sound(folder, "a.mkv"),
    "a cover picture, MP4": lambda folder: with_a_cover(folder, "a.mp4"),
    "a cover picture, MKV": lambda folder: with_a_cover(folder, "a.mkv"),
    "a colon and a percent sign": lambda folder: render(folder / "10:30:00 100%d.mp4", *H264),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_read_as_ffmpeg_reads_them(kind: str, tmp_path: Path) -> None:
    path = ODD[kind](tmp_path)
    # Matroska keeps no note that a picture is a cover; ours is not misled by that.
    expected, times = shown_by_ffmpeg(path, "0:v:1" if kind == "a cover picture, MKV" else "0:V:0")
    with VideoReader(path, threads=1) as video:
        frames = list(video.timed())
        assert video.num_frames == len(expected)
        last = video.sample(lambda n: {0: [n - 1]})[0]
    assert numbers_on([frame.image for frame in frames]) == numbers_on(expected)
    assert numbers_on(list(last)) == numbers_on(expected[-1:])
    assert np.abs([frame.time_s for frame in frames] - times).max() < 2e-3


@pytest.mark.parametrize("turn", ["90", "180", "270", "0:hflip", "0:vflip", "90:hflip"])
def test_a_display_matrix_is_applied(turn: str, tmp_path: Path) -> None:
    plain = render(tmp_path / "plain.mp4", *H264, "-vf", "drawbox=w=32:h=32:color=red:t=fill")
    degrees, _, flip = turn.partition(":")
    flags = [f"-display_{flip}"] if flip else []
    ffmpeg(*flags, "-display_rotation", degrees, "-i", plain, "-c", "copy", tmp_path / "a.mp4")
    expected, _ = shown_by_ffmpeg(tmp_path / "a.mp4")
    with VideoReader(tmp_path / "a.mp4") as video:
        assert (video.height, video.width) == expected[0].shape[:2]
        image = next(iter(video))
    assert np.abs(image.astype(int) - expected[0]).mean() < 3


def test_a_size_that_changes_midway_is_kept_in_each_frame(tmp_path: Path) -> None:
    for number, size in enumerate(("128x96", "96x128")):
        render(tmp_path / f"{number}.ts", *H264, "-s", size, frames=12)
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    with VideoReader(joined) as video:
        shapes = [image.shape[:2] for image in video]
        assert shapes == [(96, 128)] * 12 + [(128, 96)] * 12
        with pytest.raises(VideoError, match="differ in size"):
            video.read([0, 23])
        squares = video.sample(lambda n: {0: [0, 23]}, lambda image: image[:96, :96])[0]
    assert squares.shape == (2, 96, 96, 3)


@pytest.mark.parametrize(("rate", "scale"), [(10**9, 1), (1, 10**9)])
def test_a_rate_that_no_camera_has_is_not_believed(rate: int, scale: int, tmp_path: Path) -> None:
    path = render(tmp_path / "a.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
    data = bytearray(path.read_bytes())
    header = data.index(b"strh") + 8
    data[header + 20 : header + 28] = struct.pack("<II", scale, rate)
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert video.fps == UNSTATED_FPS
        times = [frame.time_s for frame in video.timed()]
    assert np.allclose(times, np.arange(FRAMES) / UNSTATED_FPS)


def test_a_header_that_states_too_many_or_too_few_frames_is_not_believed(tmp_path: Path) -> None:
    path = render(tmp_path / "a.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
    whole = path.read_bytes()
    for stated in (1, FRAMES - 7, FRAMES + 1, 10 * FRAMES):
        data = bytearray(whole)
        for place in (data.index(b"avih") + 24, data.index(b"strh") + 40):
            data[place : place + 4] = stated.to_bytes(4, "little")
        path.write_bytes(data)
        with VideoReader(path) as video:
            assert numbers_on(list(video.sample(lambda n: {0: range(n)})[0])) == list(range(FRAMES))


def test_packets_that_are_damaged_are_left_out_as_players_do(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", *H264, "-g", 1)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + data.index(b"moov")) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    expected, _ = shown_by_ffmpeg(path)
    with VideoReader(path, threads=1) as video:
        found = video.sample(lambda n: {0: range(n)})[0]
    assert 0 < len(expected) < FRAMES
    assert numbers_on(list(found)) == numbers_on(expected)


def test_a_file_that_is_cut_off_within_its_index_is_refused(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", *H264, "-movflags", "faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(VideoError, match="cut off"):
        VideoReader(path).__enter__()


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    render(tmp_path / "a.ts", *H264)
    playlist = tmp_path / "a.m3u8"
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2", "http://127.0.0.1:9/a.ts"]
    playlist.write_text("\n".join(lines))
    with pytest.raises(VideoError):
        VideoReader(playlist).__enter__()


def test_pictures_larger_than_any_camera_gives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=s=16000x12000:d=0.04:r=25", "-c:v", "mjpeg", path)
    with pytest.raises(VideoError, match="16000x12000"):
        VideoReader(path).__enter__()
