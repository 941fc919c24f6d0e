"""`ffn-edge train`, `evaluate` and `import`: parse, call, print."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import click

# More loader processes than cores get in each other's way.
_WORKERS = min(4, os.cpu_count() or 1)


def _settings(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Read --set NAME=VALUE."""
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals:
            raise click.BadParameter(f"{name!r} is not NAME=VALUE", ctx=ctx, param=param)
    return {name.strip(): text.strip() for name, _, text in pairs}


@click.command()
@click.argument("recipe")
@click.option("--output", "-o", required=True, type=click.Path(file_okay=False), help="Run folder.")
@click.option("--train-list", help="List file: `path label`, or `path num_frames label`.")
@click.option("--val-list", help="List file to validate on after each epoch.")
@click.option("--classes", help="Class names, one per line, in the order of the labels.")
@click.option("--root", help="Folder that the lists' paths start from; else the list's own.")
@click.option("--frames", help="Frame counts to train, such as 4,8,16.")
@click.option("--weights", help="Image weights: a name such as IMAGENET1K_V1, or a file.")
@click.option("--epochs", type=int, help="Passes over the training list.")
@click.option("--batch-size", type=int, help="Videos per optimiser step, over all processes.")
@click.option(
    "--set", "settings", multiple=True, callback=_settings, help="NAME=VALUE of a recipe."
)
@click.option("--device", help="cpu, cuda or cuda:1; left out, a GPU where there is one.")
@click.option("--workers", default=_WORKERS, show_default=True, help="Decoding processes.")
@click.option("--resume", is_flag=True, help="Continue from last.pt in the run folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    recipe: str,
    output: str,
    settings: dict[str, str],
    device: str | None,
    workers: int,
    resume: bool,
    as_json: bool,
    frames: str | None,
    **fields: object,
) -> None:
    """Train a Frame Flexible Network on videos.

    RECIPE is the name of a shipped recipe or a Python file that defines `recipe`. The file is a
    program and runs: use your own, or read it first.

    \b
    Shipped: tsm_something_v1, tsm_something_v2, tsm_kinetics400, tsm_hmdb51, demo

    \b
    Examples:
      ffn-edge train tsm_hmdb51 --train-list lists/train.txt --val-list lists/val.txt \\
          --classes lists/classes.txt --root /data/hmdb51 -o runs/hmdb51
      ffn-edge train my_recipe.py -o runs/mine --set learning_rate=0.02 --resume
      torchrun --nproc-per-node 4 -m ffn_edge train my_recipe.py -o runs/four
    """
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.loop import train as run
    from ffn_edge.train.recipe import load_recipe

    changes = {name: value for name, value in fields.items() if value is not None}
    if frames:
        changes["frame_counts"] = parse_frames(frames)
    chosen = load_recipe(recipe).with_settings(settings).replace(**changes)
    result = run(chosen, output, resume=resume, device=device, workers=workers)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    if not result.finished:
        sys.exit(130)


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False))
@click.option("--list", "list_file", required=True, help="List file of labelled videos.")
@click.option("--root", help="Folder that the list's paths start from; else the list's own.")
@click.option("--dataset", help="Facts of a data set; else those of the training's.")
@click.option("--frames", default="4,8,16", show_default=True, help="List or range: 2-20.")
@click.option("--batch-size", default=16, show_default=True, help="Videos at a time.")
@click.option("--workers", default=_WORKERS, show_default=True, help="Decoding processes.")
@click.option("--device", help="cpu, cuda or cuda:1; left out, a GPU where there is one.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write accuracy against cost here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    checkpoint: str, as_json: bool, plot: str | None, frames: str, **options: object
) -> None:
    """Measure accuracy at any frame count.

    A frame count that was not trained is served by the nearest sub-network.

    \b
    Example:
      ffn-edge evaluate runs/first/best.pt --list data/test.txt --frames 2-20 --plot accuracy.png
    """
    from ffn_edge.frames import parse_frames
    from ffn_edge.train.report import evaluate_checkpoint, plot_accuracy, table_of

    rows = evaluate_checkpoint(checkpoint, parse_frames(frames), **options)  # type: ignore[arg-type]
    if plot:
        plot_accuracy({checkpoint: rows}, plot)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        from rich.console import Console

        Console().print(table_of(rows))


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--arch", required=True, help="The architecture it was trained as.")
@click.option(
    "--output", "-o", required=True, type=click.Path(dir_okay=False), help="File to write."
)
@click.option("--classes", help="Class names, one per line, in the order of the labels.")
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
    click.echo(f"{output}: {arch}, {network.num_classes} classes, {frames} frames", err=True)
