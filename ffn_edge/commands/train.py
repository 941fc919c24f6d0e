"""`ffn-edge train`."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import Duration, UserPath
from ffn_edge.commands.training_options import changed, machine_options, recipe_options
from ffn_edge.errors import CheckpointError, counted

if TYPE_CHECKING:
    from ffn_edge.train.recipe import Recipe


@click.command()
@click.argument("recipe", required=False)
@click.option(
    "--data",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="A folder of `data scan`: its lists and classes, and without RECIPE one that fits it.",
)
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
@click.option(
    "--time",
    "time_s",
    type=Duration(),
    help="Train about so long, such as 30m or 2h: the first steps show how many epochs that is.  "
    "[default: the recipe's epochs; for one that is fitted 20m, with a GPU 2h]",
)
@click.option("--without", help="Parts of FFN to leave out, of sn,wa,td,ws: the ablations.")
@recipe_options
@machine_options
@click.option(
    "--resume", is_flag=True, help="Continue from last.pt in the folder, also for more --epochs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    recipe: str | None,
    data: Path | None,
    time_s: float | None,
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

    With --data alone, a recipe is fitted to the videos, this machine and the time, and written to
    recipe.py in the run folder with a reason for each choice; --resume runs this file.

    RECIPE is the name of a shipped recipe or a Python file that defines `recipe`. The file is a
    program and runs: use your own, or read it first. Another --method trains what the paper
    compares with, under the same recipe; one that trains several networks makes a folder for each.

    \b
    Shipped: tsm_something_v1, tsm_something_v2, tsm_kinetics400, tsm_hmdb51, tea_something_v1,
    slowfast_something_v1, uniformer_something_v1, custom, demo

    \b
    Examples:
      ffn-edge train --data data -o runs/mine --time 30m
      ffn-edge train tsm_hmdb51 --train-list lists/train.txt --val-list lists/val.txt \\
          --classes lists/classes.txt --root /data/hmdb51 -o runs/hmdb51
      ffn-edge train my_recipe.py -o runs/mine --set learning_rate=0.02 --resume
      ffn-edge train my_recipe.py -o runs/separate --method separate
      torchrun --nproc-per-node 4 -m ffn_edge train my_recipe.py -o runs/four
    """
    if recipe is None and data is None:
        raise click.UsageError("Name a RECIPE, or a folder of `ffn-edge data scan` with --data.")
    asks_epochs = options["epochs"] is not None or "epochs" in options["settings"]
    # A fitted recipe has its epochs, so that the same command with --resume goes on with them.
    if time_s is not None and (asks_epochs or (resume and recipe is not None)):
        raise click.UsageError("--time chooses the epochs of a run that begins.")
    videos = None
    if data is not None:
        from ffn_edge.train.data_folder import read_data_folder

        videos = read_data_folder(data)

    def change(recipe: Recipe) -> Recipe:
        return changed(recipe, without=without, **options)

    fits = recipe is None and not resume
    if not fits:
        from ffn_edge.train.recipe import FITTED, load_recipe

        if recipe is None and not os.path.isfile(os.path.join(output, FITTED)):
            raise CheckpointError(
                f"{output} holds no run to resume", "leave out --resume to start one."
            )
        chosen = load_recipe(recipe or os.path.join(output, FITTED))
        if videos is not None:
            chosen = chosen.replace(**videos.paths, root=None)
        chosen = change(chosen)
        chosen.data_path("train_list")
    # Imported after what is quickly found wrong: PyTorch takes seconds.
    from ffn_edge.train.fitting import check_all_new, fit_to_data, pace_of, with_time
    from ffn_edge.train.loop import BEST
    from ffn_edge.train.methods import method_of, train_method
    from ffn_edge.train.processes import is_first_process, require_one_process

    if fits:
        assert videos is not None
        chosen = fit_to_data(videos, output, change, time_s=time_s, device=device, workers=workers)
    elif time_s is not None and not resume:
        check_all_new(Path(output))
        require_one_process("train --time")
        pace = pace_of(chosen, device=device, workers=workers)
        chosen = with_time(chosen, pace, time_s)
        say(f"{counted(chosen.epochs, 'epoch')}: {pace.said(chosen)}")
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
    if fits and first:
        say(f"next: ffn-edge export {shlex.quote(str(Path(output) / BEST))} -o bundle")
