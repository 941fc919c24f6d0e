"""Pictures of one style, written whole or not at all; and whether one could be, told beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.atomic import atomic_file, check_writable

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's palette, which the colour-blind can tell apart; a marker each says the same again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"


def check_figure(path: str | os.PathLike[str]) -> None:
    """Refuse a picture that could not be written, before minutes of work for it.

    Raises:
        FfnEdgeError: its folder is not there or cannot be written, or its name's ending is none of
            `FORMATS`.
    """
    if Path(path).suffix.lower().lstrip(".") not in FORMATS:
        raise FfnEdgeError(
            f"{path} names no format that can be drawn", f"end it in .{', .'.join(FORMATS)}."
        )
    folder = Path(path).parent
    if not folder.is_dir():
        raise FfnEdgeError(f"there is no folder {folder}", "make it first.")
    check_writable(path)


@contextmanager
def drawn(
    path: str | os.PathLike[str],
    *,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float],
    dpi: int = 120,
    **options: Any,
) -> Iterator[tuple[Figure, np.ndarray[Any, Any]]]:
    """Yield a figure to draw in, and write it once it is drawn.

    Args:
        path: the file to write, as `check_figure` takes it.
        rows: of axes, each with a grid.
        columns: the same.
        size: of the figure: width and height in inches.
        dpi: dots per inch.
        options: of `pyplot.subplots`, such as `sharex`.

    Yields:
        The figure, and its axes: (rows, columns).

    Raises:
        FfnEdgeError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise FfnEdgeError(
            f"plots need matplotlib, which cannot be imported here ({error})",
            'pip install "ffn-edge[plot]"',
        ) from error
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **options
    )
    try:
        for axis in axes.flat:
            axis.grid(alpha=0.3)
        yield figure, axes
        save_figure(figure, path, dpi=dpi)
    finally:
        pyplot.close(figure)


def save_figure(figure: Any, path: str | os.PathLike[str], *, dpi: int) -> None:
    """Write a figure atomically, and forget it.

    Args:
        figure: of matplotlib.pyplot.
        path: the file to write, as `check_figure` takes it.
        dpi: dots per inch.

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    from matplotlib import pyplot

    try:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=dpi)
    finally:
        pyplot.close(figure)
