"""Our policy on scripted latencies: which frame count runs, and what it learns."""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ffn_edge.errors import FfnEdgeError, FrameCountError
from ffn_edge.runtime.policy.adaptive import Adaptive, AdaptiveState
from ffn_edge.runtime.policy.interface import (
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from tests.runtime.policy.conftest import BASE_MS, ENGINE_W, PERIOD_S, Play

NewSetting = Callable[..., Setting]
ADAPTIVE = Adaptive()


def after(
    state: AdaptiveState, *latencies: tuple[int, float], limits: Limits, **sensed: Any
) -> AdaptiveState:
    """Return the state after inferences: (frames, milliseconds)."""
    for frames, latency_ms in latencies:
        observed = state.power.observed
        state = ADAPTIVE.observe(
            state,
            Observation(
                frames=frames,
                latency_ms=latency_ms,
                now=0.0 if observed is None else observed + PERIOD_S,
                limits=limits,
                sensed=Sensed(**sensed),
            ),
        )
    return state


def first(setting: Setting, limits: Limits) -> int:
    """Return the first frame count."""
    return ADAPTIVE.decide(ADAPTIVE.start(setting), limits, 0.0).frames


# What runs first.


def test_without_a_limit_the_most_frames_run(setting: NewSetting) -> None:
    assert first(setting(), Limits()) == 16


@pytest.mark.parametrize(("deadline_ms", "frames"), [(100, 16), (79, 8), (39, 4)])
def test_the_most_frames_that_keep_the_deadline_run(
    setting: NewSetting, deadline_ms: float, frames: int
) -> None:
    assert first(setting(), Limits(latency_ms=deadline_ms)) == frames


def test_accuracy_counts_and_not_the_number_of_frames(setting: NewSetting) -> None:
    assert first(setting({4: 0.7, 8: 0.9, 16: 0.8}), Limits(latency_ms=1000)) == 8


def test_of_equally_accurate_frame_counts_the_cheapest_runs(setting: NewSetting) -> None:
    assert first(setting({4: 0.7, 8: 0.8, 16: 0.8}), Limits()) == 8


def test_a_difference_within_the_validations_error_is_no_reason_to_be_late(
    setting: NewSetting,
) -> None:
    # One clip of 400 apart, and one time in five too late.
    alike = setting({4: 0.7, 8: 0.8025, 16: 0.8}, ratios=(1.0,) * 80 + (1.4,) * 20)
    points = [replace(point, clips=400) for point in alike.points]
    alike = replace(alike, points=points)
    assert first(alike, Limits()) == 16
    assert first(alike, Limits(latency_ms=100)) == 8


def test_what_is_worth_it_is_late_now_and_then_where_that_is_allowed(setting: NewSetting) -> None:
    # Late one time in ten: right in 0.9 · 0.9, or always in time and right in 0.7.
    start = setting({4: 0.6, 8: 0.7, 16: 0.9}, ratios=(1.0,) * 90 + (1.4,) * 10)
    assert first(start, Limits(latency_ms=100, miss_rate=0.2)) == 16
    assert first(start, Limits(latency_ms=100, miss_rate=0.01)) == 8
    # It gains less than it loses, whatever is allowed.
    start = setting({4: 0.6, 8: 0.7, 16: 0.72}, ratios=(1.0,) * 90 + (1.4,) * 10)
    assert first(start, Limits(latency_ms=100, miss_rate=0.5)) == 8


def test_a_machine_that_was_busy_when_profiled_starts_with_that_slowdown(
    setting: NewSetting,
) -> None:
    assert first(setting(ratios=(1.0, 2.0, 2.0, 2.0, 2.1)), Limits(latency_ms=100)) == 8


def test_the_cost_of_a_switch_is_charged_and_not_blamed_on_the_engine(setting: NewSetting) -> None:
    limits = Limits(latency_ms=70)
    state = after(ADAPTIVE.start(setting(switch_ms=50.0)), (4, 20.0), limits=limits)
    assert ADAPTIVE.decide(state, limits, 1.0).frames == 4
    assert ADAPTIVE.decide(state, Limits(latency_ms=95), 1.0).frames == 8
    switched = after(state, (8, 90.0), limits=limits)
    assert switched.latency.expected_ms(1) == pytest.approx(40.0)


def test_no_more_than_a_share_of_the_device_runs(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting())
    decision = ADAPTIVE.decide(state, Limits(most_frames=10), 0.0)
    assert decision.frames == 8
    assert "share" in decision.rejected[16]
    assert ADAPTIVE.decide(state, Limits(most_frames=2), 0.0).frames == 4


# What is learned of latencies.


def test_a_lone_spike_costs_at_most_two_inferences_below(play: Play) -> None:
    for miss_rate in (0.01, 0.05):
        for height in (1.3, 3.0, 200.0):
            played = play(
                ADAPTIVE,
                Limits(latency_ms=100, miss_rate=miss_rate),
                60,
                lambda _, now, height=height: height if now == 30 else 1.0,
            )
            assert len(played.frames) - played.frames.count(16) <= 2
            assert sum(played.misses) == 1


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_a_level_that_stays_is_kept_after_one_miss(play: Play, miss_rate: float) -> None:
    limits = Limits(latency_ms=100, miss_rate=miss_rate)
    played = play(ADAPTIVE, limits, 120, lambda _, now: 1.5 if now >= 20 else 1.0)
    assert set(played.between(0, 20)) == {16}
    assert played.missed_between(20, 21) == 1
    assert played.between(20.25, 120).count(8) > 0.97 * len(played.between(20.25, 120))


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_after_a_load_that_comes_and_goes_the_frame_count_is_back_up(
    play: Play, miss_rate: float
) -> None:
    limits = Limits(latency_ms=100, miss_rate=miss_rate)
    played = play(ADAPTIVE, limits, 60, lambda _, now: 4.0 if 20 <= now < 40 else 1.0)
    assert set(played.between(0, 20)) == {16}
    assert set(played.between(20.25, 40)) == {4}
    assert set(played.between(41, 60)) == {16}
    assert sum(played.misses) == 1


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_when_the_others_stop_the_most_frames_run_again(
    play: Play, seed: int, miss_rate: float
) -> None:
    """Beside busy programs an inference waits for whole turns of theirs, or not at all."""
    draw = random.Random(seed)

    def slowdown(frames: int, now: float) -> float:
        waits = 60 <= now < 180 and draw.random() < BASE_MS[frames] / 90
        return draw.lognormvariate(0, 0.05) + (90 / BASE_MS[frames] if waits else 0)

    played = play(ADAPTIVE, Limits(latency_ms=120, miss_rate=miss_rate), 360, slowdown)
    # Of these turns 16 frames nearly always meet one, and 4 never miss for it.
    load = played.between(90, 180)
    assert load.count(4) > 0.8 * len(load)
    # Turns come at random, and a minute and a half is what is remembered of them.
    assert set(played.between(280, 360)) == {16}


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_steady_noise_makes_no_flapping_at_any_deadline(
    play: Play, setting: NewSetting, noise: float, miss_rate: float
) -> None:
    for deadline_ms in range(70, 130, 6):
        draw = random.Random(deadline_ms)
        profiled = tuple(math.exp(draw.gauss(0, noise)) for _ in range(150))
        played = play(
            ADAPTIVE,
            Limits(latency_ms=deadline_ms, miss_rate=miss_rate),
            240,
            lambda _t, _now, draw=draw: math.exp(draw.gauss(0, noise)),
            start=setting(ratios=profiled),
        )
        allowed = miss_rate * len(played.misses)
        assert sum(played.misses) <= allowed + 3, deadline_ms
        # A trial of more frames ends with one of the misses that are allowed; but for these it is
        # calm. Where there is room for the noise there is nothing to try.
        assert played.switches <= 2 * (allowed + 3), deadline_ms
        if deadline_ms > 80 * math.exp(4 * noise):
            assert played.switches <= 2, deadline_ms


def slower_with_16(begin_s: float = 0.0, end_s: float = math.inf) -> Callable[[int, float], float]:
    return lambda frames, now: 1.5 if frames == 16 and begin_s <= now < end_s else 1.0


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_an_engine_that_alone_became_slower_is_found_out_and_seldom_tried(
    play: Play, miss_rate: float
) -> None:
    limits = Limits(latency_ms=100, miss_rate=miss_rate)
    played = play(ADAPTIVE, limits, 240, slower_with_16())
    assert set(played.frames) == {8, 16}
    # Each trial is a miss.
    assert played.frames.count(16) <= miss_rate * len(played.frames) + 3
    assert played.longest_burst == 1


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_an_engine_that_recovers_is_found_again(play: Play, miss_rate: float) -> None:
    limits = Limits(latency_ms=100, miss_rate=miss_rate)
    played = play(ADAPTIVE, limits, 400, slower_with_16(20, 200))
    assert played.between(30, 200).count(8) > 0.97 * len(played.between(30, 200))
    assert played.between(240, 400).count(16) > 0.97 * len(played.between(240, 400))


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_an_engine_that_is_faster_than_it_was_profiled_is_found_out(
    play: Play, miss_rate: float
) -> None:
    limits = Limits(latency_ms=70, miss_rate=miss_rate)
    played = play(ADAPTIVE, limits, 240, lambda frames, _: 0.8 if frames == 16 else 1.0)
    assert played.frames[0] == 8
    assert played.between(120, 240).count(16) > 0.97 * len(played.between(120, 240))
    assert sum(played.misses) == 0


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
@pytest.mark.parametrize("since_s", [0.0, 60.0])
def test_where_the_fewest_frames_are_slower_than_more_the_latter_run(
    play: Play, miss_rate: float, since_s: float
) -> None:
    slow = {4: 6.0, 8: 1.0, 16: 2.0}
    limits = Limits(latency_ms=100, miss_rate=miss_rate)
    played = play(
        ADAPTIVE, limits, 240, lambda frames, now: slow[frames] if now >= since_s else 1.0
    )
    settled = played.between(since_s + 2, 240)
    assert settled.count(8) > 0.97 * len(settled)


def test_an_engine_is_escaped_from_however_slow_the_fewest_frames_became(
    play: Play,
) -> None:
    """Nothing seems to be in time, but one would be: it is tried."""
    slow = {4: 6.0, 8: 1.0, 16: 3.0}

    # Down by a load on all engines, whose end only 8 frames notice.
    def slowdown(frames: int, now: float) -> float:
        return 6.0 if 20 <= now < 30 else slow[frames] if now >= 30 else 1.0

    played = play(ADAPTIVE, Limits(latency_ms=100), 120, slowdown)
    settled = played.between(50, 120)
    assert settled.count(8) > 0.95 * len(settled)


# The share of misses.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_the_share_of_misses_is_held_where_tails_deceive(
    play: Play, setting: NewSetting, miss_rate: float, seed: int
) -> None:
    """Every tenth inference is a lone spike that the profile knew nothing of.

    The most frames gain so much that a miss now and then would pay.
    """
    draw = random.Random(seed)
    played = play(
        ADAPTIVE,
        Limits(latency_ms=100, miss_rate=miss_rate),
        1200,
        lambda *_: 1.6 if draw.random() < 0.1 else 1.0,
        start=setting({4: 0.3, 8: 0.5, 16: 0.9}, ratios=(1.0,) * 50),
    )
    assert played.miss_rate <= 1.5 * miss_rate
    # ... and it is not held by giving up.
    assert played.frames.count(16) > 0.5 * miss_rate / 0.1 * len(played.frames)


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_slow_inferences_that_announce_slower_ones_are_heeded(play: Play, miss_rate: float) -> None:
    # Of fifty inferences one is slow, and the next one slower still: the first is kept by 16
    # frames, the second is not.
    slow = {48: 1.2, 49: 1.6}
    played = play(
        ADAPTIVE,
        Limits(latency_ms=100, miss_rate=miss_rate),
        1200,
        lambda _, now: slow.get(round(now / PERIOD_S) % 50, 1.0),
    )
    assert sum(played.misses) <= 3
    assert played.frames.count(16) > 0.9 * len(played.frames)


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_in_bursts_at_most_two_in_a_row_are_late(play: Play, miss_rate: float, seed: int) -> None:
    """Another program works for a second or some, now and then, as was recorded."""
    draw = random.Random(seed)
    until, busy, height = 0.0, False, 1.0

    def slowdown(_frames: int, now: float) -> float:
        nonlocal until, busy, height
        if now >= until:
            busy = not busy
            until = now + draw.expovariate(1 / (1.5 if busy else 15.0))
            height = draw.uniform(1.5, 3.5)
        return draw.lognormvariate(0, 0.04) * (height if busy else 1.0)

    played = play(ADAPTIVE, Limits(latency_ms=100, miss_rate=miss_rate), 600, slowdown)
    assert played.longest_burst <= 2
    # A burst cannot be seen before it is there; but for its first one they are in time.
    bursts = sum(late and not before for before, late in pairwise([False, *played.misses]))
    assert sum(played.misses) <= 1.3 * bursts


