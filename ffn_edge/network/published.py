"""Checkpoints of the paper's published code (BeSpontaneous/FFN-pytorch) as networks of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ffn_edge.errors import CheckpointError
from ffn_edge.network.ffn import FrameFlexibleNetwork

_FRAME_COUNT = re.compile(r"^base_model\.bn1_(\d+)\.weight$")


def import_published(arch: str, state_dict: Mapping[str, Tensor]) -> FrameFlexibleNetwork:
    """Build the network of a published checkpoint; classes and frame counts are read off it.

    Args:
        arch: which network it is: the file does not say.
        state_dict: the checkpoint's `state_dict`, with or without DataParallel's "module.".

    Returns:
        The network in evaluation mode.

    Raises:
        NetworkError: the architecture does not exist.
        CheckpointError: the tensors are not those of the architecture.
    """
    from ffn_edge.network import build, check_architecture

    check_architecture(arch)
    tensors = {name.removeprefix("module."): value for name, value in state_dict.items()}
    frame_counts = sorted(
        int(match.group(1)) for name in tensors if (match := _FRAME_COUNT.match(name))
    )
    classifier = tensors.get("new_fc.weight")
    if not frame_counts or classifier is None:
        raise CheckpointError(
            "this is not a published FFN checkpoint: base_model.bn1_<T> or new_fc is missing",
            "give the `state_dict` of a 2-D network trained by the paper's code.",
        )
    network = build(arch, classifier.shape[0], frame_counts)
    expected = network.state_dict()
    names = {published_name(name): name for name in expected}
    missing = [name for name in names if name not in tensors]
    extra = [name for name in tensors if name not in names]
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint is not a {arch}: "
            f"{_first_ten('missing', missing)}{_first_ten('unexpected', extra)}".rstrip("; "),
            "name the architecture it was trained as.",
        )
    renamed = {}
    for published, name in names.items():
        value = tensors[published]
        # φ is published as a depth-wise kernel (C, 1, 1, 1).
        if name.split(".")[-2] == "phi" and value.shape[1:] == (1, 1, 1):
            value = value.flatten()
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"the checkpoint is not a {arch}: {published} has the shape "
                f"{tuple(value.shape)}, not {tuple(expected[name].shape)}",
                "name the architecture it was trained as.",
            )
        renamed[name] = value
    network.load_state_dict(renamed)
    return network.eval()


def published_name(name: str) -> str:
    """Return the published code's name of one of our tensors.

    layer1.0.bn1.norms.4.weight -> base_model.layer1.0.bn1_4.weight, and so on.
    """
    name = name.removeprefix("body.")
    if name.startswith("fc.linear."):
        return "new_fc." + name.removeprefix("fc.linear.")
    name = re.sub(r"conv1\.alteration\.phi\.(\d+)$", r"adaconv_\1.weight", name)
    name = name.replace(".conv1.conv.", ".conv1.")
    name = re.sub(r"\.downsample\.1\.norms\.(\d+)\.", r".downsample_bn_\1.", name)
    name = name.replace(".downsample.0.", ".downsample_conv.")
    return "base_model." + re.sub(r"\.norms\.(\d+)\.", r"_\1.", name)


def _first_ten(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{len(names)} {what} ({', '.join(names[:10])}{more}); "
