"""The ring of prepared frames. Frame number i is an image of value i."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ffn_edge.frames import segment_centres
from ffn_edge.runtime.stream.clip_buffer import ClipBuffer, HostRing, window_capacity


def new_buffer(window_s: float = 2.0, fps: float = 10.0, size: int = 2) -> ClipBuffer:
    ring = HostRing(window_capacity(window_s, fps), most_frames=8, height=size, width=size)
    return ClipBuffer(ring, window_s=window_s, fps=fps)


def append(buffer: ClipBuffer, numbers: range, fps: float = 10.0, size: int = 2) -> None:
    for number in numbers:
        buffer.append(np.full((size, size, 3), number, np.uint8), number / fps)


def gathered(buffer: ClipBuffer, frames: int) -> list[int]:
    clip, _ = buffer.gather(frames)
    assert clip.shape[:2] == (1, frames)
    assert clip.flags.c_contiguous
    return clip[0, :, 0, 0, 0].tolist()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8])
def test_a_clip_is_the_segment_centres_of_the_last_window(frames: int) -> None:
    buffer = new_buffer()
    append(buffer, range(57))
    assert gathered(buffer, frames) == (37 + segment_centres(20, frames)).tolist()


def test_fewer_frames_than_asked_for_repeat_evenly() -> None:
    buffer = new_buffer()
    append(buffer, range(3))
    assert gathered(buffer, 6) == [0, 0, 1, 1, 2, 2]


def test_the_time_of_a_clip_is_that_of_its_newest_frame() -> None:
    buffer = new_buffer()
    append(buffer, range(7))
    assert buffer.gather(4)[1] == 0.6


def test_frames_older_than_the_window_are_left_out_when_the_source_is_slow() -> None:
    buffer = new_buffer(fps=10.0)
    append(buffer, range(20), fps=4.0)  # 8 frames in 2 s, where 20 were promised
    assert gathered(buffer, 8) == list(range(12, 20))


# --- sources that do not keep to the rate that they state -----------------------------------------


class TimedRing:
    """A ring that keeps of each frame when it was taken; a clip is the times of its frames."""

    def __init__(self, capacity: int) -> None:
        self.times = np.full(capacity, np.nan)

    def store(self, row: int, frame: np.ndarray) -> None:  # noqa: D102
        self.times[row] = frame[()]

    def gather(self, rows: np.ndarray) -> np.ndarray:  # noqa: D102
        return self.times[rows]


def clips(times: np.ndarray, frames: int, window_s: float, fps: float) -> Iterator[np.ndarray]:
    """Yield, after each frame, the times of a clip's frames."""
    capacity = window_capacity(window_s, fps)
    buffer = ClipBuffer(TimedRing(capacity), window_s=window_s, fps=fps)
    for time_s in times:
        buffer.append(np.asarray(time_s), float(time_s))
        clip, newest_s = buffer.gather(frames or capacity)
        assert newest_s == time_s
        yield clip


def jittered(rate: float, seconds: float, jitter: float, seed: int) -> np.ndarray:
    count = int(rate * seconds)
    moved = np.random.default_rng(seed).uniform(-jitter, jitter, count)
    return np.sort((np.arange(count) + moved) / rate)


@pytest.mark.parametrize(("window_s", "fps"), [(2.0, 10.0), (2.0, 29.97), (0.5, 25.0), (1.1, 30.0)])
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_at_the_stated_rate_the_newest_frames_of_a_window_are_kept_and_no_other(
    window_s: float, fps: float, jitter: float
) -> None:
    times = jittered(fps, 8.0, jitter, seed=1)
    capacity = window_capacity(window_s, fps)
    for frames in (3, 8, 0):
        for count, clip in enumerate(clips(times, frames, window_s, fps), start=1):
            newest = times[max(0, count - capacity) : count]
            newest = newest[newest > times[count - 1] - window_s + 0.5 / fps]
            expected = newest[segment_centres(len(newest), frames or capacity)]
            assert clip.tolist() == expected.tolist()


