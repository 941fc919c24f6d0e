"""`ffn-edge compare`: parse, call, print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath
from ffn_edge.commands.training_options import machine_options, recipe_options


@click.command()
@click.argument("recipe")
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, file_okay=False),
    help="Folder for everything.",
)
@click.option(
    "--methods",
    default="ffn,naive,separate",
    show_default=True,
    help="ffn, naive, separate, mixed, proportional, finetune, ensemble, without-sn, without-wa, "
    "without-td, without-ws, separate-each (a network for each --test-frames); or all.",
)
@click.option("--seeds", default="0", show_default=True, help="Such as 0,1,2.")
@click.option(
    "--test-list",
    type=UserPath(),
    help="Labelled videos to evaluate on; {seed} becomes the seed.  [default: the validation list]",
)
@click.option("--test-frames", help="Frame counts to evaluate at, such as 2-20.")
@recipe_options
@machine_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(
    recipe: str,
    output: str,
    methods: str,
    seeds: str,
    test_list: str | None,
    test_frames: str | None,
    device: str | None,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train methods under one recipe and compare them.

    Writes results.json and comparison.png, of what was asked for, into the folder. An interrupted
    comparison goes on where it was when the same command is given again. With a recipe of the
    demo's clips and no list, clips are rendered into the folder too: 1200 to train on, 600 to test
    on for each seed.

    \b
    Examples:
      ffn-edge compare demo --epochs 40 --set validate_every=5 --methods all --seeds 0,1,2 \\
          --test-frames 2,4,6,8,12,16,20 -o demo
      ffn-edge compare my_recipe.py --methods ffn,separate --test-list data/test.txt -o compared
    """
    from ffn_edge.commands.training_options import chosen_recipe
    from ffn_edge.frames import parse_frames

    chosen = chosen_recipe(recipe, **options)
    from ffn_edge.train.compare import RESULTS, compared_methods
    from ffn_edge.train.compare import compare as run
    from ffn_edge.train.methods import ALL_METHODS
    from ffn_edge.train.report import comparison_table, plot_comparison

    names = ALL_METHODS if methods == "all" else [name.strip() for name in methods.split(",")]
    counts = parse_frames(test_frames) if test_frames else None
    drawn = _seeds(seeds)
    if chosen.dataset == "demo" and not (chosen.train_list or chosen.val_list or test_list):
        compared_methods(chosen, names, counts)  # not after minutes of rendering
        lists, test_list = demo_lists(Path(output) / "clips", drawn)
        chosen = chosen.replace(**lists)
    scores = run(
        chosen,
        output,
        names,
        seeds=drawn,
        frame_counts=counts,
        test_list=test_list,
        device=device,
        workers=workers,
    )
    if scores is None:
        say("stopped; give the same command again to go on")
        sys.exit(130)
    picture = Path(output) / "comparison.png"
    plot_comparison(scores, str(picture))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(score) for score in scores]))
    else:
        from ffn_edge.terminal import Terminal

        Terminal().print(comparison_table(scores))
    if test_list is None and chosen.val_list is not None:
        say(
            "evaluated on the validation list, by which each best epoch was chosen; --test-list "
            "names another"
        )
    say(f"wrote {Path(output) / RESULTS} and {picture}")


def demo_lists(folder: Path, seeds: Sequence[int]) -> tuple[dict[str, str], str]:
    """Render the demo's clips where they are not yet, with fresh test clips for each seed.

    Returns:
        The lists to train with by a recipe's fields, and the test list with "{seed}" in it.
    """
    from ffn_edge.demo.clips import render_clips

    say("· rendering the demo's clips")
    # Fewer to train on than the demo has, so that methods can be told apart; with 600, 16 frames
    # alone learn the clips by heart before they learn what moves.
    render_clips(folder / "train", train=1200, test=0)
    for seed in seeds:
        # Neither these nor their seeds were looked at when the recipe was chosen.
        render_clips(folder / f"test-{seed}", train=0, val=0, test=600, seed=1000 + seed)
    files = {"train_list": "train.txt", "val_list": "val.txt", "classes": "classes.txt"}
    lists = {field: str(folder / "train" / name) for field, name in files.items()}
    return lists, str(folder / "test-{seed}" / "test.txt")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 0,1,2") from error
    if min(seeds) < 0:
        raise click.BadParameter("seeds are at least 0")
    return seeds
