"""Scenarios that judge a policy and that nobody tunes on: other boards, cameras and loads.

The causes are those of `audit`, the boards and their values are not, and about a third of the
scenarios have two causes at once. All values are made up, but for the latencies of the recordings.
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
from benchmarks.simulation.interference import TRACES, Measured, read_interference
from benchmarks.simulation.scenario import Scenario
from benchmarks.simulation.sensor import SensorSpec
from ffn_edge.runtime.policy.interface import OperatingPoint

# What a card's driver shows: the mean of a second, once a second.
_NVML = SensorSpec(mean_s=1.0, every_s=1.0, delay_s=0.0, noise=0.0, quantum_w=0.01)
# A processor's own counter: exact, and at once.
_RAPL = SensorSpec(filter_s=0.001, delay_s=0.0, noise=0.002, quantum_w=0.001)


def _points(
    frames: tuple[int, ...],
    base_ms: tuple[float, ...],
    accuracy: tuple[float, ...],
    power_w: tuple[float, ...],
) -> tuple[OperatingPoint, ...]:
    return tuple(
        OperatingPoint(frames=count, base_ms=ms, accuracy=share, power_w=watts)
        for count, ms, share, watts in zip(frames, base_ms, accuracy, power_w, strict=True)
    )


def _throttle(trips: tuple[float, ...], clocks: tuple[float, ...]) -> tuple[Throttle, ...]:
    return tuple(
        Throttle(trip_c=trip_c, clock=clock) for trip_c, clock in zip(trips, clocks, strict=True)
    )


# A small module with an INA, five windows a second.
_MODULE = BoardSpec(
    points=_points((4, 8, 16), (28.0, 52.0, 101.0), (0.512, 0.5635, 0.5902), (3.1, 3.6, 4.0)),
    noise=0.025,
    idle_w=4.2,
    contention_w=2.0,
    resistance_c_per_w=6.0,
    time_constant_s=60.0,
    period_s=0.2,
)
# A single-board computer that answers every 0.6 s.
_SINGLE = BoardSpec(
    points=_points((2, 4, 8), (85.0, 158.0, 300.0), (0.398, 0.474, 0.521), (2.4, 2.7, 2.9)),
    noise=0.04,
    idle_w=2.3,
    contention_w=1.5,
    resistance_c_per_w=9.0,
    time_constant_s=70.0,
    period_s=0.6,
)
# A large module with six engines.
_LARGE = BoardSpec(
    points=_points(
        (2, 4, 8, 12, 16, 32),
        (3.1, 5.2, 9.8, 14.6, 19.5, 39.0),
        (0.640, 0.702, 0.748, 0.763, 0.771, 0.779),
        (7.0, 9.0, 11.0, 12.0, 12.5, 13.5),
    ),
    idle_w=8.5,
    contention_w=5.0,
    resistance_c_per_w=2.6,
    period_s=0.08,
)
# A workstation's card that looks at up to 64 frames.
_CARD = BoardSpec(
    points=_points(
        (8, 16, 32, 64),
        (7.0, 13.0, 26.0, 52.0),
        (0.612, 0.668, 0.701, 0.715),
        (110.0, 128.0, 140.0, 150.0),
    ),
    noise=0.02,
    idle_w=34.0,
    contention_w=60.0,
    resistance_c_per_w=0.3,
    time_constant_s=25.0,
    sensor=_NVML,
    period_s=0.125,
)
# A laptop's processor with five engines.
_LAPTOP = BoardSpec(
    points=_points(
        (2, 4, 6, 8, 16),
        (7.5, 14.0, 20.5, 27.0, 55.0),
        (0.351, 0.420, 0.449, 0.466, 0.492),
        (11.0, 13.0, 14.0, 15.0, 16.0),
    ),
    noise=0.05,
    idle_w=5.5,
    contention_w=9.0,
    resistance_c_per_w=2.2,
    time_constant_s=25.0,
    sensor=_RAPL,
    period_s=0.15,
)
# Two engines, of which the second takes four times as long.
_PAIR = BoardSpec(
    points=_points((8, 32), (46.0, 178.0), (0.548, 0.607), (5.0, 6.4)),
    idle_w=3.6,
    contention_w=2.5,
    period_s=0.4,
)
# Engines of 0.9 to 7.4 ms behind a camera of 50 frames a second.
_QUICK = BoardSpec(
    points=_points(
        (4, 8, 16, 32),
        (0.9, 1.8, 3.7, 7.4),
        (0.470, 0.550, 0.590, 0.602),
        (14.0, 16.0, 18.0, 20.0),
    ),
    noise=0.06,
    idle_w=7.0,
    contention_w=6.0,
    resistance_c_per_w=3.0,
    period_s=0.02,
)
_CALM = Phase(duration_s=50.0)

_SENSORS = (
    Scenario(
        name="card-budget",
        about="A card's power, which its driver shows once a second, has a budget that an operator "
        "changes every 40 s.",
        phases=tuple(
            replace(_CALM, duration_s=40.0, deadline=1.6, power=position)
            for position in (0.9, 0.3, 0.6)
        ),
        length_s=240.0,
        board=_CARD,
    ),
    Scenario(
        name="card-gate",
        about="A card stands idle for 70 s of 110, since nothing moves in the picture, and its "
        "driver then shows the same whole watts all the time. A budget holds.",
        phases=(
            replace(_CALM, duration_s=110.0, power=0.7, pause_s=70.0),
            replace(_CALM, duration_s=110.0, power=1.2, pause_s=70.0),
        ),
        length_s=440.0,
        board=replace(_CARD, sensor=replace(_NVML, quantum_w=1.0)),
    ),
    Scenario(
        name="ina-averages",
        about="An INA that averages for a second is read twice a second, half a second late; the "
        "profile says 1.25 times what the engines draw. A budget rises and falls.",
        phases=tuple(replace(_CALM, power=position) for position in (0.5, 0.85, 0.2, 0.85)),
        length_s=400.0,
        board=replace(
            _MODULE,
            sensor=SensorSpec(rate_hz=2.0, jitter_s=0.05, mean_s=1.0, delay_s=0.5, noise=0.005),
            profile=Profile(power=(1.25,)),
        ),
    ),
    Scenario(
        name="usb-meter",
        about="A meter at the plug tells the mean of two seconds every two seconds, in tenths of a "
        "watt. A budget holds.",
        phases=tuple(replace(_CALM, duration_s=90.0, power=position) for position in (0.8, 0.35)),
        length_s=540.0,
        board=replace(
            _SINGLE,
            sensor=SensorSpec(
                rate_hz=0.5, jitter_s=0.1, mean_s=2.0, delay_s=0.0, noise=0.0, quantum_w=0.1
            ),
        ),
    ),
    Scenario(
        name="half-watts",
        about="A sensor without noise shows half watts, and so the same for a minute of even work; "
        "the budget is ample, then it is not.",
        phases=tuple(replace(_CALM, duration_s=80.0, power=position) for position in (1.15, 0.65)),
        length_s=320.0,
        board=replace(
            _MODULE, sensor=SensorSpec(rate_hz=4.0, filter_s=1.0, noise=0.0, quantum_w=0.5)
        ),
    ),
)

_HEAT = (
    Scenario(
        name="cabinet",
        about="In a cabinet of 52 °C a board comes to 92 °C with the most frames, and may: it "
        "throttles from 99 °C on, and stops at 105.",
        phases=(replace(_CALM, ambient_c=52.0),),
        length_s=190.0,
        board=replace(
            _LARGE, throttle=_throttle((99.0, 101.0, 103.0), (0.75, 0.6, 0.45)), critical_c=105.0
        ),
    ),
    Scenario(
        name="fanless",
        about="A processor without a fan throttles by 12 % from 100 °C on and by more above, and "
        "stops at 110; the air warms and cools, and the deadline has room for the first step.",
        phases=tuple(
            replace(_CALM, duration_s=60.0, ambient_c=celsius) for celsius in (50.0, 78.0, 72.0)
        ),
        length_s=360.0,
        board=replace(
            _LAPTOP, throttle=_throttle((100.0, 103.0, 106.0), (0.88, 0.75, 0.6)), critical_c=110.0
        ),
    ),
    Scenario(
        name="warm-and-shared",
        about="A single-board computer throttles at 80 and at 85 °C, and another program comes and "
        "goes that takes a quarter of the processor and warms it.",
        phases=(
            replace(_CALM, duration_s=100.0, deadline=1.45, ambient_c=38.0),
            replace(_CALM, duration_s=80.0, deadline=1.45, ambient_c=46.0, contention=0.25),
        ),
        length_s=540.0,
        board=replace(_SINGLE, throttle=_throttle((80.0, 85.0), (0.83, 0.67)), hysteresis_c=2.0),
    ),
    Scenario(
        name="card-target",
        about="A card holds 83 °C by lowering its clocks in steps of 6 %, and names no trip point; "
        "another card beside it warms its air.",
        phases=(
            replace(_CALM, deadline=1.25, ambient_c=32.0),
            replace(_CALM, duration_s=100.0, deadline=1.25, ambient_c=57.0),
        ),
        length_s=300.0,
        board=replace(
            _CARD, throttle=_throttle((83.0, 85.0, 87.0), (0.94, 0.88, 0.82)), hysteresis_c=1.5
        ),
    ),
)

_PROFILES = (
    Scenario(
        name="other-mode",
        about="The profile was made in a lower power mode: latencies 1.45 times those of now, "
        "powers 0.75 times. By it the most frames are late.",
        phases=(replace(_CALM, deadline=1.2), replace(_CALM, deadline=0.8)),
        length_s=400.0,
        board=replace(_MODULE, profile=Profile(latency=(1.45,), power=(0.75,))),
    ),
    Scenario(
        name="power-tilted",
        about="The profile says 1.3 times what the fewest frames draw and 0.75 times what the most "
        "do, and latencies tilted a little the other way. A budget steps.",
        phases=tuple(
            replace(_CALM, duration_s=45.0, power=position) for position in (0.7, 1.05, 0.4)
        ),
        length_s=270.0,
        board=replace(
            _LAPTOP, profile=Profile(latency=(0.9, 1.0, 1.15), power=(1.3, 1.0, 0.75), idle=0.95)
        ),
    ),
    Scenario(
        name="locked-clocks",
        about="The profile was made with locked clocks: latencies 0.75 times the true ones, powers "
        "1.2 times. A battery must last.",
        phases=(replace(_CALM, deadline=1.3),),
        length_s=480.0,
        battery=0.55,
        board=replace(_PAIR, profile=Profile(latency=(0.75,), power=(1.2,))),
    ),
    Scenario(
        name="card-disturbed",
        about="While the card was profiled somebody else used it: each engine is off by another 20 "
        "to 30 % in latency and in power; a budget holds, which the driver shows once a second.",
        phases=(
            replace(_CALM, power=0.8),
            replace(_CALM, power=0.8, deadline=0.7),
            replace(_CALM, power=0.4),
        ),
        length_s=300.0,
        board=replace(
            _CARD, profile=Profile(latency=(1.3, 0.8, 1.25, 1.2), power=(0.8, 1.25, 0.75, 1.2))
        ),
    ),
)

_FEWEST = (
    Scenario(
        name="little-cores",
        about="For half a minute of each minute and a half the small engines land on little cores "
        "and take up to 3.5 times as long; the deadline lies between.",
        phases=(
            replace(_CALM, deadline=0.65),
            replace(_CALM, duration_s=40.0, deadline=0.45, own=(3.5, 2.0, 1.0, 1.0, 1.0)),
        ),
        length_s=360.0,
        board=_LAPTOP,
    ),
    Scenario(
        name="int8-first",
        about="Eight frames in int8 take 31 ms, four in fp32 40: for a while the deadline has room "
        "for the eight alone.",
        phases=(
            replace(_CALM, deadline=1.4),
            replace(_CALM, duration_s=70.0, deadline=0.56),
        ),
        length_s=360.0,
        board=replace(
            _MODULE,
            points=(
                OperatingPoint(frames=4, base_ms=40.0, accuracy=0.512, power_w=3.6),
                OperatingPoint(
                    frames=8, precision="int8", base_ms=31.0, accuracy=0.5605, power_w=3.2
                ),
                OperatingPoint(
                    frames=16, precision="int8", base_ms=66.0, accuracy=0.588, power_w=3.5
                ),
            ),
        ),
    ),
    Scenario(
        name="weights-bound",
        about="The memory switches between two clocks, unseen, every 25 s: the fewest frames, "
        "which mostly read weights, then take twice as long, the most a tenth more. The deadline "
        "moves.",
        phases=(
            replace(_CALM, duration_s=30.0, deadline=1.3),
            replace(_CALM, duration_s=20.0, deadline=0.75),
            replace(_CALM, duration_s=15.0, deadline=1.05),
        ),
        length_s=390.0,
        board=replace(
            _MODULE,
            points=_points(
                (4, 8, 16), (37.0, 46.0, 95.0), (0.512, 0.5635, 0.5902), (3.1, 3.6, 4.0)
            ),
            clocks=(
                Clock(
                    mhz=(2133.0, 1066.0),
                    dwell_s=25.0,
                    bound=(1.0, 0.4, 0.1),
                    power=0.5,
                    shown=False,
                ),
            ),
        ),
    ),
)

_CLOCKS = (
    Scenario(
        name="turbo",
        about="A processor leaves its turbo clock for seconds, and nobody tells; the most frames "
        "are in time with either.",
        phases=(replace(_CALM, deadline=1.45),),
        length_s=300.0,
        board=replace(
            _LAPTOP,
            clocks=(Clock(mhz=(3400.0, 2600.0), dwell_s=8.0, bound=(0.9, 0.8, 0.75), shown=False),),
        ),
    ),
    Scenario(
        name="ondemand",
        about="A governor moves among three clocks every 15 s, and shows them; at the lowest the "
        "most frames are late.",
        phases=(replace(_CALM, deadline=1.7),),
        length_s=420.0,
        board=replace(_MODULE, clocks=(Clock(mhz=(918.0, 714.0, 408.0), dwell_s=15.0),)),
    ),
    Scenario(
        name="one-in-three",
        about="A third of the inferences, with no order, meet a clock 30 % lower: too low for the "
        "larger engine, but not for the smaller.",
        phases=(replace(_CALM, deadline=1.55), replace(_CALM, deadline=1.25)),
        length_s=500.0,
        board=replace(
            _PAIR, clocks=(Clock(mhz=(1000.0, 1000.0, 700.0), dwell_s=0.0, shown=False),)
        ),
    ),
    Scenario(
        name="card-clocks",
        about="A card's clock changes every 30 s and is shown, its power once a second, and a "
        "budget holds.",
        phases=(
            replace(_CALM, duration_s=70.0, deadline=1.6, power=0.85),
            replace(_CALM, duration_s=70.0, deadline=1.6, power=0.5),
        ),
        length_s=280.0,
        board=replace(_CARD, clocks=(Clock(mhz=(1980.0, 1410.0), dwell_s=30.0),)),
    ),
)

_WAITS = (
    Scenario(
        name="compositor",
        about="A screen's compositor takes the GPU in turns, 4 ms after each 7, while somebody "
        "watches.",
        phases=(
            replace(_CALM, duration_s=30.0),
            replace(_CALM, duration_s=30.0, sharing=TimeSharing(own_ms=7.0, others_ms=4.0)),
        ),
        length_s=180.0,
        board=_LARGE,
    ),
    Scenario(
        name="second-network",
        about="A second network on the same GPU lets half of the inferences wait for 8 to 25 ms, "
        "and later nearly all for 20 to 45.",
        phases=(
            _CALM,
            replace(_CALM, wait=Wait(least_ms=8.0, most_ms=25.0, chance=0.5)),
            replace(_CALM, wait=Wait(least_ms=20.0, most_ms=45.0, chance=0.9)),
        ),
        length_s=450.0,
        board=_MODULE,
    ),
    Scenario(
        name="encoder",
        about="While a clip is encoded the processor is shared, 30 ms after each 70, and the "
        "camera sends a window every 0.3 s instead of 0.6.",
        phases=(
            replace(_CALM, duration_s=60.0, deadline=1.15, period_s=0.6),
            replace(
                _CALM,
                duration_s=60.0,
                deadline=0.95,
                period_s=0.3,
                sharing=TimeSharing(own_ms=70.0, others_ms=30.0),
            ),
        ),
        length_s=480.0,
        board=_SINGLE,
    ),
)

_LIMITS = (
    Scenario(
        name="operator",
        about="An operator and a scheduler move the deadline every 8 to 25 s, by a factor of up to "
        "four.",
        phases=tuple(
            replace(_CALM, duration_s=duration_s, deadline=deadline)
            for duration_s, deadline in (
                (20.0, 2.0),
                (8.0, 0.5),
                (25.0, 0.95),
                (12.0, 1.4),
                (10.0, 0.65),
            )
        ),
        length_s=370.0,
        board=_LAPTOP,
    ),
    Scenario(
        name="queue",
        about="What is left of the deadline after a queue differs by up to 40 % from one inference "
        "to the next.",
        phases=(
            replace(_CALM, deadline=1.6, deadline_jitter=0.4),
            replace(_CALM, deadline=0.8, deadline_jitter=0.3),
        ),
        length_s=200.0,
        board=replace(_LARGE, period_s=0.1),
    ),
    Scenario(
        name="tariff",
        about="Deadline and budget both step, each in its own time, and what was measured of the "
        "accuracy, on 500 clips, is off by up to two points.",
        phases=tuple(
            replace(_CALM, duration_s=15.0, deadline=deadline, power=position)
            for deadline, position in (
                (1.5, 1.1),
                (1.5, 0.5),
                (0.7, 0.5),
                (0.7, 0.8),
                (1.2, 0.8),
                (1.2, 0.25),
            )
        ),
        length_s=360.0,
        board=replace(_MODULE, profile=Profile(accuracy=(0.012, 0.02, -0.018), clips=500)),
    ),
)

_CAMERAS = (
    Scenario(
        name="dusk",
        about="At dusk a camera falls from 10 frames a second to 4, with a budget that then has "
        "room for more.",
        phases=(
            replace(_CALM, power=0.45, period_s=0.1),
            replace(_CALM, power=0.45, period_s=0.25),
        ),
        length_s=300.0,
        board=replace(_LAPTOP, period_s=0.1),
    ),
    Scenario(
        name="told-half-a-second",
        about="Somebody told half a second between windows, and they come every 0.3; a battery "
        "must last.",
        phases=(_CALM,),
        length_s=450.0,
        battery=0.5,
        board=replace(_PAIR, period_s=0.3, profile=Profile(period_s=0.5)),
    ),
    Scenario(
        name="wandering-rate",
        about="A network camera picks another rate every 30 s, 2 to 12 frames a second, and its "
        "frames come up to 20 % early or late. A budget holds.",
        phases=tuple(
            replace(_CALM, duration_s=30.0, power=0.75, period_s=period_s, period_jitter=0.2)
            for period_s in (0.08, 0.2, 0.12, 0.5)
        ),
        length_s=240.0,
        board=_LARGE,
    ),
)

_BATTERIES = (
    Scenario(
        name="shared-battery",
        about="A battery must last while another program comes, at 15 and at 30 % of the "
        "processor.",
        phases=tuple(
            replace(_CALM, duration_s=60.0, contention=share) for share in (0.0, 0.15, 0.0, 0.3)
        ),
        length_s=360.0,
        battery=0.8,
        board=_LAPTOP,
    ),
    Scenario(
        name="warm-battery",
        about="A battery must last, and at noon the board nears its trip point of 88 °C and "
        "throttles if it runs the most frames.",
        phases=(
            replace(_CALM, duration_s=140.0, ambient_c=30.0),
            replace(_CALM, duration_s=120.0, ambient_c=53.0),
            replace(_CALM, duration_s=140.0, ambient_c=35.0),
        ),
        length_s=400.0,
        battery=0.85,
        board=replace(
            _MODULE, throttle=_throttle((88.0, 91.0, 94.0), (0.85, 0.7, 0.5)), critical_c=102.0
        ),
    ),
    Scenario(
        name="night-battery",
        about="A battery must last the night, in which the camera sends a window a second instead "
        "of one each 0.6 s.",
        phases=(
            replace(_CALM, duration_s=240.0, period_s=0.6),
            replace(_CALM, duration_s=360.0, period_s=1.0),
        ),
        length_s=600.0,
        battery=0.6,
        board=_SINGLE,
    ),
)

_BURSTS = (
    Scenario(
        name="swapping",
        about="One inference in 250 begins a run of slow ones, seven on average, up to twice as "
        "slow or a little more.",
        phases=(replace(_CALM, deadline=1.4, spike_onset=0.004),),
        length_s=380.0,
        board=replace(_MODULE, spike_stay=0.86, spike_scale=0.7, spike_shape=0.05),
    ),
    Scenario(
        name="interrupts",
        about="One inference in a hundred begins a short and heavy burst, and the clock changes, "
        "unseen, every 20 s.",
        phases=(replace(_CALM, deadline=1.5, spike_onset=0.01),),
        length_s=300.0,
        board=replace(
            _LAPTOP,
            spike_stay=0.55,
            spike_scale=0.6,
            spike_shape=0.3,
            clocks=(Clock(mhz=(2800.0, 2200.0), dwell_s=20.0, shown=False),),
        ),
    ),
    Scenario(
        name="rough",
        about="Latencies vary by 13 %, of which the profile knew 5; the deadline moves.",
        phases=(
            replace(_CALM, duration_s=80.0, deadline=1.5),
            replace(_CALM, duration_s=80.0, deadline=1.15),
            replace(_CALM, duration_s=40.0, deadline=0.7),
        ),
        length_s=600.0,
        board=replace(_PAIR, noise=0.13, profile=Profile(noise=0.05)),
    ),
)

_SMALL = (
    Scenario(
        name="gate-50-hz",
        about="Engines of 0.9 to 7.4 ms, 50 times a second, while a gate is open: 6 s of 20. The "
        "first inference after it takes 4 ms longer.",
        phases=(
            replace(_CALM, duration_s=20.0, pause_s=14.0),
            replace(_CALM, duration_s=20.0, pause_s=14.0, deadline=0.8),
        ),
        length_s=120.0,
        board=replace(_QUICK, wake_ms=4.0),
    ),
    Scenario(
        name="doorbell",
        about="A camera looks for 15 s of each 45; after that, the first inference takes 40 ms "
        "longer, and after another engine's, 8 ms.",
        phases=(
            replace(_CALM, duration_s=45.0, pause_s=30.0, deadline=1.3),
            replace(_CALM, duration_s=45.0, pause_s=30.0, deadline=0.85),
        ),
        length_s=540.0,
        board=replace(_MODULE, cold_ms=8.0, wake_ms=40.0),
    ),
    Scenario(
        name="quick-waits",
        about="Beside engines of 0.9 to 7.4 ms, every 60 ms, another program's kernels let four of "
        "ten wait for up to 3 ms, and what follows another engine takes 0.5 ms longer.",
        phases=(
            replace(_CALM, duration_s=25.0),
            replace(_CALM, duration_s=25.0, wait=Wait(least_ms=0.5, most_ms=3.0, chance=0.4)),
        ),
        length_s=140.0,
        board=replace(_QUICK, period_s=0.06, cold_ms=0.5),
    ),
)

_ACCURACIES = (
    Scenario(
        name="few-labels",
        about="Six engines were validated on 250 clips: what was measured falls and rises, within "
        "its error, where the truth rises.",
        phases=(replace(_CALM, duration_s=60.0), replace(_CALM, duration_s=40.0, deadline=0.6)),
        length_s=200.0,
        board=replace(
            _LARGE,
            period_s=0.1,
            profile=Profile(accuracy=(0.02, -0.015, 0.025, -0.01, -0.03, 0.0), clips=250),
        ),
    ),
    Scenario(
        name="few-labels-budget",
        about="On 150 clips the larger of two engines was measured a point worse than the smaller; "
        "a budget steps, and has room for it in two thirds of the time.",
        phases=tuple(
            replace(_CALM, duration_s=60.0, power=position) for position in (1.1, 0.5, 1.2)
        ),
        length_s=540.0,
        board=replace(_PAIR, profile=Profile(accuracy=(0.03, -0.04), clips=150)),
    ),
)

# No recorded network was trained: these are of the size that a family on real clips has.
_ACCURACY = {2: 0.40, 4: 0.50, 8: 0.55, 16: 0.57}
_RECORDED = tuple(
    Measured(
        recorded=replace(read_interference(TRACES / f"{trace}.jsonl.gz"), name=name),
        deadline=deadline,
        accuracy=_ACCURACY,
    )
    for name, trace, deadline in (
        ("steps-tight", "cpu-large-steps", 1.25),
        ("steps-loose", "cpu-large-steps", 2.5),
        ("hump-tight", "cpu-middle-approxdet", 1.25),
        ("hump-loose", "cpu-middle-approxdet", 2.5),
        ("bursts-tight", "cpu-tiny-bursts", 2.5),
        ("bursts-loose", "cpu-tiny-bursts", 4.0),
    )
)

HELD_OUT: tuple[Scenario | Measured, ...] = (
    *_SENSORS,
    *_HEAT,
    *_PROFILES,
    *_FEWEST,
    *_CLOCKS,
    *_WAITS,
    *_LIMITS,
    *_CAMERAS,
    *_BATTERIES,
    *_BURSTS,
    *_SMALL,
    *_ACCURACIES,
    *_RECORDED,
)