def test_what_no_engine_could_keep_is_nobodys_mistake(setting: NewSetting) -> None:
    start = ADAPTIVE.start(setting())
    impossible = after(start, *[(4, 20.0)] * 50, limits=Limits(latency_ms=10))
    assert impossible.credit >= start.credit
    mistaken = after(start, *[(16, 80.0)] * 5, limits=Limits(latency_ms=50))
    assert mistaken.credit < start.credit


# What is said.


def test_where_nothing_keeps_the_deadline_the_least_late_runs_and_it_is_said(play: Play) -> None:
    played = play(ADAPTIVE, Limits(latency_ms=10), 10)
    assert set(played.frames) == {4}
    assert all(decision.warning for decision in played.decisions)
    assert "20 of 10 ms" in played.decisions[-1].reason


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
def test_a_deadline_that_becomes_impossible_is_missed_with_the_fewest_frames(
    play: Play, miss_rate: float
) -> None:
    def limits(now: float) -> Limits:
        return Limits(latency_ms=10 if 20 <= now < 40 else 100, miss_rate=miss_rate)

    played = play(ADAPTIVE, limits, 60)
    assert set(played.between(20, 40)) == {4}
    # What no engine keeps is nobody's mistake.
    assert set(played.between(40.5, 60)) == {16}


