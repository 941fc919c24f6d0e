"""The window that slides over a stream: which frames, which clip of them, and when it is due.

Legend: T frames of a clip, H x W pixels, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import InputContract
from ffn_edge.bundle.stream_state import State
from ffn_edge.errors import FfnEdgeError
from ffn_edge.media.picture import Image, prepare_frame
from ffn_edge.runtime.stream.clip_buffer import Clip, ClipBuffer, Ring
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.runtime.stream.stillness import Stillness, cells_of

# Why an engine that remembers began anew: with a stream or after an interruption, or since what it
# said was not finite.
Restart = Literal["start", "not finite"]
_WINDOW_S = 2.0  # of a network that was trained on whole videos

Logits = npt.NDArray[np.float32]
# The part of a camera's picture to look at: left, top, width and height, in shares of it.
Roi = tuple[float, float, float, float]


class Engine(Protocol):
    """What answers for a clip; see `ffn_edge.runtime.engines.engine.Engine`."""

    def infer(self, frames: Clip) -> Logits: ...  # noqa: D102
    def restart(self, state: State | None = None) -> None: ...  # noqa: D102
    def state(self) -> State: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When to classify what.

    Attributes:
        window_s: the time that a clip spans; None for that of the network's training, if it had
            one, and else 2 s.
        hop_s: the time from one inference to the next.
        max_seconds: end after so much of the source.
        stream: follow the source frame by frame, and hop by each frame count's own rate: T frames
            a window.

    Raises:
        FfnEdgeError: one of them is not positive.
    """

    window_s: float | None = None
    hop_s: float = 0.25
    max_seconds: float = math.inf
    stream: bool = False

    def __post_init__(self) -> None:
        finite = all(0 < seconds < math.inf for seconds in (self.clip_s, self.hop_s))
        if not (finite and self.max_seconds > 0):
            raise FfnEdgeError(
                f"window, hop and maximum must be longer than 0 s; got {self.clip_s:g}, "
                f"{self.hop_s:g} and {self.max_seconds:g}",
                "the defaults are --window 2.0 --hop 0.25, and no maximum.",
            )

    @property
    def clip_s(self) -> float:
        """The time that a clip spans."""
        return _WINDOW_S if self.window_s is None else self.window_s


class Seat:
    """Whose stream the engines' state is of: of several, they remember one at a time."""

    taken_by: Window | None = None


class Window:
    """The last seconds of one stream. The thread that reads the stream calls `add` alone.

    Attributes:
        stream: which one.
        start_s: when it began, in seconds of the run.
        newest_s: when the newest frame was taken, in seconds of the stream.
        used_s: when the newest frame of the last clip was taken.
        due_s: a frame of this time or later completes the next clip.
        hop_s: the time from one clip to the next.
        restart: why the engine of the last clip began anew; None where it did not.
        source_frames: see `Policy.decide`.
        covers_s: the time that the last answer speaks of, before its newest frame.
        weight: of that answer among others.
    """

    weight = 1.0
    restart: Restart | None = None
    source_frames: float | None = None

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
    ) -> None:
        """Start empty, with a ring of `window_capacity(timing.clip_s, stream.fps)` rows.

        Of each frame, `roi` is looked at alone; `stillness` watches whether anything moves there.
        """
        self.stream = stream
        self.start_s = start_s
        self.newest_s = self.used_s = -math.inf
        # The first window is full one frame before its end. Half a frame of tolerance: times of
        # equal spacing are not exact in binary.
        self.due_s = timing.clip_s - 1.5 / stream.fps
        self.covers_s = timing.clip_s
        self.hop_s = timing.hop_s
        self._contract = contract
        self._on_frame = on_frame
        self._roi = roi
        self._stillness = stillness
        self._buffer = ClipBuffer(ring, window_s=timing.clip_s, fps=stream.fps)

    def add(self, frame: Frame) -> None:
        """Prepare a frame, once, whatever clips it becomes a part of."""
        self._take(frame)
        if self._on_frame is not None:
            self._on_frame(frame, self.stream)

    def _take(self, frame: Frame) -> None:
        prepared = self._prepare(frame.image)
        if self._stillness is not None:
            self._stillness.see(cells_of(prepared), frame.time_s)
        self._buffer.append(prepared, frame.time_s)
        self.newest_s = frame.time_s

    def _prepare(self, image: Image) -> Image:
        if self._roi is not None:
            image = cropped(image, self._roi)
        return prepare_frame(image, self._contract.short_side, self._contract.height)

    @property
    def is_still(self) -> bool:
        """Whether nothing has moved since before the last clip, whose answer therefore stands."""
        stillness = self._stillness
        return stillness is not None and stillness.moved_s <= self.used_s - self.span_s

    @property
    def span_s(self) -> float:
        """The time before its newest frame that an answer may depend on."""
        return self.covers_s

    def skip(self) -> None:
        """Leave out what is due: the last answer stands for the newest frame as well."""
        self.used_s = self.newest_s
        self._set_due()

    def is_due(self, time_s: float) -> bool:
        """Return whether a frame of this time, in seconds of the stream, completes a clip."""
        return time_s >= self.due_s

    @property
    def has_news(self) -> bool:
        """Whether there is a frame that is newer than the last clip."""
        return self.newest_s > self.used_s

    def clip(self, frames: int) -> Clip:
        """Return T frames that cover the window evenly; hops that are past are left out.

        uint8 (1, T, H, W, 3), RGB, valid until the next call.
        """
        clip, self.used_s = self._buffer.gather(frames)
        self._set_due()
        return clip

    def _set_due(self) -> None:
        hops = math.floor((self.used_s - self.due_s) / self.hop_s) + 1
        due_s = self.due_s + max(hops, 0) * self.hop_s
        # Rounding must not make it the time of a frame that was used.
        self.due_s = max(due_s, math.nextafter(self.used_s, math.inf))

    def answer(self, engine: Engine, clip: Clip) -> Logits:
        """Return an engine's logits for a clip of this window, (C,)."""
        logits: Logits = engine.infer(clip)[0]
        return logits

    def leave_seat(self) -> None:
        """Keep what the engines remember of the stream: they are another's now."""

    def move_to(self, ring: Ring, seat: Seat) -> None:
        """Go on with other engines, for frames of the same size, and a ring and seat of theirs."""
        self._buffer.move_to(ring)
        self.used_s = -math.inf  # they have said nothing that could stand


def cropped(image: Image, roi: Roi) -> Image:
    """Return a part of a picture, uint8 (H, W, 3): one pixel at least."""
    height, width = image.shape[:2]
    left, top = min(int(roi[0] * width), width - 1), min(int(roi[1] * height), height - 1)
    right = max(round((roi[0] + roi[2]) * width), left + 1)
    bottom = max(round((roi[1] + roi[3]) * height), top + 1)
    return image[top:bottom, left:right]
