"""A live stream is read by a thread; scripted streams stand for cameras."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.runtime.live_reader import LiveReader
from ffn_edge.runtime.sources import Frame

IMAGE = np.zeros((4, 4, 3), np.uint8)


class ScriptedStream:
    """A live stream that plays what `script` yields."""

    name = "scripted"
    live = True
    fps = 100.0

    def __init__(
        self, script: Callable[[], Iterator[float]], opening: Callable[[], None] = lambda: None
    ) -> None:
        self.script = script
        self.opening = opening
        self.is_closed = threading.Event()

    def __enter__(self) -> ScriptedStream:
        self.opening()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed.set()

    def __iter__(self) -> Iterator[Frame]:
        for time_s in self.script():
            yield Frame(IMAGE, time_s)


def never() -> bool:
    return False


def ignore(frame: Frame) -> None:
    pass


def endless() -> Iterator[float]:
    start = time.monotonic()
    while True:
        time.sleep(0.005)
        yield time.monotonic() - start


def test_a_slow_consumer_gets_the_newest_frame_and_none_twice() -> None:
    newest: list[float] = []
    used: list[float] = []
    with LiveReader(ScriptedStream(endless), lambda f: newest.append(f.time_s)) as reader:
        reader.start()
        for _ in range(5):
            assert reader.wait(used[-1] + 1e-9 if used else 0.0, never)
            used.append(newest[-1])
            time.sleep(0.06)  # a dozen frames come meanwhile
    assert used == sorted(set(used))
    skipped = [newest.index(b) - newest.index(a) for a, b in pairwise(used)]
    assert sum(skipped) > len(skipped)


def test_an_old_frame_is_not_served_again() -> None:
    def one_frame() -> Iterator[float]:
        yield 1.0
        time.sleep(0.1)

    with LiveReader(ScriptedStream(one_frame), ignore) as reader:
        reader.start()
        assert reader.wait(0.0, never)
        assert not reader.wait(1.01, never)  # the stream ended without another


def test_frames_come_only_after_the_start() -> None:
    taken: list[Frame] = []
    with LiveReader(ScriptedStream(endless), taken.append):
        time.sleep(0.05)
    assert taken == []


def test_a_camera_that_stops_is_an_error() -> None:
    def stops() -> Iterator[float]:
        yield 0.0
        raise VideoError("the cable was pulled")

    with LiveReader(ScriptedStream(stops), ignore) as reader:
        reader.start()
        with pytest.raises(VideoError, match="the cable was pulled"):
            while reader.wait(1.0, never):
                pass


def test_a_camera_that_hangs_is_an_error_and_holds_nothing_up() -> None:
    hung = threading.Event()

    def hangs() -> Iterator[float]:
        yield 0.0
        hung.wait()

    with (
        pytest.raises(VideoError, match="scripted has sent nothing for"),
        LiveReader(ScriptedStream(hangs), ignore, patience_s=0.2) as reader,
    ):
        reader.start()
        while reader.wait(1.0, never):
            pass
    hung.set()


def test_a_camera_that_hangs_while_it_opens_is_an_error() -> None:
    hung = threading.Event()
    stream = ScriptedStream(endless, opening=lambda: hung.wait() and None)
    with (
        pytest.raises(VideoError, match="has sent nothing for"),
        LiveReader(stream, ignore, patience_s=0.1),
    ):
        pass
    hung.set()


def test_a_camera_that_cannot_be_opened_is_an_error() -> None:
    def absent() -> None:
        raise VideoError("camera 7 cannot be opened")

    with (
        pytest.raises(VideoError, match="camera 7 cannot be opened"),
        LiveReader(ScriptedStream(endless, opening=absent), ignore),
    ):
        pass


def test_what_fails_in_the_thread_is_raised_where_one_waits() -> None:
    def fail(frame: Frame) -> None:
        raise VideoError("no room for the annotated video")

    with LiveReader(ScriptedStream(endless), fail) as reader:
        reader.start()
        with pytest.raises(VideoError, match="no room"):
            reader.wait(0.0, never)


def test_waiting_ends_when_told_to_stop() -> None:
    with LiveReader(ScriptedStream(endless), ignore) as reader:
        reader.start()
        answers = iter([False, False, True])
        assert not reader.wait(1e9, lambda: next(answers))


def test_leaving_closes_the_stream() -> None:
    stream = ScriptedStream(endless)
    with LiveReader(stream, ignore) as reader:
        reader.start()
        reader.wait(0.0, never)
    assert stream.is_closed.is_set()
