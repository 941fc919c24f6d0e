"""Every architecture by its name, and how a network of it is built."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.families import slowfast, tea, tsm, uniformer
from ffn_edge.network.families.family import Family
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.unshared import UnsharedNetwork

_FAMILIES = {
    name: family
    for family in (
        *(tsm.FAMILY, tsm.EDGE_FAMILY, tsm.TINY_FAMILY),
        *(tea.FAMILY, slowfast.FAMILY, uniformer.FAMILY),
    )
    for name in family.architectures
}
ARCHITECTURES = tuple(_FAMILIES)

# Each has its own layers. A file that we read may ask for any number of them.
_MOST_FRAME_COUNTS = 100


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
        weights: where the shared weights start: None for random, the name of torchvision's
            weights such as "IMAGENET1K_V1" (downloaded once), or a local file of them.
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

    def built(counts: Sequence[int]) -> FrameFlexibleNetwork:
        return builder(arch, num_classes, counts, weights=weights, dropout=dropout, without=without)

    if "ws" in without:
        return UnsharedNetwork({t: built((t,)) for t in counts}, tuple(without))
    return built(counts)


def family_of(architecture: str) -> Family:
    """Return what builds an architecture.

    Raises:
        NetworkError: it does not exist; the nearest names are in the hint.
    """
    if architecture not in _FAMILIES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=3) or ARCHITECTURES
        raise NetworkError(
            f"there is no architecture {architecture!r}", f"did you mean {' or '.join(near)}?"
        )
    return _FAMILIES[architecture]
