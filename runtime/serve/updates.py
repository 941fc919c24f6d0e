"""New bundles for a service that runs on: opened beside the old, tried, taken over, or sent back.

    with Updates("bundle", open_) as updates:
        session = Cameras(cameras, updates.classifier, ...)
        session.fall_back = updates.failed
        for result in session:
            updates.ran(result)
            if (classifier := updates.take()) is not None:
                session.swap(classifier)

One thread looks at the folder, and opens and closes all engines; the thread that infers never
waits for it. At most two bundles are open at once.
"""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle, Manifest
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.errors import BundleError, EngineError
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.engines.engine import OpenEngines, check_answers
from ffn_edge.runtime.engines.onnxruntime import give_back_freed

_log = logging.getLogger(__name__)

Open = Callable[[Bundle], AbstractContextManager[Classifier]]

# The folder is looked at so often. What is copied into it must have rested for as long.
_POLL_S = 2.0
# A new bundle is on trial for so many inferences, while the old one stays open.
_TRIAL = 20
# Its median latency may be so many times the old one's: a larger network is slower, too.
_SLOWER = 5.0
_KNOWN = 50  # latencies of the old one that are remembered
_LEAVING_S = 10.0


@dataclass(slots=True, eq=False)
class _Opened:
    bundle: Bundle
    classifier: Classifier
    engines: ExitStack
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_KNOWN))

    def __str__(self) -> str:
        return f"the bundle {self.bundle.identity[:12]}"


# Of each file of a folder: its name and inode, size, and when it was written and replaced.
_State = tuple[object, ...]


