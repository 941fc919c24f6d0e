"""The options of every command that opens engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ffn_edge.plan_cache import PRECISIONS
from ffn_edge.runtime.engine import BACKENDS, EngineOptions
from ffn_edge.runtime.tensorrt_group import RESIDENT

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--backend", type=click.Choice(BACKENDS), default="auto", show_default=True,
        help="What runs the engines; auto is TensorRT where it works, else ONNX Runtime.",
    ),
    click.option(
        "--threads", type=click.IntRange(min=1),
        help="CPU threads of ONNX Runtime.  [default: one a physical core]",
    ),
    click.option(
        "--precision", type=click.Choice(PRECISIONS),
        help="Of TensorRT's engines.  [default: fp16 if it was built]",
    ),
    click.option(
        "--resident", type=click.Choice(RESIDENT), default="all", show_default=True,
        help="Keep all of TensorRT's engines in memory, or one at a time.",
    ),
    click.option(
        "--cache", type=click.Path(file_okay=False, path_type=Path), envvar="FFN_EDGE_CACHE",
        help="Where TensorRT's engines are kept.  [default: ~/.cache/ffn-edge]",
    ),
)  # fmt: skip


def engine_options(function: _Function) -> _Function:
    """Add the options to a command; `take_engine_options` takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_engine_options(values: dict[str, Any]) -> EngineOptions:
    """Take the values of `engine_options` out of a command's keyword arguments."""
    names = ("backend", "threads", "precision", "resident", "cache")
    return EngineOptions(**{name: values.pop(name) for name in names})
