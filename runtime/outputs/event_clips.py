"""Clips of events: MP4 files with the seconds before and after each."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple

from ffn_edge.errors import VideoError, WriteError
from ffn_edge.files.atomic import check_writable, written
from ffn_edge.files.schema import Above0, Between
from ffn_edge.media.opencv import opencv
from ffn_edge.media.picture import resize
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.stream.sources import Frame, Stream

_log = logging.getLogger(__name__)

_FPS = 10.0  # at most, of what is kept
_SHORT_SIDE = 360  # at most
_JPEG_QUALITY = 85
_TOLD_LATE_S = 10.0  # an event begins so long before it is told, at most
_LONGEST_S = 120.0  # a clip; what an event does after that is not in it
_MOST_BYTES = 16_000_000  # in memory, of a camera
_MOST_WAITING = 1000  # events, while the disk hangs: the oldest get no clip
_GONE_S = 5.0  # without a frame: the clip ends there
_FORGOTTEN_S = 60.0  # without a frame: what is kept of a camera is forgotten
_NAME = re.compile(r"\d{8}T\d{6}Z_.*\.mp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """What of an event is kept, and where.

    Attributes:
        folder: of the clips.
        before_s: seconds before the event.
        after_s: seconds after it.
        most_mb: of the folder's clips; the oldest beyond it are deleted.
    """

    folder: Path
    before_s: Annotated[float, Between(0, 60)] = 3.0
    after_s: Annotated[float, Between(0, 60)] = 3.0
    most_mb: Above0 = 500.0


class EventClips(Output):
    """Writes a clip for each event; two at once are two clips.

    The last seconds of each camera are kept in memory as JPEG, small and at ten frames a second. A
    thread does that and writes the clips; frames that it has no time for are left
    out.
    """

    def __init__(self, settings: ClipSettings) -> None:
        self._settings = settings
        self._folder = settings.folder
        self._sent = 0
        self._dropped = 0
        self._fault: str | None = None
        self._changed = threading.Condition()  # guards what follows
        self._frames: dict[str, _Arrival] = {}  # the newest of each camera that is not taken yet
        self._due_s: dict[str, float] = {}  # the earliest time of the next frame
        self._events: deque[Event] = deque(maxlen=_MOST_WAITING)
        self._is_ending = False
        # Of the thread alone.
        self._cameras: dict[str, _Past] = {}
        self._clips: dict[str, _Clip] = {}  # by event
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)

    def __enter__(self) -> EventClips:
        """Begin, or raise a WriteError."""
        opencv()
        with written(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        check_writable(self._folder / "clip.mp4")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the clips where they are."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(3.0)

    def frame(self, frame: Frame, stream: Stream) -> None:
        """Take a camera's frame, in the camera's thread; at once."""
        camera, time_s = stream.name, frame.time_s
        with self._changed:
            due_s = self._due_s.get(camera, time_s)
            if time_s < due_s - 2 / _FPS:  # the stream began again
                due_s = time_s
            if time_s < due_s:
                return
            self._due_s[camera] = max(due_s + 1 / _FPS, time_s)
            self._frames[camera] = _Arrival(frame, time.monotonic())
            self._changed.notify()

    def event(self, event: Event) -> None:
        """Take an event."""
        with self._changed:
            self._events.append(event)

    def status(self) -> Status:
        """Tell how it does: `sent` are clips that were written."""
        return Status(
            name="clips",
            sent=self._sent,
            dropped=self._dropped,
            waiting=len(self._clips),
            fault=self._fault,
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._is_ending, timeout=1.0)
                frames, self._frames = self._frames, {}
                events = list(self._events)
                self._events.clear()
                is_ending = self._is_ending
            for event in events:
                self._take_event(event)
            for camera, arrival in frames.items():
                self._take_frame(camera, arrival)
            now = time.monotonic()
            for camera, past in list(self._cameras.items()):
                if now - past.heard > _FORGOTTEN_S:
                    del self._cameras[camera]
            for clip in list(self._clips.values()):
                if is_ending or clip.is_over(now):
                    self._finish(clip)
            if is_ending:
                return

    def _take_event(self, event: Event) -> None:
        clip = self._clips.get(event.id)
        past = self._cameras.get(event.source)
        if clip is not None:
            clip.end(event, self._settings.after_s)
        elif event.end_s is None and past is not None:
            clip = _Clip(event, self._folder, self._settings.before_s)
            self._clips[event.id] = clip
            self._write(clip, past.frames)

    def _take_frame(self, camera: str, arrival: _Arrival) -> None:
        image, time_s = arrival.frame
        shrink = min(1.0, _SHORT_SIDE / min(image.shape[:2]))
        height, width = (max(2, round(side * shrink / 2) * 2) for side in image.shape[:2])
        quality = [opencv().IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, jpeg = opencv().imencode(".jpg", resize(image, height, width), quality)
        kept = _Kept(time_s, jpeg)
        if camera not in self._cameras:
            self._cameras[camera] = _Past(self._settings.before_s + _TOLD_LATE_S)
        self._cameras[camera].heard = arrival.at
        self._cameras[camera].append(kept)
        for clip in list(self._clips.values()):
            if clip.event.source == camera:
                clip.heard = arrival.at
                self._write(clip, [kept])

    def _write(self, clip: _Clip, frames: Iterable[_Kept]) -> None:
        try:
            for kept in frames:
                clip.write(kept)
        except VideoError as error:
            self._fail(clip, error)

    def _finish(self, clip: _Clip) -> None:
        try:
            clip.close()
            self._make_room()
        except (VideoError, WriteError) as error:
            self._fail(clip, error)
            return
        del self._clips[clip.event.id]
        self._sent += 1
        if self._fault is not None:
            _log.info("clips are written again")
        self._fault = None

    def _fail(self, clip: _Clip, error: VideoError | WriteError) -> None:
        clip.discard(error)
        del self._clips[clip.event.id]
        self._dropped += 1
        if self._fault is None:
            _log.warning("%s; clips are dropped until they can", error)
        self._fault = error.message

    def _make_room(self) -> None:
        """Delete the oldest clips beyond what the folder may hold."""
        with written(self._folder):
            clips = sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
            sizes = [path.stat().st_size for path in clips]
            excess = sum(sizes) - self._settings.most_mb * 1e6
            for path, size in zip(clips, sizes, strict=True):
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= size


class _Arrival(NamedTuple):
    """A frame, and when it came, on the clock of `time.monotonic`."""

    frame: Frame
    at: float


class _Kept(NamedTuple):
    """A small frame as JPEG, and its time in seconds of its stream."""

    time_s: float
    jpeg: Any


class _Past:
    """The last seconds of a camera.

    Attributes:
        frames: in the order of their times.
        heard: when the last came, on the clock of `time.monotonic`.
    """

    def __init__(self, keep_s: float) -> None:
        self.heard = 0.0
        self.frames: deque[_Kept] = deque()
        self._keep_s = keep_s
        self._bytes = 0

    def append(self, kept: _Kept) -> None:
        """Keep a frame, and forget those that are too old or too many."""
        if self.frames and kept.time_s < self.frames[-1].time_s:  # the stream began again
            self.frames.clear()
            self._bytes = 0
        self.frames.append(kept)
        self._bytes += kept.jpeg.nbytes
        while self._bytes > _MOST_BYTES or kept.time_s - self.frames[0].time_s > self._keep_s:
            self._bytes -= self.frames.popleft().jpeg.nbytes


class _Clip:
    """The file of one event, while it is written.

    Attributes:
        event: as it began.
        heard: when its camera's last frame came, on the clock of `time.monotonic`.
    """

    def __init__(self, event: Event, folder: Path, before_s: float) -> None:
        self.event = event
        self.heard = time.monotonic()
        began = datetime.fromtimestamp(event.began_at or time.time(), timezone.utc)
        parts = (event.source, event.class_name, event.id[:12])
        name = "_".join((f"{began:%Y%m%dT%H%M%SZ}", *map(_file_part, parts)))
        self._path = folder / f"{name}.mp4"
        self._start_s = event.start_s - before_s
        self._end_s = self._start_s + _LONGEST_S
        self._has_ended = self._has_passed = False
        self._size = (0, 0)  # width and height, in pixels
        self._writer: VideoWriter | None = None

    def write(self, kept: _Kept) -> None:
        """Append a frame, if it is of this event. Raises a VideoError."""
        if kept.time_s > self._end_s:
            self._has_passed = True
        if self._has_passed or kept.time_s < self._start_s:
            return
        image = opencv().imdecode(kept.jpeg, opencv().IMREAD_COLOR)
        if self._writer is None:
            self._size = image.shape[1::-1]
            width, height = self._size
            writer = VideoWriter(self._path, _FPS, width, height, quick=True)
            self._writer = writer.__enter__()
            self._first_s = kept.time_s
        elif image.shape[1::-1] != self._size:  # a camera may come back with another
            image = opencv().resize(image, self._size, interpolation=opencv().INTER_AREA)
        self._writer.write(image, kept.time_s - self._first_s)

    def end(self, event: Event, after_s: float) -> None:
        """Learn that the event has ended."""
        if event.end_s is not None:
            self._end_s = min(self._end_s, event.end_s + after_s)
        self._has_ended = True

    def is_over(self, now: float) -> bool:
        """Tell whether no more frames come."""
        return self._has_passed or (self._has_ended and now - self.heard > _GONE_S)

    def close(self) -> None:
        """Put the file in place. Raises a VideoError, as where there was no frame."""
        if self._writer is None:
            raise VideoError(f"{self._path} has no frame", "check that the camera sends some.")
        self._writer.__exit__(None, None, None)

    def discard(self, error: Exception) -> None:
        """Leave no file, where there is none yet."""
        if self._writer is not None:
            self._writer.__exit__(type(error), error, None)


def _file_part(name: str) -> str:
    """Return a name as a part of one that every file system takes: of at most 60 bytes."""
    return re.sub(r"[^\w-]+", "-", name).encode("utf-8", "replace")[:60].decode("utf-8", "ignore")