class Updates:
    """Watches the folder of a bundle, or a link to one, and offers what replaces it.

    A new bundle must load whole, be signed where that is required, have the classes and the input
    of the one that runs, open, and give the known answers. One that fails any of it, or later its
    trial, is not tried again until a file of it changes. Every step is one line of the log.
    """

    def __init__(
        self,
        path: str | Path,
        open_: Open,
        *,
        signed_by: PublicKey | None = None,
        stream: bool = False,
        poll_s: float = _POLL_S,
    ) -> None:
        """Remember what to watch; nothing is opened yet.

        Args:
            path: of the bundle, or a link to it.
            open_: opens the engines of a bundle and learns what they take.
            signed_by: see `Bundle.load`.
            stream: the engines are for the next frame of a stream.
            poll_s: from one look at the folder to the next.
        """
        self._path = Path(path)
        self._open_classifier = open_
        self._signed_by = signed_by
        self._stream = stream
        self._poll_s = poll_s
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)
        self._must_end = False
        self._wake = threading.Event()
        self._is_open = threading.Event()
        self._error: BaseException | None = None
        self._here = ExitStack()  # of the thread that infers
        # Guards the fields below, for moments only.
        self._lock = threading.Lock()
        self._running: _Opened | None = None
        self._offered: _Opened | None = None
        self._before: _Opened | None = None  # what ran before, while what runs is on trial
        self._slow = ""  # why it is to be sent back, where it is too slow
        self._sent_back: list[_Opened] = []  # whose windows may not have moved yet
        self._done_with: list[_Opened] = []
        # The thread's own: how the folder looked when it was tried last, and at the last look.
        self._tried: _State = ()
        self._seen: _State = ()

    def __enter__(self) -> Updates:
        """Open the bundle that is there, for this thread to infer, and begin to watch.

        Raises:
            FfnEdgeError: it cannot be used.
        """
        self._thread.start()
        self._is_open.wait()
        if self._error is not None:
            raise self._error
        self._here.enter_context(self.classifier.engines.on_this_thread())
        return self

    def __exit__(self, *_: object) -> None:
        """Close all engines."""
        self._here.close()
        self._must_end = True
        self._wake.set()
        self._thread.join(timeout=_LEAVING_S)

    @property
    def classifier(self) -> Classifier:
        """What is to run now."""
        with self._lock:
            assert self._running is not None
            return self._running.classifier

    @property
    def bundle(self) -> Bundle:
        """The bundle of it."""
        with self._lock:
            assert self._running is not None
            return self._running.bundle

    def take(self) -> Classifier | None:
        """Return what is to run from the next inference on; None is no change. It never waits.

        From then on it is on trial: `ran` and `failed` tell how it does. What an earlier call or
        `failed` took out of use is closed: it must be in use no more.
        """
        with self._lock:
            for each in self._sent_back:
                self._leave(each)
            self._sent_back.clear()
            slow, self._slow = self._slow, ""
        if slow:
            return self._go_back(slow)
        with self._lock:
            if self._offered is None:
                return None
            self._before, self._running, self._offered = self._running, self._offered, None
            running = self._running
        _log.info("%s takes over", running)
        return running.classifier

    def ran(self, result: Result) -> None:
        """Note an inference of what runs. After its trial what ran before is closed, or goes on."""
        with self._lock:
            running, before = self._running, self._before
            assert running is not None
            running.latencies_ms.append(result.latency_ms)
            if before is None or len(running.latencies_ms) < _TRIAL:
                return
            new_ms = statistics.median(running.latencies_ms)
            old_ms = statistics.median(before.latencies_ms or [new_ms])
            if new_ms > _SLOWER * old_ms:
                self._slow = f"it takes {new_ms:.3g} ms, and that took {old_ms:.3g}"
                return
            self._before = None
            self._leave(before)
        _log.info("%s ran %d inferences, and %s is closed", running, _TRIAL, before)

    def failed(self, error: EngineError) -> Classifier | None:
        """Return what is to go on after an engine failed; None is nothing, but to end.

        What fails on trial is replaced by what ran before.
        """
        return self._go_back(error.message)

    def _go_back(self, reason: str) -> Classifier | None:
        with self._lock:
            failed, before = self._running, self._before
            if failed is None or before is None:
                return None
            self._running, self._before = before, None
            self._sent_back.append(failed)
        _log.warning("%s goes on, and %s is closed: %s", before, failed, reason)
        return before.classifier

    def _leave(self, opened: _Opened) -> None:
        self._done_with.append(opened)
        self._wake.set()

    # --- the thread that opens and closes

    def _run(self) -> None:
        try:
            try:
                self._tried = _state_of(self._path)
                self._running = self._open(self._load(), None)
            except BaseException as error:  # told by `__enter__`
                self._error = error
                return
            finally:
                self._is_open.set()
            while not self._must_end:
                self._wake.wait(self._poll_s)
                self._wake.clear()
                self._close()
                if not self._must_end:
                    self._look()
        finally:
            with self._lock:
                left = (self._offered, self._running, self._before, *self._sent_back)
                self._done_with += [each for each in left if each is not None]
            self._close()

    def _close(self) -> None:
        with self._lock:
            done_with, self._done_with = self._done_with, []
        for each in done_with:
            each.engines.close()
        if done_with:
            give_back_freed()

    def _look(self) -> None:
        """Offer what is new in the folder, once it has come to rest."""
        with self._lock:
            if self._offered or self._before or self._sent_back:
                return
            running = self._running
        assert running is not None
        state, before = _state_of(self._path), self._seen
        self._seen = state
        if before and not state:
            _log.warning("%s goes on: there is no folder at %s any more", running, self._path)
        if state in (self._tried, ()) or state != before:
            return
        self._tried = state
        try:
            bundle = self._load()
            if _state_of(self._path) != state:
                return
            if bundle.identity == running.bundle.identity:
                _log.info(
                    "%s is what lies in %s; its calibration is read at a start", running, self._path
                )
                return
            _log.info("the bundle %s is new in %s", bundle.identity[:12], self._path)
            offered = self._open(bundle, running)
        except Exception as error:  # whatever it is, what runs goes on
            reason = "; ".join(str(error).split("\nHint: ")) or repr(error)
            _log.warning(
                "%s goes on, and what is in %s is refused: %s", running, self._path, reason
            )
            return
        with self._lock:
            self._offered = offered

    def _load(self) -> Bundle:
        # Where a link leads now: what is read later must be of the same bundle.
        return Bundle.load(os.path.realpath(self._path), self._signed_by)

    def _open(self, bundle: Bundle, replaces: _Opened | None) -> _Opened:
        if replaces is not None:
            check_replaces(replaces.bundle.manifest, bundle.manifest)
        begin = time.monotonic()
        with ExitStack() as stack:
            classifier = stack.enter_context(self._open_classifier(bundle))
            if replaces is not None:
                _check_engines(replaces.classifier.engines, classifier.engines)
                check_answers(classifier.engines, bundle, stream=self._stream)
            opened = _Opened(bundle, classifier, stack.pop_all())
        _log.info("%s is open after %.1f s", opened, time.monotonic() - begin)
        return opened


def check_replaces(old: Manifest, new: Manifest) -> None:
    """Raise a BundleError unless a bundle can go on where another stops.

    Events go on, so their classes are the same and in the same order; windows go on, so their
    pictures and their length are. Architecture, frame counts, precisions and normalisation may be
    others.
    """
    differing = [
        f"its input's {what}"
        for what in ("batch", "height", "width", "short_side", "window_s")
        if getattr(new.input, what) != getattr(old.input, what)
    ]
    if new.classes != old.classes:
        differing.append("its classes")
    if differing:
        raise BundleError(
            f"the new bundle differs from the one that runs in {' and '.join(differing)}",
            "restart the service, which then begins with the new one.",
        )


def _check_engines(old: OpenEngines, new: OpenEngines) -> None:
    """Refuse what would go on by another backend, as on the CPU where no engine was built yet."""
    if new.backend.name != old.backend.name:
        raise EngineError(
            f"{old.backend.name} runs, and the new bundle would run with {new.backend.name}: "
            f"{new.backend.reason}",
            "build its engines before it takes the old one's place: ffn-edge build.",
        )


def _state_of(path: Path) -> _State:
    """Return how the files of a bundle look, by their states; nothing where there is none."""
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries)
        found = [os.stat(path / name) for name in names]
    except OSError:
        return ()
    return tuple(
        (name, each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for name, each in zip(names, found, strict=True)
    )
