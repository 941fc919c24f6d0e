"""Writing a picture that matplotlib has drawn."""

from __future__ import annotations

import os
from typing import Any

from ffn_edge.atomic import atomic_file
from ffn_edge.errors import FfnEdgeError


def save_figure(figure: Any, path: str | os.PathLike[str], *, dpi: int) -> None:
    """Write a figure atomically, and forget it.

    Args:
        figure: of matplotlib.pyplot.
        path: the file to write; its ending says the format.
        dpi: dots per inch.

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    from matplotlib import pyplot

    try:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=dpi)
    except OSError as error:
        raise FfnEdgeError(
            f"{path} cannot be written: {error.strerror}", "choose a folder that you may write."
        ) from error
    finally:
        pyplot.close(figure)
