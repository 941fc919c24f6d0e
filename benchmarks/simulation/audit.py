"""Scenarios on boards that nobody tuned for: each is a cause for which a policy may fail.

All values are made up. Where a recording gave the size of an effect, `about` says so.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.simulation.board import (
    BoardSpec,
    Clock,
    Phase,
    Profile,
    Throttle,
    TimeSharing,
    Wait,
)
from benchmarks.simulation.scenario import Scenario
from benchmarks.simulation.sensor import SensorSpec
from ffn_edge.runtime.policy.interface import OperatingPoint

_CALM = Phase(duration_s=60.0)
# Engines of 1.5 to 18 ms, ten times a second.
_SMALL = BoardSpec(
    points=(
        OperatingPoint(frames=2, base_ms=1.5, accuracy=0.3610, power_w=8.0),
        OperatingPoint(frames=4, base_ms=3.5, accuracy=0.4285, power_w=9.0),
        OperatingPoint(frames=8, base_ms=8.0, accuracy=0.4820, power_w=10.0),
        OperatingPoint(frames=16, base_ms=18.0, accuracy=0.5079, power_w=11.0),
    ),
    period_s=0.1,
)
# A graphics card: NVML shows the mean of the last second, once a second, without noise.
_NVML = SensorSpec(mean_s=1.0, every_s=1.0, delay_s=0.0, noise=0.0, quantum_w=0.001)
_CARD = BoardSpec(
    points=(
        OperatingPoint(frames=4, base_ms=10.0, accuracy=0.4285, power_w=80.0),
        OperatingPoint(frames=8, base_ms=19.0, accuracy=0.4820, power_w=95.0),
        OperatingPoint(frames=16, base_ms=37.0, accuracy=0.5079, power_w=110.0),
    ),
    idle_w=20.0,
    contention_w=40.0,
    resistance_c_per_w=0.4,
    sensor=_NVML,
    period_s=0.1,
)
# The INA's averaging set to a second, and read as often: steps of 1 W / 4, one reading a second.
_COARSE = SensorSpec(rate_hz=1.0, mean_s=1.0, delay_s=0.0, noise=0.0, quantum_w=0.25)


def _trips(first_c: float, step_c: float) -> tuple[Throttle, ...]:
    return tuple(
        Throttle(trip_c=first_c + number * step_c, clock=clock)
        for number, clock in enumerate((0.8, 0.65, 0.5))
    )


AUDIT = (
    Scenario(
        name="waits",
        about="Another program's time slices add 5 to 30 ms, then 20 to 60 ms, to every inference: "
        "the same for all frame counts, where one factor would say that the most suffer most.",
        phases=(
            _CALM,
            replace(_CALM, wait=Wait(least_ms=5.0, most_ms=30.0)),
            replace(_CALM, wait=Wait(least_ms=20.0, most_ms=60.0)),
        ),
        length_s=360.0,
    ),
    Scenario(
        name="preempted",
        about="Another program interrupts what runs long: 16 frames take 34 ms instead of 18 while "
        "2 frames stay at 1.5, as was recorded beside a load on a graphics card.",
        phases=(
            replace(_CALM, duration_s=40.0, deadline=1.5),
            replace(
                _CALM,
                duration_s=40.0,
                deadline=1.5,
                sharing=TimeSharing(own_ms=16.0, others_ms=15.0),
            ),
        ),
        length_s=240.0,
        board=_SMALL,
    ),
    Scenario(
        name="slow-fewest",
        about="The fewest frames' engine alone takes 2.2 times as long, as a cold or contended one "
        "does, so that the middle one is the fastest; half of the time it alone is in time.",
        phases=(
            _CALM,
            replace(_CALM, own=(2.2, 1.0, 1.0), deadline=0.56),
            replace(_CALM, own=(2.2, 1.0, 1.0)),
        ),
        length_s=360.0,
    ),
    Scenario(
        name="bimodal",
        about="Each inference meets one of two clocks, the slower one by 30 %; the most frames are "
        "in time with either.",
        phases=(replace(_CALM, deadline=1.55),),
        length_s=300.0,
        board=BoardSpec(clocks=(Clock(mhz=(1300.0, 1000.0), dwell_s=0.0, shown=False),)),
    ),
    Scenario(
        name="two-clocks",
        about="A governor switches the GPU between two clocks every 20 s on average, and shows it.",
        phases=(_CALM,),
        length_s=480.0,
        board=BoardSpec(clocks=(Clock(mhz=(1300.0, 800.0), dwell_s=20.0),)),
    ),
    Scenario(
        name="profile-tilted",
        about="The profile says 0.7 times what the fewest frames take and 1.5 times what the most "
        "do: by it these are late, in truth they are in time.",
        phases=(replace(_CALM, deadline=1.3),),
        length_s=300.0,
        board=BoardSpec(profile=Profile(latency=(0.7, 1.0, 1.5))),
    ),
    Scenario(
        name="profile-power",
        about="Under a power budget that steps, the profile says 0.6 times what the fewest frames "
        "draw, 1.4 times what the most do, and 1.1 times what the idle board does.",
        phases=tuple(replace(_CALM, power=position) for position in (1.1, 0.75, 0.25, 0.75)),
        length_s=480.0,
        board=BoardSpec(profile=Profile(power=(0.6, 1.0, 1.4), idle=1.1)),
    ),
    Scenario(
        name="accuracy-swapped",
        about="A validation on 400 clips put the most frames 0.8 points below the middle; in truth "
        "they are 2.6 points better, and in time.",
        phases=(_CALM,),
        length_s=300.0,
        board=BoardSpec(profile=Profile(accuracy=(0.0, 0.014, -0.02), clips=400)),
    ),
    Scenario(
        name="nvml",
        about="A card's power is shown once a second, as the mean of the last second, and read 20 "
        "times a second; a budget steps between what the frame counts draw.",
        phases=tuple(
            replace(_CALM, duration_s=30.0, power=position) for position in (1.1, 0.75, 0.25, 0.75)
        ),
        length_s=240.0,
        board=_CARD,
    ),
    Scenario(
        name="idle-repeats",
        about="Small engines leave the board idle, all the more in pauses of 45 s, and a coarse "
        "sensor that is read once a second repeats its reading: it is not frozen.",
        phases=tuple(
            replace(_CALM, duration_s=80.0, power=position, pause_s=45.0)
            for position in (1.1, 0.75)
        ),
        length_s=240.0,
        board=replace(_SMALL, sensor=_COARSE),
    ),
    Scenario(
        name="trip-99",
        about="A board that throttles from 99 °C on, with its critical trip point at 110 °C, runs "
        "at 97 °C with the most frames, for as long as it likes.",
        phases=(replace(_CALM, ambient_c=60.0),),
        length_s=480.0,
        board=BoardSpec(throttle=_trips(99.0, 2.5), critical_c=110.0),
    ),
    Scenario(
        name="camera-slows",
        about="The camera halves its rate in the dark, which nobody tells: under a power budget "
        "more frames can be had then.",
        phases=tuple(replace(_CALM, power=0.6, period_s=period_s) for period_s in (0.125, 0.25)),
        length_s=240.0,
        board=BoardSpec(period_s=0.125),
    ),
    Scenario(
        name="battery-late",
        about="A battery must last; in the last third another device draws 2 W from it.",
        phases=(replace(_CALM, duration_s=320.0), replace(_CALM, duration_s=160.0, load_w=2.0)),
        length_s=480.0,
        battery=1.0,
    ),
    Scenario(
        name="long-bursts",
        about="One inference in 200 begins a burst of slow ones, each followed by another with "
        "90 %, and of moderate height: most of a burst can be dodged.",
        phases=(replace(_CALM, spike_onset=0.005),),
        length_s=480.0,
        board=BoardSpec(spike_stay=0.9, spike_scale=0.6, spike_shape=0.1),
    ),
    Scenario(
        name="deadline-jitter",
        about="Each inference has a deadline of its own, within 25 % of the mean, as where a queue "
        "takes its part; the board is as ever.",
        phases=(replace(_CALM, deadline=1.35, deadline_jitter=0.25),),
        length_s=300.0,
    ),
    Scenario(
        name="budget-steps",
        about="A power budget steps every 5 to 15 s, as where a neighbour starts and stops.",
        phases=tuple(
            replace(_CALM, duration_s=duration_s, power=position)
            for duration_s, position in ((15.0, 1.1), (5.0, 0.4), (10.0, 0.8), (5.0, 0.1))
        ),
        length_s=350.0,
    ),
    Scenario(
        name="small-pauses",
        about="Engines of 1.5 to 18 ms follow a camera of 30 frames a second that pauses for 8 s "
        "of 20; engines that rested are 2 ms slower once.",
        phases=(replace(_CALM, duration_s=20.0, pause_s=8.0),),
        length_s=120.0,
        board=replace(_SMALL, period_s=1 / 30, cold_ms=2.0),
    ),
)
