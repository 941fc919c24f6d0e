"""The thread that samples, on meters and machines of these tests. No time is asserted."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ffn_edge.errors import SensorError
from ffn_edge.runtime.machine.health import Health, HealthReading
from ffn_edge.runtime.power import sampler as sampler_module
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import PowerReading
from ffn_edge.runtime.power.sampler import Sampler


class Scripted:
    """A meter that does what it is told at its n-th reading."""

    name = "scripted"
    scope = "a test"

    def __init__(self, script: Callable[[int], float]) -> None:
        self.script = script
        self.count = 0

    def read(self, now: float) -> PowerReading:
        """Count, and do what the script says."""
        self.count += 1
        return PowerReading(time_s=now, total_w=self.script(self.count), rails_w={})

    def close(self) -> None:
        """Nothing is held."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the thread does; a test that waits in vain fails."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def test_a_real_thread_integrates_a_real_tree(orin_nx: Any) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    orin_nx.write(f"{zone}/type", "cpu-thermal")
    orin_nx.write(f"{zone}/temp", 51_500)
    meter = InaMeter(orin_nx.root)
    with Sampler(meter, Health(orin_nx.root), rate_hz=200.0) as sampler:
        until(lambda: sampler.schedule.rounds >= 20)
        sensed = sampler.sense(time.monotonic())
    assert sensed.power_w == pytest.approx(10.0)
    assert (sensed.fault, sensed.temperature_c, sensed.over_current) == (None, 51.5, 0)
    assert sensed.energy_j is not None and sensed.energy_j > 0
    meter.close()


