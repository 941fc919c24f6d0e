"""Start a network from another of the same architecture, whatever frame counts each has."""

from __future__ import annotations

import re

import torch

from ffn_edge.errors import CheckpointError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.torch_file import differences

# The vectors of a frame count: ….norms.16.weight, ….phi.16.
_OWN = re.compile(r"\.(norms|phi)\.(\d+)(?=\.|$)")


def start_from(network: FrameFlexibleNetwork, other: FrameFlexibleNetwork) -> None:
    """Copy the tensors of `other` into `network`.

    Shared tensors are copied as they are; each frame count starts from the vectors of the nearest
    frame count of `other`.

    Raises:
        CheckpointError: the two are not of one kind.
    """
    theirs = other.state_dict()

    def source(name: str) -> str:
        return _OWN.sub(
            lambda m: f".{m[1]}.{nearest_frame_count(int(m[2]), other.frame_counts)}", name
        )

    ours = network.state_dict()
    wanted = {name: source(name) for name in ours}
    # Of their frame counts, those that none of ours is nearest to are not read.
    read = {
        name: tensor
        for name, tensor in theirs.items()
        if name in wanted.values() or not _OWN.search(name)
    }
    if differ := differences({key: ours[name] for name, key in wanted.items()}, read):
        raise CheckpointError(
            f"a {network.architecture} with {network.num_classes} classes cannot start from a "
            f"{other.architecture} with {other.num_classes}: {differ}",
            "give a checkpoint of the same architecture, classes and parts.",
        )
    with torch.no_grad():
        network.load_state_dict({name: theirs[key] for name, key in wanted.items()})
