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


class HostRing:
    """A ring in host memory, for engines that run there."""

    def __init__(self, capacity: int, most_frames: int, height: int, width: int) -> None:
        """Allocate the ring and one clip.

        Args:
            capacity: how many frames it holds.
            most_frames: the largest T that will be gathered.
            height: H of a prepared frame.
            width: W of a prepared frame.
        """
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


def window_capacity(window_s: float, fps: float) -> int:
    """Return how many frames a window spans: 2.0 s at 29.97 a second is 60."""
    return max(1, round(window_s * fps))


class ClipBuffer:
    """A ring of prepared frames. Every frame is stored once; a clip of any T is T rows of it.

    One thread may append while another gathers. Memory is bounded by the window and the frame
    rate: a source that is faster than it said shortens the window, and takes no more memory.
    """

    def __init__(self, ring: Ring, *, window_s: float, fps: float) -> None:
        """Start empty.

        Args:
            ring: of `window_capacity(window_s, fps)` rows.
            window_s: the time that a clip spans, in seconds.
            fps: frames a second of the stream.
        """
        self._window_s = window_s
        self._interval_s = 1 / fps
        self._ring = ring
        self._capacity = window_capacity(window_s, fps)
        self._times = np.zeros(self._capacity)
        self._count = 0  # frames ever appended
        self._lock = threading.Lock()

    def append(self, frame: Frames, time_s: float) -> None:
        """Store a prepared frame, uint8 (H, W, 3), RGB, in place of the oldest.

        Args:
            frame: copied.
            time_s: when it was taken; later than the one before.
        """
        with self._lock:
            row = self._count % self._capacity
            self._ring.store(row, frame)
            self._times[row] = time_s
            self._count += 1

    @property
    def count(self) -> int:
        """How many frames were ever appended."""
        return self._count

    def gather(self, frames: int) -> tuple[Clip, float]:
        """Pick T frames that cover the last window evenly.

        The centre of each of T equal segments of the frames that are no older than the window,
        as in evaluation; fewer frames than T repeat evenly.

        Args:
            frames: T, at most what the ring's clips can hold.

        Returns:
            A clip, (1, T, H, W, 3), valid until the next call; and the time of the newest frame.

        Raises:
            IndexError: there is no frame yet.
        """
        with self._lock:
            if self._count == 0:
                raise IndexError("the buffer holds no frame")
            newest_s = float(self._times[(self._count - 1) % self._capacity])
            held = self._held(newest_s)
            rows = (self._count - held + segment_centres(held, frames)) % self._capacity
            clip = self._ring.gather(rows)
        return clip, newest_s

    def _held(self, newest_s: float) -> int:
        """Count the frames of the window, which is open at its old end: (newest - window, newest].

        Half a frame of tolerance, since times of equal spacing are not exact in binary.
        """
        stored = min(self._count, self._capacity)
        rows = np.arange(self._count - stored, self._count) % self._capacity
        oldest_s = newest_s - self._window_s + self._interval_s / 2
        return max(1, int(np.count_nonzero(self._times[rows] > oldest_s)))
