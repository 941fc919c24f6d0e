"""Channel propagation, through operations that leave each channel as it is.

To permute, flatten or average positions, and to scale and shift channels, can change places: what
a norm does to its channels may as well be done behind such operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d  # type: ignore[import-untyped]
from torchvision.ops import stochastic_depth  # type: ignore[import-untyped]

from ffn_edge.network.layers import WeightAlteration, does_more

# The number of dimensions that an adaptive average pooling averages over.
POOLINGS: dict[Any, int] = {
    nn.AdaptiveAvgPool1d: 1,
    nn.AdaptiveAvgPool2d: 2,
    nn.AdaptiveAvgPool3d: 3,
    F.adaptive_avg_pool1d: 1,
    F.adaptive_avg_pool2d: 2,
    F.adaptive_avg_pool3d: 3,
}
# In evaluation, these change nothing.
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)
# Nor do these functions, where their argument `training`, at this place, is False.
_DROPOUTS: dict[Any, int] = {
    F.dropout: 2,
    F.dropout1d: 2,
    F.dropout2d: 2,
    F.dropout3d: 2,
    stochastic_depth: 3,
}
# The number of dimensions that a norm takes. (BatchNorm1d takes two or three.)
_RANKS: dict[type[nn.Module], int] = {
    nn.BatchNorm2d: 4,
    nn.BatchNorm3d: 5,
    LayerNorm2d: 4,
}


@dataclass(frozen=True, slots=True)
class Channels:
    """The dimension that holds the channels, of `rank` dimensions (None if that is unknown)."""

    dim: int
    rank: int | None = None

    def at(self, dim: int) -> bool:
        """Whether the channels are in dimension `dim`, which may count from the end."""
        return self.dim == dim or (self.rank is not None and self.dim == dim % self.rank)


def channels_of(layer: nn.Module) -> Channels | None:
    """Return what an alteration or a norm scales; None if that is not one dimension."""
    if isinstance(layer, WeightAlteration):
        return Channels(layer.dim)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm | LayerNorm2d):
        return Channels(1, _RANKS.get(type(layer)))
    plain = type(layer).forward is nn.LayerNorm.forward
    if isinstance(layer, nn.LayerNorm) and plain and len(layer.normalized_shape) == 1:
        return Channels(-1)
    return None


def consumers(
    layers: Mapping[str, nn.Module], node: fx.Node, channels: Channels
) -> list[tuple[fx.Node, Channels]]:
    """Return what computes with the channels of `node`, and where it finds them."""
    found = []
    for user in node.users:
        behind = _propagated(layers, user, channels)
        found += [(user, channels)] if behind is None else consumers(layers, user, behind)
    return found


def _propagated(layers: Mapping[str, nn.Module], node: fx.Node, at: Channels) -> Channels | None:
    """Return where the channels are behind `node`; None if it is another operation."""
    layer = layers[str(node.target)] if node.op == "call_module" else None
    if layer is not None and does_more(layer):
        return None
    called = node.target if layer is None else type(layer)
    if isinstance(layer, _IDENTITIES):
        return at
    if called in _DROPOUTS:
        return None if _argument(node, _DROPOUTS[called], "training", True) else at
    if called in POOLINGS:
        rank = 2 + POOLINGS[called]
        return Channels(1, rank) if at.dim == 1 and at.rank in (None, rank) else None
    if isinstance(layer, nn.Flatten):
        return _flattened(at, layer.start_dim, layer.end_dim)
    arguments = (*node.args[1:], *node.kwargs.values())
    match _name(node):
        case "contiguous":
            return at
        case "permute":
            return _permuted(at, _dims(arguments))
        case "transpose":
            return _transposed(at, _dims(arguments))
        case "flatten":
            start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            return _flattened(at, *_dims((start, end)))
        case "mean":
            dims, keep = _argument(node, 1, "dim", ()), _argument(node, 2, "keepdim", False)
            return _averaged(at, _dims((dims,)), keep)
    return None


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """Return what `node` passes at a place or by name."""
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _name(node: fx.Node) -> str:
    """Return the name of the method, or of the function of the same name, that `node` calls."""
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", "")
    return name if getattr(torch, name, None) is node.target else ""


def _dims(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """Return dimensions, given one by one or in one tuple; none if they are not constants."""
    dims = arguments[0] if arguments and isinstance(arguments[0], tuple | list) else arguments
    return tuple(dims) if all(isinstance(dim, int) for dim in dims) else ()


def _permuted(at: Channels, dims: tuple[int, ...]) -> Channels | None:
    rank = len(dims)
    if not rank or at.rank not in (None, rank):
        return None
    return Channels([dim % rank for dim in dims].index(at.dim % rank), rank)


def _transposed(at: Channels, dims: tuple[int, ...]) -> Channels | None:
    if at.rank is not None and len(dims) == 2:
        one, other = (dim % at.rank for dim in dims)
        return Channels({one: other, other: one}.get(at.dim, at.dim), at.rank)
    return Channels(dims[1 - dims.index(at.dim)]) if at.dim in dims else None


def _flattened(at: Channels, start: int = 0, end: int = -1) -> Channels | None:
    # To flatten the channels themselves is to have them alone, if no more are read behind it.
    known = at.dim >= 1 and end == -1 and start >= at.dim
    return Channels(at.dim, start + 1) if known else None


def _averaged(at: Channels, dims: tuple[int, ...], keep: bool) -> Channels | None:
    if at.rank is None or not dims:
        return None
    over = {dim % at.rank for dim in dims}
    if at.dim in over:
        return None
    if keep:
        return at
    return Channels(at.dim - sum(dim < at.dim for dim in over), at.rank - len(over))