def test_a_deadline_that_is_kept_is_no_reason_to_warn(play: Play) -> None:
    played = play(ADAPTIVE, Limits(latency_ms=100), 60, slower_with_16(20, 40))
    assert not any(decision.warning for decision in played.decisions)


def test_every_frame_count_that_is_not_chosen_is_explained(setting: NewSetting) -> None:
    for latency_ms in (None, 10, 30, 60, 100, 1000):
        for power_w in (None, 1.0, 6.0, 50.0):
            for frames in (None, 8):
                for before in (None, 4, 8, 16):
                    limits = Limits(latency_ms=latency_ms, power_w=power_w, frames=frames)
                    state = ADAPTIVE.start(setting())
                    if before is not None:
                        state = after(state, (before, BASE_MS[before]), limits=limits)
                    decision = ADAPTIVE.decide(state, limits, 0.5)
                    assert decision.reason
                    assert set(decision.rejected) == {4, 8, 16} - {decision.frames}
                    assert all(decision.rejected.values())


def test_a_reason_says_less_accurate_only_of_what_was_measured() -> None:
    def reasons(*accuracies: float | None) -> dict[int, str]:
        points = [
            OperatingPoint(frames=frames, base_ms=ms, accuracy=accuracy)
            for (frames, ms), accuracy in zip(BASE_MS.items(), accuracies, strict=True)
        ]
        chosen = ADAPTIVE.decide(ADAPTIVE.start(Setting(points=points)), Limits(), 0.0)
        return dict(chosen.rejected)

    assert reasons(0.5, 0.7, 0.7) == {4: "less accurate than 8", 16: "no more accurate than 8"}
    unknown = reasons(None, 0.7, 0.7)
    assert unknown.keys() == {4, 8}  # by frames then
    assert all("not all accuracies were measured" in reason for reason in unknown.values())


