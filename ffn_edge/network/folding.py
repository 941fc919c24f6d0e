"""What stands next to a layer in a traced network, and so where a norm or an alteration can go.

The one place that decides it: export folds by it, and the report of `specialize` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ffn_edge.network.channels import Channels, channels_of, readers
from ffn_edge.network.layers import (
    CONVOLUTIONS,
    LINEAR,
    NORM_TYPES,
    SpecializedNorm,
    WeightAlteration,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a norm's affine, or an alteration, goes when one frame count is exported.

    One of the three is set.

    Attributes:
        before: the convolution before it, whose outputs it scales and shifts; of an alteration,
            the specialised norm before it.
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
    layer = _one_of(layers[str(node.target)])
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        if layer.running_mean is None:
            return Place(reason="it keeps no running statistics, and cannot be exported")
        producer = _sole_convolution_before(graph, layers, node)
        if producer is not None:
            return Place(before=producer)
    if times_called(graph, layers, node) > 1:
        return Place(reason="it is used in several places")
    after = _linear_readers(graph, layers, layer, node, channels_of(layer))
    if isinstance(after, tuple):
        return Place(after=after)
    if isinstance(layer, WeightAlteration):
        for other in graph.nodes:
            if isinstance(layer_of(layers, other), SpecializedNorm) and _is_read_by_alone(
                graph, layers, other, node
            ):
                return Place(before=str(other.target))
    return Place(reason=after)


def _sole_convolution_before(
    graph: fx.Graph, layers: Mapping[str, nn.Module], node: fx.Node
) -> str | None:
    """Name the convolution before `node`, if nothing else reads it and it is called only there.

    Not a linear layer: a graph does not say whether it gives (B, C), or (B, N, C) of which
    BatchNorm1d normalises N.
    """
    before = node.all_input_nodes[0]
    if not isinstance(layer_of(layers, before), CONVOLUTIONS) or list(before.users) != [node]:
        return None
    return _linear_called_once(graph, layers, before)


def _linear_readers(
    graph: fx.Graph,
    layers: Mapping[str, nn.Module],
    layer: nn.Module,
    node: fx.Node,
    at: Channels | None,
) -> tuple[str, ...] | str:
    """Name the linear layers that read `node`, whose channels `layer` scales; or say what is amiss.

    A linear layer that is called in several places counts as another operation. An alteration
    between a norm and the layers is looked through: it goes into the same layers.
    """
    if at is None:
        return "it scales more than channels"
    linear: list[str] = []
    for user, where in readers(layers, node, at):
        name, other = _linear_called_once(graph, layers, user), layer_of(layers, user)
        if name is not None:
            if reason := _mismatch(layer, where, layers[name]):
                return f"{name} {reason}"
            linear.append(name)
        elif (
            isinstance(other, WeightAlteration)
            and _scales(other, layer, where)
            and place_of(graph, layers, user).after
        ):
            behind = _linear_readers(graph, layers, layer, user, where)
            if isinstance(behind, str):
                return behind
            linear += behind
        else:
            return "not only linear layers read it"
    return tuple(linear) or "nothing reads it"


def _is_read_by_alone(
    graph: fx.Graph, layers: Mapping[str, nn.Module], norm: fx.Node, alteration: fx.Node
) -> bool:
    """Whether a norm is called once, and read by an alteration of the same channels alone."""
    layer, altered = _one_of(layers[str(norm.target)]), layer_of(layers, alteration)
    assert isinstance(altered, WeightAlteration)
    at = channels_of(layer)
    found = [] if at is None else readers(layers, norm, at)
    return (
        [user for user, _ in found] == [alteration]
        and _scales(altered, layer, found[0][1])
        and times_called(graph, layers, norm) == 1
    )


def _scales(alteration: WeightAlteration, layer: nn.Module, at: Channels) -> bool:
    """Whether an alteration scales the channels that `layer` scales, and finds `at`."""
    return at.at(alteration.dim) and _channels(alteration) == _channels(layer)


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


def _one_of(layer: nn.Module) -> nn.Module:
    """Return one norm of a specialised norm: all are of one kind and size. Others as they are."""
    return next(iter(layer.norms.values())) if isinstance(layer, SpecializedNorm) else layer


def _mismatch(layer: nn.Module, at: Channels, reader: nn.Module) -> str:
    """Say why a scale (and shift) of `layer`'s channels is not one of `reader`'s inputs, or ""."""
    dim = -1 if isinstance(reader, nn.Linear) else 1
    if dim == -1 and at == Channels(1):
        return "may read other channels than it scales: which dimension is last is not known"
    if not at.at(dim) or _channels(reader) != _channels(layer):
        return "reads other channels than it scales"
    if isinstance(layer, NORM_TYPES) and isinstance(reader, CONVOLUTIONS) and any(reader.padding):
        return "pads with zeros, which the norm would have shifted"
    return ""


def _channels(layer: nn.Module) -> int:
    """Return how many channels a norm or an alteration scales, or a linear layer reads."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, CONVOLUTIONS):
        return layer.in_channels
    if isinstance(layer, WeightAlteration):
        return len(next(iter(layer.phi.values())))
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return layer.num_features
