"""Clips of events, and the bounds of their folder."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ffn_edge.errors import WriteError
from ffn_edge.media.video import Frame, VideoReader
from ffn_edge.runtime.outputs.event_clips import ClipSettings, EventClips

ODD = 'a/../"b"\n<c>:*?' + "ü" * 200


def play(
    clips: EventClips, times: Iterable[float], *, camera: str = "door", size: int = 64
) -> None:
    """Give a camera's frames, each as grey as its second; as fast as they are taken."""
    stream: Any = SimpleNamespace(name=camera, fps=10.0)
    for time_s in times:
        clips.frame(Frame(np.full((size, size, 3), int(time_s) * 10, np.uint8), time_s), stream)
        while clips._frames:
            time.sleep(0.001)


def seconds(first: float, last: float) -> Iterable[float]:
    return (number / 10 for number in range(round(first * 10), round(last * 10)))


def written(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def new(folder: Path, **changes: Any) -> EventClips:
    return EventClips(ClipSettings(folder=folder, **changes))


def test_a_clip_has_the_seconds_before_and_after(
    tmp_path: Path, new_event: Any, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    with new(tmp_path / "clips", before_s=2, after_s=1) as clips:
        play(clips, seconds(0, 11))
        clips.event(new_event(start_s=10.0))
        play(clips, seconds(11, 13))
        clips.event(new_event(start_s=10.0, end_s=12.5))
        play(clips, seconds(13, 15))
        wait_until(lambda: clips.status().sent == 1)
        assert (clips.status().waiting, clips.status().dropped) == (0, 0)
    (path,) = written(tmp_path / "clips")
    assert path.name.startswith("20231114T221320Z_door_wave_")
    with VideoReader(path) as reader:
        frames = list(reader.timed(None))
    greys = [frame.image.mean() for frame in frames]
    assert greys[0] == pytest.approx(80, abs=6)  # the 8th second
    assert greys[-1] == pytest.approx(130, abs=6)  # the 13th
    assert frames[-1].time_s == pytest.approx(5.5, abs=0.25)
    assert len(frames) == pytest.approx(56, abs=3)


def test_two_events_at_once_are_two_clips(tmp_path: Path, new_event: Any) -> None:
    with new(tmp_path) as clips:
        play(clips, seconds(0, 2))
        clips.event(new_event(1, start_s=1.0))
        clips.event(new_event(2, start_s=1.5, class_name="fall"))
        clips.event(new_event(3, start_s=1.5, source="unknown"))
        play(clips, seconds(2, 3))
    first, second = written(tmp_path)
    assert "fall" in first.name
    assert "wave" in second.name
    assert clips.status().sent == 2


def test_odd_names_stay_in_the_folder(tmp_path: Path, new_event: Any) -> None:
    folder = tmp_path / "clips"
    with new(folder) as clips:
        play(clips, seconds(0, 1), camera=ODD)
        clips.event(new_event(source=ODD, class_name=ODD, start_s=0.5))
        play(clips, seconds(1, 2), camera=ODD)
    assert clips.status().sent == 1
    assert written(folder) == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_oldest_clips_are_deleted_and_nothing_else(tmp_path: Path, new_event: Any) -> None:
    (tmp_path / "mine.mp4").write_bytes(b"x" * 100_000)
    old = tmp_path / "20200101T000000Z_door_wave_00000000.mp4"
    older = tmp_path / "20190101T000000Z_door_wave_00000000.mp4"
    for path in (old, older):
        path.write_bytes(b"x" * 30_000)
    with new(tmp_path, most_mb=0.05) as clips:
        play(clips, seconds(0, 1))
        clips.event(new_event(start_s=0.5))
        play(clips, seconds(1, 2))
    assert clips.status().sent == 1
    assert old.exists()
    assert not older.exists()
    assert (tmp_path / "mine.mp4").exists()
    assert len(written(tmp_path)) == 3


def test_a_camera_that_comes_back_with_another_size_does_no_harm(
    tmp_path: Path, new_event: Any
) -> None:
    with new(tmp_path) as clips:
        play(clips, seconds(0, 1))
        clips.event(new_event(start_s=0.5))
        play(clips, seconds(1, 2), size=96)
        play(clips, seconds(0, 1), size=33)  # and with its time begun anew
    assert clips.status().sent == 1


def test_of_a_camera_that_is_gone_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr("ffn_edge.runtime.outputs.event_clips._FORGOTTEN_S", 0.1)
    with new(tmp_path) as clips:
        play(clips, seconds(0, 1))
        wait_until(lambda: not clips._cameras)


def test_a_camera_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    may_go_on = threading.Event()

    def take(_: EventClips, __: str, arrival: Any) -> None:
        taken.append(arrival.frame.time_s)
        assert may_go_on.wait(20)

    monkeypatch.setattr(EventClips, "_take_frame", take)
    stream: Any = SimpleNamespace(name="door", fps=10.0)
    with new(tmp_path) as clips:
        for number in range(1000):
            clips.frame(Frame(np.zeros((8, 8, 3), np.uint8), number / 10), stream)
        may_go_on.set()
    assert len(taken) < 100
    assert taken[-1] == 99.9  # the newest of those that came meanwhile


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        new(tmp_path / "file" / "clips").__enter__()


_PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from ffn_edge.media.video import Frame
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.event_clips import ClipSettings, EventClips
stream = SimpleNamespace(name="door", fps=10.0)
noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
with EventClips(ClipSettings(folder=Path(sys.argv[1]))) as clips:
    for number in range(60):
        clips.frame(Frame(noise, number / 10), stream)
        while clips._frames:
            time.sleep(0.001)
        if number == 20:
            clips.event(Event(id="e", source="door", class_name="b", start_s=1.0, confidence=1,
                              peak=1, peak_s=1))
status = clips.status()
print(status.sent, status.dropped, status.waiting, status.fault is not None)
"""


def test_on_a_full_disk_a_clip_is_dropped_and_counted(
    tmp_path: Path, on_a_full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ran = on_a_full_disk(_PROGRAM, tmp_path, room=5_000)
    assert ran.stdout.split() == ["0", "1", "0", "True"], ran.stderr
    assert ran.stderr.count("could not be written") == 1
    assert os.listdir(tmp_path) == []
