"""Options of several commands: those of a recipe, and what of the machine computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ffn_edge.commands.option_types import UserPath, Whole, threads_option
from ffn_edge.device.cores import usable_processors
from ffn_edge.media.shards import is_pattern

if TYPE_CHECKING:
    from ffn_edge.train.recipe import Recipe

# More loader processes than cores get in each other's way.
WORKERS = min(4, usable_processors())
# Looked for before PyTorch is imported, which takes seconds.
FILE = UserPath(exists=True, dir_okay=False)


class ListFile(UserPath):
    """A list of videos, or a pattern of shards."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path."""
        if is_pattern(os.fspath(value)):
            return os.path.expanduser(value)
        return super().convert(value, param, ctx)


LIST = ListFile(exists=True, dir_okay=False)


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
            show_default="one a processor, at most 4",
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
                type=LIST,
                help="Videos with their labels: a list, a table, or shards.",
            ),
            click.option(
                "--val-list", type=LIST, help="To validate on; left out, a fifth of the other list."
            ),
            click.option(
                "--classes",
                type=FILE,
                help="Class names, one a line; left out, those of the list or of folders.",
            ),
            click.option(
                "--root",
                type=UserPath(),
                help="Folder that the lists' paths start from; else their own.",
            ),
            click.option("--frames", help="Frame counts to train, such as 4,8,16."),
            click.option(
                "--causal",
                is_flag=True,
                default=None,
                help="Look into the past alone, so that `run --stream` goes frame by frame.",
            ),
            click.option(
                "--start-from",
                type=FILE,
                help="Start from this checkpoint: one that looks both ways for a causal network.",
            ),
            click.option("--weights", help="A name such as IMAGENET1K_V1, or a published file."),
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


def changed(
    recipe: Recipe,
    *,
    settings: dict[str, str],
    frames: str | None,
    without: str | None = None,
    **fields: object,
) -> Recipe:
    """Return a recipe as the arguments of `recipe_options` change it."""
    from ffn_edge.frames import parse_frames

    changes = {field: value for field, value in fields.items() if value is not None}
    if frames:
        changes["frame_counts"] = parse_frames(frames)
    if without:
        changes["without"] = tuple(part.strip() for part in without.split(","))
    return recipe.with_settings(settings).replace(**changes)


def chosen_recipe(name: str, **options: Any) -> Recipe:
    """Return a recipe by its name, as the arguments of `recipe_options` change it."""
    from ffn_edge.train.recipe import load_recipe

    return changed(load_recipe(name), **options)
