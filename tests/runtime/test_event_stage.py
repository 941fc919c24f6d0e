"""From results to events: temperatures, several sources, ids and the time of day."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.event_stage import EventStage, with_temperature
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.policy.interface import NOTHING_SENSED, Decision, Limits, Observation

CLASSES = ("wave", "nothing")


def result(time_s: float, wave: float, source: str = "door", frames: int = 8) -> Result:
    observation = Observation(
        frames=frames, latency_ms=500.0, now=time_s, limits=Limits(), sensed=NOTHING_SENSED
    )
    return Result(
        time_s=time_s, elapsed_s=time_s, source=source,
        decision=Decision(frames=frames, reason="", rejected={}), observation=observation,
        engine_ms=1.0, device_ms=None, overhead_ms=0.0, top=(), precision="fp32", covers_s=2.0,
        probabilities=np.array([wave, 1 - wave]),
    )  # fmt: skip


class Told(list[Event]):
    """A stage that tells here."""

    def __init__(self, rules: EventRules, **options: object) -> None:
        self.rules = rules
        ids = map(str, itertools.count())
        self.stage = EventStage(
            lambda source: self.rules, CLASSES, {8: 2.0}, self.append,
            new_id=lambda: next(ids), clock=lambda: 1000.0, **options,  # type: ignore[arg-type]
        )  # fmt: skip

    def short(self) -> list[tuple[str, str, bool]]:
        """Which event of which source, and whether it has ended."""
        return [(event.id, event.source, event.end_s is not None) for event in self]


RULES = EventRules(onset=0.5, offset=0.5)


def test_a_temperature_is_what_dividing_logits_by_it_is() -> None:
    logits = np.array([2.0, 0.0, -3.0])
    soft = np.exp(logits) / np.exp(logits).sum()
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum()
    assert with_temperature(soft, 2.5) == pytest.approx(expected)
    assert with_temperature(np.array([1.0, 0.0]), 3.0).tolist() == [1.0, 0.0]


def test_probabilities_are_calibrated_for_their_frame_count() -> None:
    rules = EventRules(onset=0.7, offset=0.5)
    assert not Told(rules).stage.result(result(2.0, 0.8))
    told = Told(rules)
    told.stage.result(result(2.0, 0.8))  # 2/3 with a temperature of 2
    assert told == []
    told.stage.result(result(2.25, 0.8, frames=4))  # of another count, as it is
    assert told[0].peak == pytest.approx(0.8)


def test_sources_have_events_of_their_own() -> None:
    told = Told(RULES)
    for source in ("door", "yard"):
        told.stage.result(result(2.0, 1.0, source))
    told.stage.result(result(2.25, 0.0, "door"))
    told.stage.end("yard")
    told.stage.end("yard")
    assert told.short() == [
        ("0", "door", False),
        ("1", "yard", False),
        ("0", "door", True),
        ("1", "yard", True),
    ]


def test_an_event_has_the_time_of_day_of_its_beginning() -> None:
    told = Told(RULES)
    told.stage.result(result(2.0, 0.0))
    told.stage.result(result(2.25, 1.0))
    told.stage.end_all()
    # Its beginning is at 1.125 s, and 2.25 s were half a second ago.
    assert [event.began_at for event in told] == [pytest.approx(1000 - 0.5 - 1.125)] * 2


def test_a_recording_has_no_time_of_day() -> None:
    told = Told(RULES, recordings=("door",))
    told.stage.result(result(2.0, 1.0))
    told.stage.end("door")
    assert [event.began_at for event in told] == [None, None]


def test_while_nothing_moves_the_last_answer_stands() -> None:
    told = Told(RULES)
    told.stage.still("door", 1.0)
    told.stage.result(result(2.0, 1.0))
    for time_s in np.arange(2.25, 9.0, 0.25):
        told.stage.still("door", float(time_s))
    told.stage.end("door")
    assert (told[-1].start_s, told[-1].end_s) == (0.0, 8.75)


def test_rules_may_change_between_two_results() -> None:
    told = Told(RULES)
    told.stage.result(result(2.0, 1.0))
    assert told.stage.running("door") is not None
    told.rules = dataclasses.replace(RULES, nothing="wave")
    told.stage.result(result(2.25, 1.0))
    assert told.short() == [("0", "door", False), ("0", "door", True)]
    assert told.stage.running("door") is None
