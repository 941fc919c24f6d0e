"""`ffn-edge train`, `evaluate`, `import` and `adapt`: parse, call, print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffn_edge.cli import say
from ffn_edge.cores import usable_processors
from ffn_edge.cpu_threads import threads_option
from ffn_edge.option_types import Number, UserPath, Whole

if TYPE_CHECKING:
    from ffn_edge.train.recipe import Recipe

# More loader processes than cores get in each other's way.
WORKERS = min(4, usable_processors())
# Looked for before PyTorch is imported, which takes seconds.
FILE = UserPath(exists=True, dir_okay=False)


def read_settings(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Read --set NAME=VALUE."""
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals:
            raise click.BadParameter(f"{name!r} is not NAME=VALUE", ctx=ctx, param=param)
    return {name.strip(): text.strip() for name, _, text in pairs}


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what of a machine computes."""
    for option in (
        threads_option,
        click.option(
            "--workers",
            type=Whole(0, 1024),
            default=WORKERS,
            show_default=True,
            help="Decoding processes.",
        ),
        click.option("--device", help="cpu, cuda or cuda:1; left out, a GPU where there is one."),
    ):
        command = option(command)
    return command


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options with which a command line completes or changes a recipe."""
    for option in reversed(
        (
            click.option(
                "--train-list",
                type=FILE,
                help="List: `path label`, or `path num_frames label`.",
            ),
            click.option(
                "--val-list", type=FILE, help="List file to validate on after each epoch."
            ),
            click.option(
                "--classes",
                type=FILE,
                help="Class names, one per line, in the labels' order.",
            ),
            click.option(
                "--root",
                type=UserPath(),
                help="Folder that the lists' paths start from; else their own.",
            ),
            click.option("--frames", help="Frame counts to train, such as 4,8,16."),
            click.option("--weights", help="A name such as IMAGENET1K_V1, or a file."),
            click.option("--epochs", type=Whole(), help="Passes over the training list."),
            click.option("--batch-size", type=Whole(), help="Videos per optimiser step, in all."),
            click.option(
                "--set",
                "settings",
                multiple=True,
                callback=read_settings,
                help="NAME=VALUE of a recipe.",
            ),
        )
    ):
        command = option(command)
    return command


