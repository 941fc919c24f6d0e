"""The power of engines is measured in blocks; a scripted sensor stands for the board's."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ffn_edge.bundle.bundle import Precision
from ffn_edge.errors import SensorError
from ffn_edge.runtime.engines.engine import Backend, cpu_backend
from ffn_edge.runtime.policy.interface import Sensed
from ffn_edge.runtime.profile import power as power_profile
from ffn_edge.runtime.profile.power import PowerProfile, joined_power, meter_for, powers


class Clock:
    """Time that goes on only by what is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:  # noqa: D102
        return self.now

    def sleep(self, seconds: float) -> None:  # noqa: D102
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The module's clock, which no test waits for."""
    clock = Clock()
    monkeypatch.setattr(power_profile, "time", clock)
    return clock


class Board:
    """A board that draws 5 W, and 1 W more for each frame of the engine that works."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.energy_j = 0.0  # of the engines
        self.asked_at: list[float] = []
        self.energy_then = 0.0
        self.fails_at: float | None = None

    def work(self, frames: int, seconds: float) -> None:
        """Run an engine."""
        self.energy_j += seconds * frames
        self.clock.now += seconds

    def sense(self, now: float) -> Sensed:
        """Return the mean power since the last call."""
        if self.fails_at is not None and now >= self.fails_at:
            return Sensed(fault="no reading for 3.2 s: the cable was pulled")
        since = self.asked_at[-1] if self.asked_at else 0.0
        mean_w = 5.0 + (self.energy_j - self.energy_then) / max(now - since, 1e-9)
        self.asked_at.append(now)
        self.energy_then = self.energy_j
        return Sensed(power_w=mean_w)


def test_each_engine_is_measured_above_the_machine_at_rest(clock: Clock) -> None:
    board = Board(clock)
    idle_w, above = powers(
        {"fp32": {4: lambda: board.work(4, 0.02), 8: lambda: board.work(8, 0.04)}}, board
    )
    assert idle_w == pytest.approx(5.0)
    assert above["fp32"] == pytest.approx({4: 4.0, 8: 8.0})


def test_the_begin_of_each_block_is_left_out_and_the_rest_is_long(clock: Clock) -> None:
    board = Board(clock)
    powers({"fp32": {4: lambda: board.work(4, 0.02)}}, board)
    spans = [later - earlier for earlier, later in pairwise([0.0, *board.asked_at])]
    assert spans == pytest.approx([1.0, 2.0, 1.0, 2.0], abs=0.1)


def test_an_engine_that_takes_longer_than_a_block_runs_once(clock: Clock) -> None:
    board = Board(clock)
    _, above = powers({"fp32": {16: lambda: board.work(16, 7.0)}}, board)
    assert above["fp32"] == pytest.approx({16: 16.0})


def test_an_engine_never_draws_less_than_nothing(clock: Clock) -> None:
    board = Board(clock)
    _, above = powers({"fp32": {4: lambda: board.work(-1, 0.02)}}, board)
    assert above == {"fp32": {4: 0.0}}


def test_a_sensor_that_fails_meanwhile_is_an_error(clock: Clock) -> None:
    board = Board(clock)
    board.fails_at = 4.0
    with pytest.raises(SensorError, match="the cable was pulled"):
        powers({"fp32": {4: lambda: board.work(4, 0.02)}}, board)


@pytest.mark.parametrize(
    "values",
    [
        {"idle_w": 5.0},
        {"above_idle_w": {"fp32": {4: 1.0}}},
        {"idle_w": 5.0, "above_idle_w": {"fp32": {4: 1.0}}, "fault": "no sensor"},
        {"idle_w": 5.0, "fault": "no sensor"},
        {},
        {"idle_w": -1.0, "above_idle_w": {"fp32": {4: 1.0}}},
        {"idle_w": 5.0, "above_idle_w": {"fp32": {4: float("nan")}}},
    ],
)
def test_a_power_profile_is_whole_and_possible(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"either the power|not negative"):
        PowerProfile(meter="fake", scope="a test", **values)  # type: ignore[arg-type]


def test_a_graphics_card_is_asked_only_where_the_engines_run_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(power_profile, "open_meter", lambda root, gpu: asked.append(gpu))
    monkeypatch.setattr(power_profile, "visible_gpu", lambda: "GPU-3")
    tensorrt = Backend(
        name="tensorrt",
        version="10",
        device="RTX 4090, SM 89",
        threads=1,
        reason="asked for",
    )
    meter_for(cpu_backend(1))
    meter_for(tensorrt)
    assert asked == [None, "GPU-3"]


def power_in(precision: Precision, idle_w: float, above_w: float) -> PowerProfile:
    above: dict[Precision, dict[int, float]] = {precision: {8: above_w}}
    return PowerProfile(meter="ina", scope="the board", idle_w=idle_w, above_idle_w=above)


@pytest.mark.parametrize(("above_w", "joined_w"), [(3.0, 4.5), (0.0, 1.5)])
def test_what_a_warmer_machine_draws_at_rest_is_of_the_engine_that_was_measured_then(
    above_w: float, joined_w: float
) -> None:
    joined = joined_power([power_in("fp16", 5.0, 6.0), power_in("int8", 6.5, above_w)])
    assert joined.idle_w == 5.0
    assert joined.above_idle_w == {"fp16": {8: 6.0}, "int8": {8: joined_w}}


def test_no_engine_is_below_the_first_rest_and_a_fault_is_of_all() -> None:
    first = power_in("fp16", 5.0, 6.0)
    assert joined_power([first, power_in("int8", 3.0, 1.0)]).engine_w("int8", 8) == 0.0
    failed = PowerProfile(meter="ina", scope="the board", fault="the cable was pulled")
    assert joined_power([first, failed]) == failed
