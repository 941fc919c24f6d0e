"""Record what every engine takes at (almost) the same moment, beside a load that comes and goes.

    python -m benchmarks.interference --network tsm_tiny --size 64 --frames 2,4,8,16 \\
        --pattern bursts --note "other programs ran too" OUTPUT.jsonl.gz

The engines of a network with random weights, since latency does not depend on them, run in ONNX
Runtime. In each round every engine runs once, after a short rest, in an order that is drawn anew.
As many processes as there are cores load the machine, by a pattern: `approxdet` is 0, 20, 40, 60,
40 and 20 % of the time, for 200 frames at 30 frames a second each (SenSys 2020); `steps` are off,
on, off, half; `bursts` are on for 0.3 to 3 s every 1 to 8 s. Before that, and without the load, the
engines are profiled in the same way. `benchmarks/simulation` replays the file.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import click
import numpy as np

from benchmarks.example import CLASSES, example_bundle
from benchmarks.machine import describe_machine
from benchmarks.simulation.interference import (
    Conditions,
    RecordedEngine,
    Round,
    write_interference,
)
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.network import build
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.policy.interface import NOTHING_SENSED, Sensed

REST_S = 0.005  # before each inference, as a camera's run has it
WARM_UP, PROFILED = 5, 100
_LEVEL_S = 200 / 30
_HUMP = (0.0, 0.2, 0.4, 0.6, 0.4, 0.2)

Engines = Mapping[int, Callable[[], object]]
Levels = Iterable[tuple[float, float]]


def bursts() -> Iterator[tuple[float, float]]:
    """Yield levels and their seconds, drawn with a fixed seed."""
    draw = random.Random(0)
    while True:
        yield 0.0, draw.uniform(1.0, 8.0)
        yield 1.0, draw.uniform(0.3, 3.0)


PATTERNS: Mapping[str, Callable[[], Levels]] = {
    "approxdet": lambda: cycle((level, _LEVEL_S) for level in _HUMP),
    "steps": lambda: cycle(((0.0, 15.0), (1.0, 15.0), (0.0, 15.0), (0.5, 15.0))),
    "bursts": bursts,
}


def record(
    engines: Engines,
    levels: Levels,
    set_level: Callable[[float], None],
    *,
    seconds: float,
    period_s: float,
    sense: Callable[[], Sensed] = lambda: NOTHING_SENSED,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Round]:
    """Run rounds at a pace; one that is late begins at once, and is not made up for.

    Args:
        engines: what runs each frame count and waits until it is done, by ascending frame count.
        levels: of the load, and for how many seconds each.
        set_level: sets it.
        seconds: how long to record.
        period_s: from the start of a round to that of the next.
        sense: what the sensors say, once a round.
        clock: in seconds.
        sleep: for so many seconds.
    """
    draw = random.Random(0)
    schedule = iter(levels)
    order = list(engines)
    rounds: list[Round] = []
    level, until_s = 0.0, 0.0
    begin_s = due_s = clock()
    while (now_s := clock() - begin_s) < seconds or not rounds:
        while now_s >= until_s:
            level, level_s = next(schedule)
            until_s += level_s
            set_level(level)
        draw.shuffle(order)
        latency_ms = _run_each(engines, order, clock, sleep)
        sensed = sense()
        rounds.append(
            Round(
                time_s=round(now_s if rounds else 0.0, 4),
                level=level,
                latency_ms=latency_ms,
                power_w=None if sensed.power_w is None else round(sensed.power_w, 2),
                clocks_mhz=sensed.clocks_mhz,
            )
        )
        due_s = max(due_s + period_s, clock())
        sleep(max(0.0, due_s - clock()))
    return rounds


def profile(engines: Engines, period_s: float) -> dict[int, tuple[float, ...]]:
    """Return the latencies of each engine in ms: the load is what the machine has anyway."""
    draw = random.Random(0)
    order = list(engines)
    rows = []
    for _ in range(WARM_UP + PROFILED):
        draw.shuffle(order)
        begin_s = time.perf_counter()
        rows.append(_run_each(engines, order, time.perf_counter, time.sleep))
        time.sleep(max(0.0, period_s - (time.perf_counter() - begin_s)))
    return dict(zip(engines, zip(*rows[WARM_UP:], strict=True), strict=True))


def _run_each(
    engines: Engines,
    order: Sequence[int],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[float, ...]:
    """Return what each engine took in ms, after a rest, to four digits."""
    taken_ms = dict.fromkeys(engines, 0.0)
    for frames in order:
        sleep(REST_S)
        start_s = clock()
        engines[frames]()
        taken_ms[frames] = float(f"{(clock() - start_s) * 1e3:.4g}")
    return tuple(taken_ms.values())


@click.command(help=__doc__)
@click.option("--network", required=True, help="An architecture.")
@click.option("--size", type=click.IntRange(32), required=True, help="Of its pictures, in pixels.")
@click.option("--frames", required=True, help="Frame counts, with commas between.")
@click.option("--pattern", type=click.Choice(list(PATTERNS)), required=True, help="Of the load.")
@click.option("--seconds", default=180.0, show_default=True, help="To record.")
@click.option("--hz", default=4.0, show_default=True, help="Rounds a second.")
@click.option("--note", default="", help="What else ran on this machine.")
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def main(
    network: str,
    size: int,
    frames: str,
    pattern: str,
    seconds: float,
    hz: float,
    note: str,
    output: Path,
) -> None:
    """Record."""
    counts = [int(each) for each in frames.split(",")]
    model = build(network, CLASSES, counts).eval()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, BackgroundLoad() as load:
        bundle = example_bundle(model, size, Path(folder) / "bundle")
        options = EngineOptions(backend="onnxruntime", threads=1)
        with open_engines(bundle, options) as opened:
            engines = {
                count: partial(
                    opened[count].infer, rng.integers(0, 256, (1, count, size, size, 3), np.uint8)
                )
                for count in counts
            }
            profiled_ms = profile(engines, 1 / hz)
            levels = PATTERNS[pattern]()
            rounds = record(engines, levels, load.set_level, seconds=seconds, period_s=1 / hz)
    conditions = Conditions(
        machine=f"{describe_machine()}; ONNX Runtime, 1 thread" + (note and f"; {note}"),
        load=f"{pattern}: a process a core that works a share of the time",
        period_s=1 / hz,
        engines=tuple(
            RecordedEngine(frames=count, profiled_ms=profiled_ms[count]) for count in counts
        ),
    )
    write_interference(output, conditions, rounds)


if __name__ == "__main__":
    main()
