"""The last seconds of a stream, ready for any frame count.

Legend: T frames of a clip, H x W pixels.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffn_edge.errors import EngineError
from ffn_edge.frames import segment_centres

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PlacedClip:
    """A clip that a ring has put where its engine reads it; the device knows where.

    Attributes:
        shape: (N, T, H, W, 3).
    """

    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Frames are uint8."""
        return np.dtype(np.uint8)


Clip = Frames | PlacedClip


def check_clip(clip: Clip, shape: tuple[int, ...]) -> None:
    """Raise an EngineError unless `clip` is uint8 of an engine's input shape, (N, T, H, W, 3)."""
    if clip.shape != shape or clip.dtype != np.uint8:
        raise EngineError(
            f"the engine for {shape[1]} frames takes uint8 {shape}; got {clip.dtype} {clip.shape}",
            "a clip is (N, T, H, W, 3), RGB in 0..255, not normalised.",
        )


class Ring(Protocol):
    """Rows of prepared frames, in the memory that the engines like best."""

    def store(self, row: int, frame: Frames) -> None:
        """Keep a frame, uint8 (H, W, 3), RGB, in place of the row's last. From any thread."""

    def gather(self, rows: npt.NDArray[np.int64]) -> Clip:
        """Return the rows as one clip, (1, T, H, W, 3), valid until the next call."""

    def frame(self, row: int) -> Frames:
        """Return a frame that was stored, uint8 (H, W, 3), in host memory."""


class HostRing:
    """A ring in host memory, for engines that run there."""

    def __init__(self, capacity: int, most_frames: int, height: int, width: int) -> None:
        """Allocate the ring, and one clip of the largest T that will be gathered."""
        self._ring = np.zeros((capacity, height, width, 3), np.uint8)
        self._clip = np.zeros((most_frames, height, width, 3), np.uint8)

    def store(self, row: int, frame: Frames) -> None:
        """Keep a frame. See `Ring`."""
        self._ring[row] = frame

    def gather(self, rows: npt.NDArray[np.int64]) -> Frames:
        """Return the rows as one clip. See `Ring`."""
        clip = self._clip[: len(rows)]
        # "clip" is NumPy's only mode that writes to `out` without a second buffer; no row is
        # out of range.
        np.take(self._ring, rows, axis=0, out=clip, mode="clip")
        return clip[None]

    def frame(self, row: int) -> Frames:
        """Return a frame. See `Ring`."""
        frame: Frames = self._ring[row]
        return frame


def window_capacity(window_s: float, fps: float) -> int:
    """Return how many frames a window spans: 2.0 s at 29.97 a second is 60."""
    return max(1, round(window_s * fps))


class ClipBuffer:
    """The prepared frames of the last window. Each is stored once; a clip of any T is T of them.

    One thread may append while another gathers. The times of the frames rule: the window spans
    `window_s`, however many frames come. Memory is bounded all the same: of a source that is faster
    than it stated, as many frames are kept as it stated, evenly spread over the window.
    """

    def __init__(self, ring: Ring, *, window_s: float, fps: float) -> None:
        """Start empty, with a ring of `window_capacity(window_s, fps)` rows."""
        self._ring = ring
        self._capacity = window_capacity(window_s, fps)
        # Half a frame less than the window, since times of equal spacing are not exact in binary.
        self._span_s = window_s - 0.5 / fps
        self._count = 0  # frames ever appended
        # The frames that are kept, oldest first: when each was taken, as which one it came, and
        # its row of the ring.
        self._times: list[float] = []
        self._numbers: list[int] = []
        self._rows: list[int] = []
        self._free = list(reversed(range(self._capacity)))
        self._lock = threading.Lock()

    def append(self, frame: Frames, time_s: float) -> None:
        """Copy a prepared frame, uint8 (H, W, 3), RGB, that is later than the one before."""
        with self._lock:
            while self._times and self._times[0] <= time_s - self._span_s:
                self._drop(0)
            if not self._free:
                self._drop(self._least_missed(time_s))
            row = self._free.pop()
            self._ring.store(row, frame)
            self._times.append(time_s)
            self._numbers.append(self._count)
            self._rows.append(row)
            self._count += 1

    def gather(self, frames: int) -> tuple[Clip, float]:
        """Pick T frames that cover the last window evenly, and tell the time of the newest.

        The centre of each of T equal segments of the window's frames, as in evaluation; for one
        that is not kept, the next one that is. Fewer frames than T repeat evenly. The clip,
        (1, T, H, W, 3), is valid until the next call. Without a frame: IndexError.
        """
        with self._lock:
            if not self._times:
                raise IndexError("the buffer holds no frame")
            kept = len(self._times)
            if frames < kept:
                numbers = np.asarray(self._numbers)
                came = numbers[-1] + 1 - numbers[0]
                picked = np.searchsorted(numbers - numbers[0], segment_centres(int(came), frames))
            else:
                picked = segment_centres(kept, frames)
            return self._ring.gather(np.asarray(self._rows)[picked]), self._times[-1]

    def move_to(self, ring: Ring) -> None:
        """Go on with another ring of as many rows, and of frames of the same size."""
        with self._lock:
            for row in self._rows:
                ring.store(row, self._ring.frame(row))
            self._ring = ring

    def _drop(self, position: int) -> None:
        self._free.append(self._rows.pop(position))
        del self._times[position], self._numbers[position]

    def _least_missed(self, time_s: float) -> int:
        """Return which frame stands for the least time, were one of `time_s` the newest.

        That is half the time between its neighbours; the window's old end lies half-way between
        the oldest one and its neighbour.
        """
        before_s = 2 * (time_s - self._span_s) - self._times[0]
        times = np.asarray([before_s, *self._times, time_s])
        return int(np.argmin(times[2:] - times[:-2]))
