"""Tensors from torch files, and those of an architecture's authors as the start of a network.

A file holds plain values: tensors, numbers, strings. Reading one cannot run code.
"""

from __future__ import annotations

import os
import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffn_edge.errors import CheckpointError, NetworkError, reason_of
from ffn_edge.files.regular_file import open_regular

# What a checkpoint of ours says that it is.
FORMAT = "ffn-edge checkpoint"


def load_torch_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a torch file of plain values: a dict, on the CPU.

    Raises:
        CheckpointError: no such file, a damaged one, one with code in it, or not a dict.
    """
    file = Path(path)
    try:
        with open_regular(file) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how it was made, which its reader cannot mend
            if zipfile.is_zipfile(opened):
                claimed = sum(entry.file_size for entry in zipfile.ZipFile(opened).infolist())
                if claimed > file.stat().st_size:  # PyTorch writes without compression
                    raise ValueError(f"{claimed} bytes are not in so small a file")
            opened.seek(0)
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {file}", "check the path.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is refused: it is damaged, or holds code and not only tensors",
            "ask its maker for a file of plain tensors; loading it could run anything.",
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {reason_of(error)}", "name a file that you may read."
        ) from error
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise CheckpointError(
            f"{file} is damaged or no torch file: {in_one_line(error)}",
            "copy it again; training keeps the previous checkpoint whole.",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, not tensors by name",
            "give a checkpoint, or a state_dict.",
        )
    return content


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a torch file: bare, or under "state_dict", "model_state" or "model".

    Raises:
        CheckpointError: see `load_torch_file`.
    """
    content = load_torch_file(path)
    if content.get("format") == FORMAT:
        raise CheckpointError(
            f"{path} is an ffn-edge checkpoint already",
            "every command reads it as it is; to start a training from it, --set start_from=FILE.",
        )
    nested = (content.get(key) for key in ("state_dict", "model_state", "model"))
    state = next((each for each in nested if isinstance(each, dict)), content)
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


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
    if not os.path.isfile(path):
        raise NetworkError(f"there is no weights file {path}", f"give a local file of {source}.")
    tensors = {name: value for name, value in load_tensors(path).items() if not new(name)}
    expected = {
        name: tensor
        for name, tensor in body.state_dict().items()
        # Files of before PyTorch 0.4.1 have no counters; only a norm without momentum reads them.
        if not new(name) and (name in tensors or not name.endswith("num_batches_tracked"))
    }
    if differ := differences(expected, tensors):
        raise CheckpointError(
            f"{path} is of another network, by its tensors: {differ}", f"give a file of {source}."
        )
    body.load_state_dict(body.state_dict() | tensors)


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say which tensors are missing, unexpected, or not of the expected shape; "" if none is.

    Of each kind, the first ten are named.
    """
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(value.shape)}, not {tuple(expected[name].shape)}"
            for name, value in given.items()
            if name in expected and value.shape != expected[name].shape
        ],
        # Before anything is made as large as they say.
        "of fewer numbers than they say": [
            name
            for name, tensor in expected.items()
            if tensor.is_meta and name in given and not _is_whole(given[name])
        ],
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:10])}{', …' * (len(names) > 10)})"
        for kind, names in faults.items()
        if names
    )


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are there, real ones, and not one of them in many places."""
    dense = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_complex())
    return dense and tensor.untyped_storage().nbytes() >= tensor.nbytes


def in_one_line(error: Exception) -> str:
    """Return what PyTorch says, which may fill pages, in a line."""
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
