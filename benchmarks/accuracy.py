"""Accuracy of FFN, of what the paper compares it with, and of its ablations, over three seeds.

    python -m benchmarks.accuracy FOLDER

On the demo's rendered (synthetic) clips, each seed with test clips of its own, it is

    ffn-edge compare demo --epochs 40 --set validate_every=5 --methods all --seeds 0,1,2 \\
        --test-frames 2,4,6,8,12,16,20 -o FOLDER

as Markdown, with differences seed by seed, and CPU minutes that hold the decoding too (the command
leaves it to loader processes, whose time is not counted). Hours on two cores; what is finished is
kept in FOLDER, so that it can be interrupted. `any_frame.png` there shows accuracy at any frame
count.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click

from benchmarks.machine import describe_machine
from ffn_edge.commands.compare import demo_lists
from ffn_edge.network import ABLATIONS
from ffn_edge.train.compare import Score, compare, mean_top1
from ffn_edge.train.methods import ALL_METHODS
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.report import plot_comparison

ANY_FRAME = ("ffn", "naive", "separate-each")
EVALUATED = (2, 4, 6, 8, 12, 16, 20)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seeds", default="0,1,2", show_default=True)
def main(folder: Path, seeds: str) -> None:
    """Train, evaluate, print."""
    drawn = [int(seed) for seed in seeds.split(",")]
    lists, test_list = demo_lists(folder / "clips", drawn)
    # For as long as 16 frames alone need.
    recipe = load_recipe("demo").replace(epochs=40, validate_every=5, **lists)
    scores = compare(
        recipe,
        folder,
        ALL_METHODS,
        seeds=drawn,
        frame_counts=EVALUATED,
        test_list=test_list,
    )
    if scores is None:
        sys.exit("stopped; give the same command again to go on")
    plot_comparison(
        [score for score in scores if score.method in ANY_FRAME], str(folder / "any_frame.png")
    )
    clips = scores[0].accuracy[recipe.frame_counts[0]].clips
    print(describe_machine())
    print(
        f"\n{recipe.epochs} epochs, {len(drawn)} seeds with {clips} fresh test clips each; "
        "top-1 in %, mean ± standard error over the seeds\n"
    )
    _print_methods(scores, recipe.frame_counts)
    _print_any_frame(scores)
    _print_differences(scores, recipe.frame_counts)


def _print_methods(scores: Sequence[Score], frame_counts: Sequence[int]) -> None:
    counts = " | ".join(f"{t} frames" for t in frame_counts)
    print(f"| method | parameters | MB | training, CPU minutes | {counts} |")
    print("|" + "---|" * (4 + len(frame_counts)))
    for method in dict.fromkeys(score.method for score in scores):
        if method == "separate-each":
            continue
        mine = [score for score in scores if score.method == method]
        cells = " | ".join(_cell(scores, method, t) for t in frame_counts)
        minutes = statistics.fmean(score.cpu_seconds for score in mine) / 60
        print(
            f"| {method} | {mine[0].parameters / 1e6:.3f} M | {mine[0].bytes / 1e6:.2f} "
            f"| {minutes:.1f} | {cells} |"
        )
    gmacs = next(score.gmacs for score in scores if score.method == "ffn")
    print("| GMACs, ffn | | | | " + " | ".join(f"{gmacs[t]:.3f}" for t in frame_counts) + " |")


def _print_any_frame(scores: Sequence[Score]) -> None:
    print("\n| frames | " + " | ".join(map(str, EVALUATED)) + " |")
    print("|" + "---|" * (1 + len(EVALUATED)))
    for method in ANY_FRAME:
        cells = " | ".join(_cell(scores, method, frames) for frames in EVALUATED)
        print(f"| {method} | {cells} |")


def _print_differences(scores: Sequence[Score], frame_counts: Sequence[int]) -> None:
    """Print differences seed by seed, as both sides of each saw the same test clips."""

    def top1(method: str, frames: int) -> list[float]:
        return [100 * score.accuracy[frames].top1 for score in scores if score.method == method]

    def show(what: str, one: Sequence[float], other: Sequence[float]) -> None:
        gains = [a - b for a, b in zip(one, other, strict=True)]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        print(f"{what}: {statistics.fmean(gains):+.1f} ± {error:.1f}")

    print()
    for method in ("separate", *(f"without-{part}" for part in ABLATIONS)):
        for frames in frame_counts:
            show(f"ffn − {method} at {frames} frames", top1("ffn", frames), top1(method, frames))
    for method in ("ffn", "separate"):
        for low, high in pairwise(frame_counts):
            show(f"{method} at {high} − at {low} frames", top1(method, high), top1(method, low))


def _cell(scores: Sequence[Score], method: str, frames: int) -> str:
    mean = mean_top1(scores, method, frames)
    return f"{100 * mean.value:.1f} ± {100 * mean.error:.1f}"


if __name__ == "__main__":
    main()