def test_after_a_miss_an_engine_waits_and_it_is_said(setting: NewSetting) -> None:
    limits = Limits(latency_ms=100)
    state = after(ADAPTIVE.start(setting()), *[(16, 80.0)] * 20, limits=limits)
    state = after(state, (16, 160.0), limits=limits)
    assert state.power.observed is not None
    decision = ADAPTIVE.decide(state, limits, state.power.observed + 0.1)
    assert decision.frames == 8  # 80 ms, if it becomes no worse
    assert re.match("late .* ago", decision.rejected[16])
    assert decision.barred == {16}


def test_latencies_that_may_be_expected_are_told(play: Play) -> None:
    draw = random.Random(0)
    played = play(ADAPTIVE, Limits(latency_ms=200), 600, lambda *_: draw.lognormvariate(0, 0.05))
    for frames, base_ms in BASE_MS.items():
        told = [decision.latencies_ms[frames] for decision in played.decisions[400:]]
        # The 95 % quantile is exp(1.645 · 0.05) times the median.
        assert np.mean(told) / base_ms == pytest.approx(1.086, abs=0.01)


# What is asked for.


def test_a_frame_count_that_is_asked_for_is_kept(play: Play) -> None:
    played = play(ADAPTIVE, Limits(latency_ms=1, frames=16), 5, lambda _t, _now: 3.0)
    assert set(played.frames) == {16}


def test_a_frame_count_without_an_engine_is_refused(setting: NewSetting) -> None:
    with pytest.raises(FrameCountError, match="engines for 4, 8, 16 frames; 5 was asked for"):
        ADAPTIVE.decide(ADAPTIVE.start(setting()), Limits(frames=5), 0.0)


@pytest.mark.parametrize(
    "values",
    [
        {"latency_ms": 0},
        {"latency_ms": math.nan},
        {"miss_rate": 1.0},
        {"power_w": -1.0},
        {"power_w": math.inf},
        {"battery_j": 1.0},
        {"until_s": 1.0},
        {"battery_j": 0.0, "until_s": 1.0},
    ],
)
def test_limits_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(FfnEdgeError):
        Limits(**values)  # type: ignore[arg-type]


