"""What people write by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.simulation.baselines import NAMES, Hysteresis, Pid, Static, named
from ffn_edge.errors import FfnEdgeError, FrameCountError
from ffn_edge.runtime.policy.interface import Limits, Setting

Play = Callable[..., "object"]


def test_a_static_policy_never_moves(play: Callable[..., object]) -> None:
    played = play(Static(8), Limits(latency_ms=1), 10, lambda *_: 3.0)
    assert set(played.frames) == {8}  # type: ignore[attr-defined]


def test_a_static_policy_needs_its_engine(setting: Callable[..., Setting]) -> None:
    with pytest.raises(FrameCountError, match="5 was asked for"):
        Static(5).start(setting())


def test_hysteresis_goes_down_at_once_and_up_after_a_while(play: Callable[..., object]) -> None:
    played = play(
        Hysteresis(), Limits(latency_ms=100), 60, lambda _, now: 2.4 if 10 <= now < 30 else 1.0
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
