"""Read the cases beside this file: what the paper's published code gives.

A case has inputs by seed and the results of the published implementation in float32 on a CPU. It
lists the tensors of a published checkpoint (name -> shape), or has the checksum of their names.
Each tensor's values follow from its name alone and each input's from its seed, so a case is a
small text file. `record.py` writes them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork, family_of
from ffn_edge.network.published import published_name

FOLDER = Path(__file__).parent

FRAME_COUNTS = {
    "tsm_resnet18": (4, 8, 16),
    "tsm_resnet50": (4, 8, 16),
    "tsm_resnet101": (4, 8, 16),
    "tea_resnet50": (4, 8, 16),
    "slowfast_resnet50": (16, 32, 64),
    "uniformer_small": (4, 8, 16),
}


def published_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """Make a tensor of a published checkpoint from its name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.full(tuple(shape), 7)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.standard_normal(shape) * 0.2
    elif "adaconv" in name:
        values = rng.standard_normal(shape) * 0.3
    elif name.endswith("bias"):
        values = rng.standard_normal(shape) * 0.1
    elif len(shape) == 1:  # a norm's weight
        values = rng.uniform(0.4, 0.8, shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1.6 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def input_clip(
    seed: int, batch: int, frames: int, size: int, *, frame_major: bool = True
) -> Tensor:
    """Make an input, normalised: float32 (B, T, 3, H, W).

    The published 2D networks take (B, T·3, H, W), and the 3D networks (B, 3, T, H, W).
    """
    order = (frames, 3) if frame_major else (3, frames)
    values = np.random.default_rng(seed).standard_normal((batch, *order, size, size))
    clip = torch.from_numpy(values.astype(np.float32))
    return clip if frame_major else clip.transpose(1, 2)


def read_case(name: str) -> dict[str, Any]:
    """Read a case by the name of its file, without `.json`."""
    case: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return case


def published_shapes(arch: str, case: dict[str, Any]) -> dict[str, Sequence[int]]:
    """Return the names and shapes of the tensors of a case's checkpoint."""
    if "keys" in case:
        shapes: dict[str, Sequence[int]] = case["keys"]
        return shapes
    with torch.device("meta"):
        ours = network.build(arch, len(case["cases"][0]["logits"])).state_dict()
    shapes = {published_name(arch, name): tensor.shape for name, tensor in ours.items()}
    assert names_crc32(shapes) == case["names_crc32"]
    return shapes


def names_crc32(names: Iterable[str]) -> int:
    """Return the checksum of the names of a checkpoint's tensors."""
    return zlib.crc32("\n".join(sorted(names)).encode())


def relative_error(model: FrameFlexibleNetwork, case: dict[str, Any]) -> float:
    """Return max|ours − published| / max|published| of one input of a case."""
    clip = input_clip(
        case["input_seed"],
        1,
        case["frames"],
        case["size"],
        frame_major="frame-major" in case["input_layout"],
    )
    naming = family_of(model.architecture).published
    if naming is not None and naming.blue_first is not None:
        clip = clip.flip(2)  # the published input is blue, green, red; ours is red, green, blue
    with torch.inference_mode():
        results = model(clip, frames=case["subnetwork"])[0]
    if "softmax" in case:  # the published SlowFast ends in it
        results = results.softmax(0)
    expected = torch.tensor(case["softmax" if "softmax" in case else "logits"])
    return float((results - expected).abs().max() / expected.abs().max())
