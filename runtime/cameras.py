"""Several cameras on one set of engines: whose inference is next, and what each may spend.

A thread for each camera waits for its windows; one thread infers, whoever's deadline is earliest
first. A camera that is away costs the others nothing. Cameras may come and go, and the bundle be
exchanged, between two inferences.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import NamedTuple

from ffn_edge.errors import EngineError, FfnEdgeError
from ffn_edge.runtime.camera_settings import CameraSettings
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.policy.interface import Controller, Limits
from ffn_edge.runtime.session import NO_HOOKS, Hooks
from ffn_edge.runtime.shared_budget import SharedBudget
from ffn_edge.runtime.stream.live_reader import PATIENCE_S, LiveReader, live_readers
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.runtime.stream.stillness import Stillness
from ffn_edge.runtime.stream.window import Timing, Window

_log = logging.getLogger(__name__)
_DEFAULT_TIMING = Timing()

# Whether cameras have ended is looked at so often.
_CHECK_S = 0.1
# At the end, a camera's driver may take so long.
_LEAVING_S = 3.0


class CameraState(NamedTuple):
    """How a camera does.

    Attributes:
        name: the camera's.
        up: whether it sends frames.
        received: frames that came, since the start.
        dropped: of them, those that were not handled, since newer ones came meanwhile.
    """

    name: str
    up: bool
    received: int
    dropped: int


@dataclass(slots=True, eq=False)
class _Job:
    """What a camera's thread asks of the thread that infers, and waits for.

    Attributes:
        run: what to do.
        due: by when, on the clock; -inf is at once.
    """

    run: Callable[[], Result | None]
    due: float
    done: threading.Event = dataclasses.field(default_factory=threading.Event)


class _Watched:
    """A camera: the thread that waits for its windows, and what the others must not share."""

    def __init__(
        self,
        settings: CameraSettings,
        stream: Stream,
        cameras: Cameras,
        before: Sequence[_Watched] = (),
    ) -> None:
        """Prepare; those `before` may have the device still, and leave it first."""
        self._cameras = cameras
        self._before = before
        self.settings = settings
        self.stream = stream
        self.controller = cameras.new_controller(self.timing())
        self.window: Window | None = None
        self.must_leave = False
        # The reader at hand, and frames received and dropped by those before: one value, which
        # other threads read.
        self._counts: tuple[LiveReader | None, int, int] = (None, 0, 0)
        self.error: BaseException | None = None
        self._ring = ExitStack()  # of the window; used by the thread that infers
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def timing(self) -> Timing:
        """Return when it is looked at."""
        given = self._cameras.timing
        window_s = self.settings.window_s or given.window_s
        return dataclasses.replace(given, window_s=window_s, hop_s=self.settings.hop_s)

    def is_over(self) -> bool:
        """Whether to end soon."""
        return self.must_leave or self._cameras.is_over()

    def state(self) -> CameraState:
        """Tell how it does."""
        reader, received, dropped = self._counts
        if reader is not None:
            received, dropped = received + reader.received, dropped + reader.dropped
        return CameraState(self.settings.name, self.window is not None, received, dropped)

    def _run(self) -> None:
        for each in self._before:
            each.thread.join()
        self._before = ()
        try:
            self._watch()
        except BaseException as error:  # told by the thread that infers
            self.error = error

    def _watch(self) -> None:
        def add(frame: Frame) -> None:
            assert self.window is not None
            self.window.add(frame)

        patience_s = PATIENCE_S if self.stream.comes_back else math.inf
        readers = live_readers(
            self.stream,
            add,
            self.is_over,
            patience_s=patience_s,
            may_be_away=self.stream.comes_back,
        )
        with closing(readers):
            for reader in readers:
                self._cameras.do(_Job(self._open_window, -math.inf))
                _, received, dropped = self._counts
                self._counts = (reader, received, dropped)
                try:
                    self._read(reader)
                finally:
                    reader.close()
                    self._counts = (None, received + reader.received, dropped + reader.dropped)
                    self._cameras.do(_Job(self.close_window, -math.inf))

    def _read(self, reader: LiveReader) -> None:
        window = self.window
        if window is None:  # the end came first
            return
        reader.start()
        if reader.wait(0.0, self.is_over):
            window.due_s += reader.first_s
        while reader.wait(window.due_s, self.is_over):
            self._submit(window)
        if reader.failure is None and not self.is_over() and window.has_news:
            self._submit(window)

    def _submit(self, window: Window) -> None:
        """Have what is due classified."""
        now = time.monotonic()
        within_ms = self._cameras.limits().latency_ms
        within_s = window.hop_s if within_ms is None else within_ms / 1e3
        self._cameras.do(_Job(lambda: self._classify(window, now), now + within_s))

    def _classify(self, window: Window, ready: float) -> Result | None:
        if window.is_still:
            self._cameras.note_still(self, window)
            return None
        return self._cameras.classify(self, window, ready)

    def _open_window(self) -> None:
        cameras = self._cameras
        hooks = cameras.hooks
        self.window = self._ring.enter_context(
            cameras.classifier.open_window(
                self.stream,
                self.timing(),
                0.0,
                hooks.on_frame,
                roi=self.settings.roi,
                stillness=None if cameras.still is None else Stillness(cameras.still),
            )
        )

    def close_window(self) -> None:
        """Give the window back, in the thread that infers."""
        if self.window is not None:
            self._cameras.hooks.on_lost(self.settings.name)
        self.window = None
        self._ring.close()

    def change_hop(self) -> None:
        """Follow a change of the settings' hop, of which the policy makes its means."""
        self.controller = self._cameras.new_controller(self.timing())
        if self.window is not None:
            self.window.hop_s = self.settings.hop_s

    def move_to(self, classifier: Classifier) -> None:
        """Go on with another bundle's engines."""
        self.controller = self._cameras.new_controller(self.timing())
        if self.window is None:
            return
        with ExitStack() as stack:
            ring = stack.enter_context(classifier.open_ring(self.timing(), self.stream.fps))
            classifier.adopt(self.window, ring)
            self._ring.close()
            self._ring = stack.pop_all()


