"""The ring of prepared frames. Frame number i is an image of value i."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ffn_edge.frames import segment_centres
from ffn_edge.runtime.clip_buffer import ClipBuffer, HostRing, window_capacity


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


def test_a_source_that_is_faster_than_it_said_takes_no_more_memory() -> None:
    buffer = new_buffer(fps=10.0)
    append(buffer, range(100), fps=100.0)
    assert gathered(buffer, 1) == [90]  # the middle of the last 20


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
