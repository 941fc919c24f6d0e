"""How soon a policy settles."""

from __future__ import annotations

import pytest

from benchmarks.simulation.timeline import Timeline, settling_s
from ffn_edge.runtime.policy.interface import Limits, OperatingPoint
from ffn_edge.runtime.simulate.drive import Step

POINTS = (
    OperatingPoint(frames=4, base_ms=20.0, accuracy=0.4),
    OperatingPoint(frames=8, base_ms=40.0, accuracy=0.6),
)


def timeline(choices: list[int], missed: set[int] = frozenset()) -> Timeline:  # type: ignore[assignment]
    made = Timeline()
    limits = Limits(latency_ms=50.0)
    for number, index in enumerate(choices):
        ms = 60.0 if number in missed else 40.0
        step = Step(
            index=index,
            begin_s=number / 4,
            end_s=(number + 1) / 4,
            latency_ms=ms,
            limits=limits,
            deadline_ms=limits.latency_ms,
            energy_j=0.0,
            decision_us=10.0,
        )
        made.append(step, 5.0, None)
    return made


def test_settling_is_the_time_until_the_later_behaviour_begins() -> None:
    # A step at 10 s; three seconds later the policy does what it keeps to.
    played = timeline([1] * 40 + [1] * 12 + [0] * 68)
    assert settling_s(played, POINTS, [10.0, 30.0]) == pytest.approx(3.0)


def test_misses_are_no_settled_behaviour() -> None:
    played = timeline([0] * 120, missed=set(range(40, 48)))
    # The last two of the misses are at 11.5 and 11.75 s.
    assert settling_s(played, POINTS, [10.0, 30.0]) == pytest.approx(1.75)


def test_without_a_step_there_is_nothing_to_settle() -> None:
    assert settling_s(timeline([0] * 40), POINTS, [10.0]) is None
