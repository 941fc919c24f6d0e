"""What a cascade, more frames for hard clips, is worth, against one frame count for all.

    python -m benchmarks.escalation --bundle bundle --val clips/val.txt --test clips/test.txt

Calibrates on the validation clips, and then spends budgets between the smallest and the largest
frame count's on the test clips, one after the other as a run does. Energy is counted in GMAC, as
the bundle's manifest states them: no meter is asked, so that the figures are the same everywhere.

A gain is in points of accuracy, with its standard error (paired bootstrap over the test clips).
It is stated against the best fixed frame count that costs no more, and against the best mixture
of two fixed ones, drawn at random, that costs the same.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.media.video_list import read_list
from ffn_edge.runtime.cascade.calibrate import answer_videos
from ffn_edge.runtime.cascade.calibration import Calibration, calibrate
from ffn_edge.runtime.cascade.cascade import CascadePlan, Drift, corrected, is_sure, join, plan
from ffn_edge.runtime.cascade.confidence import Labels, accuracy, calibration_error, margins
from ffn_edge.runtime.engines.engine import EngineOptions, Logits, open_engines

Right = npt.NDArray[np.float64]  # (clips,): 1 where the answer is right, or how likely it is

TARGET = 1.5
BUDGETS = 13
RESAMPLES = 2000
BUDGETED_SHARE = 0.3


@dataclass(frozen=True)
class Clips:
    """Test clips as every frame count answers them."""

    logits: Mapping[int, Logits]
    labels: Labels

    def right(self, frames: int) -> Right:
        """Return where a fixed frame count is right."""
        return (self.logits[frames].argmax(axis=-1) == self.labels).astype(float)


def escalate(
    planned: CascadePlan, clips: Clips, order: Iterable[int], *, learn: bool = True
) -> tuple[Right, float]:
    """Run a cascade over clips in this order: where it is right, and the share it escalated."""
    drift: Drift = {}
    right, escalated = [], 0
    frames, more_frames = planned.pair
    for i in order:
        first = clips.logits[frames][i]
        sure = is_sure(planned, drift, first)
        second = None if sure else clips.logits[more_frames][i]
        if learn:
            drift = corrected(planned, drift, escalated=not sure)
        escalated += not sure
        right.append(join(planned, first, second).argmax() == clips.labels[i])
    return np.asarray(right, float), escalated / len(right)


def best_fixed(clips: Clips, costs: Mapping[int, float], cost: float) -> Right:
    """Return where the best fixed frame count that costs no more is right, in hindsight."""
    return max(
        (clips.right(t) for t in costs if costs[t] <= cost * (1 + 1e-9)), key=lambda r: r.mean()
    )


def best_mixture(clips: Clips, costs: Mapping[int, float], cost: float) -> Right:
    """Return how likely the best random mixture of two that costs no more is right."""
    mixtures = [best_fixed(clips, costs, cost)]
    for cheap, dear in itertools.combinations(sorted(costs), 2):
        if costs[cheap] <= cost < costs[dear]:
            often = (cost - costs[cheap]) / (costs[dear] - costs[cheap])
            mixtures.append((1 - often) * clips.right(cheap) + often * clips.right(dear))
    return max(mixtures, key=lambda r: r.mean())


def gain(ours: Right, theirs: Right) -> str:
    """Write the gain in points with its standard error."""
    difference = 100 * (ours - theirs)
    chosen = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
    return f"{difference.mean():+.1f} ± {difference[chosen].mean(axis=1).std():.1f}"


def fixed_table(clips: Clips, costs: Mapping[int, float], calibration: Calibration) -> Table:
    """Show each frame count alone, and whether validation clips' temperatures hold on test clips.

    ECE is the expected calibration error, in points.
    """
    table = Table(title=f"one frame count for all, {len(clips.labels)} test clips")
    for heading in ("frames", "GMAC", "accuracy", "temperature", "ECE", "after"):
        table.add_column(heading, justify="right")
    for t, logits in clips.logits.items():
        temperature = calibration.confidences[t].temperature
        errors = (calibration_error(z, clips.labels) for z in (logits, logits / temperature))
        table.add_row(
            str(t),
            f"{costs[t]:.4f}",
            f"{accuracy(logits, clips.labels):.1%}",
            f"{temperature:.3f}",
            *(f"{100 * error:.1f}" for error in errors),
        )
    return table


def curve_table(clips: Clips, costs: Mapping[int, float], calibration: Calibration) -> Table:
    """Spend budgets from the cheapest frame count's to the dearest's."""
    table = Table(title="few frames first, within a budget", caption=f"target: +{TARGET} points")
    for heading in (
        "budget", "frames", "planned", "escalated", "GMAC", "accuracy", "over fixed", "over mixture"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for budget in np.linspace(min(costs.values()), max(costs.values()), BUDGETS):
        alone = {t: found.accuracy for t, found in calibration.confidences.items()}
        chosen = max((t for t in costs if costs[t] <= budget), key=lambda t: (alone[t], -t))
        found = plan(
            calibration, costs, chosen=chosen, budget=budget, fits=lambda first, second: True
        )
        if found is None:
            right, share, cost, frames = clips.right(chosen), 0.0, costs[chosen], f"{chosen}"
        else:
            right, share = escalate(found, clips, range(len(clips.labels)))
            few, more = found.pair
            cost = costs[few] + share * costs[more]
            frames = f"{few}, {more}"
        table.add_row(
            f"{budget:.4f}",
            frames,
            f"{found.share:.1%}" if found else "",
            f"{share:.1%}",
            f"{cost:.4f}",
            f"{right.mean():.1%}",
            gain(right, best_fixed(clips, costs, cost)),
            gain(right, best_mixture(clips, costs, cost)),
        )
    return table


def drift_table(clips: Clips, calibration: Calibration) -> Table:
    """Show the share that is escalated where all clips are hard, or all are easy."""
    table = Table(
        title="content that the thresholds were not made for, ten times over",
        caption="hard and easy: the halves of the test clips by the first answer's margin; at most "
        f"{BUDGETED_SHARE:.0%} are to be escalated",
    )
    for heading in (
        "frames",
        "clips",
        "planned",
        "uncorrected",
        "accuracy",
        "corrected",
        "accuracy",
    ):
        table.add_column(heading, justify="right")
    for cascade in calibration.cascades:
        temperature = calibration.confidences[cascade.first].temperature
        row = cascade.best_within(BUDGETED_SHARE)
        planned = CascadePlan(
            cascade=cascade,
            temperature=temperature,
            share=cascade.shares[row],
            accuracy=cascade.accuracies[row],
            cost=0.0,
        )
        ranks = np.argsort(margins(clips.logits[cascade.first], temperature))
        for name, half in zip(("hard", "easy"), np.array_split(ranks, 2), strict=True):
            order = np.random.default_rng(0).permutation(np.tile(half, 10))
            before, uncorrected = escalate(planned, clips, order, learn=False)
            right, corrected = escalate(planned, clips, order)
            table.add_row(
                f"{cascade.first}, {cascade.second}",
                name,
                f"{planned.share:.1%}",
                f"{uncorrected:.1%}",
                f"{before.mean():.1%}",
                f"{corrected:.1%}",
                f"{right.mean():.1%}",
            )
    return table


@click.command(help=__doc__)
@click.option("--bundle", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--val", type=click.Path(path_type=Path), required=True, help="`path label` a line.")
@click.option("--test", type=click.Path(path_type=Path), required=True, help="`path label` a line.")
@click.option("--threads", type=click.IntRange(1), help="Of ONNX Runtime.")
def main(folder: Path, val: Path, test: Path, threads: int | None) -> None:
    """Measure, and print three tables."""
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bundle = Bundle.load(folder)
    manifest = bundle.manifest
    costs = {t: sub.macs / 1e9 for t, sub in manifest.sub_networks.items()}
    answered = []
    with open_engines(bundle, EngineOptions(threads=threads)) as engines:
        for list_file in (val, test):
            videos = read_list(list_file, classes=manifest.classes)
            answered.append(Clips(*answer_videos(engines, manifest.input, videos)))
    known, unknown = answered
    calibration = calibrate(bundle, known.logits, known.labels)
    console.print(describe_machine())
    console.print(
        f"{manifest.architecture}, calibrated on {calibration.clips} validation clips; "
        "GMAC of the manifest, no meter"
    )
    console.print(fixed_table(unknown, costs, calibration))
    console.print(curve_table(unknown, costs, calibration))
    console.print(drift_table(unknown, calibration))


if __name__ == "__main__":
    main()
