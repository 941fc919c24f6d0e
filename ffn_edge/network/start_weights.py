"""The pre-trained file of an architecture's authors as the start of a network of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.network.torch_file import differences, load_tensors


def load_start(
    body: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: str,
    new: Callable[[str], bool],
) -> None:
    """Load a file of pre-trained tensors into an ordinary network, or leave it as it is.

    Args:
        body: the network before it is specialised; its tensors have their authors' names.
        path: a local file; see `load_tensors`.
        source: what the file has to be and where it is published, for messages.
        new: tells by name which tensors keep their start, whether the file has them or not: the
            classifier, and what the pre-trained network lacks.

    Raises:
        NetworkError: there is no such file.
        CheckpointError: the file is damaged, or of another network.
    """
    file = Path(path)
    if not os.path.isfile(file):
        raise NetworkError(f"there is no weights file {file}", f"give a local file of {source}.")
    tensors = {name: value for name, value in load_tensors(file).items() if not new(name)}
    expected = {
        name: tensor
        for name, tensor in body.state_dict().items()
        # Files of before PyTorch 0.4.1 have no counters; only a norm without momentum reads them.
        if not new(name) and (name in tensors or not name.endswith("num_batches_tracked"))
    }
    if differ := differences(expected, tensors):
        raise CheckpointError(
            f"{file} is of another network, by its tensors: {differ}", f"give a file of {source}."
        )
    body.load_state_dict(body.state_dict() | tensors)
