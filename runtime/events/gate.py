"""How still a scene must be for inferences to be left out, so that no event is lost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.events.scoring import Score, score
from ffn_edge.runtime.events.thresholds import LabelledStream, WindowAnswer, find_events
from ffn_edge.runtime.stream.stillness import Cells, Stillness

# Differences of cells, in 0..255, of which each is about a third more than the one before.
_THRESHOLDS = (2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0, 16.0, 21.0, 28.0, 37.0, 50.0)


class Seen(NamedTuple):
    """A frame's cells; see `cells_of`."""

    time_s: float
    cells: Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Where to leave inferences out.

    Attributes:
        threshold: of `Stillness`.
        left_out: the share of inferences that it left out on the streams it was learnt from, 0..1.
    """

    threshold: float
    left_out: float


def gated(
    answers: Sequence[WindowAnswer], seen: Sequence[Seen], threshold: float, span_s: float
) -> tuple[list[WindowAnswer], int]:
    """Return what is answered with a gate, and how many answers repeat the one before.

    As `Window.is_still` has it: where nothing has moved since `span_s` before the last answer.
    """
    stillness, position = Stillness(threshold), 0
    found: list[WindowAnswer] = []
    left_out = 0
    for answer in answers:
        while position < len(seen) and seen[position].time_s <= answer.time_s:
            stillness.see(seen[position].cells, seen[position].time_s)
            position += 1
        if found and stillness.moved_s <= found[-1].time_s - span_s:
            answer = found[-1]._replace(time_s=answer.time_s)
            left_out += 1
        found.append(answer)
    return found, left_out


def learn_gate(
    streams: Sequence[tuple[LabelledStream, Sequence[Seen], float]],
    classes: Sequence[str],
    rules: EventRules,
) -> Gate | None:
    """Choose the largest threshold that costs no event; one step less, since streams differ.

    It costs none where every stream, at every frame count, has as many events that are right as
    without a gate, and no more false alarms.

    Args:
        streams: what was said of each at a frame count, its frames, and the time that an answer
            may depend on.
        classes: all of the network's, in their order.
        rules: of events.

    Returns:
        None where every threshold costs an event.
    """

    def scored(stream: LabelledStream, answers: Sequence[WindowAnswer]) -> Score:
        return score(find_events(answers, classes, rules), stream.segments, stream.seconds)

    without = [scored(stream, stream.answers) for stream, _, _ in streams]
    answers = sum(len(stream.answers) for stream, _, _ in streams)
    passed: list[Gate] = []
    for threshold in _THRESHOLDS:
        left_out = 0
        for (stream, seen, span_s), before in zip(streams, without, strict=True):
            found, number = gated(stream.answers, seen, threshold, span_s)
            left_out += number
            now = scored(stream, found) if number else before
            if now.right < before.right or now.false_alarms > before.false_alarms:
                return passed[-2] if len(passed) > 1 else None
        passed.append(Gate(threshold=threshold, left_out=left_out / max(answers, 1)))
    return passed[-2]
