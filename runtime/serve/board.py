"""What is now, for people: answers, events, histories, and pictures for who watches."""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ffn_edge.media.picture import Image, encode_jpeg, resize
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.stream.sources import Frame, Stream

LATELY_S = 10.0  # how old the last answer of a camera may be, beside its hop
SHOWN_S = 600.0  # of events and charts
WIDTHS = (480, 240)  # of pictures in pixels: for most links, and for slow ones

_MOST_EVENTS = 200
_STEP_S = 4.0  # of the charts
_JUDGED = 100  # answers of a camera, of which the share that was late is told
_PICTURE_S = 0.1  # between two pictures of a camera
_WATCHED_S = 3.0  # a camera counts as watched for so long after somebody asked
_STATUS_S = 1.0  # between two questions to the outputs
_QUALITY = 70


class Picture(NamedTuple):
    """A picture of a camera, by the camera's index; a newer one has a higher number."""

    camera: int
    number: int
    jpeg: bytes


class Board(Output):
    """The state that the page shows: bounded in size, told and asked from any thread.

        board = Board(["door", "yard"], lambda: [mqtt.status()])
        board.result(result)
        print(board.snapshot()["cameras"][0]["class"])

    Whatever changes gets a higher revision, so that one who watches asks for what is newer.

    Attributes:
        classes: of the bundle; their order gives each its colour.
    """

    def __init__(
        self,
        cameras: Sequence[str] = (),
        outputs: Callable[[], Iterable[Status | None]] = tuple,
        *,
        lately_s: float = LATELY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with cameras of which nothing is known.

        Args:
            cameras: their names; see `set_cameras`, also for `lately_s`.
            outputs: returns how each output does.
            lately_s: in seconds.
            clock: returns the seconds since 1970 (UTC).
        """
        self.classes: Sequence[str] = ()
        self._outputs = outputs
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; held for microseconds
        self._new_picture = threading.Condition(self._lock)
        self._revision = 0
        self._cameras_revision = 0
        self._cameras: dict[str, _Camera] = {}
        self._events: dict[str, _Shown] = {}
        self._history: deque[_Step] = deque(maxlen=round(SHOWN_S / _STEP_S))
        self._pictures = 0
        self._statuses: list[dict[str, Any]] = []
        self._statuses_revision = 0
        self._asked_s = -_STATUS_S
        self.set_cameras(cameras, lately_s)

    def set_cameras(self, names: Sequence[str], lately_s: float = LATELY_S) -> None:
        """Show these cameras, in this order; what is known of those that were there stays.

        One whose last answer is older than `lately_s` does not do well.
        """
        with self._lock:
            self._lately_s = lately_s
            now = time.monotonic()
            self._cameras = {name: self._cameras.get(name) or _Camera(now) for name in names}
            self._cameras_revision = self._next()

    def result(self, result: Result) -> None:
        """Take an answer; one of a camera that is not shown is passed over."""
        now = self._clock()
        with self._lock:
            camera = self._cameras.get(result.source)
            if camera is None:
                return
            camera.answered(result, now)
            camera.revision = self._next()
            step = int(now // _STEP_S)
            if not self._history or self._history[-1].number != step:
                self._history.append(_Step(step))
            self._history[-1].add(result)
            self._history[-1].revision = camera.revision

    def still(self, source: str, time_s: float) -> None:
        """Take note that nothing moves: the last answer stands."""
        with self._lock:
            camera = self._cameras.get(source)
            if camera is not None:
                camera.answered_s = time.monotonic()
                if not camera.still:
                    camera.still, camera.revision = True, self._next()

    def event(self, event: Event) -> None:
        """Take an event that began or ended."""
        now = self._clock()
        with self._lock:
            before = self._events.pop(event.id, None)
            # A recording's seconds say nothing of when people see it.
            began_at = event.began_at or (before.began_at if before else now)
            self._events[event.id] = _Shown(event, began_at, self._next())
            oldest = now - SHOWN_S
            for key, shown in list(self._events.items()):
                if len(self._events) > _MOST_EVENTS or shown.ended_before(oldest):
                    del self._events[key]

    def lost(self, source: str, why: str = "") -> None:
        """Take note that a camera is lost, until its next frame."""
        self._gone(source, "lost", why)

    def end(self, source: str) -> None:
        """Take note that a source came to its end, until its next frame."""
        self._gone(source, "ended", "")

    def _gone(self, source: str, state: str, why: str) -> None:
        with self._lock:
            camera = self._cameras.get(source)
            if camera is not None:
                camera.state, camera.why, camera.picture = state, why, None
                camera.revision = self._next()

    def frame(self, frame: Frame, stream: Stream) -> None:
        """Take a frame, in its camera's thread: kept if somebody watches, and the newest alone."""
        camera = self._cameras.get(stream.name)
        if camera is None:
            return
        now = time.monotonic()
        if camera.state != "up":
            with self._lock:
                camera.state, camera.why = "up", ""
                camera.revision = self._next()
        if now > camera.watched_until_s:
            camera.picture = None
        elif now >= camera.due_s:
            camera.due_s = max(camera.due_s + _PICTURE_S, now)
            with self._new_picture:
                self._pictures += 1
                camera.picture = _Kept(self._pictures, frame.image)
                self._new_picture.notify_all()

    def snapshot(self) -> dict[str, Any]:
        """Return all that is now, ready for JSON: `changes` since the beginning."""
        return self.changes(0)

    def changes(self, since: int) -> dict[str, Any]:
        """Return what changed since a revision, ready for JSON.

        Keys: "revision" to ask with the next time; "now" in seconds since 1970; "cameras",
        "events", "history" and "outputs", which are missing where nothing changed. Each camera has
        its "index"; "layout" says that the cameras are others than before, and comes with how old
        their answers may be, "lately_s".
        """
        self._ask_outputs()
        with self._lock:
            layout = self._cameras_revision > since
            cameras = [
                (index, name, copy.copy(camera))
                for index, (name, camera) in enumerate(self._cameras.items())
                if layout or camera.revision > since
            ]
            events = [shown for shown in self._events.values() if shown.revision > since]
            history = [copy.copy(step) for step in self._history if step.revision > since]
            statuses = self._statuses if self._statuses_revision > since or not since else None
            revision = self._revision
        now = self._clock()
        found: dict[str, Any] = {"revision": revision, "now": round(now, 3)}
        if layout:
            found["layout"], found["lately_s"] = True, self._lately_s
            found["classes"] = list(self.classes)
        if cameras or layout:
            found["cameras"] = [camera.fields(index, name) for index, name, camera in cameras]
        if events:
            oldest = now - SHOWN_S
            found["events"] = [each.fields() for each in events if not each.ended_before(oldest)]
        if history:
            found["history"] = [step.fields() for step in history]
        if statuses is not None:
            found["outputs"] = statuses
        return found

    def faults(self) -> list[str]:
        """Return what is not well, in words: cameras and outputs; nothing is all well."""
        self._ask_outputs()
        now = time.monotonic()
        found = []
        with self._lock:
            for name, camera in self._cameras.items():
                silent_s = now - camera.answered_s
                if camera.state == "lost":
                    found.append(f"{name} is lost" + (f": {camera.why}" if camera.why else ""))
                elif camera.state != "ended" and silent_s > self._lately_s:
                    found.append(f"{name} has given no answer for {silent_s:.0f} s")
            faults = [(each["name"], each["fault"]) for each in self._statuses if each["fault"]]
        return found + [f"{name}: {fault}" for name, fault in faults]

    def pictures(
        self, seen: Mapping[int, int], width: int = WIDTHS[0], *, wait_s: float = 1.0
    ) -> list[Picture]:
        """Return the newest pictures of some cameras, as soon as there is a newer one of any.

        A picture is encoded here, in the thread that asks, and once for all who watch.

        Args:
            seen: by the index of each camera that is watched, the number of the picture that is
                known; 0 is none.
            width: the most that a picture has, in pixels.
            wait_s: the longest to wait for one.
        """
        with self._new_picture:
            cameras = dict(enumerate(self._cameras.values()))
            watched = {index: cameras[index] for index in seen if index in cameras}
            for camera in watched.values():
                camera.watched_until_s = time.monotonic() + _WATCHED_S + wait_s

            def newer() -> list[tuple[int, _Kept]]:
                kept = [(index, camera.picture) for index, camera in watched.items()]
                return [(i, each) for i, each in kept if each and each.number > seen[i]]

            self._new_picture.wait_for(newer, wait_s if watched else 0.0)
            found = newer()
        return [Picture(index, kept.number, kept.jpeg(width)) for index, kept in found]

    def _ask_outputs(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._asked_s < _STATUS_S:
                return
            self._asked_s = now
        statuses = [asdict(status) for status in self._outputs() if status is not None]
        with self._lock:
            if statuses != self._statuses:
                self._statuses, self._statuses_revision = statuses, self._next()

    def _next(self) -> int:
        self._revision += 1
        return self._revision


class _Kept:
    """The newest frame of a camera, uint8 (H, W, 3), BGR, and its JPEGs by width."""

    def __init__(self, number: int, image: Image) -> None:
        self.number = number
        self._image = image
        self._lock = threading.Lock()
        self._jpegs: dict[int, bytes] = {}

    def jpeg(self, width: int) -> bytes:
        """Return it, at most so many pixels wide."""
        with self._lock:
            if width not in self._jpegs:
                tall, wide = self._image.shape[:2]
                scale = min(1.0, width / wide)
                small = resize(self._image, max(1, round(tall * scale)), round(wide * scale))
                self._jpegs[width] = encode_jpeg(small, _QUALITY)
            return self._jpegs[width]


@dataclass(slots=True)
class _Camera:
    """What is known of a camera."""

    answered_s: float  # on the monotonic clock
    revision: int = 0
    state: str = "waiting"  # or "up", "lost", "ended"
    why: str = ""
    still: bool = False
    result: Result | None = None
    power_w: float | None = None  # the latest: it is told less often than answers come
    answered_at: float = 0.0
    verdicts: deque[bool] = field(default_factory=lambda: deque(maxlen=_JUDGED))
    judged: int = 0
    late: int = 0
    picture: _Kept | None = None
    watched_until_s: float = 0.0
    due_s: float = 0.0

    def answered(self, result: Result, now: float) -> None:
        self.result, self.answered_at, self.still = result, now, False
        sensed = result.observation.sensed
        if sensed.power_w is not None or sensed.fault is not None:
            self.power_w = sensed.power_w
        self.answered_s = time.monotonic()
        if self.judged == _JUDGED:
            self.late -= self.verdicts[0]
        self.verdicts.append(result.missed)
        self.late += result.missed
        self.judged = len(self.verdicts)

    def fields(self, index: int, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"index": index, "name": name, "state": self.state}
        if self.why:
            found["why"] = self.why
        if self.result is None:
            return found
        result = self.result
        observation, decision = result.observation, result.decision
        sensed = observation.sensed
        return found | {
            "still": self.still,
            "answered_at": round(self.answered_at, 3),
            "class": result.top[0].class_name,
            "probability": round(result.top[0].probability, 3),
            "next": [[each.class_name, round(each.probability, 3)] for each in result.top[1:3]],
            "frames": result.frames,
            "reason": decision.reason,
            "rejected": {str(frames): why for frames, why in decision.rejected.items()},
            "warning": decision.warning,
            "latency_ms": round(result.latency_ms, 1),
            "deadline_ms": _rounded(observation.deadline_ms),
            "missed": result.missed,
            "late": self.late,
            "judged": self.judged,
            "miss_rate": observation.limits.miss_rate,
            "power_w": _rounded(self.power_w),
            "budget_w": _rounded(observation.limits.power_w),
            "temperature_c": _rounded(sensed.temperature_c),
            "throttled": sensed.throttled,
            # Without a budget nobody asked for the power.
            "fault": sensed.fault if observation.limits.needs_power else None,
        }


class _Shown(NamedTuple):
    """An event, and when it began in seconds since 1970."""

    event: Event
    began_at: float
    revision: int

    @property
    def _ended_at(self) -> float | None:
        event = self.event
        return None if event.end_s is None else self.began_at + event.end_s - event.start_s

    def ended_before(self, when: float) -> bool:
        return self._ended_at is not None and self._ended_at < when

    def fields(self) -> dict[str, Any]:
        event = self.event
        return {
            "id": event.id,
            "source": event.source,
            "class": event.class_name,
            "began_at": round(self.began_at, 1),
            "ended_at": _rounded(self._ended_at),
            "confidence": round(event.confidence, 3),
        }


@dataclass(slots=True)
class _Step:
    """Some seconds of the charts: the slowest answer, the newest readings, the mean of T."""

    number: int
    revision: int = 0
    latency_ms: float = 0.0
    deadline_ms: float | None = None
    power_w: float | None = None
    budget_w: float | None = None
    temperature_c: float | None = None
    frames: int = 0
    answers: int = 0

    def add(self, result: Result) -> None:
        observation = result.observation
        sensed = observation.sensed
        self.latency_ms = max(self.latency_ms, observation.latency_ms)
        self.deadline_ms = observation.deadline_ms
        self.power_w = self.power_w if sensed.power_w is None else sensed.power_w
        self.budget_w = observation.limits.power_w
        if sensed.temperature_c is not None:
            self.temperature_c = sensed.temperature_c
        self.frames += result.frames
        self.answers += 1

    def fields(self) -> list[float | None]:
        """Return time, latency, deadline, power, budget, temperature and mean frame count."""
        figures = (self.latency_ms, self.deadline_ms, self.power_w, self.budget_w)
        return [
            self.number * _STEP_S,
            *map(_rounded, (*figures, self.temperature_c, self.frames / self.answers)),
        ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
