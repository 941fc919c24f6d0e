"""From an ordinary network to a Frame Flexible Network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.ffn import FrameFlexibleNetwork, Layout
from ffn_edge.network.specialized import (
    NORM_TYPES,
    AlterationPoint,
    Route,
    SpecializedNorm,
    TemporalShift,
    WeightAlteration,
)

# The residual branch of torchvision's block types. Before its first convolution stand the temporal
# shift and the weight alteration. Three networks have a block named InvertedResidual.
_BRANCHES = {
    "BasicBlock": ("conv1",),
    "Bottleneck": ("conv1",),
    "InvertedResidual": ("block", "conv", "branch2"),
    "MBConv": ("block",),
    "FusedMBConv": ("block",),
    "ResBottleneckBlock": ("f",),
    "CNBlock": ("block",),
}


def specialize(
    module: nn.Module,
    frame_counts: Sequence[int],
    *,
    num_classes: int,
    architecture: str = "custom",
    layout: Layout = "frames",
    branches: Sequence[str] | None = None,
    shift_fraction: int | None = 8,
    route: Route | None = None,
    without: Sequence[str] = (),
) -> FrameFlexibleNetwork:
    """Turn an ordinary network into a Frame Flexible Network, in place.

    Every norm becomes a `SpecializedNorm`, every `AlterationPoint` a `WeightAlteration`. At the
    start of every residual branch, the convolution gets a `TemporalShift` (layout "frames" only)
    and a `WeightAlteration` before it.

    Args:
        module: a network in torchvision's style. It is changed, and becomes the body.
        frame_counts: the frame counts to serve, ascending.
        num_classes: the number of logits of `module`.
        architecture: a name for it.
        layout: what `module` takes: "frames", an image network over rows (rows, 3, H, W), or
            "clip", a video network over (B, 3, T, H, W).
        branches: names of the layers at whose first convolution a residual branch begins; left
            out, they are found in torchvision's block types.
        shift_fraction: the temporal shift moves 1/n of the channels each way; None for no shift.
        route: the route of the module's own temporal layers, where it has any.
        without: "sn" to keep the norms as they are, "wa" for no weight alteration: the paper's
            ablations.

    Raises:
        NetworkError: no norm layer, or no residual branch was found.
    """
    counts = check_frame_counts(frame_counts)
    route = route or Route()
    starts = list(branches) if branches is not None else branch_starts(module)
    if not starts:
        raise NetworkError(
            f"found no residual branch in {type(module).__name__}",
            "name the first convolution of each branch: specialize(..., branches=[...]).",
        )
    if "sn" not in without:
        _replace(module, NORM_TYPES, lambda norm: SpecializedNorm(norm, counts, route))
    if "wa" not in without:
        for name, point in list(module.named_modules()):
            if isinstance(point, AlterationPoint):
                module.set_submodule(name, WeightAlteration(point.channels, counts, route))
    for name, conv in [_first_convolution(module, name) for name in starts]:
        start = nn.Sequential()
        if shift_fraction is not None and layout == "frames":
            start.add_module("shift", TemporalShift(route, shift_fraction))
        if "wa" not in without:
            start.add_module("alteration", WeightAlteration(conv.in_channels, counts, route))
        start.add_module("conv", conv)
        module.set_submodule(name, start)
    return FrameFlexibleNetwork(
        module,
        route,
        counts,
        architecture=architecture,
        num_classes=num_classes,
        layout=layout,
        without=without,
    )


def branch_starts(module: nn.Module) -> list[str]:
    """Return the names of the layers at whose first convolution a residual branch begins."""
    return [
        f"{name}.{part}".lstrip(".")
        for name, block in module.named_modules()
        for part in _BRANCHES.get(type(block).__name__, ())
        if hasattr(block, part)
    ]


def _first_convolution(module: nn.Module, name: str) -> tuple[str, nn.Conv2d | nn.Conv3d]:
    """Return the first convolution at or inside layer `name`, with its own name."""
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise NetworkError(
            f"{type(module).__name__} has no layer {name!r}",
            "branches are names as in module.named_modules().",
        ) from error
    for inner, child in layer.named_modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            return (f"{name}.{inner}" if inner else name), child
    raise NetworkError(
        f"{name!r} is a {type(layer).__name__} without a convolution",
        "a branch begins with a Conv2d or Conv3d.",
    )


def _replace(
    module: nn.Module,
    types: tuple[type[nn.Module], ...],
    make: Callable[[nn.Module], nn.Module],
) -> None:
    """Replace every layer of the given types; a layer used in two places stays one layer."""
    made: dict[int, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() skips a second name
            if isinstance(child, types):
                if id(child) not in made:
                    made[id(child)] = make(child)
                setattr(parent, name, made[id(child)])
    if not made:
        raise NetworkError(
            f"{type(module).__name__} has no norm layer",
            "a Frame Flexible Network needs BatchNorm or LayerNorm to specialise.",
        )
