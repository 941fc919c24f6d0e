"""One training run of FFN against the three separate runs that it replaces: time, energy, storage.

The same videos, the same epochs, the same 28 frames a video. FFN decodes each video once an epoch,
the separate runs three times; with --cache all runs share decoded frames on disk, as the demo's
recipe keeps them. Runs take turns, so that drift of the machine hits both alike.

    python -m benchmarks.training_cost CLIPS [--epochs 1] [--rounds 3] [--cache]

CLIPS is a folder of `ffn_edge.demo.clips.render_clips`, such as demo/clips.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.power.find import open_meter
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.power.sampler import Sampler
from ffn_edge.train.loop import BEST, train
from ffn_edge.train.methods import MethodRun, method_of
from ffn_edge.train.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Cost:
    """What runs took, and what they left: networks without the state of their training."""

    seconds: float
    cpu_seconds: float
    joules: float
    stored_bytes: int


def cost_of(runs: tuple[MethodRun, ...], meter: Meter) -> Cost:
    """Train from scratch, and forget the networks."""
    with tempfile.TemporaryDirectory() as folder, Sampler(meter, Health()) as sampler:
        start, cpu = time.perf_counter(), time.process_time()
        for run in runs:
            train(run.recipe, Path(folder) / run.name)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        joules = sampler.sense(time.monotonic()).energy_j or 0.0
        stored = sum((Path(folder) / run.name / BEST).stat().st_size for run in runs)
    return Cost(seconds, cpu_seconds, joules, stored)


@click.command()
@click.argument("clips", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--epochs", default=1, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cache", is_flag=True, help="Keep decoded frames on disk.")
def main(clips: Path, epochs: int, rounds: int, cache: bool) -> None:
    """Measure and print."""
    recipe: Recipe = load_recipe("demo").replace(
        train_list=str(clips / "train.txt"),
        val_list=str(clips / "val.txt"),
        classes=str(clips / "classes.txt"),
        epochs=epochs,
        validate_every=epochs,
        cache_gib=1.5 if cache else 0.0,
    )
    ways = {
        "FFN": (MethodRun("ffn", recipe),),
        "three separate": method_of("separate", recipe).runs,
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    with closing(open_meter()) as meter:
        for _ in range(rounds):
            for name, runs in ways.items():
                costs[name].append(cost_of(runs, meter))
        unmeasured = str(meter.error) if isinstance(meter, NullMeter) else None
    medians = {
        name: Cost(
            statistics.median(cost.seconds for cost in each),
            statistics.median(cost.cpu_seconds for cost in each),
            statistics.median(cost.joules for cost in each) if unmeasured is None else math.nan,
            each[0].stored_bytes,
        )
        for name, each in costs.items()
    }
    table = Table(
        caption=f"{describe_machine()}. {epochs} epochs, {rounds} rounds, medians; "
        + (unmeasured or f"energy by {meter.name}: {meter.scope}")
    )
    for heading in ("", "seconds", "CPU seconds", "joules", "stored, MB"):
        table.add_column(heading)
    for name, cost in medians.items():
        table.add_row(
            name,
            f"{cost.seconds:.1f}",
            f"{cost.cpu_seconds:.1f}",
            "not measured" if math.isnan(cost.joules) else f"{cost.joules:.0f}",
            f"{cost.stored_bytes / 1e6:.2f}",
        )
    ffn, separate = medians.values()
    table.add_row(
        "FFN / separate (target 1.0)",
        f"{ffn.seconds / separate.seconds:.2f}",
        f"{ffn.cpu_seconds / separate.cpu_seconds:.2f}",
        "",
        f"{ffn.stored_bytes / separate.stored_bytes:.2f}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