def chosen_recipe(
    name: str, *, settings: dict[str, str], frames: str | None, **fields: object
) -> Recipe:
    """Return the recipe that the arguments of `recipe_options` ask for."""
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.recipe import load_recipe

    changes = {field: value for field, value in fields.items() if value is not None}
    if frames:
        changes["frame_counts"] = parse_frames(frames)
    return load_recipe(name).with_settings(settings).replace(**changes)


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
    slowfast_something_v1, uniformer_something_v1, demo, demo_few

    \b
    Examples:
      ffn-edge train tsm_hmdb51 --train-list lists/train.txt --val-list lists/val.txt \\
          --classes lists/classes.txt --root /data/hmdb51 -o runs/hmdb51
      ffn-edge train my_recipe.py -o runs/mine --set learning_rate=0.02 --resume
      ffn-edge train my_recipe.py -o runs/separate --method separate
      torchrun --nproc-per-node 4 -m ffn_edge train my_recipe.py -o runs/four
    """
    from ffn_edge.train.recipe import DATA

    chosen = chosen_recipe(recipe, **options)
    if without:
        chosen = chosen.replace(without=tuple(part.strip() for part in without.split(",")))
    for name in DATA:
        chosen.data_path(name)
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


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--list", "list_file", required=True, type=FILE, help="List file of labelled videos.")
@click.option(
    "--root", type=UserPath(), help="Folder that the list's paths start from; else the list's own."
)
@click.option("--dataset", help="Facts of a data set; else those of the training's.")
@click.option("--frames", help="List or range: 2-20.  [default: those that were trained]")
@click.option("--batch-size", type=Whole(), default=16, show_default=True, help="Videos at a time.")
@machine_options
@click.option("--plot", type=UserPath(dir_okay=False), help="Write accuracy against cost here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    checkpoint: str, as_json: bool, plot: str | None, frames: str | None, **options: object
) -> None:
    """Measure accuracy at any frame count.

    A frame count that was not trained is served by the nearest sub-network.

    \b
    Example:
      ffn-edge evaluate runs/first/best.pt --list data/test.txt --frames 2-20 --plot accuracy.png
    """
    from ffn_edge.figure import check_figure
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.report import evaluate_checkpoint, plot_accuracy, table_of

    if plot:
        check_figure(plot)
    counts = parse_frames(frames) if frames else None
    rows = evaluate_checkpoint(checkpoint, counts, **options)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        from ffn_edge.terminal import Terminal

        Terminal().print(table_of(rows))
    if plot:
        plot_accuracy({checkpoint: rows}, plot)
        say(f"wrote {plot}")


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--arch", required=True, help="The architecture it was trained as.")
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, dir_okay=False),
    help="File to write.",
)
@click.option("--classes", type=FILE, help="Class names, one per line, in the order of the labels.")
def import_(file: str, arch: str, output: str, classes: str | None) -> None:
    """Read a checkpoint of the paper's code.

    It is loaded as plain tensors: a file with code in it is refused.

    \b
    Example:
      ffn-edge import ckpt.best.pth.tar --arch tsm_resnet50 --classes classes.txt -o model.pt
    """
    from ffn_edge.network.checkpoint import import_file

    network = import_file(file, arch, output, classes)
    frames = ", ".join(map(str, network.frame_counts))
    say(f"{output}: {arch}, {network.num_classes} classes, {frames} frames")


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--data",
    "list_file",
    type=FILE,
    required=True,
    help="List: `path`, or `path num_frames` for a frame folder; a label after it is not read.",
)
@click.option(
    "--root", type=UserPath(), help="Folder that the lists' paths start from; else their own."
)
@click.option("--dataset", help="Facts of a data set; else those of the training's.")
@click.option("--frames", help="Frame counts to add, such as 12, or to recalibrate: else all.")
@click.option("--recalibrate", is_flag=True, help="Estimate statistics only, for a new camera.")
@click.option("--val-list", type=FILE, help="List file of labelled videos to validate on.")
@click.option("--epochs", type=Whole(), help="Passes over the list.  [default: 3]")
@click.option(
    "--learning-rate",
    type=Number(),
    help="At the start; it falls to zero.  [default: 0.001]",
)
@click.option("--batch-size", type=Whole(), default=16, show_default=True, help="Videos at a time.")
@click.option(
    "--output", "-o", type=UserPath(written=True, dir_okay=False), help="Checkpoint to write."
)
@machine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def adapt(
    checkpoint: str,
    frames: str | None,
    recalibrate: bool,
    epochs: int | None,
    learning_rate: float | None,
    output: str | None,
    device: str | None,
    as_json: bool,
    **clips: Any,
) -> None:
    """Add a frame count to a trained network, or take its statistics anew.

    A new frame count learns its own norms and alteration from the answers of the highest one; all
    other tensors stay as they are, bit for bit. With --recalibrate nothing is learned: the running
    mean and variance of batch norms are estimated from the videos. Neither needs labels.

    The checkpoint is written beside the old one, as best-12.pt or best-recalibrated.pt for
    best.pt, or to --output. A file that exists is written over only if --output names it.
    `ffn-edge export --only 12 --into BUNDLE` takes the new frame count to a bundle.

    \b
    Examples:
      ffn-edge adapt runs/first/best.pt --frames 12 --data lists/train.txt --val-list lists/val.txt
      ffn-edge adapt runs/first/best.pt --recalibrate --data new_camera.txt
    """
    if recalibrate and (epochs is not None or learning_rate is not None):
        raise click.UsageError("--recalibrate learns nothing: no --epochs, no --learning-rate.")
    if not recalibrate and frames is None:
        raise click.UsageError("name the frame counts to add with --frames, or --recalibrate.")
    from ffn_edge.errors import CheckpointError
    from ffn_edge.frames import parse_frames
    from ffn_edge.train import adapt as adaptation
    from ffn_edge.train.unlabelled import Clips

    counts = parse_frames(frames) if frames else None
    ending = "recalibrated" if recalibrate else "-".join(map(str, counts or ()))
    path = Path(checkpoint)
    written = output or str(path.with_name(f"{path.stem}-{ending}{path.suffix}"))
    if output is None and Path(written).exists():
        raise CheckpointError(f"{written} exists already", "-o FILE writes over it, or elsewhere.")
    try:
        if counts is None or recalibrate:
            result = adaptation.recalibrate(
                checkpoint, written, counts, Clips(**clips), device=device
            )
        else:
            result = adaptation.adapt(
                checkpoint,
                written,
                counts,
                Clips(**clips),
                epochs=epochs or adaptation.EPOCHS,
                learning_rate=learning_rate or adaptation.LEARNING_RATE,
                device=device,
            )
    except KeyboardInterrupt:
        say(f"stopped; {written} was not written")
        raise
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        click.echo(adaptation.summary(result))
    if unknown := [t for t in result.frame_counts if t not in result.accuracy]:
        say(
            f"the accuracy at {', '.join(map(str, unknown))} frames is not known: `run` will take "
            "more frames to be better; --val-list measures it"
        )
