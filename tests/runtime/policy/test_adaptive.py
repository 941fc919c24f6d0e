"""Our policy on scripted latencies, powers and faults."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

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

NewSetting = Callable[..., Setting]
Play = Callable[..., Any]
ADAPTIVE = Adaptive()
IDLE_W, PERIOD_S = 4.0, 0.25
BASE_MS = {4: 20.0, 8: 40.0, 16: 80.0}
ENGINE_W = {4: 8.0, 8: 9.0, 16: 10.0}


def board(beyond_w: Callable[[float], float] = lambda now: 0.0) -> Callable[..., Sensed]:
    """What a board as profiled draws over a period, and `beyond_w` more."""

    def sense(frames: int, now: float, latency_ms: float) -> Sensed:
        busy = min(1.0, latency_ms / 1e3 / PERIOD_S)
        return Sensed(power_w=IDLE_W + beyond_w(now) + ENGINE_W[frames] * busy)

    return sense


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


def test_without_a_limit_the_most_frames_run(setting: NewSetting) -> None:
    assert ADAPTIVE.decide(ADAPTIVE.start(setting()), Limits(), 0.0).frames == 16


@pytest.mark.parametrize(("deadline_ms", "frames"), [(100, 16), (79, 8), (39, 4)])
def test_the_most_frames_that_keep_the_deadline_run(
    setting: NewSetting, deadline_ms: float, frames: int
) -> None:
    state = ADAPTIVE.start(setting())
    assert ADAPTIVE.decide(state, Limits(latency_ms=deadline_ms), 0.0).frames == frames


def test_accuracy_from_the_manifest_counts_and_not_the_number_of_frames(
    setting: NewSetting,
) -> None:
    state = ADAPTIVE.start(setting({4: 0.7, 8: 0.9, 16: 0.8}))
    assert ADAPTIVE.decide(state, Limits(latency_ms=1000), 0.0).frames == 8


def test_of_equally_accurate_frame_counts_the_cheapest_runs(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting({4: 0.7, 8: 0.8, 16: 0.8}))
    assert ADAPTIVE.decide(state, Limits(), 0.0).frames == 8


def test_a_miss_drops_at_once_to_what_has_room_for_a_slower_one_still(
    setting: NewSetting,
) -> None:
    limits = Limits(latency_ms=100)
    steady = after(ADAPTIVE.start(setting()), *[(16, 80.0)] * 20, limits=limits)
    assert ADAPTIVE.decide(steady, limits, 9.0).frames == 16
    # 1.3 times slower: 8 frames would take 52 ms, and 78 ms if it became 1.5 times worse.
    assert ADAPTIVE.decide(after(steady, (16, 104.0), limits=limits), limits, 9.0).frames == 8
    # 2 times: 8 frames would take 80 ms, and 120 ms.
    worse = ADAPTIVE.decide(after(steady, (16, 160.0), limits=limits), limits, 9.0)
    assert worse.frames == 4
    assert worse.rejected[8] == "cooldown: a miss of 160 ms with 16 frames"


def test_a_cooldown_names_what_it_saw_and_not_an_older_miss(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting(ratios=(1.0,) * 50))
    early = Limits(latency_ms=60)
    state = after(state, *[(16, 80.0)] * 2, *[(8, 40.0)] * 60, limits=early)
    limits = Limits(latency_ms=82)
    state = after(state, *[(8, 40.0)] * 5, (8, 45.0), limits=limits)
    why = ADAPTIVE.decide(state, limits, 30.0).rejected[16]
    assert why == "cooldown: after 45 ms with 8 frames, more would have been late"


def test_a_level_that_stays_is_learned_after_three_inferences(setting: NewSetting) -> None:
    limits = Limits(latency_ms=100)
    state = after(ADAPTIVE.start(setting()), *[(16, 80.0)] * 20, limits=limits)
    state = after(state, (16, 120.0), (8, 60.0), (8, 60.0), limits=limits)
    assert state.latency.slowdown == pytest.approx(1.5)


def test_a_lone_spike_of_any_height_moves_the_slowdown_not_at_all(setting: NewSetting) -> None:
    limits = Limits(latency_ms=100)
    state = after(ADAPTIVE.start(setting()), *[(8, 40.0)] * 20, limits=limits)
    assert after(state, (8, 20000.0), limits=limits).latency.slowdown == pytest.approx(1.0)


def test_what_slows_one_engine_is_expected_of_all(setting: NewSetting) -> None:
    limits = Limits(latency_ms=75)
    state = after(ADAPTIVE.start(setting()), *[(4, 40.0)] * 5, limits=limits)
    assert state.latency.expected_ms(1) == pytest.approx(80.0)
    assert "> 75 ms" in ADAPTIVE.decide(state, limits, 2.0).rejected[8]


def test_after_a_load_that_comes_and_goes_the_frame_count_is_back_up(play: Play) -> None:
    frames = play(
        ADAPTIVE, Limits(latency_ms=100), 60, lambda _, now: 2.5 if 20 <= now < 40 else 1.0
    ).frames
    at = {second: frames[round(second / PERIOD_S)] for second in (19, 21, 30, 39, 45, 59)}
    assert at == {19: 16, 21: 4, 30: 4, 39: 4, 45: 16, 59: 16}


@pytest.mark.parametrize("miss_rate", [0.01, 0.05])
@pytest.mark.parametrize(("noise", "most"), [(0.02, 24), (0.05, 24), (0.1, 32)])
def test_steady_noise_makes_no_flapping_at_any_deadline(
    play: Play, setting: NewSetting, noise: float, most: int, miss_rate: float
) -> None:
    for deadline_ms in range(70, 130, 6):
        rng = random.Random(deadline_ms)
        profiled = tuple(math.exp(rng.gauss(0, noise)) for _ in range(150))
        played = play(
            ADAPTIVE,
            Limits(latency_ms=deadline_ms, miss_rate=miss_rate),
            240,
            lambda _t, _now, rng=rng: math.exp(rng.gauss(0, noise)),
            start=setting(ratios=profiled),
        )
        # Six a minute; eight where a board is noisier than they are known to be.
        assert played.switches <= most, deadline_ms
        assert sum(played.misses) <= 1.5 * miss_rate * len(played.misses) + 3, deadline_ms


def test_an_engine_that_alone_became_slower_is_tried_less_and_less(play: Play) -> None:
    frames = play(
        ADAPTIVE, Limits(latency_ms=100), 240, lambda frames, _: 1.5 if frames == 16 else 1.0
    )
    half = len(frames.frames) // 2
    first, last = frames.frames[:half], frames.frames[half:]
    assert sum(a != b for a, b in pairwise(last)) <= 4
    assert last.count(16) <= first.count(16) <= 20
    assert set(last) == {8, 16}


def test_in_bursts_of_spikes_only_the_first_is_missed(play: Play) -> None:
    def slowdown(_frames: int, now: float) -> float:
        return 2.2 if now % 30 >= 28 else 1.0  # eight inferences in a row

    played = play(ADAPTIVE, Limits(latency_ms=100, miss_rate=0.01), 240, slowdown)
    assert played.longest_burst == 1
    assert played.frames.count(16) > 0.8 * len(played.frames)


def test_the_miss_rate_is_held_by_feedback_where_the_tail_deceives(play: Play) -> None:
    # Every tenth inference is a lone spike that the profile knew nothing of.
    played = play(
        ADAPTIVE,
        Limits(latency_ms=100, miss_rate=0.05),
        600,
        lambda _, now: 1.6 if round(now / PERIOD_S) % 10 == 9 else 1.0,
    )
    assert sum(played.misses) <= 1.5 * 0.05 * len(played.misses)


def test_the_tail_is_taken_from_the_data(setting: NewSetting) -> None:
    # One inference in ten takes 1.5 times as long: no Gaussian, and 90 % of them are fast.
    state = ADAPTIVE.start(setting(ratios=(1.0,) * 54 + (1.5,) * 6))
    assert ADAPTIVE.decide(state, Limits(latency_ms=100, miss_rate=0.15), 0.0).frames == 16
    assert ADAPTIVE.decide(state, Limits(latency_ms=100, miss_rate=0.05), 0.0).frames == 8


def test_the_cost_of_a_switch_is_charged_and_not_blamed_on_the_engine(
    setting: NewSetting,
) -> None:
    limits = Limits(latency_ms=70)
    state = after(ADAPTIVE.start(setting(switch_ms=50.0)), (4, 20.0), limits=limits)
    assert "90 ms > 70 ms" in ADAPTIVE.decide(state, limits, 1.0).rejected[8]
    switched = after(state, (8, 90.0), limits=limits)
    assert switched.latency.expected_ms(1) == pytest.approx(40.0)


def test_a_step_up_waits_for_inferences_that_would_have_kept_the_deadline(
    setting: NewSetting,
) -> None:
    limits = Limits(latency_ms=100)
    state = ADAPTIVE.start(setting(ratios=(1.0,) * 50))
    state = after(state, *[(16, 80.0)] * 80, (16, 160.0), limits=limits)
    frames = []
    for _ in range(6):
        frames.append(ADAPTIVE.decide(state, limits, 3.0).frames)
        state = after(state, (frames[-1], BASE_MS[frames[-1]]), limits=limits)
    assert frames == [4, 4, 4, 16, 16, 16]


def test_a_power_budget_rules_out_what_draws_more(setting: NewSetting) -> None:
    # 4 W idle, 10 W for 80 of 250 ms: 7.2 W; 9 W for 40 ms: 5.44 W.
    decision = ADAPTIVE.decide(ADAPTIVE.start(setting()), Limits(power_w=6.0), 0.0)
    assert decision.frames == 8
    assert decision.reason == "5.44 W <= 6 W"
    assert decision.rejected[16] == "7.2 W > 6 W"


def test_a_budget_step_moves_the_frame_count_at_once(play: Play) -> None:
    played = play(
        ADAPTIVE,
        lambda now: Limits(power_w=6.0 if 20 <= now < 40 else 8.0),
        60,
        sense=board(),
    )
    assert set(played.frames[:80]) == {16}
    assert set(played.frames[80:160]) == {8}
    assert set(played.frames[170:]) == {16}


def test_what_another_program_draws_counts_against_the_budget(play: Play) -> None:
    played = play(
        ADAPTIVE, Limits(power_w=8.0), 120, sense=board(lambda now: 1.5 if now >= 30 else 0.0)
    )
    assert set(played.frames[:120]) == {16}
    assert set(played.frames[-200:]) == {8}


def test_a_battery_lasts_until_its_time_and_is_used(play: Play) -> None:
    spent = []

    def sense(frames: int, now: float, latency_ms: float) -> Sensed:
        sensed = board()(frames, now, latency_ms)
        assert sensed.power_w is not None
        spent.append(sensed.power_w * PERIOD_S)
        return sensed

    battery_j = 6.3 * 1200  # between 8 frames' 5.44 W and 16 frames' 7.2 W
    played = play(ADAPTIVE, Limits(battery_j=battery_j, until_s=1200.0), 1200, sense=sense)
    assert 0.97 * battery_j < sum(spent) <= 1.001 * battery_j
    assert 0.3 < played.frames.count(16) / len(played.frames) < 0.7
    assert played.switches <= 6 * 20


def test_a_sensor_that_fails_means_the_fewest_frames_until_it_is_back(play: Play) -> None:
    def sense(frames: int, now: float, latency_ms: float) -> Sensed:
        if 20 <= now < 40:
            return Sensed(fault="no reading for 3 s")
        return board()(frames, now, latency_ms)

    played = play(ADAPTIVE, Limits(power_w=8.0), 60, sense=sense)
    assert set(played.frames[:80]) == {16}
    assert set(played.frames[94:160]) == {4}
    assert played.decisions[100].warning is not None
    assert "no reading for 3 s" in played.decisions[100].reason
    assert set(played.frames[-40:]) == {16}


def test_without_a_budget_a_sensor_that_fails_changes_nothing(play: Play) -> None:
    played = play(
        ADAPTIVE, Limits(latency_ms=100), 10, sense=lambda *_: Sensed(fault="there is none")
    )
    assert set(played.frames) == {16}
    assert all(decision.warning is None for decision in played.decisions)


def test_an_over_current_event_drops_to_the_fewest_frames_at_once(setting: NewSetting) -> None:
    limits = Limits(latency_ms=100)
    state = after(ADAPTIVE.start(setting()), *[(16, 80.0)] * 5, limits=limits)
    state = after(state, (16, 80.0), limits=limits, over_current=1)
    decision = ADAPTIVE.decide(state, limits, 2.0)
    assert decision.frames == 4
    assert decision.rejected[16] == "cooldown: the board reported over-current"


def test_a_steep_rise_towards_the_limit_drops_to_the_fewest_frames(play: Play) -> None:
    def sense(_frames: int, now: float, _latency_ms: float) -> Sensed:
        return Sensed(temperature_c=50.0 + now)

    played = play(ADAPTIVE, Limits(latency_ms=100), 44, sense=sense)
    # At one degree a second, 95 °C is ten seconds ahead from 85 °C on, after 35 s.
    assert set(played.frames[:130]) == {16}
    assert set(played.frames[150:]) == {4}
    assert "it would throttle" in played.decisions[-1].rejected[16]
    assert played.decisions[-1].barred == {8, 16}


def test_bursts_that_the_tail_does_not_know_are_learned_when_too_many_were_missed(
    play: Play,
) -> None:
    # Of fifty inferences one is slow, and the next one slower still: the first is kept by 16
    # frames, the second is not.
    slow = {48: 1.2, 49: 1.6}
    played = play(
        ADAPTIVE,
        Limits(latency_ms=100, miss_rate=0.01),
        1200,
        lambda _, now: slow.get(round(now / PERIOD_S) % 50, 1.0),
    )
    assert sum(played.misses) <= 1.5 * 0.01 * len(played.misses)


def test_a_hop_longer_than_any_silence_is_no_silence(setting: NewSetting) -> None:
    limits = Limits(power_w=8.0)
    state = ADAPTIVE.start(setting())
    for number in range(10):
        state = ADAPTIVE.observe(
            state,
            Observation(
                frames=16,
                latency_ms=80.0,
                now=5.0 * number,
                limits=limits,
                sensed=Sensed(power_w=7.0),
            ),
        )
        assert ADAPTIVE.decide(state, limits, 5.0 * (number + 1)).warning is None


def test_engines_whose_power_was_not_profiled_are_not_trusted_with_a_budget() -> None:
    points = [OperatingPoint(frames=t, base_ms=ms) for t, ms in BASE_MS.items()]
    decision = ADAPTIVE.decide(ADAPTIVE.start(Setting(points=points)), Limits(power_w=50.0), 0.0)
    assert decision.frames == 4
    assert decision.rejected[16] == "a power that was not profiled > 50 W"


def test_many_profiled_latencies_keep_their_distribution(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting(ratios=tuple(1 + i / 1000 for i in range(1000))))
    assert len(state.latency.errors) == 512
    assert state.latency.slowdown == pytest.approx(1.5, abs=0.01)
    for level in (0.1, 0.5, 0.9):
        found = state.latency.ordered[int(level * 512)] * state.latency.slowdown
        assert found == pytest.approx(1 + level, abs=0.02)


def test_a_machine_that_was_busy_when_profiled_starts_with_that_slowdown(
    setting: NewSetting,
) -> None:
    state = ADAPTIVE.start(setting(ratios=(1.0, 2.0, 2.0, 2.0, 2.1)))
    assert state.latency.slowdown == 2.0
    decision = ADAPTIVE.decide(state, Limits(latency_ms=100), 0.0)
    assert decision.frames == 8
    assert decision.reason == "95 % latency 84 ms <= 100 ms"


def test_fewer_frames_are_never_believed_to_be_slower() -> None:
    points = [OperatingPoint(frames=t, base_ms=ms) for t, ms in ((16, 80.0), (8, 40.0), (4, 60.0))]
    state = ADAPTIVE.start(Setting(points=points))
    assert [(p.frames, p.base_ms) for p in state.engines.points] == [
        (4, 40.0),
        (8, 40.0),
        (16, 80.0),
    ]


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


@pytest.mark.parametrize("limits", [Limits(latency_ms=5), Limits(power_w=3.0)])
def test_where_nothing_keeps_the_limits_the_fewest_frames_run_and_it_is_said(
    setting: NewSetting, limits: Limits
) -> None:
    decision = ADAPTIVE.decide(ADAPTIVE.start(setting()), limits, 0.0)
    assert decision.frames == 4
    assert decision.warning == decision.reason
    assert decision.reason.startswith("nothing keeps every limit, so the fewest frames: ")


def test_a_frame_count_that_is_asked_for_is_kept(play: Play) -> None:
    played = play(ADAPTIVE, Limits(latency_ms=1, frames=16), 5, lambda _t, _now: 3.0)
    assert set(played.frames) == {16}


def test_a_frame_count_without_an_engine_is_refused(setting: NewSetting) -> None:
    with pytest.raises(FrameCountError, match="engines for 4, 8, 16 frames; 5 was asked for"):
        ADAPTIVE.decide(ADAPTIVE.start(setting()), Limits(frames=5), 0.0)


def test_deciding_and_observing_change_nothing_and_depend_on_nothing_else(
    setting: NewSetting,
) -> None:
    limits = Limits(latency_ms=85, power_w=7.0)
    state = after(ADAPTIVE.start(setting()), (16, 90.0), limits=limits, power_w=7.0)
    before = copy.deepcopy(state)
    assert ADAPTIVE.decide(state, limits, 2.0) == ADAPTIVE.decide(before, limits, 2.0)
    assert after(state, (8, 50.0), limits=limits) == after(before, (8, 50.0), limits=limits)
    assert state == before


def test_a_long_run_keeps_the_state_small(setting: NewSetting) -> None:
    state = ADAPTIVE.start(setting())
    limits = Limits(latency_ms=100)
    for _ in range(2000):
        state = after(state, (16, 80.0), limits=limits)
    assert len(state.latency.errors) == len(state.latency.ordered) == 512
    assert len(state.latency.ratios) == 5


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


@pytest.mark.parametrize("seed", range(5))
def test_when_the_others_stop_the_most_frames_soon_run_again(play: Play, seed: int) -> None:
    """Beside busy programs an inference waits for whole turns of theirs, or not at all."""
    draw = random.Random(seed)

    def slowdown(frames: int, now: float) -> float:
        waits = now >= 60 and now < 180 and draw.random() < BASE_MS[frames] / 90
        return draw.lognormvariate(0, 0.05) + (90 / BASE_MS[frames] if waits else 0)

    played = play(ADAPTIVE, Limits(latency_ms=120), 240, slowdown)
    after_it = played.frames[4 * 180 :]
    assert set(played.frames[4 * 90 : 4 * 180]) != {16}
    # Of the last minute, of 240 inferences.
    assert after_it.count(16) >= 180
