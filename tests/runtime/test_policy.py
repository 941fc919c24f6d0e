"""The policy on scripted latencies: no clock, no engine."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from ffn_edge.errors import FfnEdgeError, FrameCountError
from ffn_edge.runtime.policy import Limits, OperatingPoint, State, decide, initial_state, observe

BASE_MS = {4: 20.0, 8: 40.0, 16: 80.0}
HOP_S = 0.25


def new_state(accuracy: dict[int, float] | None = None, ratios: tuple[float, ...] = ()) -> State:
    return initial_state(
        [
            OperatingPoint(frames=t, base_ms=ms, accuracy=None if accuracy is None else accuracy[t])
            for t, ms in BASE_MS.items()
        ],
        ratios,
    )


def play(
    limits: Limits, seconds: float, slowdown: Callable[[int, float], float], state: State
) -> tuple[list[int], State]:
    """Run the loop on scripted latencies; return the frame count of each inference."""
    chosen = []
    for number in range(round(seconds / HOP_S)):
        now = number * HOP_S
        frames = decide(state, limits, now).frames
        state = observe(state, frames, BASE_MS[frames] * slowdown(frames, now), now)
        chosen.append(frames)
    return chosen, state


def switches(chosen: list[int]) -> int:
    return sum(a != b for a, b in pairwise(chosen))


def test_without_a_deadline_the_most_frames_run() -> None:
    assert decide(new_state(), Limits(), 0.0).frames == 16


@pytest.mark.parametrize(("deadline_ms", "frames"), [(100, 16), (79, 8), (39, 4)])
def test_the_most_frames_that_keep_the_deadline_run(deadline_ms: float, frames: int) -> None:
    assert decide(new_state(), Limits(latency_ms=deadline_ms), 0.0).frames == frames


def test_accuracy_from_the_manifest_counts_and_not_the_number_of_frames() -> None:
    state = new_state({4: 0.7, 8: 0.9, 16: 0.8})
    assert decide(state, Limits(latency_ms=1000), 0.0).frames == 8


def test_of_equally_accurate_frame_counts_the_cheapest_runs() -> None:
    state = new_state({4: 0.7, 8: 0.8, 16: 0.8})
    assert decide(state, Limits(), 0.0).frames == 8


def test_a_slow_inference_steps_down_at_once() -> None:
    limits = Limits(latency_ms=100)
    state = new_state()
    for number in range(100):
        state = observe(state, 16, 80.0, number * HOP_S)
    assert decide(state, limits, 25.0).frames == 16
    state = observe(state, 16, 160.0, 25.0)
    assert decide(state, limits, 25.0).frames == 8


def test_what_slows_one_engine_is_expected_of_all() -> None:
    state = observe(new_state(), 4, 200.0, 0.0)
    assert decide(state, Limits(latency_ms=45), 0.25).rejected[8].startswith("predicted 95 %")


def test_a_step_up_waits_for_the_dwell_time() -> None:
    limits = Limits(latency_ms=100, dwell_s=3.0)
    state = observe(new_state(), 8, 40.0, 10.0)  # 8 frames since 10 s
    waiting = decide(state, limits, 12.0)
    assert waiting.frames == 8
    assert waiting.rejected[16] == "fits, but a step up waits 1.0 s more"
    assert decide(state, limits, 13.0).frames == 16


def test_a_step_up_needs_a_margin_that_staying_does_not() -> None:
    tight = Limits(latency_ms=85, margin=0.1)
    assert decide(observe(new_state(), 16, 80.0, 0.0), tight, 100.0).frames == 16
    below = decide(observe(new_state(), 8, 40.0, 0.0), tight, 100.0)
    assert below.frames == 8
    assert "76.5 ms, the bar for a step up" in below.rejected[16]


def test_after_a_load_that_comes_and_goes_the_frame_count_is_back_up() -> None:
    chosen, _ = play(
        Limits(latency_ms=100), 60, lambda _, now: 2.5 if 20 <= now < 40 else 1.0, new_state()
    )
    at = {second: chosen[round(second / HOP_S)] for second in (19, 21, 30, 39, 59)}
    assert at == {19: 16, 21: 4, 30: 4, 39: 4, 59: 16}


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
def test_steady_noise_makes_no_flapping_at_any_deadline(noise: float) -> None:
    for deadline_ms in range(70, 130, 3):
        rng = random.Random(deadline_ms)
        profiled = tuple(math.exp(rng.gauss(0, noise)) for _ in range(150))
        chosen, _ = play(
            Limits(latency_ms=deadline_ms),
            120,
            lambda _t, _now, rng=rng: math.exp(rng.gauss(0, noise)),
            new_state(ratios=profiled),
        )
        assert switches(chosen) <= 12, deadline_ms  # six a minute


def test_a_step_up_that_fails_again_and_again_is_tried_less_and_less() -> None:
    # Only 16 frames are slower than profiled: the slowdown learnt at 8 is wrong for 16.
    chosen, _ = play(
        Limits(latency_ms=100), 120, lambda frames, _: 1.5 if frames == 16 else 1.0, new_state()
    )
    first, last = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    assert 0 < switches(last) < switches(first)
    assert switches(chosen) <= 16


def test_a_lone_spike_of_any_height_is_soon_forgotten() -> None:
    for height in (5.0, 500.0):
        state = new_state()
        for number in range(64):
            state = observe(state, 8, 40.0, number * HOP_S)
        state = observe(state, 8, 40.0 * height, 16.0)
        for number in range(16):
            state = observe(state, 8, 40.0, 16.25 + number * HOP_S)
        assert state.slowdown < 1.1


def test_the_tail_is_taken_from_the_data() -> None:
    # One inference in ten takes 1.5 times as long: no Gaussian, and 90 % of them are fast.
    state = new_state(ratios=(1.0,) * 54 + (1.5,) * 6)
    assert decide(state, Limits(latency_ms=100, quantile=0.85), 0.0).frames == 16
    assert decide(state, Limits(latency_ms=100, quantile=0.95), 0.0).frames == 8


def test_many_profiled_latencies_keep_their_distribution() -> None:
    state = new_state(ratios=tuple(1 + i / 1000 for i in range(1000)))
    assert len(state.residuals) == 64
    assert state.slowdown == pytest.approx(1.5, abs=0.01)
    for quantile in (0.1, 0.5, 0.9):
        found = sorted(state.residuals)[int(quantile * 64)] * state.slowdown
        assert found == pytest.approx(1 + quantile, abs=0.02)


def test_a_machine_that_was_busy_when_profiled_starts_with_that_slowdown() -> None:
    state = new_state(ratios=(1.0, 2.0, 2.0, 2.0, 2.1))
    assert state.slowdown == 2.0
    decision = decide(state, Limits(latency_ms=100), 0.0)
    assert decision.frames == 8
    assert decision.reason == "predicted 95 % latency 84 ms <= 100 ms"


def test_fewer_frames_are_never_believed_to_be_slower() -> None:
    points = [OperatingPoint(frames=t, base_ms=ms) for t, ms in ((4, 60.0), (8, 40.0), (16, 80.0))]
    state = initial_state(reversed(points))
    assert [(p.frames, p.base_ms) for p in state.points] == [(4, 40.0), (8, 40.0), (16, 80.0)]


def test_every_frame_count_that_is_not_chosen_is_explained() -> None:
    for latency_ms in (None, 10, 30, 60, 100, 1000):
        for frames in (None, 8):
            for before in (None, 4, 8, 16):
                state = new_state()
                if before is not None:
                    state = observe(state, before, BASE_MS[before], 0.0)
                decision = decide(state, Limits(latency_ms=latency_ms, frames=frames), 0.5)
                assert decision.reason
                assert set(decision.rejected) == {4, 8, 16} - {decision.frames}
                assert all(decision.rejected.values())


def test_an_explanation_gives_the_numbers() -> None:
    decision = decide(new_state(), Limits(latency_ms=60), 0.0)
    assert decision.frames == 8
    assert decision.reason == "predicted 95 % latency 40 ms <= 60 ms"
    assert decision.rejected[16] == "predicted 95 % latency 80 ms > 60 ms"
    assert decision.rejected[4] == "fits, but is less accurate than 8"


def test_where_nothing_keeps_the_deadline_the_fewest_frames_run_and_it_is_said() -> None:
    decision = decide(new_state(), Limits(latency_ms=5), 0.0)
    assert decision.frames == 4
    assert decision.reason.startswith("nothing keeps the deadline")


def test_a_frame_count_that_is_asked_for_is_kept() -> None:
    chosen, _ = play(Limits(latency_ms=1, frames=16), 5, lambda _t, _now: 3.0, new_state())
    assert set(chosen) == {16}


def test_a_frame_count_without_an_engine_is_refused() -> None:
    with pytest.raises(FrameCountError, match="engines for 4, 8, 16 frames; 5 was asked for"):
        decide(new_state(), Limits(frames=5), 0.0)


def test_deciding_and_observing_change_nothing_and_depend_on_nothing_else() -> None:
    state = observe(new_state(), 16, 90.0, 1.0)
    before = copy.deepcopy(state)
    limits = Limits(latency_ms=85)
    assert decide(state, limits, 2.0) == decide(before, limits, 2.0)
    assert observe(state, 8, 50.0, 2.0) == observe(before, 8, 50.0, 2.0)
    assert state == before


def test_a_long_run_keeps_the_state_small() -> None:
    _, state = play(Limits(latency_ms=100), 200, lambda _t, _now: 1.0, new_state())
    assert len(state.residuals) == 64


@pytest.mark.parametrize(
    "values",
    [
        {"latency_ms": 0},
        {"latency_ms": math.nan},
        {"quantile": 1.0},
        {"dwell_s": -1.0},
        {"margin": 1.0},
    ],
)
def test_limits_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(FfnEdgeError):
        Limits(**values)
