"""Where results go: JSON lines, a live view in the terminal, an annotated video."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ffn_edge.errors import printable
from ffn_edge.media.opencv import opencv
from ffn_edge.media.picture import draw_label
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.progress import NowAndThen
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.line_file import LineFile
from ffn_edge.runtime.stream.hand_over import HandOver
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.terminal import Terminal

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes each result as it comes."""

    def write(self, result: Result) -> None: ...  # noqa: D102


class JsonLines(LineFile):
    """Each result as a line of JSON."""

    def write(self, result: Result) -> None:
        """Write a result. Raises as `LineFile.write_text`."""
        self.write_line(result_fields(result))


def result_fields(result: Result) -> dict[str, object]:
    """Return what a JSON line says of a result."""
    sensed = result.observation.sensed
    return {
        "time_s": round(result.time_s, 3),
        "source": result.source,
        "frames": result.frames,
        "precision": result.precision,
        "decided": result.decision.frames,
        "reason": result.decision.reason,
        "rejected": result.decision.rejected,
        "warning": result.decision.warning,
        "restart": result.restart,
        "missed": result.missed,
        "latency_ms": round(result.latency_ms, 3),
        "engine_ms": round(result.engine_ms, 3),
        "device_ms": _rounded(result.device_ms),
        "overhead_ms": round(result.overhead_ms, 3),
        "waited_ms": round(result.waited_ms, 3),
        "ran": {frames: round(ms, 3) for frames, ms in result.observation.ran} or None,
        "power_w": _rounded(sensed.power_w),
        "energy_j": _rounded(sensed.energy_j),
        "sensor_fault": sensed.fault,
        "temperatures_c": dict(sensed.zones_c),
        "throttled": sensed.throttled,
        "over_current": sensed.over_current,
        "top5": [
            {"class": best.class_name, "probability": round(best.probability, 4)}
            for best in result.top
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class LiveView:
    """The latest result in the terminal, redrawn four times a second by rich's own thread."""

    def __init__(
        self,
        console: Terminal,
        note: Callable[[str], str] = lambda source: "",
        cameras: Collection[str] = (),
    ) -> None:
        """Show nothing yet.

        Args:
            console: where to.
            note: returns what more to say of a source.
            cameras: those that are watched at once.
        """
        self._note = note
        self._cameras = cameras
        self._latest: dict[str, Result] = {}
        self._power_w: float | None = None  # of a machine that tells it less often than it infers
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,  # the summary takes its place
            redirect_stdout=False,  # the JSON lines may go there
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def write(self, result: Result) -> None:
        """Show a result at the next redraw."""
        kept = self._latest if result.source in self._cameras else {}
        self._latest = {**kept, result.source: result}
        sensed = result.observation.sensed
        if sensed.power_w is not None or sensed.fault is not None:
            self._power_w = sensed.power_w

    def _render(self) -> Group | Text:
        latest = self._latest
        if not latest:
            return Text("waiting for the first window of frames ...")
        if len(latest) > 1:
            return Group(*(self._line(latest[name]) for name in sorted(latest)))
        (result,) = latest.values()
        classes = Table.grid(padding=(0, 1))
        for best in result.top:
            bar = ProgressBar(total=1.0, completed=best.probability, width=30)
            classes.add_row(best.class_name, bar, f"{best.probability:.2f}")
        why = Text(printable(f"{result.decision.frames}: {result.decision.reason}"))
        rejected = (f"{frames}: {reason}" for frames, reason in result.decision.rejected.items())
        why_not = Text(printable("\n".join(rejected)), style="dim")
        note = Text(self._note(result.source), style="bold")
        return Group(self._head(result), *([note] if note else []), classes, why, why_not)

    def _line(self, result: Result) -> Text:
        """Return a camera's line among several."""
        best, note = result.top[0], self._note(result.source)
        what = Text(f"   {printable(best.class_name)} {best.probability:.2f}   ")
        return Text.assemble(self._head(result), what, (note, "bold"))

    def _head(self, result: Result) -> Text:
        limits, sensed = result.observation.limits, result.observation.sensed
        deadline_ms = result.observation.deadline_ms
        deadline = f" of {deadline_ms:.4g} ms" if deadline_ms else ""
        budget = f" of {limits.power_w:g} W" if limits.power_w else ""
        heat = "" if sensed.temperature_c is None else f"   {sensed.temperature_c:.0f} °C"
        return Text.assemble(
            f"{printable(result.source)}  {result.time_s:8.2f} s   ",
            (f"{result.frames} frames", "bold cyan"),
            "   ",
            (f"{result.latency_ms:.1f} ms{deadline}", "bold red" if result.missed else "green"),
            "" if self._power_w is None else f"   {self._power_w:.2f} W{budget}",
            f"{heat}   {sensed.throttled or ''}",
        )


class ProgressLines:
    """A line now and then of how far a video is, where there is no terminal to redraw."""

    def __init__(self) -> None:
        self._now_and_then = NowAndThen(_log.info)
        self._start = time.monotonic()

    def write(self, result: Result) -> None:
        """Take a result, and log what time it is of, if it is time to."""
        self._now_and_then(lambda: self._line(result))

    def _line(self, result: Result) -> str:
        rate = result.elapsed_s / (time.monotonic() - self._start)
        return f"{result.source}: {result.time_s:.0f} s done, {rate:.1f} s of video a second"


class AnnotatedVideo:
    """An MP4 of the source with the latest result written into each frame.

    `frame` may be called in another thread than `write`. A thread of the file's own writes them:
    frames of a live source that come faster than that are left out; any other source waits. A
    frame keeps its time, whatever was left out before it. Where the first result came after the
    last frame, as of a short clip, that frame is held for a second with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: tuple[str, ...] = ()
        self._last: _Labelled | None = None
        self._writer: VideoWriter | None = None
        self._size = (0, 0)  # of a frame: width and height, in pixels
        self._written = 0
        self._frames: HandOver[_Labelled] = HandOver(self._append, "annotated-video")

    @property
    def received(self) -> int:
        """How many frames came."""
        return self._frames.count

    @property
    def dropped(self) -> int:
        """How many of them were left out."""
        return self._frames.dropped

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in place, or raise a VideoError, as when the disk is full."""
        if self._last is not None and self._lines and not self._last.lines and error is None:
            (image, time_s), fps = self._last.frame, self._last.fps
            for later in range(1, round(fps) + 1):
                frame = Frame(image, time_s + later / fps)
                self._frames.put(_Labelled(frame, self._lines, fps), drop=False)
        self._frames.close()
        failure = self._frames.error
        if self._writer is not None:
            # Where the run failed, what was watched until then is still a whole video.
            self._writer.__exit__(None if failure is None else type(failure), failure, None)
        if failure is not None and failure is not error:
            raise failure

    def write(self, result: Result) -> None:
        """Take the text of a result."""
        self._lines = (
            f"{result.frames} frames  {result.latency_ms:.0f} ms",
            *(f"{best.probability:.2f} {best.class_name}" for best in result.top[:2]),
        )

    def frame(self, frame: Frame, stream: Stream) -> None:
        """Leave a frame of the source to the file's thread; at once, if the source is live."""
        self._last = _Labelled(frame, self._lines, stream.fps)
        self._frames.put(self._last, drop=stream.live)

    def _append(self, labelled: _Labelled) -> None:
        """Write a frame, in the size of the first: a camera may come back with another."""
        image, time_s = labelled.frame
        if self._writer is not None:
            image = opencv().resize(image, self._size, interpolation=opencv().INTER_AREA)
        self._size = image.shape[1::-1]
        image = draw_label(image, labelled.lines)
        if self._writer is None:
            height, width = image.shape[:2]
            writer = VideoWriter(self._path, fps=labelled.fps, width=width, height=height)
            self._writer = writer.__enter__()
        self._writer.write(image, time_s)
        self._written += 1


class _Labelled(NamedTuple):
    """A frame, what is written into it, and the rate that its source states."""

    frame: Frame
    lines: tuple[str, ...]
    fps: float
