"""What people write by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.simulation import scenarios
from benchmarks.simulation.baselines import NAMES, Hysteresis, Pid, Static, named
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.compare import Sweep, compare
from benchmarks.simulation.tuning import score
from ffn_edge.errors import FfnEdgeError, FrameCountError
from ffn_edge.runtime.policy.interface import Limits, Observation, Sensed, Setting

Play = Callable[..., "object"]


def test_a_static_policy_never_moves(play: Callable[..., object]) -> None:
    played = play(Static(8), Limits(latency_ms=1), 10, lambda *_: 3.0)
    assert set(played.frames) == {8}  # type: ignore[attr-defined]


def test_a_static_policy_needs_its_engine(setting: Callable[..., Setting]) -> None:
    with pytest.raises(FrameCountError, match="5 was asked for"):
        Static(5).start(setting())


def test_hysteresis_goes_down_at_once_and_up_after_a_while(play: Callable[..., object]) -> None:
    played = play(
        Hysteresis(high=0.9, low=0.45, wait=8),
        Limits(latency_ms=100),
        60,
        lambda _, now: 2.4 if 10 <= now < 30 else 1.0,
    )
    frames = played.frames  # type: ignore[attr-defined]
    assert frames[39] == 16
    assert frames[41] == 8
    assert set(frames[44:119]) == {4}
    assert frames[-1] == 16


def test_pid_settles_on_what_the_deadline_allows(play: Callable[..., object]) -> None:
    wide = play(Pid(), Limits(latency_ms=400), 60)
    narrow = play(Pid(), Limits(latency_ms=25), 60)
    assert set(wide.frames[-40:]) == {16}  # type: ignore[attr-defined]
    assert set(narrow.frames[-40:]) == {4}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [*NAMES, "static-8"])
def test_every_policy_has_its_name_and_explains_every_frame_count(
    name: str, setting: Callable[..., Setting]
) -> None:
    policy = named(name)
    assert policy.name == name
    state = policy.start(setting())
    for latency_ms in (None, 10.0, 60.0, 1000.0):
        for frames in (None, 4):
            decision = policy.decide(state, Limits(latency_ms=latency_ms, frames=frames), 0.0)
            assert set(decision.rejected) == {4, 8, 16} - {decision.frames}
            assert decision.reason
            if frames:
                assert decision.frames == 4


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(FfnEdgeError, match="no policy 'magic'"):
        named("magic")


@pytest.mark.parametrize("policy", [Hysteresis(), Pid()], ids=lambda each: each.name)
def test_the_idle_machine_is_no_load(
    policy: Hysteresis | Pid, setting: Callable[..., Setting]
) -> None:
    # The tests' machine draws 4 W at rest: of the watt that is left, half a watt is a half.
    limits = Limits(power_w=5.0)
    state = policy.start(setting())
    seen = Observation(
        frames=16, latency_ms=80.0, now=1.0, limits=limits, sensed=Sensed(power_w=4.5)
    )
    assert policy.observe(state, seen).load == pytest.approx(0.5)


def test_constants_are_ranked_by_what_is_in_time_where_the_limits_are_kept() -> None:
    sweep = Sweep(
        workloads=[replace(scenarios.named("deadline"), length_s=130.0)],
        policies=["static-4"],
        seeds=[0],
        miss_rates=[0.01],
        spec=SYNTHETIC,
    )
    # One that never comes down misses half of its deadlines, one that never goes up a few.
    stays, falls = Hysteresis(high=9.0, low=0.1), Hysteresis(high=0.9, low=0.1)
    known = compare(sweep, lambda *_: None)
    assert score(stays, sweep, known) == known["deadline", 0.01, "static-4"][0].in_time
    assert score(falls, sweep, known) > score(stays, sweep, known)