def test_an_observation_holds_the_clocks_and_the_way_to_the_trip_point(orin_nx: Any) -> None:
    zone, clock = "sys/class/thermal/thermal_zone0", "sys/class/devfreq/17000000.gpu/cur_freq"
    for name, value in (
        (f"{zone}/type", "cpu-thermal"),
        (f"{zone}/temp", 51_500),
        (f"{zone}/trip_point_0_type", "critical"),
        (f"{zone}/trip_point_0_temp", 104_500),
        (clock, 918_000_000),
    ):
        orin_nx.write(name, value)
    meter = InaMeter(orin_nx.root)
    with Sampler(meter, Health(orin_nx.root), rate_hz=200.0) as sampler:
        until(lambda: sampler.schedule.rounds >= 5)
        sensed = sampler.sense(time.monotonic())
    assert (sensed.headroom_c, sensed.clocks_mhz) == (53.0, (918.0,))
    meter.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_cards_clocks_come_with_its_power_and_nothing_holds_the_power_up(
    fails: bool, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Card(Scripted):
        def read(self, now: float) -> PowerReading:
            """Show the clocks, too."""
            clocks_mhz = () if fails else (1980.0, 2619.0)
            return dataclasses.replace(super().read(now), clocks_mhz=clocks_mhz)

    def fail(health: Health) -> tuple[float, ...]:
        raise OSError

    monkeypatch.setattr(Health, "clocks_mhz", fail)
    with Sampler(Card(lambda n: 5.0 + n % 2), Health(board.root), rate_hz=200.0) as sampler:
        until(lambda: sampler.schedule.rounds >= 5)
        sensed = sampler.sense(time.monotonic())
    assert sensed.clocks_mhz == (() if fails else (1980.0, 2619.0))
    assert sensed.power_w is not None


def test_a_sensor_that_fails_never_raises_and_comes_back(board: Any) -> None:
    broken = threading.Event()
    broken.set()

    def script(count: int) -> float:
        if broken.is_set():
            raise SensorError("it is unplugged")
        return 8.0 + count % 2

    meter = Scripted(script)
    with Sampler(meter, Health(board.root), rate_hz=200.0) as sampler:
        until(lambda: meter.count > 2)
        sensed = sampler.sense(time.monotonic())
        assert (sensed.power_w, sensed.fault) == (None, "it is unplugged")
        broken.clear()
        back = meter.count + 3
        until(lambda: meter.count > back)
        sensed = sampler.sense(time.monotonic())
        assert sensed.fault is None
        assert sensed.power_w is not None and 8 <= sensed.power_w <= 9


@pytest.mark.parametrize("error", [TypeError(), ValueError(), OSError(), RecursionError()])
def test_whatever_health_raises_power_is_read_on(
    error: Exception, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(health: Health) -> HealthReading:
        raise error

    monkeypatch.setattr(Health, "read", fail)
    with Sampler(Scripted(lambda count: 5.0 + count % 2), Health(board.root), rate_hz=200.0) as it:
        until(lambda: it.schedule.rounds > 20)
        sensed = it.sense(time.monotonic())
    assert (sensed.fault, sensed.temperature_c) == (None, None)
    assert sensed.power_w is not None


def test_a_sensor_that_hangs_holds_nobody_up_and_is_a_fault(board: Any) -> None:
    release = threading.Event()

    def script(count: int) -> float:
        if count > 3:
            release.wait(10)
        return 5.0

    meter = Scripted(script)
    with Sampler(meter, Health(board.root), rate_hz=200.0) as sampler:
        until(lambda: meter.count == 4)
        fault = sampler.sense(time.monotonic() + 3).fault
        release.set()
    assert fault is not None and fault.endswith("the sensor does not answer")


def test_a_meter_that_is_slower_than_its_schedule_misses_readings(board: Any) -> None:
    def script(count: int) -> float:
        time.sleep(0.01)
        return 5.0

    start = time.monotonic()
    with Sampler(Scripted(script), Health(board.root), rate_hz=500.0) as sampler:
        until(lambda: sampler.schedule.rounds >= 10)
        rounds, missed = sampler.schedule.rounds, sampler.schedule.missed
        elapsed_s = time.monotonic() - start
    assert missed >= 9  # the last round may not have ended
    assert missed + rounds <= elapsed_s * 500 + 1  # none is counted twice


def test_files_that_are_slow_to_read_are_read_seldom(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_HEALTH_S", 0.0)
    calls = []

    class Slow(Health):
        def read(self) -> HealthReading:
            """Take 20 ms: a fiftieth of a second, which is the whole share of one second."""
            calls.append(time.monotonic())
            time.sleep(0.02)
            return HealthReading()

    start = time.monotonic()
    with Sampler(Scripted(float), Slow(board.root), rate_hz=200.0) as sampler:
        until(lambda: sampler.schedule.rounds >= 30)
    assert 1 <= len(calls) <= 1 + (time.monotonic() - start)


def test_a_counter_that_cannot_be_read_for_a_while_invents_no_events(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_HEALTH_S", 0.0)
    monkeypatch.setattr(sampler_module, "_HEALTH_SHARE", 1.0)
    script: list[int | None] = [7, None, None, 9, 9]
    readings = iter(script)

    class Scripts(Health):
        def read(self) -> HealthReading:
            """Give the next count of events; the last one again and again."""
            return HealthReading(over_current_events=next(readings, 9))

    with Sampler(Scripted(float), Scripts(board.root), rate_hz=200.0) as sampler:
        until(lambda: sampler.schedule.rounds > len(script) + 1)
        assert sampler.sense(time.monotonic()).over_current == 2


def test_over_current_events_are_told_once_and_a_reset_counter_tells_none(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_HEALTH_S", 0.0)
    monkeypatch.setattr(sampler_module, "_HEALTH_SHARE", 1.0)
    counter = board.write("sys/class/hwmon/hwmon3/oc1_event_cnt", 7)
    board.write("sys/class/thermal/cooling_device0/type", "cpu-throttle-alert")
    board.write("sys/class/thermal/cooling_device0/cur_state", 1)
    board.write("sys/class/thermal/cooling_device0/max_state", 1)

    def show(count: int) -> None:
        new = counter.with_name("new")  # as one step: the thread may read between two
        new.write_text(str(count))
        new.rename(counter)
        seen(count)

    def seen(count: int) -> None:
        """Wait until the thread has read the files once more."""
        until(lambda: sampler._events == count)

    with Sampler(Scripted(float), Health(board.root), rate_hz=200.0) as sampler:
        seen(7)
        assert sampler.sense(time.monotonic()).over_current == 0  # from before
        show(10)
        sensed = sampler.sense(time.monotonic())
        assert (sensed.over_current, sensed.throttled) == (3, "cpu-throttle-alert at 1 of 1")
        show(1)
        assert sampler.sense(time.monotonic()).over_current == 0
        show(2)
        assert sampler.sense(time.monotonic()).over_current == 1
