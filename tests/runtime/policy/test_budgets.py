"""Our policy on a power budget, a battery, and on faults. The board is made up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    NOTHING_SENSED,
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from tests.runtime.policy.conftest import BASE_MS, PERIOD_S, Board, Play, Played

NewSetting = Callable[..., Setting]
ADAPTIVE = Adaptive()
# As profiled the engines draw 4.64, 5.44 and 7.2 W: 4 W idle, 10 W for 80 of 250 ms.
DRAWN_W = {4: 4.64, 8: 5.44, 16: 7.2}


def first(setting: Setting, limits: Limits) -> Decision:
    return ADAPTIVE.decide(ADAPTIVE.start(setting), limits, 0.0)


def test_what_is_within_the_budget_runs_and_the_reason_says_so(setting: NewSetting) -> None:
    decision = first(setting(), Limits(power_w=8.0))
    assert decision.frames == 16
    assert "7.2 of 8 W" in decision.reason
    assert decision.warning is None


def test_what_draws_more_is_ruled_out_with_its_watts(setting: NewSetting) -> None:
    decision = first(setting(), Limits(power_w=5.0))
    assert "7.2 W" in decision.rejected[16]


def test_what_the_engines_may_draw_is_told(setting: NewSetting) -> None:
    engine_w = first(setting(), Limits(power_w=8.0)).engine_w
    assert engine_w == pytest.approx(4.0, rel=0.1)
    assert first(setting(), Limits(latency_ms=80)).engine_w is None


@pytest.mark.parametrize("every_s", [0.0, 1.0])
@pytest.mark.parametrize("off", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("budget_w", [5.0, 5.5, 6.3, 7.0])
def test_a_budget_is_kept_in_any_ten_seconds_and_used(
    play: Play, budget_w: float, off: float, every_s: float
) -> None:
    board = Board(off=off, every_s=every_s)
    played = play(ADAPTIVE, Limits(power_w=budget_w), 180, sense=board)
    # Where the profile is wrong, the first ten seconds are for finding out.
    assert board.worst_w(0.0 if off <= 1 else 10.0, 180) <= 1.02 * budget_w
    truly_w = {frames: 4.0 + off * (each_w - 4.0) for frames, each_w in DRAWN_W.items()}
    most_w = min(budget_w, truly_w[16])
    assert board.mean_w(30, 180) >= 0.965 * most_w
    assert played.switches <= 3 * 26  # two in each turn of five seconds
    assert not any(decision.warning for decision in played.decisions[240:])


def test_between_two_engines_both_run_and_no_third(play: Play) -> None:
    played = play(ADAPTIVE, Limits(power_w=6.3), 120, sense=Board())
    assert set(played.frames) == {8, 16}
    assert 0.3 < played.frames.count(16) / len(played.frames) < 0.5


@pytest.mark.parametrize("every_s", [0.0, 1.0])
def test_a_budget_that_steps_down_is_kept_at_once(play: Play, every_s: float) -> None:
    board = Board(every_s=every_s)
    played = play(
        ADAPTIVE,
        lambda now: Limits(power_w=5.6 if 20 <= now < 40 else 8.0),
        60,
        sense=board,
    )
    assert set(played.between(0, 20)) == {16}
    assert board.worst_w(20, 40) <= 1.02 * 5.6
    assert played.between(20, 40).count(16) <= 4
    assert set(played.between(42, 60)) == {16}


def test_a_budget_that_cannot_be_kept_is_said_and_no_debt_for_ever(play: Play) -> None:
    played = play(
        ADAPTIVE, lambda now: Limits(power_w=3.0 if 20 <= now < 140 else 8.0), 180, sense=Board()
    )
    assert set(played.between(20, 140)) == {4}
    warned = [bool(decision.warning) for decision in played.decisions]
    assert all(warned[81:560]) and not any(warned[:80])
    assert set(played.between(155, 180)) == {16}
    assert not any(warned[-100:])


@pytest.mark.parametrize("every_s", [0.0, 1.0])
def test_what_another_program_draws_counts_against_the_budget(play: Play, every_s: float) -> None:
    board = Board(every_s=every_s, beyond_w=lambda now: 1.5 if now >= 30 else 0.0)
    played = play(ADAPTIVE, Limits(power_w=8.0), 120, sense=board)
    assert set(played.between(0, 30)) == {16}
    assert board.worst_w(35, 120) <= 1.02 * 8.0
    assert set(played.between(60, 120)) == {8, 16}


@pytest.mark.parametrize("budget_w", [6.3, 8.0, 10.0])
def test_a_camera_that_doubles_its_rate_keeps_the_budget(play: Play, budget_w: float) -> None:
    board = Board()
    play(
        ADAPTIVE,
        Limits(power_w=budget_w),
        90,
        sense=board,
        period_s=lambda now: PERIOD_S if now < 30 else PERIOD_S / 2,
    )
    assert board.worst_w(20, 90) <= 1.02 * budget_w
    assert board.worst_w(32, 90, window_s=5.0) <= 1.3 * budget_w


@pytest.mark.parametrize("every_s", [0.0, 1.0])
@pytest.mark.parametrize("off", [0.8, 1.0, 1.3])
def test_a_battery_is_spent_by_its_end_and_not_before(
    play: Play, off: float, every_s: float
) -> None:
    board = Board(off=off, every_s=every_s)
    battery_j = 6.3 * 600  # between 8 and 16 frames
    played = play(ADAPTIVE, Limits(battery_j=battery_j, until_s=600.0), 600, sense=board)
    assert 0.98 * battery_j <= 600 * board.mean_w(0, 600) <= battery_j
    assert {8, 16} <= set(played.frames)
    assert played.switches <= 10 * 26


@pytest.mark.parametrize("every_s", [0.0, 1.0])
@pytest.mark.parametrize("said", [NOTHING_SENSED, Sensed(fault="no reading for 3 s")])
def test_a_sensor_that_is_silent_means_the_fewest_frames_until_it_is_back(
    play: Play, said: Sensed, every_s: float
) -> None:
    board = Board(every_s=every_s, fault=lambda now: said if 20 <= now < 40 else None)
    played = play(ADAPTIVE, Limits(power_w=8.0), 60, sense=board)
    assert set(played.between(0, 21.5)) == {16}
    assert set(played.between(24, 40)) == {4}
    warned = {decision.warning for decision in played.decisions[100:155]}
    assert None not in warned
    assert all((said.fault or "not measured") in (warning or "") for warning in warned)
    assert set(played.between(41.5, 60)) == {16}


def test_a_sensor_that_never_speaks_means_the_fewest_frames_soon(play: Play) -> None:
    played = play(ADAPTIVE, Limits(power_w=8.0), 20)
    assert set(played.between(4, 20)) == {4}
    assert played.decisions[-1].warning is not None


def test_without_a_budget_a_sensor_that_fails_changes_nothing(play: Play) -> None:
    played = play(
        ADAPTIVE, Limits(latency_ms=100), 10, sense=lambda *_: Sensed(fault="there is none")
    )
    assert set(played.frames) == {16}
    assert all(decision.warning is None for decision in played.decisions)


def observed(sense: Callable[[float], Sensed], hops: int, hop_s: float) -> list[Decision]:
    """Return the decisions of a slow camera."""
    limits = Limits(power_w=8.0)
    start = Setting(
        points=[
            OperatingPoint(frames=frames, base_ms=ms, power_w=10.0)
            for frames, ms in BASE_MS.items()
        ],
        idle_w=4.0,
        period_s=hop_s,
    )
    state, decisions = ADAPTIVE.start(start), []
    for number in range(hops):
        now = hop_s * number
        decisions.append(ADAPTIVE.decide(state, limits, now))
        state = ADAPTIVE.observe(
            state,
            Observation(
                frames=decisions[-1].frames,
                latency_ms=BASE_MS[decisions[-1].frames],
                now=now + 0.1,
                limits=limits,
                sensed=sense(now),
            ),
        )
    return decisions


def test_a_hop_longer_than_any_silence_is_no_silence() -> None:
    decisions = observed(lambda _: Sensed(power_w=4.2), 20, 5.0)
    assert {decision.frames for decision in decisions} == {16}
    assert not any(decision.warning for decision in decisions)


def test_engines_whose_power_was_not_profiled_are_not_trusted_with_a_budget() -> None:
    points = [OperatingPoint(frames=t, base_ms=ms) for t, ms in BASE_MS.items()]
    decision = first(Setting(points=points), Limits(power_w=50.0))
    assert decision.frames == 4
    assert "not profiled" in decision.rejected[16]


def alarmed(play: Play, sensed: Callable[[float], Sensed]) -> Played:
    return play(ADAPTIVE, Limits(latency_ms=100), 60, sense=lambda _t, now, _ms: sensed(now))


def test_over_current_means_the_fewest_frames_at_once_and_back(play: Play) -> None:
    played = alarmed(play, lambda now: Sensed(over_current=int(30 <= now < 32)))
    assert set(played.between(0, 30.25)) == {16}
    assert set(played.between(30.25, 32.25)) == {4}
    assert set(played.between(32.25, 60)) == {16}
    warned = [decision for decision in played.decisions if decision.warning]
    assert all("over-current" in (decision.warning or "") for decision in warned)
    assert len(warned) == 8
    assert warned[0].barred == {8, 16}


@pytest.mark.parametrize(("nearest_c", "frames"), [(5.0, 16), (3.5, 16), (2.5, 4), (-4.0, 4)])
def test_within_three_degrees_of_a_trip_point_the_fewest_frames_run(
    play: Play, nearest_c: float, frames: int
) -> None:
    played = alarmed(play, lambda now: Sensed(headroom_c=20.0 if now < 30 else nearest_c))
    assert set(played.between(0, 30)) == {16}
    assert set(played.between(31, 60)) == {frames}
    assert (played.decisions[-1].warning is not None) is (frames == 4)


def test_a_board_that_cools_down_is_used_again(play: Play) -> None:
    """It warms by a degree a second with 16 frames, and cools by one with 4."""
    headroom_c = 10.0

    def sense(frames: int, _now: float, _latency_ms: float) -> Sensed:
        nonlocal headroom_c
        headroom_c += -PERIOD_S if frames == 16 else PERIOD_S
        return Sensed(headroom_c=headroom_c)

    played = play(ADAPTIVE, Limits(latency_ms=100), 60, sense=sense)
    assert set(played.frames) == {4, 16}
    assert headroom_c > 2


def test_a_temperature_alone_is_no_alarm(play: Play) -> None:
    """What is hot for one board is usual for another: its own trip points tell."""
    played = alarmed(play, lambda now: Sensed(temperature_c=97.0))
    assert set(played.frames) == {16}


def test_a_deadline_and_a_budget_are_both_kept(play: Play) -> None:
    board = Board()
    played = play(ADAPTIVE, Limits(latency_ms=60, power_w=5.2), 120, sense=board)
    assert set(played.frames) == {4, 8}
    assert not any(played.misses)
    assert board.worst_w(0, 120) <= 1.02 * 5.2
    assert sum(a != b for a, b in pairwise(played.frames)) > 10
