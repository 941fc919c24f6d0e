"""What stands next to a layer in a traced network, and so where a norm or an alteration can go.

The one place that decides it: export folds by it, and the report of `specialize` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torchvision.models.convnext import LayerNorm2d  # type: ignore[import-untyped]

from ffn_edge.network.specialized import NORM_TYPES, SpecializedNorm, WeightAlteration

LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CONVOLUTIONS = LINEAR[:3]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a norm's affine, or an alteration, goes when one frame count is exported.

    One of the three is set.

    Attributes:
        before: the linear layer before it, whose outputs it scales and shifts.
        after: the linear layers after it, whose inputs it scales (and whose bias takes up the
            shift). A LayerNorm itself stays, without its affine.
        reason: why it stays as an operation of its own.
    """

    before: str | None = None
    after: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"stays: {self.reason}"
        if self.before is not None:
            return f"folds into {self.before} before it"
        return f"folds into {', '.join(self.after)} after it"


def place_of(graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node) -> Place:
    """Return where the norm or the alteration that `node` calls can go without changing a result.

    Args:
        graph: of a traced network; see `tracing.traced`.
        layers: the traced network's layers by name.
        node: calls a `SpecializedNorm`, an ordinary norm or a `WeightAlteration`.
    """
    layer = layers[str(node.target)]
    if isinstance(layer, SpecializedNorm):
        layer = next(iter(layer.norms.values()))  # all of one kind and size
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        producer = sole_linear_before(graph, layers, node)
        # After a linear layer on (B, N, C), BatchNorm1d normalises N.
        if producer is not None and layer.num_features == len(_weight(layers[producer])):
            return Place(before=producer)
    if times_called(graph, layers, node) > 1:
        return Place(reason="it is used in several places")
    readers = linear_readers(graph, layers, node)
    if not readers:
        return Place(reason="not only linear layers read it")
    for reader in readers:
        if reason := _mismatch(layer, layers[reader]):
            return Place(reason=f"{reader} {reason}")
    return Place(after=tuple(readers))


def sole_linear_before(
    graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node
) -> str | None:
    """Name the linear layer before `node`, if nothing else reads it and it is called only there."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or list(before.users) != [node]:
        return None
    return _linear_called_once(graph, layers, before)


def linear_readers(
    graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node
) -> list[str] | None:
    """Name the linear layers that read `node`; None if another operation reads it too.

    A linear layer that is called in several places counts as another operation. An alteration
    between a norm and the layers is looked through: it goes into the same layers.
    """
    readers: list[str] = []
    for user in node.users:
        if isinstance(layer_of(layers, user), WeightAlteration):
            behind = place_of(graph, layers, user).after
        else:
            name = _linear_called_once(graph, layers, user)
            behind = () if name is None else (name,)
        if not behind:
            return None
        readers += behind
    return readers


def layer_of(layers: Mapping[str, nn.Module], node: Any) -> nn.Module | None:
    """Return the layer that `node` calls, if it is a node that calls one."""
    called = isinstance(node, fx.Node) and node.op == "call_module"
    return layers[str(node.target)] if called else None


def times_called(graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node) -> int:
    """Count the places that call the layer which `node` calls."""
    layer = layer_of(layers, node)
    return sum(layer_of(layers, other) is layer for other in graph.nodes)


def _linear_called_once(
    graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node
) -> str | None:
    if not isinstance(layer_of(layers, node), LINEAR):
        return None
    return str(node.target) if times_called(graph, layers, node) == 1 else None


def _weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear, LINEAR)
    return linear.weight


def _mismatch(layer: nn.Module, reader: nn.Module) -> str:
    """Say why a scale (and shift) of `layer`'s channels is not one of `reader`'s inputs, or ""."""
    last = layer.dim == -1 if isinstance(layer, WeightAlteration) else _scales_last(layer)
    if last is None:
        return "may read other channels than it scales"
    if last != isinstance(reader, nn.Linear):
        return "reads other channels than it scales"
    if isinstance(layer, NORM_TYPES) and isinstance(reader, _CONVOLUTIONS) and any(reader.padding):
        return "pads with zeros, which the norm would have shifted"
    return ""


def _scales_last(norm: nn.Module) -> bool | None:
    """Whether a norm's channels are the last dimension, or dimension 1; None if it is unknown."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm | LayerNorm2d):
        return False
    assert isinstance(norm, nn.LayerNorm)
    plain = type(norm).forward is nn.LayerNorm.forward and len(norm.normalized_shape) == 1
    return True if plain else None
