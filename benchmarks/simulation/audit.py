"""Scenarios on boards that nobody tuned for: each is a cause for which a policy may fail.

All values are made up. Where a recording gave the size of an effect, `about` says so.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.simulation.board import (
    SYNTHETIC,
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
_FIVE = BoardSpec(
    points=(
        OperatingPoint(frames=2, base_ms=11.0, accuracy=0.3610, power_w=8.0),
        OperatingPoint(frames=4, base_ms=20.0, accuracy=0.4285, power_w=9.0),
        OperatingPoint(frames=8, base_ms=38.0, accuracy=0.4820, power_w=10.0),
        OperatingPoint(frames=12, base_ms=56.0, accuracy=0.4990, power_w=10.5),
        OperatingPoint(frames=16, base_ms=74.0, accuracy=0.5079, power_w=11.0),
    ),
)
_TWO = replace(SYNTHETIC, points=(SYNTHETIC.points[0], SYNTHETIC.points[-1]))
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
_SOME = Wait(least_ms=10.0, most_ms=20.0, chance=0.3)


def _trips(first_c: float, step_c: float) -> tuple[Throttle, ...]:
    return tuple(
        Throttle(trip_c=first_c + number * step_c, clock=clock)
        for number, clock in enumerate((0.8, 0.65, 0.5))
    )


AUDIT = (
    Scenario(
        name="waits",
        about="Another program's time slices add 5 to 18 ms, then 30 to 60 ms, to every inference: "
        "the same for all frame counts, where one factor would say that the most suffer most.",
        phases=(
            _CALM,
            replace(_CALM, wait=Wait(least_ms=5.0, most_ms=18.0)),
            replace(_CALM, wait=Wait(least_ms=30.0, most_ms=60.0)),
        ),
        length_s=360.0,
    ),
    Scenario(
        name="waits-some",
        about="Three inferences in ten wait 10 to 20 ms; while the deadline is short for the most "
        "frames, the middle ones meet the waits, which tell nothing bad of the most.",
        phases=(
            replace(_CALM, duration_s=20.0, deadline=0.9, wait=_SOME),
            replace(_CALM, wait=_SOME),
        ),
        length_s=400.0,
    ),
    Scenario(
        name="waits-small",
        about="Engines of 1.5 to 18 ms beside another program's kernels of 4 and of 12 ms: to the "
        "smallest a wait is eight times its latency, to the largest half.",
        phases=(
            replace(_CALM, duration_s=30.0, wait=Wait(most_ms=4.0)),
            replace(_CALM, duration_s=30.0, wait=Wait(least_ms=8.0, most_ms=12.0)),
        ),
        length_s=240.0,
        board=_SMALL,
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
        name="preempted-large",
        about="Another program takes turns with engines of 20 to 74 ms: 20 ms after each 25.",
        phases=(_CALM, replace(_CALM, sharing=TimeSharing(own_ms=25.0, others_ms=20.0))),
        length_s=480.0,
    ),
    Scenario(
        name="slow-fewest",
        about="The fewest frames' engine alone takes 2.2 times as long, as a cold or contended one "
        "does, so that the middle one is the fastest; most of the time it alone is in time.",
        phases=(
            replace(_CALM, duration_s=30.0, own=(2.2, 1.0, 1.0)),
            replace(_CALM, duration_s=90.0, own=(2.2, 1.0, 1.0), deadline=0.56),
        ),
        length_s=360.0,
    ),
    Scenario(
        name="slow-middle",
        about="The middle engine alone takes 2.4 times as long for a minute, longer than the most "
        "frames; then it is well again, when a short deadline needs it.",
        phases=(
            replace(_CALM, own=(1.0, 2.4, 1.0)),
            replace(_CALM, own=(1.0, 2.4, 1.0), deadline=0.85),
            replace(_CALM, deadline=0.85),
        ),
        length_s=360.0,
    ),
    Scenario(
        name="own-turns",
        about="Of five engines another one or two are slower each 40 s, by 30 to 80 %, under a "
        "deadline between them.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, deadline=0.9, own=own)
            for own in (
                (1.0, 1.0, 1.0, 1.0, 1.0),
                (1.0, 1.0, 1.0, 1.4, 1.0),
                (1.8, 1.0, 1.0, 1.0, 1.3),
                (1.8, 1.8, 1.0, 1.5, 1.5),
                (1.0, 1.0, 1.8, 1.0, 1.0),
            )
        ),
        length_s=400.0,
        board=_FIVE,
    ),
    Scenario(
        name="bimodal",
        about="Each inference meets one of two clocks, one a quarter lower; the most frames are in "
        "time with either.",
        phases=(replace(_CALM, deadline=1.5),),
        length_s=300.0,
        board=BoardSpec(clocks=(Clock(mhz=(1300.0, 975.0), dwell_s=0.0, shown=False),)),
    ),
    Scenario(
        name="three-modes",
        about="The GPU takes another of three clocks every second or so; even at the lowest the "
        "most frames are in time.",
        phases=(replace(_CALM, deadline=1.65),),
        length_s=400.0,
        board=BoardSpec(clocks=(Clock(mhz=(1300.0, 1100.0, 900.0), dwell_s=1.0),)),
    ),
    Scenario(
        name="two-clocks",
        about="A governor switches the GPU between two clocks every 20 s on average, and shows it.",
        phases=(_CALM,),
        length_s=480.0,
        board=BoardSpec(clocks=(Clock(mhz=(1300.0, 800.0), dwell_s=20.0),)),
    ),
    Scenario(
        name="memory-clock",
        about="The memory switches between two clocks every 30 s: the fewest frames, bound by "
        "reading weights, feel it most. A short deadline keeps the most frames away at times.",
        phases=(_CALM, replace(_CALM, duration_s=20.0, deadline=0.8)),
        length_s=480.0,
        board=BoardSpec(
            clocks=(
                Clock(mhz=(1300.0,), dwell_s=60.0),
                Clock(mhz=(3200.0, 2133.0), dwell_s=30.0, bound=(0.9, 0.6, 0.3), power=0.5),
            )
        ),
    ),
    Scenario(
        name="both-clocks",
        about="GPU and memory switch by themselves, unseen, every 60 s and every 5 s, under a "
        "power budget that lies between what the frame counts draw.",
        phases=(replace(_CALM, deadline=2.0, power=0.6),),
        length_s=480.0,
        board=BoardSpec(
            clocks=(
                Clock(mhz=(1300.0, 1000.0), dwell_s=60.0, shown=False),
                Clock(mhz=(3200.0, 2133.0), dwell_s=5.0, bound=(0.5,), power=0.5, shown=False),
            )
        ),
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
        name="profile-fast",
        about="The profile was made on a busy board: latencies 1.4 times and powers 1.5 times too "
        "large, and 0.8 times the idle power. A budget steps.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, power=position) for position in (1.1, 0.75, 0.4)
        ),
        length_s=480.0,
        board=BoardSpec(profile=Profile(latency=(1.4,), power=(1.5,), idle=0.8)),
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
        name="profile-idle",
        about="The profile was made without the camera and the modem: the idle board draws 1.5 "
        "times what it says. A battery must last.",
        phases=(_CALM,),
        length_s=480.0,
        battery=0.7,
        board=BoardSpec(profile=Profile(idle=1 / 1.5)),
    ),
    Scenario(
        name="profile-mixed",
        about="A profile of five engines was disturbed: each is off by another factor, 0.7 to 1.5, "
        "in latency and in power. The deadline moves, and then a budget holds.",
        phases=(
            _CALM,
            replace(_CALM, deadline=0.85),
            replace(_CALM, power=0.6),
        ),
        length_s=540.0,
        board=replace(
            _FIVE,
            profile=Profile(latency=(1.4, 0.8, 1.2, 0.7, 1.4), power=(0.7, 1.3, 0.8, 1.5, 0.8)),
        ),
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
        name="accuracy-five",
        about="Five engines were validated on 300 clips, whose error is three points: what was "
        "measured goes up and down with the frames, the truth goes up.",
        phases=(_CALM, replace(_CALM, deadline=0.85)),
        length_s=360.0,
        board=replace(
            _FIVE, profile=Profile(accuracy=(0.02, -0.02, 0.015, -0.025, -0.01), clips=300)
        ),
    ),
    Scenario(
        name="accuracy-unlucky",
        about="On 60 clips the fewest frames were measured best, by less than the error; a power "
        "budget leaves room for all in one half of the time.",
        phases=(replace(_CALM, power=1.1), replace(_CALM, power=0.6)),
        length_s=360.0,
        board=BoardSpec(profile=Profile(accuracy=(0.09, 0.0, -0.02), clips=60)),
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
        name="ina-1hz",
        about="An INA that averages for a second is read once a second, up to 0.2 s late, and "
        "shows what was a second ago; a power budget steps.",
        phases=tuple(replace(_CALM, power=position) for position in (1.1, 0.75, 0.25, 0.75)),
        length_s=480.0,
        board=BoardSpec(
            sensor=replace(_COARSE, jitter_s=0.2, delay_s=1.0, noise=0.005, quantum_w=0.04)
        ),
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
        name="sensor-slow",
        about="A meter outside averages for four seconds and speaks as seldom: longer ago than a "
        "sensor may be silent. A budget steps every 40 s.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, power=position) for position in (0.75, 0.25, 1.1)
        ),
        length_s=360.0,
        board=BoardSpec(
            sensor=SensorSpec(rate_hz=0.25, mean_s=4.0, delay_s=0.0, noise=0.0, quantum_w=0.25)
        ),
    ),
    Scenario(
        name="sensor-away",
        about="A sensor that is read once a second goes away for 20 s of 80; a battery must last.",
        phases=(_CALM, replace(_CALM, duration_s=20.0, sensor="gone")),
        length_s=480.0,
        battery=0.8,
        board=BoardSpec(sensor=_COARSE),
    ),
    Scenario(
        name="trip-85",
        about="A board in a hot housing throttles from 85 °C on, with its critical trip point at "
        "99 °C: clocks that are a fifth lower still keep the deadline.",
        phases=(replace(_CALM, ambient_c=30.0), replace(_CALM, duration_s=180.0, ambient_c=50.0)),
        length_s=480.0,
        board=BoardSpec(throttle=_trips(85.0, 3.5), critical_c=99.0),
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
        name="trip-fast",
        about="A small heat sink, of 6 s: the board throttles from 95 °C on and recovers within "
        "seconds, while the air gets hotter and cools.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, ambient_c=celsius) for celsius in (40.0, 58.0, 63.0)
        ),
        length_s=480.0,
        board=BoardSpec(throttle=_trips(95.0, 3.0), critical_c=107.0, time_constant_s=6.0),
    ),
    Scenario(
        name="trip-slow",
        about="A large heat sink, of 150 s, with trip points from 99 °C on, in air that rises to "
        "60 °C: it nears 97 °C for minutes, and trips nothing.",
        phases=tuple(
            replace(_CALM, duration_s=200.0, ambient_c=celsius) for celsius in (45.0, 60.0, 60.0)
        ),
        length_s=600.0,
        board=BoardSpec(throttle=_trips(99.0, 2.5), critical_c=109.0, time_constant_s=150.0),
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
        name="camera-speeds",
        about="The camera sends 8 frames a second where 4 were told, half of the time: under a "
        "power budget fewer frames can be had then.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, power=1.0, period_s=period_s)
            for period_s in (0.25, 0.125)
        ),
        length_s=240.0,
        board=BoardSpec(profile=Profile(period_s=0.25)),
    ),
    Scenario(
        name="camera-jitters",
        about="The frames of a network camera come 65 to 135 ms apart: at times the next one is "
        "there before the most frames' 74 ms are over. A power budget holds.",
        phases=(replace(_CALM, power=0.6, period_jitter=0.35),),
        length_s=240.0,
        board=BoardSpec(period_s=0.1),
    ),
    Scenario(
        name="pauses",
        about="A gate stops inference for 5 s of 40; what comes after it, or after another engine, "
        "takes 25 ms longer once, which nobody tells.",
        phases=(
            replace(_CALM, duration_s=40.0, pause_s=5.0),
            replace(_CALM, duration_s=40.0, pause_s=5.0, deadline=1.0),
        ),
        length_s=480.0,
        board=BoardSpec(cold_ms=25.0, wake_ms=25.0),
    ),
    Scenario(
        name="small-pauses",
        about="Engines of 1.5 to 18 ms follow a camera of 30 frames a second that pauses for 8 s "
        "of 20; the first inference after it takes 30 ms longer, which no frame count helps.",
        phases=tuple(
            replace(_CALM, duration_s=20.0, pause_s=8.0, deadline=deadline)
            for deadline in (1.35, 0.7)
        ),
        length_s=120.0,
        board=replace(_SMALL, period_s=1 / 30, wake_ms=30.0),
    ),
    Scenario(
        name="deadline-jitter",
        about="Each inference has a deadline of its own, within 25 % of the mean, as where a queue "
        "takes its part; the board is as ever.",
        phases=(replace(_CALM, deadline=1.35, deadline_jitter=0.25),),
        length_s=300.0,
    ),
    Scenario(
        name="deadline-steps",
        about="The deadline steps every 4 to 10 s, up as often as down, and the board is as ever.",
        phases=tuple(
            replace(_CALM, duration_s=duration_s, deadline=deadline)
            for duration_s, deadline in (
                (10.0, 1.5),
                (5.0, 0.7),
                (4.0, 1.3),
                (6.0, 0.4),
                (5.0, 0.8),
            )
        ),
        length_s=420.0,
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
        name="battery-early",
        about="A battery must last; for the first quarter another device draws 2 W from it.",
        phases=(replace(_CALM, duration_s=120.0, load_w=2.0), replace(_CALM, duration_s=360.0)),
        length_s=480.0,
        battery=1.0,
    ),
    Scenario(
        name="battery-late",
        about="A battery must last; in the last third another device draws 2 W from it.",
        phases=(replace(_CALM, duration_s=320.0), replace(_CALM, duration_s=160.0, load_w=2.0)),
        length_s=480.0,
        battery=1.0,
    ),
    Scenario(
        name="int8-order",
        about="Sixteen frames in int8 take 30 ms, eight in fp32 38: the order of latencies is not "
        "that of frames. For a while the int8 engine alone is late, for a while the fp32 one is.",
        phases=(
            replace(_CALM, deadline=1.5),
            replace(_CALM, deadline=1.5, own=(1.0, 1.0, 1.7)),
            replace(_CALM, deadline=1.5, contention=0.25),
        ),
        length_s=540.0,
        board=BoardSpec(
            points=(
                *SYNTHETIC.points[:2],
                OperatingPoint(
                    frames=16, precision="int8", base_ms=30.0, accuracy=0.5040, power_w=9.0
                ),
            ),
        ),
    ),
    Scenario(
        name="stream-waits",
        about="A stream's rates have engines of their own, of 70, 60 and 45 ms in int8; another "
        "program adds 20 to 40 ms, and then up to 100.",
        phases=(
            replace(_CALM, deadline=None),
            replace(_CALM, deadline=None, wait=Wait(least_ms=20.0, most_ms=40.0)),
            replace(_CALM, deadline=None, wait=Wait(least_ms=85.0, most_ms=100.0)),
        ),
        length_s=360.0,
        board=BoardSpec(
            points=(
                replace(SYNTHETIC.points[0], base_ms=70.0, period_s=0.5),
                replace(SYNTHETIC.points[1], base_ms=60.0, period_s=0.25),
                replace(SYNTHETIC.points[2], base_ms=45.0, period_s=0.125, precision="int8"),
            )
        ),
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
        name="heavy-noise",
        about="Latencies vary by 20 %, of which the profile knew 3.",
        phases=(replace(_CALM, deadline=1.7), replace(_CALM, deadline=1.0)),
        length_s=480.0,
        board=BoardSpec(noise=0.2, profile=Profile(noise=0.03)),
    ),
    Scenario(
        name="pareto",
        about="One inference in 50 alone is slow, with a heavy Pareto tail: nothing follows from "
        "it, and to run fewer frames after it dodges nothing.",
        phases=(replace(_CALM, spike_onset=0.02),),
        length_s=480.0,
        board=BoardSpec(spike_stay=0.0, spike_scale=0.3, spike_shape=0.4),
    ),
    Scenario(
        name="two-engines",
        about="Two engines, far apart, and another process that takes a part of the processor: "
        "there is no rung between them.",
        phases=tuple(
            replace(_CALM, duration_s=30.0, contention=share) for share in (0.0, 0.2, 0.4, 0.2)
        ),
        length_s=480.0,
        board=_TWO,
    ),
)
