"""Checkpoints of the paper's published code (BeSpontaneous/FFN-pytorch) as networks of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ffn_edge.errors import CheckpointError
from ffn_edge.network.building import build, family_of
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.pretrained import differences


def import_published(arch: str, state_dict: Mapping[str, Tensor]) -> FrameFlexibleNetwork:
    """Build the network of a published checkpoint; classes and frame counts are read off it.

    Args:
        arch: which network it is: the file does not say.
        state_dict: the checkpoint's tensors, with or without DataParallel's "module.".

    Returns:
        The network in evaluation mode. It takes red, green and blue in this order, whatever that of
        the published code is.

    Raises:
        NetworkError: the architecture does not exist.
        CheckpointError: the tensors are not those of the architecture.
    """
    naming = family_of(arch).published
    if naming is None:
        raise CheckpointError(
            f"the paper's code has no {arch}", "name the architecture that the file was trained as."
        )
    tensors = {name.removeprefix("module."): value for name, value in state_dict.items()}
    numbers = sorted(
        int(match[1])
        for name in tensors
        if (match := re.fullmatch(naming.norm, name)) and len(match[1]) < 10
    )
    classifier = tensors.get(naming.classifier)
    if not numbers or classifier is None or classifier.dim() != 2:
        lacks = "a norm of its own for each frame count"
        if numbers:
            lacks = f"{naming.classifier} of (classes, features)"
        raise CheckpointError(
            f"this is not a published FFN checkpoint of a {arch}: it lacks {lacks}",
            "name the architecture it was trained as, and give a file that the paper's code wrote.",
        )
    per = naming.frames_per_number
    with torch.device("meta"):  # nothing is made before the file has proved to hold it
        network = build(arch, classifier.shape[0], [number * per for number in numbers])
    state = network.state_dict()
    ours = {published_name(arch, name): name for name in state}
    expected = {name: state[own] for name, own in ours.items()}
    for name, tensor in expected.items():
        # φ is published as a depth-wise kernel (C, 1, 1, 1), TEA's (C, 1, 3) is ours (C, 1, 3, 1).
        value = tensors.get(name, tensor)
        if value.shape != tensor.shape and value.squeeze().shape == tensor.squeeze().shape:
            tensors[name] = value.reshape(tensor.shape)
    if differ := differences(expected, tensors):
        raise CheckpointError(
            f"the checkpoint is not a {arch}: {differ}", "name the architecture it was trained as."
        )
    if naming.blue_first is not None:
        tensors[naming.blue_first] = tensors[naming.blue_first].flip(1)
    state = {own: tensors[name] for name, own in ours.items()}
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval()


def published_name(arch: str, name: str) -> str:
    """Return the published code's name of a tensor of one of our networks.

    In a tsm_resnet50, body.layer1.0.bn1.norms.4.weight is base_model.layer1.0.bn1_4.weight.
    """
    naming = family_of(arch).published
    assert naming is not None
    # The number stands for the slow pathway's frames in SlowFast: our frame counts are the clip's.
    ours = re.sub(
        r"\.(norms|phi)\.(\d+)(?=\.|$)",
        lambda m: f".{m[1]}.{int(m[2]) // naming.frames_per_number}",
        name,
    )
    return naming.name(ours.removeprefix("body."))
