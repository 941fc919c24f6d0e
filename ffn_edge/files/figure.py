"""Writing a picture that matplotlib has drawn, and telling beforehand whether it can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.atomic import atomic_file, check_writable

FORMATS = ("png", "svg", "pdf")


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