def test_a_deadline_that_moves_is_nobodys_miss(play: Play) -> None:
    """It moves while an inference runs; the limits of its decision count."""
    played = play(
        ADAPTIVE, lambda now: Limits(latency_ms=100 if now % 20 < 10 else 50, miss_rate=0.01), 120
    )
    assert sum(played.misses) == 0
    assert all(
        frames == (16 if now % 20 < 10 else 8)
        for now, frames in zip(played.begun_s, played.frames, strict=True)
        if now % 10 > 1
    )


# What a loop relies on.


def cascaded(state: AdaptiveState, *ran: tuple[int, float], now: float) -> AdaptiveState:
    """Return the state after a cascade: several engines for one answer."""
    observation = Observation(
        frames=ran[-1][0],
        latency_ms=sum(ms for _, ms in ran),
        now=now,
        limits=Limits(latency_ms=200),
        ran=ran,
    )
    return ADAPTIVE.observe(state, observation)


def test_of_several_engines_at_once_the_slowdown_is_that_of_all(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting())
    for number in range(10):
        state = cascaded(state, (4, 30.0), (16, 120.0), now=number / 4)
    assert state.latency.expected_ms(1) == pytest.approx(60.0)


def test_the_power_of_several_engines_is_that_of_each_while_it_worked(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting())
    for number in range(5):
        state = cascaded(state, (4, 20.0), (16, 80.0), now=number / 4)
    drawn_w = 4.0 + (ENGINE_W[4] * 0.02 + ENGINE_W[16] * 0.08) / PERIOD_S
    assert state.power.spent_j == pytest.approx(drawn_w * 1.0)


def test_deciding_and_observing_change_nothing_and_depend_on_nothing_else(
    setting: NewSetting,
) -> None:
    limits = Limits(latency_ms=85, power_w=7.0)
    state = after(ADAPTIVE.start(setting()), (16, 90.0), limits=limits, power_w=7.0)
    before = copy.deepcopy(state)
    assert ADAPTIVE.decide(state, limits, 2.0) == ADAPTIVE.decide(before, limits, 2.0)
    one, other = (after(each, (8, 50.0), (8, 99.0), limits=limits) for each in (state, before))
    np.testing.assert_equal(asdict(one), asdict(other))
    np.testing.assert_equal(asdict(state), asdict(before))


def test_a_long_run_keeps_the_state_small(setting: NewSetting) -> None:
    def size(value: Any) -> int:
        if isinstance(value, dict):
            return sum(size(each) for each in value.values())
        return sum(map(size, value)) if isinstance(value, (tuple, list)) else int(np.size(value))

    limits, sizes = Limits(latency_ms=100), []
    state = ADAPTIVE.start(setting())
    for _ in range(3):
        state = after(state, *[(16, 80.0), (16, 110.0), (8, 40.0)] * 300, limits=limits)
        sizes.append(size(asdict(state)))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("latency_ms", [1e-9, 1e9])
@pytest.mark.parametrize("steps_s", [0.0, -3.0, 1e8])
def test_no_clock_and_no_latency_ends_the_loop(
    setting: NewSetting, steps_s: float, latency_ms: float
) -> None:
    """Time that stands still, goes back or leaps; inferences of a picosecond and of days."""
    state, now = ADAPTIVE.start(setting()), 0.0
    for number in range(60):
        here = Limits(
            latency_ms=(None, 100.0, 1e-3)[number % 3],
            power_w=(None, 6.0)[number % 2],
            battery_j=1000.0,
            until_s=50.0,
        )
        decision = ADAPTIVE.decide(state, here, now)
        sensed = Sensed(power_w=(None, 0.0, 5.0, 1e6)[number % 4], clocks_mhz=(1.0,) * (number % 2))
        state = ADAPTIVE.observe(
            state,
            Observation(
                frames=decision.frames,
                latency_ms=latency_ms if number % 5 == 0 else 40.0,
                now=now,
                limits=here,
                sensed=sensed,
            ),
        )
        now += steps_s if number % 4 == 0 else 0.25
    # ... and when all is well again, all is as ever.
    calm = Limits(latency_ms=100)
    state = after(state, *[(16, 80.0)] * 400, limits=calm)
    assert state.power.observed is not None
    assert ADAPTIVE.decide(state, calm, state.power.observed + 0.2).frames == 16


def test_one_engine_alone_is_what_runs(play: Play) -> None:
    only = Setting(points=[OperatingPoint(frames=8, base_ms=40.0)])
    for limits in (Limits(), Limits(latency_ms=10), Limits(power_w=1.0)):
        assert set(play(ADAPTIVE, limits, 10, start=only).frames) == {8}
