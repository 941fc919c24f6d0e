"""The window of a stream that engines follow frame by frame: which frames, and their mean.

Legend: C classes, H x W pixels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ffn_edge.bundle.bundle import InputContract
from ffn_edge.runtime.engines.engine import Engine, Logits
from ffn_edge.runtime.stream.clip_buffer import Clip, Ring
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.runtime.stream.window import Timing, Window

# Frames that are further apart than so many spacings of the slowest rate are no one stream: that
# is more than uneven timestamps make of one spacing, and less than a frame of that rate is left
# out for.
_MOST_SPACINGS = 1.5


class _Output(NamedTuple):
    """What an engine said of a frame; due at a time, and for so long. Logits are (C,)."""

    due_s: float
    spacing_s: float
    logits: Logits


class StepWindow(Window):
    """A window of which engines see the newest frame alone, and remember those before.

    T frames a window are a rate. Due are the frames on its grid, which begins with the stream's
    first frame, and anew after an interruption; points of the grid that are past are left out.
    Frames that are not due are not even prepared. An answer is the mean of what was said of the
    last window's frames, each weighted by its rate's spacing.
    """

    def __init__(
        self,
        stream: Stream,
        ring: Ring,
        contract: InputContract,
        timing: Timing,
        start_s: float,
        on_frame: Callable[[Frame, Stream], None] | None = None,
        *,
        fewest: int,
    ) -> None:
        """Start empty, with a ring of one row; `fewest` frames a window are the slowest rate."""
        of_one_frame = Timing(window_s=1 / stream.fps)
        super().__init__(stream, ring, contract, of_one_frame, start_s, on_frame)
        self._window_s = timing.window_s
        # Times of equal spacing are not exact in binary.
        self._tolerance_s = 0.5 / stream.fps
        self._slowest_s = timing.window_s / fewest
        self._apart_s = 1 / stream.fps  # the last two frames of the source
        self._times: deque[float] = deque()  # of the source's frames in the last window
        self._began_s = math.inf  # the first frame since the start, or since an interruption
        # The same of the last frame that was used, where the grid begins; its point of the grid.
        self._origin_s = self._on_grid_s = math.inf
        self._frames: int | None = None  # the rate that it was used for
        self._outputs: deque[_Output] = deque()

    def _take(self, frame: Frame) -> None:
        self._watch_source(frame.time_s)
        if self.is_due(frame.time_s):
            super()._take(frame)

    def _watch_source(self, time_s: float) -> None:
        """Learn from a frame's time, due or not, what the source gives."""
        times = self._times
        apart_s = time_s - times[-1] if times else math.inf
        # A source may be slower than every rate, and than it states, all the time.
        if apart_s > _MOST_SPACINGS * max(self._slowest_s, self._apart_s):
            times.clear()
            self._began_s = time_s
        if apart_s < math.inf:
            self._apart_s = apart_s
        times.append(time_s)
        while times[0] <= time_s - self._window_s + self._tolerance_s:
            times.popleft()
        self.source_frames = self._window_s * self.stream.fps
        if time_s - self._began_s >= self._window_s - 3 * self._tolerance_s:
            self.source_frames = min(self.source_frames, len(times))

    def clip(self, frames: int) -> Clip:
        """Return the newest frame, for the rate of T frames a window; it sets what is due next.

        uint8 (1, 1, H, W, 3), RGB, valid until the next call.
        """
        last_s = self.used_s
        clip, self.used_s = self._buffer.gather(1)
        self.restart = None if frames == self._frames else "rate"
        if last_s < self._began_s <= self.used_s:
            self.restart = "start"
            self._origin_s = self._began_s
            self._outputs.clear()
        self._frames = frames
        spacing_s = self._window_s / frames
        since_s = self.used_s + self._tolerance_s - self._origin_s
        point = math.floor(since_s / spacing_s + 1e-6)
        self._on_grid_s = self._origin_s + point * spacing_s
        self.due_s = self._on_grid_s + spacing_s - self._tolerance_s
        return clip

    def answer(self, engine: Engine, clip: Clip) -> Logits:
        """Return the mean of an engine's logits, (C,), for this frame and those before.

        An engine whose memory is of another time begins anew; and once where what it says is not
        finite, since its memory may be what is not.
        """
        if self.restart is not None:
            engine.restart()
        logits = engine.infer(clip)[0]
        if not np.isfinite(logits).all():
            self.restart = "not finite"
            engine.restart()
            logits = engine.infer(clip)[0]
        assert self._frames is not None
        spacing_s = self._window_s / self._frames
        self._outputs.append(_Output(self._on_grid_s, spacing_s, logits.copy()))
        while self._outputs[0].due_s <= self._on_grid_s - self._window_s + self._tolerance_s:
            self._outputs.popleft()
        weights = np.array([each.spacing_s for each in self._outputs])
        total = weights @ np.stack([each.logits for each in self._outputs])
        mean: Logits = (total / weights.sum()).astype(np.float32)
        return mean
