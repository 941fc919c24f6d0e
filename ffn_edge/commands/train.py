"""`ffn-edge train`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath
from ffn_edge.commands.training_options import chosen_recipe, machine_options, recipe_options


@click.command()
@click.argument("recipe")
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, file_okay=False),
    help="Run folder.",
)
@click.option(
    "--method",
    default="ffn",
    show_default=True,
    help="ffn, naive, separate, mixed, proportional, finetune or ensemble.",
)
@click.option("--without", help="Parts of FFN to leave out, of sn,wa,td,ws: the ablations.")
@recipe_options
@machine_options
@click.option(
    "--resume", is_flag=True, help="Continue from last.pt in the folder, also for more --epochs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    recipe: str,
    output: str,
    method: str,
    without: str | None,
    device: str | None,
    workers: int,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a Frame Flexible Network on videos.

    RECIPE is the name of a shipped recipe or a Python file that defines `recipe`. The file is a
    program and runs: use your own, or read it first. Another --method trains what the paper
    compares with, under the same recipe; one that trains several networks makes a folder for each.

    \b
    Shipped: tsm_something_v1, tsm_something_v2, tsm_kinetics400, tsm_hmdb51, tea_something_v1,
    slowfast_something_v1, uniformer_something_v1, custom, demo

    \b
    Examples:
      ffn-edge train tsm_hmdb51 --train-list lists/train.txt --val-list lists/val.txt \\
          --classes lists/classes.txt --root /data/hmdb51 -o runs/hmdb51
      ffn-edge train my_recipe.py -o runs/mine --set learning_rate=0.02 --resume
      ffn-edge train my_recipe.py -o runs/separate --method separate
      torchrun --nproc-per-node 4 -m ffn_edge train my_recipe.py -o runs/four
    """
    chosen = chosen_recipe(recipe, **options)
    if without:
        chosen = chosen.replace(without=tuple(part.strip() for part in without.split(",")))
    chosen.data_path("train_list")
    # Imported after what is quickly found wrong: PyTorch takes seconds.
    from ffn_edge.train.loop import BEST
    from ffn_edge.train.methods import method_of, train_method
    from ffn_edge.train.processes import is_first_process

    asked = method_of(method, chosen)
    results = train_method(asked, output, resume=resume, device=device, workers=workers)
    first = is_first_process()
    if as_json and first:
        fields = {name: dataclasses.asdict(result) for name, result in results.items()}
        click.echo(json.dumps(fields if len(asked.runs) > 1 else fields[asked.runs[0].name]))
    if not all(result.finished for result in results.values()):
        sys.exit(130)
    for name in results if first else ():
        folder = Path(output) / name if len(asked.runs) > 1 else Path(output)
        say(f"{name}: {folder / BEST}")
