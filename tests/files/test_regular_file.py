"""Only regular files are read, and no more of them than was allowed."""

from __future__ import annotations

import errno
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.weight_file import WeightFile
from ffn_edge.device.plan_cache import read_sidecar
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.files.regular_file import open_regular, read_bytes, read_text
from ffn_edge.media.classes import read_classes
from ffn_edge.media.images import read_image
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import find_videos, read_list
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.runtime.limits_file import LimitsFile
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.profile.profile import load_profile
from ffn_edge.runtime.trace import read_trace


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "file").write_bytes(start + "größer".encode())
        assert read_text(tmp_path / "file") == "größer"


def test_a_file_that_is_too_large_is_refused_before_it_is_whole_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    assert read_bytes(file, 4) == b"1234"
    os.truncate(file, 1 << 40)
    with pytest.raises(OSError, match="3 bytes") as caught:
        read_bytes(file, 3)
    assert caught.value.errno == errno.EFBIG


def test_a_picture_of_gigabytes_in_a_small_file_is_not_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(30_001 * 3))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    with pytest.raises(VideoError, match="too large"):
        read_image(tmp_path / "bomb.png")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def listening(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


ODD = pytest.mark.parametrize("make", [pipe, endless, folder, loop, listening])


@ODD
def test_what_is_no_regular_file_is_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "odd")
    with pytest.raises(OSError, match=r"regular|symbolic links"):
        open_regular(tmp_path / "odd")


@ODD
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest.json", lambda path: Bundle.load(path.parent)),
        ("profile.json", lambda path: load_profile(path.parent)),
        ("sidecar.json", read_sidecar),
        ("weights.safetensors", WeightFile),
        ("trace.jsonl", read_trace),
        ("limits.json", lambda path: LimitsFile(path, Limits())),
        ("last.pt", load_checkpoint),
        ("list.txt", find_videos),
        ("labelled.txt", lambda path: read_list(path, classes="ab")),
        ("classes.txt", read_classes),
        ("image.png", read_image),
        ("video.mp4", lambda path: VideoReader(path).__enter__()),
    ],
)
def test_every_reader_refuses_it_and_none_waits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    name: str,
    read: Callable[[Path], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(FfnEdgeError) as caught:
        read(tmp_path / name)
    assert caught.value.hint
