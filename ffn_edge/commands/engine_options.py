"""The options of every command that opens engines."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from ffn_edge.commands.option_types import UserPath, Whole, fix_threads
from ffn_edge.runtime.engines.engine import BACKENDS, PRECISIONS, EngineOptions
from ffn_edge.runtime.engines.tensorrt_group import RESIDENT


def seconds_until(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a time of day, today or tomorrow, or a length of time, as seconds from now.

    Raises:
        click.BadParameter: it is not "18:00", "90m", "2.5h", "45s" or alike.
    """
    if value is None:
        return None
    length = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(s|m|h)", value)
    if length and float(length[1]) > 0:
        return float(length[1]) * {"s": 1, "m": 60, "h": 3600}[length[2]]
    try:
        of_day = datetime.strptime(value, "%H:%M").time()
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no time such as 18:00, and no length such as 90m or 2.5h."
        ) from error
    return _seconds_to(of_day, datetime.now(timezone.utc))


def _seconds_to(of_day: time, now: datetime) -> float:
    """Return the seconds until clocks next show a time of day: those that pass, not those shown.

    A time that clocks show twice may come twice. One that they skip comes when it would have come
    without the skip, as in RFC 5545.
    """
    today = datetime.combine(now.astimezone().date(), of_day)
    return next(
        seconds
        for then in (today, today + timedelta(days=1))
        for fold in (0, 1)  # the second is later only where clocks are set back between the two
        if (seconds := then.replace(fold=fold).timestamp() - now.timestamp()) > 0
    )


_Function = TypeVar("_Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        show_default=True,
        help="What runs the engines; auto is TensorRT where it works, else ONNX Runtime.",
    ),
    click.option(
        "--threads",
        type=Whole(1, 1024),
        callback=fix_threads,
        help="CPU threads to compute with.  [default: one a physical core]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        help="What to compute in; auto is the fastest that keeps the accuracy, of each frame "
        "count.",
    ),
    click.option(
        "--resident",
        type=click.Choice(RESIDENT),
        default="all",
        show_default=True,
        help="Keep all of TensorRT's engines in memory, or one at a time.",
    ),
    click.option(
        "--cache",
        type=UserPath(file_okay=False, path_type=Path),
        envvar="FFN_EDGE_CACHE",
        help="Where TensorRT's engines are kept.  [default: ~/.cache/ffn-edge]",
    ),
)


root_option = click.option(
    "--root",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    help="Where the machine's file system begins, for its sensors.  [default: /]",
)


def engine_options(function: _Function) -> _Function:
    """Add the options to a command; `take_engine_options` takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_engine_options(values: dict[str, Any]) -> EngineOptions:
    """Take the values of `engine_options` out of a command's keyword arguments."""
    names = ("backend", "threads", "precision", "resident", "cache")
    return EngineOptions(**{name: values.pop(name) for name in names})
