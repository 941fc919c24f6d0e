"""What each video showed."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.runtime.answers import Answer, Answers, AnswersCsv, Span
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation

CLASSES = ("wave", "clap", "none")


def result(
    time_s: float,
    *probabilities: float,
    source: str = "a.mp4",
    covers_s: float = 2.0,
    weight: float = 1.0,
) -> Result:
    values = np.asarray(probabilities, np.float64)
    best = int(values.argmax())
    return Result(
        time_s=time_s,
        elapsed_s=time_s,
        source=source,
        decision=Decision(frames=4, reason=""),
        observation=Observation(frames=4, latency_ms=1.0, now=time_s, limits=Limits()),
        engine_ms=1.0,
        device_ms=None,
        precision="fp32",
        overhead_ms=0.1,
        covers_s=covers_s,
        weight=weight,
        top=(Prediction(CLASSES[best], float(values[best])),),
        probabilities=values,
    )


def answers_of(*results: Result) -> list[Answer]:
    answers = Answers(CLASSES)
    for each in results:
        answers.write(each)
    answers.end_video()
    return answers.all


def test_the_answer_is_the_class_of_the_highest_mean() -> None:
    # "wave" is first in two windows of three, and yet "clap" is more probable on the whole.
    (answer,) = answers_of(
        result(2.0, 0.5, 0.4, 0.1), result(2.5, 0.5, 0.4, 0.1), result(3.0, 0.1, 0.9, 0.0)
    )
    assert (answer.video, answer.class_name) == ("a.mp4", "clap")
    assert answer.probability == pytest.approx((0.4 + 0.4 + 0.9) / 3)


def test_a_span_ends_half_way_between_the_middles_of_two_windows() -> None:
    # A video that changes at 5 s: windows of 2 s change when more than half of them is behind it.
    waves = [result(t, 0.9, 0.1, 0.0) for t in np.arange(2.0, 6.0, 0.25)]
    claps = [result(t, 0.2, 0.8, 0.0) for t in np.arange(6.25, 10.1, 0.25)]
    (answer,) = answers_of(*waves, *claps)
    first, second = answer.spans
    assert (first.class_name, second.class_name) == ("wave", "clap")
    assert (first.start_s, second.end_s) == (0.0, 10.0)
    assert first.end_s == second.start_s == pytest.approx(5.0, abs=0.126)  # half a hop
    assert (first.probability, second.probability) == pytest.approx((0.9, 0.8))


def test_spans_cover_the_video_without_a_gap() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 1.0, 40))
    (answer,) = answers_of(*(result(t, *rng.dirichlet([1, 1, 1])) for t in times))
    edges = [(span.start_s, span.end_s) for span in answer.spans]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == times[-1]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    assert all(start <= end for start, end in edges)


@pytest.mark.parametrize("second", ["a.mp4", "b.mp4"])
def test_each_video_has_its_own_answer_even_if_it_comes_twice(second: str) -> None:
    found = answers_of(result(1.9, 0.9, 0.1, 0.0), result(1.9, 0.1, 0.9, 0.0, source=second))
    assert [answer.class_name for answer in found] == ["wave", "clap"]
    assert [answer.video for answer in found] == ["a.mp4", second]


def test_no_video_has_no_answer() -> None:
    assert answers_of() == []


def test_a_line_shows_the_longest_spans_in_their_order() -> None:
    one = Answer("a.mp4", "wave", 0.934, [Span(0.0, 7.04, "wave", 0.9)])
    assert one.line() == "a.mp4: wave 0.93 (0.0–7.0 s)"
    spans = [
        Span(float(start), float(end), CLASSES[number % 2], 0.9)
        for number, (start, end) in enumerate([(0, 4), (4, 5), (5, 9), (9, 10), (10, 20)])
    ]
    line = Answer("a.mp4", "wave", 0.5, spans).line()
    assert "0.0–4.0 s wave, 5.0–9.0 s wave, 10.0–20.0 s wave" in line
    assert "2 more" in line
    many = [Span(t / 4, (t + 1) / 4, CLASSES[t % 2], 0.9) for t in range(40_000)]
    assert len(Answer("a.mp4", "wave", 0.5, many).line()) < 120


def test_a_table_has_a_row_for_each_span_and_quotes_what_needs_it(tmp_path: Path) -> None:
    name = 'day 1, "noon".mp4'
    with AnswersCsv(tmp_path / "answers.csv") as table:
        table.write(
            Answer(name, "wave", 0.6, [Span(0, 4.2, "wave", 0.9), Span(4.2, 7, "größer", 0.7)])
        )
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "video": name,
        "video_class": "wave",
        "video_probability": "0.6",
        "start_s": "0",
        "end_s": "4.2",
        "class": "wave",
        "probability": "0.9",
    }
    assert (second["class"], second["end_s"], second["video_class"]) == ("größer", "7", "wave")


def test_the_first_answers_of_a_stream_speak_of_little_and_count_for_little() -> None:
    # Frame by frame at two a second: the first says "clap" of itself alone.
    first = result(0.0, 0.0, 1.0, 0.0, covers_s=0.5, weight=0.25)
    others = [
        result(0.5 * k, 1.0, 0.0, 0.0, covers_s=0.5 * min(k + 1, 4), weight=0.25 * min(k + 1, 4))
        for k in range(1, 6)
    ]
    (answer,) = answers_of(first, *others)
    assert answer.class_name == "wave"
    assert answer.probability == pytest.approx(1 - 0.25 / (0.25 * (1 + 2 + 3 + 4 + 4 + 4)))
    assert [span.class_name for span in answer.spans] == ["wave"]  # "clap" was of no time
    assert answer.spans[0].start_s == pytest.approx(0.0)
