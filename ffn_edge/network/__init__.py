"""The Frame Flexible Network in PyTorch: architectures, specialised layers, checkpoints."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ffn_edge.errors import NetworkError
from ffn_edge.network.ffn import FrameFlexibleNetwork, specialize
from ffn_edge.network.published import import_published
from ffn_edge.network.tsm import TSM_ARCHITECTURES, build_tsm

ARCHITECTURES = TSM_ARCHITECTURES

__all__ = ["ARCHITECTURES", "FrameFlexibleNetwork", "build", "import_published", "specialize"]


def build(
    arch: str,
    num_classes: int,
    frame_counts: Sequence[int] = (4, 8, 16),
    *,
    weights: str | None = None,
    dropout: float = 0.5,
) -> FrameFlexibleNetwork:
    """Build a Frame Flexible Network.

    Args:
        arch: one of `ARCHITECTURES`.
        num_classes: the number of logits.
        frame_counts: the frame counts to serve, ascending; any set.
        weights: where the shared weights start: None for random, the name of torchvision's
            weights such as "IMAGENET1K_V1" (downloaded once), or a local file of them.
        dropout: the probability before the classifier, in training.

    Raises:
        NetworkError: the architecture or the weights do not exist.
        FrameCountError: the frame counts do not ascend.
        CheckpointError: the weights file is of another network.
    """
    check_architecture(arch)
    if num_classes < 1:
        raise NetworkError(f"a network cannot have {num_classes} classes", "give at least one.")
    return build_tsm(arch, num_classes, frame_counts, weights=weights, dropout=dropout)


def check_architecture(architecture: str) -> None:
    """Raise a NetworkError, with the nearest names, unless `architecture` exists."""
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=3) or ARCHITECTURES
        raise NetworkError(
            f"there is no architecture {architecture!r}", f"did you mean {' or '.join(near)}?"
        )
