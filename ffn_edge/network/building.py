"""Every architecture by its name, and how a network of it is built."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ffn_edge.errors import CheckpointError, NetworkError, counted
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.families import ARCHITECTURES, family_of
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.pretrained import load_tensors
from ffn_edge.network.published import Published, check_published, published
from ffn_edge.network.unshared import UnsharedNetwork

# Each has its own layers. A file that we read may ask for any number of them.
_MOST_FRAME_COUNTS = 100
_log = logging.getLogger(__name__)


def build(
    arch: str,
    num_classes: int,
    frame_counts: Sequence[int] | None = None,
    *,
    weights: str | None = None,
    dropout: float = 0.5,
    without: Sequence[str] = (),
    causal: bool = False,
) -> FrameFlexibleNetwork:
    """Build a Frame Flexible Network.

        network = ffn_edge.build("tsm_tiny", num_classes=3, frame_counts=(4, 8))
        clips = torch.rand(2, 8, 3, 64, 64)  # float32 (B, T, 3, H, W), normalised
        logits = network(clips, frames=8)  # float32 (B, classes)

    Args:
        arch: one of `ARCHITECTURES`.
        num_classes: the number of logits.
        frame_counts: the frame counts to serve, ascending; any set. Left out, the paper's:
            (4, 8, 16), and for SlowFast (16, 32, 64).
        weights: where the weights start: None for random, the name of torchvision's weights such
            as "IMAGENET1K_V1" (downloaded once), or a local file, of these or of a published
            checkpoint, which is told by its tensors' names (see `ffn_edge.network.published`).
        dropout: the probability before the classifier, in training.
        without: of `ABLATIONS`, what to leave out; "td" is of the objective and changes nothing
            here.
        causal: take from the past alone, so that the network can go frame by frame; see
            `FrameFlexibleNetwork.step`. TSM networks only.

    Raises:
        NetworkError: the architecture, the weights or what is to be left out do not exist, the
            frame counts are too many, or the architecture looks into the future.
        FrameCountError: the frame counts do not ascend.
        CheckpointError: the weights file is of another network.
    """
    family = family_of(arch)
    if num_classes < 1:
        raise NetworkError(f"a network cannot have {num_classes} classes", "give at least one.")
    counts = check_frame_counts(family.frame_counts if frame_counts is None else frame_counts)
    if len(counts) > _MOST_FRAME_COUNTS:
        raise NetworkError(
            f"a network cannot have {len(counts)} frame counts", f"give up to {_MOST_FRAME_COUNTS}."
        )

    builder = family.build_causal if causal else family.build
    if builder is None:
        able = [name for name in ARCHITECTURES if family_of(name).build_causal]
        raise NetworkError(
            f"{arch} looks into the future, and cannot be causal", f"choose {', '.join(able)}."
        )

    if causal and "ws" in without:
        raise NetworkError(
            "a network without weight sharing cannot be causal", "leave out one of the two."
        )

    start: Published | None = None
    if weights is not None and os.path.isfile(weights):
        start = published(arch, load_tensors(weights))
    if start is not None:
        weights = None  # no others than these
        if start.unshifted:
            _log.warning(
                "%s of the network whose weights are the start have no temporal shift; here all do",
                counted(start.unshifted, "residual branch", "residual branches"),
            )

    def built(counts: Sequence[int]) -> FrameFlexibleNetwork:
        network = builder(
            arch, num_classes, counts, weights=weights, dropout=dropout, without=without
        )
        if start is not None:
            network.load_state_dict(check_published(network, start), strict=False)
        return network

    if "ws" in without:
        return UnsharedNetwork({t: built((t,)) for t in counts}, tuple(without))
    return built(counts)


def import_published(arch: str, state_dict: Mapping[str, Tensor]) -> FrameFlexibleNetwork:
    """Build the network of a published checkpoint, as the paper's FFN or a plain TSM network.

    The number of classes is read off the checkpoint, and so are the frame counts of an FFN. A
    plain network becomes one of the paper's frame counts, all of which begin with the same norms.

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
    family = family_of(arch)
    if family.published is None:
        raise CheckpointError(
            f"the paper's code has no {arch}",
            "name the architecture that the file was trained as.",
        )
    found = published(arch, state_dict)
    if found is None:
        raise CheckpointError(
            f"this is not a published checkpoint of a {arch}: it lacks a norm of its own for each "
            f"frame count, or {family.published.classifier} of (classes, features)",
            "name the architecture it was trained as, and give a file that the paper's code wrote.",
        )
    if found.unshifted:
        raise CheckpointError(
            f"{counted(found.unshifted, 'residual branch', 'residual branches')} of this network "
            f"have no temporal shift; all of a {arch} have one",
            "train from it: give the file as --weights.",
        )
    with torch.device("meta"):  # nothing is made before the file has proved to hold it
        network = build(arch, found.num_classes, found.frame_counts or None)
    state = check_published(network, found)
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()  # what a plain network does not have: alterations
    network.load_state_dict(state, strict=False)
    return network.eval()
