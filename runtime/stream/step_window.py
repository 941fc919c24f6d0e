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
from ffn_edge.bundle.stream_state import State
from ffn_edge.runtime.stream.clip_buffer import Clip, Ring
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.runtime.stream.stillness import Stillness
from ffn_edge.runtime.stream.window import Engine, Logits, Roi, Seat, Timing, Window

# Frames that are further apart than so many spacings of the slowest rate are no one stream: that
# is more than uneven timestamps make of one spacing, and less than a frame of that rate is left
# out for.
_MOST_SPACINGS = 1.5
# How far apart frames lately were is forgotten by so much with each of them.
_FORGET = 0.9


class _Output(NamedTuple):
    """What an engine said of a frame; due at a time, and worth so much. Logits are (C,)."""

    due_s: float
    stands_s: float
    logits: Logits


class StepWindow(Window):
    """A window of which engines see the newest frame alone, and remember those before.

    T frames a window are a rate. Due are the frames on its grid, which begins with the stream's
    first frame, and anew after an interruption or at a change of rate; points of the grid that are
    past are left out. Frames that are not due are not even prepared. An answer is the mean of what
    was said of the last window's frames, each weighted by its rate's spacing, or by the time since
    the frame before where that is less.
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
        roi: Roi | None = None,
        stillness: Stillness | None = None,
        fewest: int,
        seat: Seat,
    ) -> None:
        """Start empty, with a ring of one row; `fewest` frames a window are the slowest rate.

        The `seat` is that of all windows of the same engines.
        """
        of_one_frame = Timing(window_s=1 / stream.fps)
        super().__init__(
            stream, ring, contract, of_one_frame, start_s, on_frame, roi=roi, stillness=stillness
        )
        self._window_s = timing.clip_s
        # Times of equal spacing are not exact in binary. A source may be slower than the window.
        self._tolerance_s = min(0.5 / stream.fps, 0.25 * timing.clip_s)
        self._slowest_s = timing.clip_s / fewest
        self._apart_s = 1 / stream.fps  # frames of the source, lately and at most
        self._times: deque[float] = deque()  # of the source's frames in the last window
        self._began_s = math.inf  # the first frame since the start, or since an interruption
        self._origin_s = math.inf  # where the grid begins
        self._on_grid_s = math.inf  # the point of the grid of the last frame that was used
        self._frames = 0  # the rate that it was used for
        self.source_frames = timing.clip_s * stream.fps
        self._engine: Engine | None = None  # that ran last
        self._anew_s = -math.inf  # the frame that it began anew with
        self._seat = seat
        self._state: State | None = None  # the stream's, while another one has the seat
        self._outputs: deque[_Output] = deque()

    def _take(self, frame: Frame) -> None:
        self._watch_source(frame.time_s)
        if self.is_due(frame.time_s):
            super()._take(frame)

    @property
    def is_still(self) -> bool:
        """See `Window`; an engine that began anew must have seen the scene for as long, too."""
        return super().is_still and self._anew_s <= self.used_s - self.span_s

    @property
    def span_s(self) -> float:
        """See `Window`: what came before the window is in the engine's state."""
        return 2 * self._window_s

    def _watch_source(self, time_s: float) -> None:
        """Learn from a frame's time, due or not, what the source gives."""
        times = self._times
        apart_s = time_s - times[-1] if times else math.inf
        # A source may be slower than every rate, and than it states, all the time.
        if apart_s > _MOST_SPACINGS * max(self._slowest_s, self._apart_s):
            times.clear()
            self._began_s = time_s
        if apart_s < math.inf:
            self._apart_s = max(apart_s, _FORGET * self._apart_s)
        times.append(time_s)
        while times[0] <= time_s - self._window_s + self._tolerance_s:
            times.popleft()
        given = self._window_s * self.stream.fps
        if time_s - self._began_s >= self._window_s - 3 * self._tolerance_s:
            given = min(given, len(times))
        self.source_frames = given  # at once: the thread that classifies reads it

    def clip(self, frames: int) -> Clip:
        """Return the newest frame, for the rate of T frames a window; it sets what is due next.

        uint8 (1, 1, H, W, 3), RGB, valid until the next call.
        """
        last_s = self.used_s
        clip, self.used_s = self._buffer.gather(1)
        self.restart = None
        if last_s < self._began_s <= self.used_s:
            self.restart = "start"
            self._origin_s = self._began_s
            self._outputs.clear()
        elif frames != self._frames:
            self._origin_s = self.used_s
        self._frames = frames
        self._set_due()
        return clip

    def _set_due(self) -> None:
        spacing_s = self.hop_s = self._window_s / self._frames
        since_s = self.used_s + self._tolerance_s - self._origin_s
        point = math.floor(since_s / spacing_s + 1e-6)
        self._on_grid_s = self._origin_s + point * spacing_s
        self.due_s = self._on_grid_s + spacing_s - self._tolerance_s

    def skip(self) -> None:
        """See `Window`: an engine would say of the frame what it said of the last one."""
        super().skip()
        self._remember(self._outputs[-1].logits)

    def answer(self, engine: Engine, clip: Clip) -> Logits:
        """Return the mean of an engine's logits, (C,), for this frame and those before.

        At a change of rate the engine goes on from the state of the one before: an empty one costs
        10 to 20 points of accuracy for half a second, and frames that are replayed cost steps and
        gain no more (docs/streaming.md). It begins anew after an interruption; and once where what
        it says is not finite, since its state may be what is not.
        """
        self._take_seat()
        if self.restart is not None:
            engine.restart()
        elif self._state is not None:
            engine.restart(self._state)
        elif self._engine is not None and engine is not self._engine:
            engine.restart(self._engine.state())
        self._engine, self._state = engine, None
        logits = engine.infer(clip)[0]
        if not np.isfinite(logits).all():
            self.restart = "not finite"
            engine.restart()
            logits = engine.infer(clip)[0]
        if self.restart is not None:
            self._anew_s = self.used_s
        self._remember(logits)
        weights = np.array([each.stands_s for each in self._outputs])
        self.covers_s = float(weights.sum())
        self.weight = self._outputs[-1].stands_s * self.covers_s
        total = weights @ np.stack([each.logits for each in self._outputs])
        mean: Logits = (total / self.covers_s).astype(np.float32)
        return mean

    def _take_seat(self) -> None:
        """Let the engines be this stream's, and the one before keep its state."""
        before, self._seat.taken_by = self._seat.taken_by, self
        if before is not None and before is not self:
            before.leave_seat()

    def leave_seat(self) -> None:
        """See `Window`."""
        if self._engine is not None:
            self._state = self._engine.state()

    def move_to(self, ring: Ring, seat: Seat) -> None:
        """See `Window`: other engines begin anew."""
        super().move_to(ring, seat)
        self._seat = seat
        self._engine = self._state = None

    def _remember(self, logits: Logits) -> None:
        """Add what was said of the frame on the grid, and forget what is older than the window."""
        stands_s = self._window_s / self._frames
        if self._outputs:
            stands_s = min(stands_s, self._on_grid_s - self._outputs[-1].due_s)
        self._outputs.append(_Output(self._on_grid_s, stands_s, logits.copy()))
        while self._outputs[0].due_s <= self._on_grid_s - self._window_s + self._tolerance_s:
            self._outputs.popleft()
