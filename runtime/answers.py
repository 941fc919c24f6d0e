"""What each video of a run showed: one answer from all its windows, and when it showed what.

In a stream the first answers speak of less than a window, and count for less.

Legend: C classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffn_edge.runtime.classifier import Probabilities, Result
from ffn_edge.runtime.line_file import LineFile

_SHOWN_SPANS = 3
_COLUMNS = ["video", "video_class", "video_probability", "start_s", "end_s", "class", "probability"]


@dataclass(slots=True)
class Span:
    """A part of a video with the same most probable class in every window.

    Attributes:
        start_s: in seconds of the video.
        end_s: the same.
        class_name: of the class.
        probability: its mean over the windows.
    """

    start_s: float
    end_s: float
    class_name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a video showed.

    Attributes:
        video: its name.
        class_name: the class with the highest mean probability over all windows.
        probability: that mean.
        spans: from the video's start to its end; at least one.
    """

    video: str
    class_name: str
    probability: float
    spans: Sequence[Span]

    def line(self, all_spans: str = "--csv FILE") -> str:
        """Return the answer in a line for people; `all_spans` is where to find all its spans."""
        answer = f"{self.video}: {self.class_name} {self.probability:.2f}"
        if len(self.spans) == 1:
            return f"{answer} ({_seconds(self.spans[0])})"
        longest = sorted(self.spans, key=lambda span: span.start_s - span.end_s)[:_SHOWN_SPANS]
        shown = [f"{_seconds(span)} {span.class_name}" for span in self.spans if span in longest]
        more = len(self.spans) - len(shown)
        if more:
            shown[0] = f"longest: {shown[0]}"
        return f"{answer} ({', '.join(shown)}{f', … {more} more: {all_spans}' if more else ''})"

    def fields(self) -> dict[str, Any]:
        """Return the answer, ready for JSON."""
        return {
            "video": self.video,
            "class": self.class_name,
            "probability": round(self.probability, 4),
            "spans": [
                {
                    "start_s": round(span.start_s, 3),
                    "end_s": round(span.end_s, 3),
                    "class": span.class_name,
                    "probability": round(span.probability, 4),
                }
                for span in self.spans
            ],
        }


def _seconds(span: Span) -> str:
    return f"{span.start_s:.1f}–{span.end_s:.1f} s"


class Answers:
    """Takes the results of videos, and answers for each. Memory grows with spans alone.

    Attributes:
        all: the answers for the videos that are over.
        on_answer: is given each of them at once.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.all: list[Answer] = []
        self.on_answer: Callable[[Answer], None] | None = None
        self._classes = classes
        self._last: Result | None = None  # of the video at hand
        self._sum: Probabilities = np.zeros(len(classes))
        self._weight = 0.0
        self._spans: list[Span] = []
        self._in_span = 0.0  # weight

    def write(self, result: Result) -> None:
        """Take a result. One of another video, or of an earlier time, begins a video."""
        last = self._last
        if last and (result.source != last.source or result.time_s <= last.time_s):
            self.end_video()
            last = None
        best = int(result.probabilities.argmax())
        if last is None or self._classes[best] != self._spans[-1].class_name:
            start_s = 0.0
            if last is not None:
                # A window speaks of its middle: the change is half-way between two middles.
                middles_s = [each.time_s - each.covers_s / 2 for each in (last, result)]
                start_s = self._spans[-1].end_s = max(sum(middles_s) / 2, self._spans[-1].start_s)
            self._spans.append(Span(start_s, start_s, self._classes[best], 0.0))
            self._in_span = 0.0
        span, weight = self._spans[-1], result.weight
        self._in_span += weight
        span.end_s = result.time_s
        span.probability += (result.probabilities[best] - span.probability) * weight / self._in_span
        self._sum += weight * result.probabilities
        self._weight += weight
        self._last = result

    def end_video(self) -> None:
        """Answer for the video at hand, if there is one."""
        if self._last is None:
            return
        mean = self._sum / self._weight
        best = int(mean.argmax())
        # What a stream's first answers, of a frame or two, said of no time at all is no span.
        spans = [span for span in self._spans if span.end_s > span.start_s] or self._spans[-1:]
        answer = Answer(self._last.source, self._classes[best], float(mean[best]), spans)
        self._last = None
        self._sum = np.zeros(len(self._classes))
        self._weight = 0.0
        self._spans = []
        self.all.append(answer)
        if self.on_answer is not None:
            self.on_answer(answer)


class AnswersCsv(LineFile):
    """Answers as CSV with a header: a row for each span, in UTF-8."""

    def __enter__(self) -> AnswersCsv:
        super().__enter__()
        self._write_rows([_COLUMNS])
        return self

    def write(self, answer: Answer) -> None:
        """Write the rows of a video. Raises as `LineFile.write_text`."""
        fields = answer.fields()
        video = (answer.video, answer.class_name, fields["probability"])
        self._write_rows([(*video, *span.values()) for span in fields["spans"]])

    def _write_rows(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.write_text(text.getvalue())
