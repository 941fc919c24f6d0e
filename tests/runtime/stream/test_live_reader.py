"""A live stream is read by a thread; scripted streams stand for cameras."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, pairwise, repeat

import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.runtime.stream.live_reader import LiveReader, live_readers
from ffn_edge.runtime.stream.sources import Frame

IMAGE = np.zeros((4, 4, 3), np.uint8)


class ScriptedStream:
    """A live stream that plays what `script` yields."""

    name = "scripted"
    live = True
    fps = 100.0

    def __init__(
        self,
        script: Callable[[], Iterator[float]],
        opening: Callable[[], None] = lambda: None,
        *,
        comes_back: bool = False,
    ) -> None:
        self.script = script
        self.opening = opening
        self.comes_back = comes_back
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


def in_step(taken: list[float], *times: float) -> Iterator[float]:
    """Send each frame once the one before was taken."""
    for count, time_s in enumerate(times, start=len(taken) + 1):
        yield time_s
        while len(taken) < count:
            time.sleep(0.001)


def test_a_slow_consumer_gets_the_newest_frame_and_none_twice() -> None:
    taken: list[float] = []
    may_send = 10

    def as_allowed() -> Iterator[float]:
        for number in range(50):
            while number >= may_send or len(taken) < number:
                time.sleep(0.001)
            yield float(number)

    used: list[float] = []
    with LiveReader(ScriptedStream(as_allowed), lambda f: taken.append(f.time_s)) as reader:
        reader.start()
        for may_send in range(10, 60, 10):  # ten frames come meanwhile
            wanted = used[-1] + 1 if used else 0.0
            while len(taken) < may_send:
                time.sleep(0.001)
            assert reader.wait(wanted, never)
            used.append(taken[-1])
    assert used == [9, 19, 29, 39, 49]


def test_an_old_frame_is_not_served_again() -> None:
    def one_frame() -> Iterator[float]:
        yield 1.0
        time.sleep(0.1)

    with LiveReader(ScriptedStream(one_frame), ignore) as reader:
        reader.start()
        assert reader.wait(0.0, never)
        assert not reader.wait(1.01, never)  # the stream ended without another


def test_the_time_of_the_first_frame_is_kept() -> None:
    taken: list[float] = []
    late = ScriptedStream(lambda: in_step(taken, 7.0, 8.0, 9.0))
    with LiveReader(late, lambda frame: taken.append(frame.time_s)) as reader:
        reader.start()
        assert reader.wait(9.0, never)
        assert reader.first_s == 7.0


def test_frames_that_come_while_one_is_handled_are_dropped_but_for_the_newest() -> None:
    taken: list[float] = []
    handled = threading.Event()
    sent = threading.Event()

    def twenty() -> Iterator[float]:
        for number in range(20):
            yield float(number)
            while not taken:  # the first one is being handled
                time.sleep(0.001)
        sent.set()

    def take(frame: Frame) -> None:
        taken.append(frame.time_s)
        handled.wait(timeout=10)

    with LiveReader(ScriptedStream(twenty), take) as reader:
        reader.start()
        assert sent.wait(timeout=5), "the stream waits for the handling"
        handled.set()
        assert reader.wait(19.0, never)
        assert not reader.wait(19.5, never)  # it ended
    assert taken == [0.0, 19.0]
    assert (reader.received, reader.dropped) == (20, 18)


def test_a_slow_handling_is_no_silence_of_the_camera() -> None:
    handled = threading.Event()
    stream = ScriptedStream(endless)
    with LiveReader(stream, lambda frame: handled.wait(10) and None, patience_s=0.1) as reader:
        reader.start()
        until = time.monotonic() + 0.4
        assert not reader.wait(0.0, lambda: time.monotonic() > until)
        assert reader.failure is None
        handled.set()


def test_no_frame_is_handled_after_leaving() -> None:
    taken: list[float] = []

    def take(frame: Frame) -> None:
        taken.append(frame.time_s)
        time.sleep(0.05)

    with LiveReader(ScriptedStream(endless), take) as reader:
        reader.start()
        assert reader.wait(0.0, never)
    count = len(taken)
    time.sleep(0.15)
    assert len(taken) == count


def test_what_fails_at_the_taker_is_told_while_the_camera_is_silent() -> None:
    silent = threading.Event()

    def one_frame() -> Iterator[float]:
        yield 0.0
        silent.wait()

    def fail(frame: Frame) -> None:
        raise VideoError("no room for the annotated video")

    stream = ScriptedStream(one_frame, comes_back=True)
    with LiveReader(stream, fail) as reader:
        reader.start()
        with pytest.raises(VideoError, match="no room"):
            reader.wait(0.0, never)
        silent.set()


def test_frames_come_only_after_the_start() -> None:
    taken: list[Frame] = []
    with LiveReader(ScriptedStream(endless), taken.append):
        time.sleep(0.05)
    assert taken == []


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


def test_a_camera_that_is_still_opening_is_left_when_told_to_stop() -> None:
    hung = threading.Event()
    stream = ScriptedStream(endless, opening=lambda: hung.wait() and None)
    answers = chain([False, False, False], repeat(True))
    readers = list(live_readers(stream, ignore, lambda: next(answers)))
    assert readers == []
    hung.set()
    assert stream.is_closed.wait(timeout=5)


def test_a_camera_that_opens_too_late_is_closed_again() -> None:
    late = threading.Event()
    stream = ScriptedStream(endless, opening=lambda: late.wait() and None)
    reader = LiveReader(stream, ignore, opening_s=0.1)
    with pytest.raises(VideoError, match="has sent nothing for"):
        reader.__enter__()
    assert reader.is_running
    late.set()
    assert stream.is_closed.wait(timeout=5)


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


# --- streams that come back -----------------------------------------------------------------------


class Outages:
    """A stream that plays one script each time that it is opened; `None` cannot be opened."""

    def __init__(self, *scripts: Callable[[], Iterator[float]] | None) -> None:
        self.scripts = iter(scripts)
        self.openings: list[float] = []
        self.stream = ScriptedStream(self.play, self.open, comes_back=True)

    def open(self) -> None:  # noqa: D102
        self.openings.append(time.monotonic())
        script = next(self.scripts)
        if script is None:
            raise VideoError("scripted cannot be opened")
        self.script = script

    def play(self) -> Iterator[float]:  # noqa: D102
        return self.script()


def stops_after(*times: float) -> Callable[[], Iterator[float]]:
    def script() -> Iterator[float]:
        yield from times
        raise VideoError("scripted stopped sending frames")

    return script


def ends_after(*times: float) -> Callable[[], Iterator[float]]:
    return lambda: iter(times)


def play(
    outages: Outages,
    *,
    take: Callable[[Frame], None] = ignore,
    stopped: Callable[[], bool] = never,
    patience_s: float = 5.0,
    pauses_s: tuple[float, ...] = (0.0,),
) -> int:
    """Return how often the stream was open."""
    count = 0
    with closing(
        live_readers(outages.stream, take, stopped, patience_s=patience_s, pauses_s=pauses_s)
    ) as readers:
        for reader in readers:
            count += 1
            reader.start()
            while reader.wait(1e9, stopped):
                pass
    return count


def test_a_camera_that_was_lost_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    taken: list[float] = []

    def stops() -> Iterator[float]:
        yield from in_step(taken, 0.0, 0.1)
        raise VideoError("scripted stopped sending frames")

    outages = Outages(stops, stops_after(5.0), ends_after(6.0))
    count = play(outages, take=lambda frame: taken.append(frame.time_s))
    assert count == 3
    assert taken == [0.0, 0.1, 5.0, 6.0]
    lost = "scripted stopped sending frames; trying to open it again until it is back"
    assert caplog.messages == [lost, "scripted is back after 0 s"] * 2


def test_an_outage_is_said_once_however_often_one_tries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    none, silent = None, stops_after()  # it opens, and sends nothing
    outages = Outages(stops_after(0.0), none, none, silent, none, ends_after(1.0))
    count = play(outages)
    assert count == 3
    assert [message.partition(" ")[2][:7] for message in caplog.messages] == ["stopped", "is back"]


def test_pauses_grow_while_a_camera_is_away() -> None:
    outages = Outages(stops_after(0.0), None, None, None, ends_after())
    play(outages, pauses_s=(0.1, 0.3, 0.5))
    pauses = [later - earlier for earlier, later in pairwise(outages.openings)]
    assert all(took >= pause for took, pause in zip(pauses, (0.1, 0.3, 0.5, 0.5), strict=True))


def test_a_camera_that_stalls_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    woken = threading.Event()

    def stalls() -> Iterator[float]:
        yield 0.0
        woken.wait(timeout=0.5)  # as the time-out of a driver
        raise VideoError("timed out")

    taken: list[float] = []
    outages = Outages(stalls, ends_after(9.0))
    count = play(outages, take=lambda f: taken.append(f.time_s), patience_s=0.1)
    assert (count, taken) == (2, [0.0, 9.0])
    assert caplog.messages[0].startswith(
        "scripted has sent nothing for 0.1 s; trying to open it again"
    )


def test_a_driver_that_hangs_is_waited_for_and_hands_over_no_frame_later() -> None:
    wakes = threading.Event()

    def hangs() -> Iterator[float]:
        yield 0.0
        wakes.wait()
        yield 1.0  # stale

    taken: list[float] = []
    outages = Outages(hangs, ends_after(9.0))
    threading.Timer(1.5, wakes.set).start()
    count = play(outages, take=lambda f: taken.append(f.time_s), patience_s=0.1)
    assert (count, taken) == (2, [0.0, 9.0])
    assert outages.openings[1] - outages.openings[0] >= 1.5


@pytest.mark.parametrize("first", [None, stops_after()])
def test_a_camera_that_never_sent_a_frame_is_an_error(
    first: Callable[[], Iterator[float]] | None,
) -> None:
    outages = Outages(first, ends_after(0.0))
    with pytest.raises(VideoError, match=r"cannot be opened|stopped sending"):
        play(outages)
    assert len(outages.openings) == 1


def test_what_fails_at_the_taker_is_no_outage() -> None:
    def fail(frame: Frame) -> None:
        raise VideoError("no room for the annotated video")

    outages = Outages(ends_after(0.0), ends_after(1.0))
    with pytest.raises(VideoError, match="no room"):
        play(outages, take=fail)
    assert len(outages.openings) == 1


def test_a_file_that_breaks_is_not_opened_again() -> None:
    outages = Outages(stops_after(0.0), ends_after(1.0))
    outages.stream.comes_back = False
    with pytest.raises(VideoError, match="stopped sending"):
        play(outages)
    assert len(outages.openings) == 1


def test_an_outage_ends_when_told_to_stop() -> None:
    told = threading.Event()
    outages = Outages(stops_after(0.0))
    threading.Timer(0.3, told.set).start()
    count = play(outages, stopped=told.is_set, pauses_s=(60.0,))
    assert count == 1
