"""Torch files of plain values: tensors, numbers, strings. Reading one cannot run code."""

from __future__ import annotations

import os
import pickle
import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch

from ffn_edge.errors import CheckpointError


def load_torch_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a torch file of plain values: a dict, on the CPU.

    Raises:
        CheckpointError: no such file, a damaged one, one with code in it, or not a dict.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}", "check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # on how the file was made, which its reader cannot mend
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is refused: it is damaged, or holds code and not only tensors",
            "ask its maker for a file of plain tensors; loading it could run anything.",
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


def in_one_line(error: Exception) -> str:
    """Return what PyTorch says, which may fill pages, in a line."""
    text = str(error).removeprefix("Error(s) in loading state_dict for FrameFlexibleNetwork:")
    return textwrap.shorten(text, 200, placeholder=" …") or type(error).__name__
