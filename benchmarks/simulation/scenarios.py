"""The scenarios, by name. The constants of `ALL` come from what is cited; no policy was asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from benchmarks.simulation.audit import AUDIT
from benchmarks.simulation.board import Phase
from benchmarks.simulation.held_out import HELD_OUT
from benchmarks.simulation.interference import TRACES, Measured, read_interference
from benchmarks.simulation.scenario import Scenario
from ffn_edge.errors import FfnEdgeError

__all__ = ["ALL", "AUDIT", "HELD_OUT", "RECORDED", "Scenario", "named"]

# Of the power scenarios: nothing to save, the most frames too many, all but the fewest too many.
_AMPLE, _BETWEEN_UPPER, _BETWEEN_LOWER = 1.1, 0.75, 0.25


def _drift(levels: Iterable[float], step_s: float) -> tuple[Phase, ...]:
    return tuple(Phase(duration_s=step_s, drift=level) for level in levels)


_USUAL = Phase(duration_s=60.0)
# 200 frames at 30 frames a second.
_APPROXDET = Phase(duration_s=200 / 30)
_HUMP = (0.0, 0.2, 0.4, 0.6, 0.4, 0.2)

ALL = (
    Scenario(
        name="steady",
        about="Nothing happens but noise and a rare spike. Spikes alone make the most frames miss "
        "about 0.1 % of their deadlines, a share that was reported on a Jetson.",
        phases=(replace(_USUAL, duration_s=600.0),),
    ),
    Scenario(
        name="contention",
        about="Another process takes 0, 20, 40, 60, 40, 20 % of the processor, for 200 frames at "
        "30 frames a second each, over and over: the protocol of ApproxDet (SenSys 2020).",
        phases=tuple(replace(_APPROXDET, contention=share) for share in _HUMP),
    ),
    Scenario(
        name="deadline",
        about="The deadline moves by ApproxDet's span, 300 to 80 ms, scaled to the board: 1.5, "
        "0.75 and 0.4 base latencies of the most frames, for a minute each, down and up.",
        phases=tuple(replace(_USUAL, deadline=factor) for factor in (1.5, 0.75, 0.4, 0.75)),
    ),
    Scenario(
        name="power",
        about="A power budget steps down and up, between what the frame counts draw.",
        phases=tuple(
            replace(_USUAL, power=position)
            for position in (_AMPLE, _BETWEEN_UPPER, _BETWEEN_LOWER, _BETWEEN_UPPER)
        ),
    ),
    Scenario(
        name="heat",
        about="The air in the housing is hot for five minutes of ten: where the most frames run on "
        "there, the board throttles.",
        phases=(
            replace(_USUAL, duration_s=120.0),
            replace(_USUAL, duration_s=300.0, ambient_c=60.0),
            replace(_USUAL, duration_s=180.0),
        ),
    ),
    Scenario(
        name="mode",
        about="The memory clock is lowered, as by a change of the power mode: latency grows by "
        "11 % and by 48 %, the span that was reported for its states alone.",
        phases=tuple(replace(_USUAL, memory=factor) for factor in (1.0, 1.11, 1.0, 1.48)),
    ),
    Scenario(
        name="spikes",
        about="One inference in a hundred begins a burst of slow ones; each is followed by another "
        "with 74 %, the chance that was reported on a Jetson.",
        phases=(replace(_USUAL, duration_s=600.0, spike_onset=0.01),),
    ),
    Scenario(
        name="sensor",
        about="Under a power budget the sensor goes away for half a minute, freezes for a minute, "
        "and lags by two seconds for half a minute.",
        phases=(
            replace(_USUAL, power=_BETWEEN_UPPER),
            replace(_USUAL, power=_BETWEEN_UPPER, duration_s=30.0, sensor="gone"),
            replace(_USUAL, power=_BETWEEN_UPPER),
            replace(_USUAL, power=_BETWEEN_UPPER, duration_s=60.0, sensor="frozen"),
            replace(_USUAL, power=_BETWEEN_UPPER),
            replace(_USUAL, power=_BETWEEN_UPPER, duration_s=30.0, sensor_delay_s=2.0),
        ),
    ),
    Scenario(
        name="battery",
        about="An energy budget must last ten minutes; in three of them another process takes 20 % "
        "of the processor, and draws power for it.",
        phases=(
            replace(_USUAL, duration_s=240.0),
            replace(_USUAL, duration_s=180.0, contention=0.2),
            replace(_USUAL, duration_s=180.0),
        ),
        battery=0.6,
    ),
    Scenario(
        name="drift",
        about="The most frames alone grow slower by up to 50 %, step by step, and recover: what "
        "one slowdown for all frame counts cannot describe.",
        phases=_drift((1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.5, 1.4, 1.3, 1.2, 1.1), 25.0),
    ),
    Scenario(
        name="stream",
        about="Of a stream a power budget steps down and up, as in `power`; then another process "
        "takes half of the processor, so that the highest rate's step is longer than its spacing.",
        phases=(
            *(
                replace(_USUAL, deadline=None, power=position)
                for position in (_AMPLE, _BETWEEN_UPPER, _BETWEEN_LOWER, _BETWEEN_UPPER)
            ),
            replace(_USUAL, deadline=None),
            replace(_USUAL, deadline=None, contention=0.5),
        ),
        streams=True,
    ),
)


# No network that was recorded had been trained. Given, not measured: what the demo's reaches on its
# rendered clips, and what the paper's FFN TSM-R50 does on Something-Something V1 (Table 1).
_DEMO = {2: 0.602, 4: 0.825, 8: 0.880, 16: 0.892}
_PAPER = {4: 0.4285, 8: 0.4820, 16: 0.5079}

# What was recorded beside a load; see `interference`. Deadlines that some engine keeps in nearly
# every round, and the most frames in too few. There is no budget: what was measured of power is of
# all the engines' turns together.
RECORDED = tuple(
    Measured(
        recorded=read_interference(TRACES / f"{trace}.jsonl.gz"),
        deadline=deadline,
        accuracy=accuracy,
    )
    for trace, deadline, accuracy in (
        ("cpu-tiny-bursts", 2.2, _DEMO),
        ("cpu-middle-approxdet", 1.0, _DEMO),
        ("cpu-large-steps", 0.85, _DEMO),
        ("gpu-demo-compute", 2.2, _DEMO),
        ("gpu-resnet50-compute", 1.35, _PAPER),
        ("gpu-resnet50-memory", 1.2, _PAPER),
    )
)


def named(name: str) -> Scenario | Measured:
    """Return the scenario, or the recording, that people call `name`.

    Raises:
        FfnEdgeError: there is none.
    """
    for scenario in (*ALL, *AUDIT, *HELD_OUT, *RECORDED):
        if scenario.name == name:
            return scenario
    known = ", ".join(scenario.name for scenario in (*ALL, *AUDIT))
    raise FfnEdgeError(
        f"there is no scenario {name!r}",
        f"choose one of {known}, all, audit, held-out or recorded.",
    )
