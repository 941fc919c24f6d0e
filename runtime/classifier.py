"""One inference: the policy picks a frame count, its engine classifies the window.

Legend: C classes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Manifest, Precision
from ffn_edge.errors import EngineError
from ffn_edge.runtime.cascade.cascade import CascadeController
from ffn_edge.runtime.cascade.confidence import log_probabilities
from ffn_edge.runtime.engines.engine import Logits, OpenEngines
from ffn_edge.runtime.policy.interface import (
    NOTHING_SENSED,
    Controller,
    Decision,
    Limits,
    Observation,
    Policy,
    Sensed,
    Setting,
)
from ffn_edge.runtime.stream.clip_buffer import HostRing, Ring, window_capacity
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.runtime.stream.step_window import StepWindow
from ffn_edge.runtime.stream.stillness import Stillness
from ffn_edge.runtime.stream.window import Restart, Roi, Seat, Timing, Window

_log = logging.getLogger(__name__)

_TOP = 5
_WARNING_S = 60.0  # from one warning to the next

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class and its probability in 0..1."""

    class_name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One inference.

    Attributes:
        time_s: when its newest frame was taken, in seconds of its stream.
        elapsed_s: the same in seconds of the whole run, over all videos of a list.
        source: the stream's name.
        decision: the frame count, and why.
        observation: what the policy learned: latency from the decision to the logits, which is
            what the deadline is for; the limits; power, energy and heat since the result before.
        engine_ms: of the latency, the engine's share.
        device_ms: of the engine's share, the device's own clock; None where it has none.
        overhead_ms: around the engine: deciding, gathering the clip, sensing, reading the logits.
        waited_ms: before the decision, for the inferences of other cameras; of the latency, where
            there are several.
        top: the most probable classes, best first.
        precision: of the engine that answered.
        restart: why the engine of a stream forgot the frames before this one; None where it did
            not, and of clips.
        covers_s: the time before its newest frame that it speaks of.
        weight: among the answers for a video.
        probabilities: of all classes, float64 (C,), in the manifest's order.
    """

    time_s: float
    elapsed_s: float
    source: str
    decision: Decision
    observation: Observation
    engine_ms: float
    device_ms: float | None
    overhead_ms: float
    top: tuple[Prediction, ...]
    precision: Precision
    restart: Restart | None = None
    covers_s: float
    weight: float = 1.0
    waited_ms: float = 0.0
    probabilities: Probabilities = field(
        default_factory=lambda: np.empty(0), repr=False, compare=False
    )

    @property
    def frames(self) -> int:
        """The frame count that answered: the one decided, or the last of a cascade."""
        return self.observation.ran[-1][0] if self.observation.ran else self.decision.frames

    @property
    def latency_ms(self) -> float:
        """From the decision to the logits."""
        return self.observation.latency_ms

    @property
    def missed(self) -> bool:
        """Whether that was more than the deadline, or in a stream than the time between frames."""
        return self.observation.missed


class Classifier:
    """The engines, the policy that picks one of them, and the sensors that it learns from.

    Attributes:
        manifest: of the bundle.
        setting: what the policy knows at the start.
    """

    def __init__(
        self,
        engines: OpenEngines,
        manifest: Manifest,
        policy: Policy[Any],
        setting: Setting,
        sense: Callable[[float], Sensed] = lambda now: NOTHING_SENSED,
        cascade: CascadeController | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            engines: open, one for each of the controller's operating points.
            manifest: the bundle's.
            policy: picks the frame count; its clock is `time.monotonic`.
            setting: what it knows at the start.
            sense: is asked after every inference what the sensors say, and given the time.
            cascade: looks again at what few frames are not sure of; None is never.
        """
        self.manifest = manifest
        self.setting = setting
        self._contract = manifest.input
        self._new_ring = engines.new_ring or self._host_ring
        self.engines = engines
        self._policy = policy
        self._seat = Seat()
        self._sense = sense
        self._cascade = cascade
        self._warned: dict[object, float] = {}  # when, of each kind

    @contextmanager
    def open_window(
        self,
        stream: Stream,
        timing: Timing,
        start_s: float,
        on_frame: Callable[[Frame, Stream], None] | None,
        *,
        roi: Roi | None = None,
        stillness: Stillness | None = None,
    ) -> Iterator[Window]:
        """Yield an empty window for a stream that was just opened. See `Window`."""
        parts = (self._contract, timing, start_s, on_frame)
        with self.open_ring(timing, stream.fps) as ring:
            if timing.stream:
                yield StepWindow(
                    stream,
                    ring,
                    *parts,
                    roi=roi,
                    stillness=stillness,
                    fewest=min(self.manifest.frame_counts),
                    seat=self._seat,
                )
            else:
                yield Window(stream, ring, *parts, roi=roi, stillness=stillness)

    def open_ring(self, timing: Timing, fps: float) -> AbstractContextManager[Ring]:
        """Return a ring for the window of a stream of so many frames a second."""
        return self._new_ring(1 if timing.stream else window_capacity(timing.clip_s, fps))

    def adopt(self, window: Window, ring: Ring) -> None:
        """Take over a window from another classifier of the same input, with a ring of this one."""
        window.move_to(ring, self._seat)

    @contextmanager
    def _host_ring(self, capacity: int) -> Iterator[Ring]:
        yield HostRing(capacity, max(self.engines), self._contract.height, self._contract.width)

    def new_controller(self, setting: Setting | None = None) -> Controller:
        """Return one that has seen no inference yet; it knows `setting`, or the classifier's."""
        return Controller(self._policy, setting or self.setting)

    def decide(
        self,
        controller: Controller,
        limits: Limits,
        now: float,
        source_frames: float | None = None,
        waited_ms: float = 0.0,
    ) -> Decision:
        """Pick a frame count, and warn of a limit that cannot be kept.

        Of each kind, for the same limits, once a minute. See `Policy.decide`.
        """
        left = limits.after_waiting(waited_ms)
        decision = controller.decide(left, now, source_frames)
        if limits.latency_ms is not None and waited_ms >= limits.latency_ms:
            self.warn(
                ("waited", limits),
                f"an inference waited {waited_ms:.3g} ms for other cameras, and the deadline is "
                f"{limits.latency_ms:g} ms",
                now,
            )
            return decision
        if decision.warning is not None:
            # Behind the colon there are numbers, which change.
            self.warn((decision.warning.partition(":")[0], limits), decision.warning, now)
        return decision

    def warn(self, kind: object, warning: str, now: float) -> None:
        """Warn, of each kind once a minute."""
        self._warned = {each: at for each, at in self._warned.items() if now - at < _WARNING_S}
        if kind not in self._warned:
            _log.warning("%s", warning)
            self._warned[kind] = now

    def classify(
        self, window: Window, limits: Limits, controller: Controller, *, waited_ms: float = 0.0
    ) -> Result:
        """Classify what a window holds, which is one frame at least.

        Args:
            window: of a stream.
            limits: of this inference; the deadline counts from when the window was complete.
            controller: picks the frame count, and learns.
            waited_ms: since then, for other streams' inferences.

        Raises:
            EngineError: an engine failed, or its logits are not numbers.
        """
        start = time.monotonic()
        source_frames = window.source_frames
        decision = self.decide(controller, limits, start, source_frames, waited_ms)
        limits = limits.after_waiting(waited_ms)

        def infer(frames: int) -> tuple[Logits, float]:
            clip = window.clip(frames)
            begin = time.monotonic()
            logits = window.answer(self.engines[frames], clip)
            return logits, (time.monotonic() - begin) * 1e3

        if self._cascade is None:
            logits, latency_ms = infer(decision.frames)
            ran: tuple[tuple[int, float], ...] = ((decision.frames, latency_ms),)
        else:
            logits, ran = self._cascade.answer(decision, limits, infer)
        end = time.monotonic()
        engine_ms = sum(latency_ms for _, latency_ms in ran)
        as_decided = [frames for frames, _ in ran] == [decision.frames]
        observation = Observation(
            frames=decision.frames,
            latency_ms=(end - start) * 1e3,
            now=end,
            limits=limits,
            sensed=self._sense(end),
            ran=() if as_decided else ran,
            source_frames=source_frames,
            pace_s=controller.points[decision.frames].pace_s,
        )
        controller.observe(observation)
        if window.restart == "not finite":
            self.warn(window.restart, "the engine's state was not finite, and began anew", end)
        probabilities = class_probabilities(logits)
        return Result(
            time_s=window.used_s,
            elapsed_s=window.start_s + window.used_s,
            source=window.stream.name,
            decision=decision,
            observation=observation,
            engine_ms=engine_ms,
            device_ms=self.engines[decision.frames].device_ms if as_decided else None,
            overhead_ms=(time.monotonic() - start) * 1e3 - engine_ms,
            top=top_classes(logits, probabilities, self.manifest.classes),
            precision=self.engines.precisions[ran[-1][0]],
            restart=window.restart,
            covers_s=window.covers_s,
            weight=window.weight,
            waited_ms=waited_ms,
            probabilities=probabilities,
        )


def class_probabilities(logits: Logits) -> Probabilities:
    """Return the softmax of logits (C,), float64 (C,).

    Raises:
        EngineError: a logit is not a number.
    """
    if not np.isfinite(logits).all():
        raise EngineError(
            "the engine's output is not finite", "check the bundle with `ffn-edge verify`."
        )
    probabilities: Probabilities = np.exp(log_probabilities(logits))
    return probabilities


def top_classes(
    logits: Logits, probabilities: Probabilities, classes: tuple[str, ...]
) -> tuple[Prediction, ...]:
    """Return the most probable classes, at most five, best first.

    Logits (C,) rank those whose probabilities, (C,), are too small to differ.
    """
    best = np.argsort(-logits, kind="stable")[:_TOP]
    return tuple(Prediction(classes[i], float(probabilities[i])) for i in best)
