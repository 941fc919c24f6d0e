"""Which inferences may be left out, on streams whose motion is known."""

from __future__ import annotations

import numpy as np

from ffn_edge.runtime.events.gate import Seen, gated, learn_gate
from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.events.scoring import Segment
from ffn_edge.runtime.events.thresholds import LabelledStream, WindowAnswer

CLASSES = ("nothing", "wave")
SPAN_S = 2.0


def stream(
    motion: float, noise: float = 1.0, seconds: int = 60
) -> tuple[LabelledStream, list[Seen], float]:
    """A wave every 20 s, for 4 s, whose cells differ by `motion`; the answers are right."""
    rng = np.random.default_rng(0)
    segments = [Segment(s, s + 4.0, "wave") for s in range(10, seconds, 20)]
    seen, answers = [], []
    for frame in range(seconds * 10):
        time_s = frame / 10
        acts = any(s.start_s <= time_s < s.end_s for s in segments)
        level = 100 + (motion * (frame % 2) if acts else 0) + rng.uniform(0, noise)
        seen.append(Seen(time_s, np.full((16, 16, 3), level, np.uint8)))
        middle_s = time_s - SPAN_S / 2
        waves = any(s.start_s <= middle_s < s.end_s for s in segments)
        probabilities = np.array([0.05, 0.95] if waves else [0.95, 0.05])
        if frame % 3 == 0:
            answers.append(WindowAnswer(time_s, SPAN_S, 8, probabilities))
    return LabelledStream(8, answers, segments, float(seconds)), seen, SPAN_S


def test_answers_are_left_out_once_the_last_one_saw_nothing_move() -> None:
    labelled, seen, span_s = stream(motion=60)
    found, left_out = gated(labelled.answers, seen, 5.0, span_s)
    assert [each.time_s for each in found] == [each.time_s for each in labelled.answers]
    # Of 60 s, three times 4 s move, and each time the window takes 2 s more to forget.
    expected = (60 - 3 * (4 + SPAN_S) - SPAN_S) / 60
    assert abs(left_out / len(found) - expected) < 0.03
    assert gated(labelled.answers, seen, 70.0, span_s)[1] > left_out


def test_the_gate_costs_no_event_and_leaves_out_what_it_can() -> None:
    gate = learn_gate([stream(motion=30)], CLASSES, EventRules())
    assert gate is not None
    assert 2 <= gate.threshold < 30
    assert gate.left_out > 0.5


def test_weak_motion_under_strong_noise_leaves_nothing_out() -> None:
    gate = learn_gate([stream(motion=2, noise=40)], CLASSES, EventRules())
    assert gate is None or gate.left_out < 0.05


def test_one_stream_of_several_is_enough_to_forbid() -> None:
    streams = [stream(motion=60), stream(motion=3, noise=0.5)]
    gate = learn_gate(streams, CLASSES, EventRules())
    assert gate is None or gate.threshold < 3