@pytest.mark.parametrize("times_as_fast", [1.1, 1.2, 1.5, 2.0, 2.4, 4.0, 9.6])
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_a_source_that_is_faster_than_it_states_has_a_window_of_the_same_length(
    times_as_fast: float, jitter: float
) -> None:
    fps, window_s = 25.0, 2.0
    times = jittered(times_as_fast * fps, 9.0, jitter, seed=2)
    first = int(2.5 * times_as_fast * fps)
    for frames in (4, 16):
        ideal = (np.arange(frames) + 0.5) / frames * window_s - window_s
        for newest_s, clip in list(zip(times, clips(times, frames, window_s, fps), strict=True))[
            first:
        ]:
            assert np.abs(clip - newest_s - ideal).max() < 3.5 / fps
    for newest_s, kept in list(zip(times, clips(times, 0, window_s, fps), strict=True))[first:]:
        assert kept[-1] == newest_s
        assert window_s - 2.5 / fps < kept[-1] - kept[0] < window_s
        assert np.diff(kept).max() < 2.0 / fps, "what is kept is not evenly spread"


def test_a_source_that_changes_its_rate_has_a_window_of_the_same_length() -> None:
    fps, window_s = 25.0, 2.0
    times = np.concatenate(
        [np.arange(0, 5, 1 / 15), np.arange(5, 10, 1 / 30), np.arange(10, 14, 1 / 15)]
    )
    for newest_s, kept in zip(times, clips(times, 0, window_s, fps), strict=True):
        assert kept[-1] == newest_s
        assert kept.tolist() == sorted(kept)
        if newest_s > window_s:
            assert window_s - 0.09 <= kept[-1] - kept[0] < window_s


@pytest.mark.parametrize("fps", [0.3, 1.0, 10.0])
def test_a_burst_of_frames_takes_no_more_memory_and_leaves_the_newest_last(fps: float) -> None:
    times = np.sort(np.random.default_rng(3).uniform(0, 3.0, 2000))
    for newest_s, kept in zip(times, clips(times, 0, 2.0, fps), strict=True):
        assert kept[-1] == newest_s
        assert len(set(kept)) <= window_capacity(2.0, fps)


def test_a_window_shorter_than_a_frame_holds_one() -> None:
    buffer = new_buffer(window_s=0.01)
    append(buffer, range(5))
    assert gathered(buffer, 2) == [4, 4]


def test_an_empty_buffer_has_no_clip() -> None:
    with pytest.raises(IndexError, match="no frame"):
        new_buffer().gather(4)


def test_one_thread_may_append_while_another_gathers() -> None:
    size = 64
    buffer = new_buffer(window_s=3.0, size=size)
    append(buffer, range(30), size=size)
    writer = threading.Thread(target=append, args=(buffer, range(30, 250)), kwargs={"size": size})
    writer.start()
    while writer.is_alive():
        clip, newest_s = buffer.gather(8)
        values = clip[0].reshape(8, -1)
        assert (values == values[:, :1]).all(), "a frame was overwritten while it was copied"
        numbers = values[:, 0].astype(int)
        last = round(newest_s * 10)
        assert numbers.tolist() == (last - 29 + segment_centres(30, 8)).tolist()
    writer.join()


def test_another_ring_takes_over_with_all_frames_in_place() -> None:
    rng = np.random.default_rng(0)
    first, second = (HostRing(6, 4, 2, 2) for _ in range(2))
    moved, kept = (
        ClipBuffer(ring, window_s=0.6, fps=10.0) for ring in (first, HostRing(6, 4, 2, 2))
    )
    for number in range(20):
        frame = rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)
        for buffer in (moved, kept):
            buffer.append(frame, number / 10)
        if number == 9:
            moved.move_to(second)
        for frames in (1, 2, 4):
            found, time_s = moved.gather(frames)
            expected, expected_s = kept.gather(frames)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
            assert time_s == expected_s
