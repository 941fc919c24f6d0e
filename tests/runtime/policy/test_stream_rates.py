"""In a stream the frame counts are rates: spacing, power and what the source gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    Controller,
    Decision,
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from ffn_edge.runtime.simulate.drive import drive

STEP_MS, ENGINE_W, IDLE_W = 50.0, 10.0, 4.0
COUNTS = (4, 8, 16)


def setting(step_ms: float = STEP_MS, **changes: float) -> Setting:
    """Three rates of a window of two seconds: 500, 250 and 125 ms from one frame to the next."""
    points = [
        OperatingPoint(frames=frames, base_ms=step_ms, power_w=ENGINE_W, **changes)
        for frames in COUNTS
    ]
    return Setting(points=points, idle_w=IDLE_W).streamed(2.0)


class Device:
    """A machine whose steps take a time that follows from when they begin."""

    energy_j, source_frames = 0.0, None
    next_s: float | None = None

    def __init__(
        self,
        step_ms: Callable[[float], float] = lambda now: STEP_MS,
        limits: Limits | None = None,
    ) -> None:
        self.setting = setting()
        self.limits = limits or Limits()
        self._step_ms = step_ms

    def begin(self, now: float) -> list[float]:  # noqa: D102
        return [self._step_ms(now)] * len(COUNTS)

    def work(self, index: int, until: float) -> None: ...  # noqa: D102
    def rest(self, until: float) -> None: ...  # noqa: D102
    def sense(self, now: float) -> Sensed:  # noqa: D102
        return Sensed()


def ran(device: Device, length_s: float) -> list[tuple[float, int, float]]:
    """Return when each step of our policy began, at which rate, and how long it took."""
    chooser = Controller(Adaptive(), device.setting)
    return [
        (step.begin_s, COUNTS[step.index], step.latency_ms)
        for step in drive(device, chooser, length_s)
    ]


def decided(source_frames: float, limits: Limits | None = None) -> Decision:
    """Return the first decision of a stream."""
    return Controller(Adaptive(), setting()).decide(limits or Limits(), 0.0, source_frames)


def test_frames_of_a_window_are_a_spacing() -> None:
    assert [point.period_s for point in setting().points] == [0.5, 0.25, 0.125]


def test_the_next_step_is_a_spacing_of_the_chosen_rate_later() -> None:
    for frames, spacing_s in ((4, 0.5), (8, 0.25), (16, 0.125)):
        begun = [begin for begin, *_ in ran(Device(limits=Limits(frames=frames)), 2.0)]
        assert begun == pytest.approx([spacing_s * k for k in range(frames)])


def test_a_rate_whose_step_is_longer_than_its_spacing_is_left_and_seldom_tried() -> None:
    played = ran(Device(lambda now: 2.8 * STEP_MS if now > 5 else STEP_MS), 60.0)
    assert {frames for begin, frames, _ in played if begin < 5} == {16}
    later = [frames for begin, frames, _ in played if begin > 7]
    # 140 ms fit into 250, and not into 125; but it may become faster, and is tried.
    assert later.count(16) <= 0.05 * len(later)


def test_the_time_between_frames_is_a_deadline() -> None:
    decision = Controller(Adaptive(), setting(step_ms=150.0)).decide(Limits(), 0.0)
    assert decision.frames == 8
    assert decision.rejected[16] == "late in 100 %"
    assert "150 of 250 ms" in decision.reason


def test_of_deadline_and_spacing_the_shorter_holds() -> None:
    decision = Controller(Adaptive(), setting(step_ms=150.0)).decide(Limits(latency_ms=200.0), 0.0)
    assert "150 of 200 ms" in decision.reason
    decision = Controller(Adaptive(), setting()).decide(Limits(latency_ms=200.0), 0.0)
    assert "50 of 125 ms" in decision.reason


@pytest.mark.parametrize(
    ("deadline_ms", "pace_s", "latency_ms", "missed"),
    [
        (None, None, 1000.0, False),
        (None, 0.125, 120.0, False),
        (None, 0.125, 130.0, True),
        (200.0, 0.125, 130.0, True),
        (100.0, 0.125, 120.0, True),
        (200.0, None, 130.0, False),
    ],
)
def test_a_miss_is_later_than_the_shorter_of_deadline_and_spacing(
    deadline_ms: float | None, pace_s: float | None, latency_ms: float, missed: bool
) -> None:
    limits = Limits(latency_ms=deadline_ms)
    seen = Observation(frames=16, latency_ms=latency_ms, now=1.0, limits=limits, pace_s=pace_s)
    assert seen.missed is missed


def test_a_rates_power_is_idle_and_its_engines_for_a_share_of_the_spacing() -> None:
    state = Adaptive().start(setting())
    expected = [IDLE_W + ENGINE_W * 0.05 / spacing_s for spacing_s in (0.5, 0.25, 0.125)]
    assert [state.power_w(index) for index in range(3)] == pytest.approx(expected)
    for budget_w, frames in ((8.3, 16), (7.0, 8), (5.5, 4)):
        decision = Controller(Adaptive(), setting()).decide(Limits(power_w=budget_w), 0.0)
        assert decision.frames == frames


def test_a_file_in_its_own_time_has_no_spacing_to_keep() -> None:
    file = replace(setting(step_ms=600.0), period_s=0.0).streamed(2.0, live=False)
    assert Controller(Adaptive(), file).decide(Limits(), 0.0).frames == 16
    assert [file.period_of(point) for point in file.points] == [0.0] * 3
    state = Adaptive().start(file)
    assert [state.power_w(index) for index in range(3)] == [IDLE_W + ENGINE_W] * 3


def test_a_rate_that_the_source_does_not_give_is_not_used() -> None:
    decision = decided(10)
    assert decision.frames == 8
    assert "10 that the source gives" in decision.rejected[16]
    assert decision.warning is None
    assert decided(15).frames == 16  # a camera's rate is not exact


def test_what_one_source_gives_says_nothing_of_the_next() -> None:
    chooser = Controller(Adaptive(), setting())
    assert chooser.decide(Limits(), 0.0, 10).frames == 8
    chooser.observe(
        Observation(frames=8, latency_ms=STEP_MS, now=0.05, limits=Limits(), source_frames=10)
    )
    assert "source" in chooser.decide(Limits(), 0.25, 10).rejected[16]
    assert not any("source" in why for why in chooser.decide(Limits(), 0.25, 60).rejected.values())


def test_of_a_source_that_gives_less_than_the_fewest_one_is_warned() -> None:
    decision = decided(2)
    assert decision.frames == 4
    assert decision.warning is not None and "source" in decision.warning


@pytest.mark.parametrize(
    ("step_ms", "source_frames", "said"),
    [
        (STEP_MS, None, ""),
        (STEP_MS, 60, ""),
        (STEP_MS, 15, ""),
        (STEP_MS, 10, "source"),
        (130.0, 60, "130 ms"),
        (120.0, 60, ""),
    ],
)
def test_a_rate_that_was_asked_for_and_cannot_be_kept_is_warned_of(
    step_ms: float, source_frames: float | None, said: str
) -> None:
    chooser = Controller(Adaptive(), setting(step_ms=step_ms))
    decision = chooser.decide(Limits(frames=16, latency_ms=60.0), 0.0, source_frames)
    assert (decision.frames, decision.reason) == (16, "asked for")
    assert said in (decision.warning or "") and (decision.warning is not None) is bool(said)


def test_a_fixed_rate_that_falls_behind_is_warned_of_when_it_does() -> None:
    limits = Limits(frames=16)
    chooser = Controller(Adaptive(), setting())
    for number in range(10):
        now = number / 8
        assert chooser.decide(limits, now).warning is None
        chooser.observe(
            Observation(frames=16, latency_ms=STEP_MS, now=now + 0.05, limits=limits, pace_s=0.125)
        )
    for number in range(10, 20):
        chooser.observe(
            Observation(frames=16, latency_ms=150.0, now=number / 4, limits=limits, pace_s=0.125)
        )
    warning = chooser.decide(limits, 5.0).warning
    assert warning is not None and "150 ms" in warning


def test_a_fixed_count_of_clips_is_not_warned_of() -> None:
    points = [OperatingPoint(frames=frames, base_ms=600.0) for frames in COUNTS]
    chooser = Controller(Adaptive(), Setting(points=points, period_s=0.25))
    assert chooser.decide(Limits(frames=16, latency_ms=60.0), 0.0).warning is None


def test_a_limit_is_spoken_of_only_where_there_is_one() -> None:
    slow = Controller(Adaptive(), setting(step_ms=600.0)).decide(Limits(), 0.0)
    for decision, asked in (
        (decided(2), False),
        (slow, False),
        (decided(2, Limits(latency_ms=80.0)), True),
        (decided(2, Limits(power_w=80.0)), True),
    ):
        assert decision.frames == 4
        assert decision.warning is not None and ("limit" in decision.warning) is asked


def test_a_slower_precision_of_fewer_frames_is_believed() -> None:
    points = [
        OperatingPoint(frames=4, base_ms=80.0, precision="fp32"),
        OperatingPoint(frames=8, base_ms=55.0, precision="int8"),
        OperatingPoint(frames=16, base_ms=50.0, precision="int8"),
    ]
    decision = Controller(Adaptive(), Setting(points=points)).decide(Limits(latency_ms=70.0), 0.0)
    assert decision.frames == 16
    assert decision.latencies_ms == pytest.approx({4: 80.0, 8: 55.0, 16: 50.0})