class Cameras:
    """An adaptive run over several cameras: iterate it once for its results.

    Each camera has its own window, deadlines and frame count. The power and the processor's time
    are one, and `allot` gives each camera its part, once a second.

    Attributes:
        classifier: that runs now.
        limits: tells those of now; the deadline counts from when a window was complete.
        timing: where a camera's settings say nothing.
        hooks: are called as it goes on.
        still: the threshold of `Stillness` below which inferences are left out; None leaves out
            none.
        fall_back: is given the error of an engine, and returns what to go on with, if anything.
        on_round: is called between two inferences, and many times a second without any.
    """

    def __init__(
        self,
        cameras: Sequence[tuple[CameraSettings, Stream]],
        classifier: Classifier,
        limits: Callable[[], Limits],
        timing: Timing = _DEFAULT_TIMING,
        hooks: Hooks = NO_HOOKS,
        *,
        still: float | None = None,
    ) -> None:
        """Put the parts together; nothing is opened yet."""
        self.classifier = classifier
        self.limits = limits
        self.timing = timing
        self.hooks = hooks
        self.still = still
        self.fall_back: Callable[[EngineError], Classifier | None] = lambda error: None
        self.on_round: Callable[[], None] = lambda: None
        self._stopped = False
        self._start = math.inf
        self._news = threading.Condition()  # guards the jobs, the cameras and the counts
        self._jobs: list[_Job] = []
        self._watched: dict[str, _Watched] = {}
        self._leaving: list[_Watched] = []
        self._next: Classifier | None = None
        self._asked_for = list(cameras)
        self._checked = -math.inf
        self._budget = self._new_budget()  # used by the thread that infers

    def stop(self) -> None:
        """End soon, after the inference that runs. For signal handlers and other threads."""
        self._stopped = True

    def is_over(self) -> bool:
        """Whether it is to end."""
        return self._stopped or time.monotonic() - self._start >= self.timing.max_seconds

    def __iter__(self) -> Generator[Result, None, None]:
        """Yield a result for each inference.

        Raises:
            FfnEdgeError: not one camera is left that can come back.
            EngineError: an engine failed.
        """
        self._start = time.monotonic()
        self._tell_limits()
        self.set_cameras(self._asked_for)
        try:
            while not self.is_over():
                self._check_cameras()
                self.on_round()
                result = self._do(self._take_job())
                if result is not None:
                    yield result
        finally:
            self._end()

    def set_cameras(self, cameras: Sequence[tuple[CameraSettings, Stream]]) -> None:
        """Watch these from now on. For any thread.

        One whose settings are the same, but for hop and weight, goes on as it is.
        """
        with self._news:
            wanted = {settings.name: (settings, stream) for settings, stream in cameras}
            for name, watched in list(self._watched.items()):
                new = wanted.get(name)
                if new is not None and _is_same(watched.settings, new[0]):
                    hop_s, watched.settings = watched.settings.hop_s, new[0]
                    if new[0].hop_s != hop_s:
                        watched.change_hop()
                    del wanted[name]
                else:
                    watched.must_leave = True
                    self._leaving.append(self._watched.pop(name))
            for name, (settings, stream) in wanted.items():
                self._watched[name] = _Watched(settings, stream, self, tuple(self._leaving))
                self._watched[name].thread.start()

    def swap(self, classifier: Classifier) -> None:
        """Go on with another bundle after the inference that runs. For any thread.

        It takes pictures of the same size; the windows are kept.
        """
        with self._news:
            self._next = classifier
            self._news.notify_all()

    def states(self) -> list[CameraState]:
        """Tell how each camera does. From any thread."""
        with self._news:
            return [each.state() for each in self._watched.values()]

    @property
    def received(self) -> int:
        """Frames that were sent by the cameras that are watched."""
        return sum(state.received for state in self.states())

    @property
    def dropped(self) -> int:
        """Of them, those that were not handled, since newer ones came meanwhile."""
        return sum(state.dropped for state in self.states())

    def new_controller(self, timing: Timing) -> Controller:
        """Return one for a camera that has seen no inference yet."""
        setting = dataclasses.replace(self.classifier.setting, period_s=timing.hop_s)
        if timing.stream:
            setting = setting.streamed(timing.clip_s)
        return self.classifier.new_controller(setting)

    def do(self, job: _Job) -> None:
        """Have a job done in the thread that infers, or left out where that ends."""
        with self._news:
            self._jobs.append(job)
            self._news.notify_all()
        while not self.is_over() and not job.done.wait(timeout=0.5):
            pass

    def classify(self, watched: _Watched, window: Window, ready: float) -> Result:
        """Classify a window that was complete at `ready`, on the clock."""
        now = time.monotonic()
        waited_ms = (now - ready) * 1e3
        limits = self.limits()
        mine, why = self._limits_of(watched, limits, now)
        result = self.classifier.classify(window, mine, watched.controller, waited_ms=waited_ms)
        decision = result.decision
        if why:
            decision = dataclasses.replace(decision, reason=f"{decision.reason}; {why}")
        # Whom the result is for waited as well, and knows the limits as they were asked for.
        observation = dataclasses.replace(
            result.observation, limits=limits, latency_ms=result.latency_ms + waited_ms
        )
        result = dataclasses.replace(
            result, decision=decision, observation=observation, elapsed_s=now - self._start
        )
        self._budget.learn(result, watched.settings.hop_s, limits)
        return result

    def note_still(self, watched: _Watched, window: Window) -> None:
        """Leave an inference out: nothing has moved since the last one."""
        window.skip()
        self._budget.note_still(watched.settings.name)
        self.hooks.on_still(watched.settings.name, window.used_s)

    # --- the thread that infers

    def _take_job(self) -> _Job | None:
        """Wait for a job, for a moment only: a signal cannot wake a waiting thread."""
        with self._news:
            if not self._jobs:
                self._news.wait(timeout=0.05)
            job = min(self._jobs, key=lambda job: job.due, default=None)
            if job is not None:
                self._jobs.remove(job)
        return job

    def _do(self, job: _Job | None) -> Result | None:
        """Take over what is to be swapped in, and do a job; again, where an engine is gone back to.

        So that neither a window is lost with the engine, nor a camera whose window was to open.
        """
        classifier, self._next = self._next, None
        try:
            while True:
                try:
                    if classifier is not None:
                        self._go_on_with(classifier)
                    return None if job is None else job.run()
                except EngineError as error:
                    classifier = self.fall_back(error)
                    if classifier is None:
                        raise
        finally:
            if job is not None:
                job.done.set()

    def _go_on_with(self, classifier: Classifier) -> None:
        self.classifier = classifier
        with self._news:
            watched = [*self._watched.values(), *self._leaving]
        for each in watched:
            each.move_to(classifier)
        self._budget = self._new_budget()
        self._tell_limits()

    def _new_budget(self) -> SharedBudget:
        classifier = self.classifier
        return SharedBudget(
            classifier.setting, lambda text, now: classifier.warn("shared power", text, now)
        )

    def _tell_limits(self) -> None:
        """Say at once what limit nothing can keep, and not when the first window is full."""
        controller = self.classifier.new_controller()
        self.classifier.decide(controller, self.limits(), time.monotonic())

    def _check_cameras(self) -> None:
        """Say now and then which cameras failed; raise where none is left."""
        now = time.monotonic()
        if now - self._checked < _CHECK_S:
            return
        self._checked = now
        with self._news:
            ended = [each for each in self._watched.values() if not each.thread.is_alive()]
            self._leaving = [each for each in self._leaving if each.thread.is_alive()]
            for each in ended:
                del self._watched[each.settings.name]
            is_last = not self._watched
        for each in ended:
            if each.error is None:
                _log.info("%s has ended", each.settings.name)
            elif is_last or not isinstance(each.error, FfnEdgeError):
                raise each.error
            else:
                reason = each.error.message
                _log.warning("%s is not watched any more: %s", each.settings.name, reason)
        if ended and is_last:
            self._stopped = True

    def _limits_of(self, watched: _Watched, limits: Limits, now: float) -> tuple[Limits, str]:
        """Return what a camera may take of the limits: what is left of them for it, and why."""
        with self._news:
            cameras = {
                name: each.settings
                for name, each in self._watched.items()
                if each.window is not None  # one that is away takes nothing
            }
        if len(cameras) < 2 or watched.must_leave or limits.frames is not None:
            return limits, ""
        most, why = self._budget.share_of(watched.settings.name, cameras, limits, now)
        without_power = dataclasses.replace(limits, power_w=None, battery_j=None, until_s=None)
        return dataclasses.replace(without_power, most_frames=most), why

    def _end(self) -> None:
        """Close the cameras and, in this thread, their windows."""
        self._stopped = True
        with self._news:
            left = [*self._watched.values(), *self._leaving]
        until = time.monotonic() + _LEAVING_S
        with ExitStack() as stack:  # all are closed, whatever a hook raises
            for each in left:
                stack.callback(each.close_window)
            for each in left:
                each.thread.join(timeout=max(0.0, until - time.monotonic()))


def _is_same(settings: CameraSettings, other: CameraSettings) -> bool:
    return dataclasses.replace(settings, hop_s=other.hop_s, weight=other.weight) == other
