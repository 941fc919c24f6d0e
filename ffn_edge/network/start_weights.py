"""The pre-trained file of an architecture's authors as the start of a network of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.network.torch_file import load_torch_file


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
        path: a local file: a state_dict, bare or under "state_dict", "model_state" or "model".
        source: what the file has to be and where it is published, for messages.
        new: tells by name which tensors keep their start, whether the file has them or not: the
            classifier, and what the pre-trained network lacks.

    Raises:
        NetworkError: there is no such file.
        CheckpointError: the file is damaged, or of another network.
    """
    file = Path(path)
    if not file.is_file():
        raise NetworkError(f"there is no weights file {file}", f"give a local file of {source}.")
    content = load_torch_file(file)
    nested = (content.get(key) for key in ("state_dict", "model_state", "model"))
    state = next((each for each in nested if isinstance(each, dict)), content)
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and not new(str(name))
    }
    expected = {name: tensor for name, tensor in body.state_dict().items() if not new(name)}
    faults = {
        # Files of before PyTorch 0.4.1 have no counters; only a norm without momentum reads them.
        "missing": [
            name
            for name in expected
            if name not in tensors and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": [
            f"{name} {tuple(value.shape)}, not {tuple(expected[name].shape)}"
            for name, value in tensors.items()
            if name in expected and value.shape != expected[name].shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:10])}{', …' if len(names) > 10 else ''})"
            for kind, names in faults.items()
            if names
        )
        raise CheckpointError(
            f"{file} is of another network, by its tensors: {listed}", f"give a file of {source}."
        )
    body.load_state_dict(body.state_dict() | tensors)
