"""Fold targets: where in a traced network a norm or an alteration can go.

The one place that decides it: export folds by it, and the report of `specialize` says it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from ffn_edge.network.channels import Channels, channels_of, consumers
from ffn_edge.network.layers import (
    CONVOLUTIONS,
    LINEAR,
    NORM_TYPES,
    SpecializedNorm,
    WeightAlteration,
)
from ffn_edge.network.tracing import TracedNetwork

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, slots=True)
class FoldTarget:
    """Where a norm's affine, or an alteration, goes when one frame count is exported.

    One of the three is set.

    Attributes:
        producer: the convolution before it, whose outputs it scales and shifts; of an alteration,
            the specialised norm before it.
        consumers: the linear layers after it, whose inputs it scales (and whose bias takes up the
            shift). A LayerNorm itself stays, without its affine.
        reason: why it stays as an operation of its own.
    """

    producer: str | None = None
    consumers: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"stays: {self.reason}"
        if self.producer is not None:
            return f"folds into {self.producer} before it"
        return f"folds into {', '.join(self.consumers)} after it"


def fold_targets(network: TracedNetwork) -> dict[fx.Node, FoldTarget]:
    """Return where each norm and alteration can go without changing a result, by its call.

    Of `SpecializedNorm`s, `WeightAlteration`s and ordinary batch norms.
    """
    kinds = (SpecializedNorm, WeightAlteration, _BATCH_NORM)
    return {
        node: _target_of(network, node)
        for node in network.graph.nodes
        if isinstance(network.layer_of(node), kinds)
    }


def _target_of(network: TracedNetwork, node: fx.Node) -> FoldTarget:
    layer = _one_of(network.layers[str(node.target)])
    if isinstance(layer, _BATCH_NORM):
        if layer.running_mean is None:
            return FoldTarget(reason="it keeps no running statistics, and cannot be exported")
        producer = _sole_producer(network, node)
        if producer is not None:
            return FoldTarget(producer=producer)
    if network.times_called(node) > 1:
        return FoldTarget(reason="it is used in several places")
    linear = _linear_consumers(network, layer, node, channels_of(layer))
    if isinstance(linear, tuple):
        return FoldTarget(consumers=linear)
    if isinstance(layer, WeightAlteration):
        for other in network.graph.nodes:
            if isinstance(network.layer_of(other), SpecializedNorm) and _is_sole_consumer(
                network, other, node, layer
            ):
                return FoldTarget(producer=str(other.target))
    return FoldTarget(reason=linear)


def _sole_producer(network: TracedNetwork, node: fx.Node) -> str | None:
    """Name the convolution before `node`, if nothing else reads it and it is called only there.

    Not a linear layer: a graph does not say whether it gives (B, C), or (B, N, C) of which
    BatchNorm1d normalises N.
    """
    before = node.all_input_nodes[0]
    convolves = isinstance(network.layer_of(before), CONVOLUTIONS)
    if not convolves or list(before.users) != [node] or network.times_called(before) > 1:
        return None
    return str(before.target)


def _linear_consumers(
    network: TracedNetwork, layer: nn.Module, node: fx.Node, at: Channels | None
) -> tuple[str, ...] | str:
    """Name the linear layers that read `node`, whose channels `layer` scales; or say what is amiss.

    A linear layer that is called in several places counts as another operation. An alteration
    between a norm and the layers is looked through: it goes into the same layers.
    """
    if at is None:
        return "it scales more than channels"
    linear: list[str] = []
    for user, where in consumers(network.layers, node, at):
        other = network.layer_of(user)
        if isinstance(other, LINEAR) and network.times_called(user) == 1:
            if reason := _mismatch(layer, where, other):
                return f"{user.target} {reason}"
            linear.append(str(user.target))
        elif (
            isinstance(other, WeightAlteration)
            and _scales(other, layer, where)
            and _target_of(network, user).consumers
        ):
            behind = _linear_consumers(network, layer, user, where)
            if isinstance(behind, str):
                return behind
            linear += behind
        else:
            return "not only linear layers read it"
    return tuple(linear) or "nothing reads it"


def _is_sole_consumer(
    network: TracedNetwork, norm: fx.Node, alteration: fx.Node, altered: WeightAlteration
) -> bool:
    """Whether a norm is called once, and read by an alteration of the same channels alone."""
    layer = _one_of(network.layers[str(norm.target)])
    at = channels_of(layer)
    found = [] if at is None else consumers(network.layers, norm, at)
    return (
        [user for user, _ in found] == [alteration]
        and _scales(altered, layer, found[0][1])
        and network.times_called(norm) == 1
    )


def _scales(alteration: WeightAlteration, layer: nn.Module, at: Channels) -> bool:
    """Whether an alteration scales the channels that `layer` scales, and finds `at`."""
    return at.at(alteration.dim) and _channels(alteration) == _channels(layer)


def _one_of(layer: nn.Module) -> nn.Module:
    """Return one norm of a specialised norm: all are of one kind and size. Others as they are."""
    return next(iter(layer.norms.values())) if isinstance(layer, SpecializedNorm) else layer


def _mismatch(layer: nn.Module, at: Channels, consumer: nn.Module) -> str:
    """Say why a scale (and shift) of `layer`'s channels is none of `consumer`'s inputs, or ""."""
    dim = -1 if isinstance(consumer, nn.Linear) else 1
    if dim == -1 and at == Channels(1):
        return "may read other channels than it scales: which dimension is last is not known"
    if not at.at(dim) or _channels(consumer) != _channels(layer):
        return "reads other channels than it scales"
    pads = isinstance(consumer, CONVOLUTIONS) and any(consumer.padding)
    if pads and isinstance(layer, NORM_TYPES):
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
    assert isinstance(layer, _BATCH_NORM)
    return layer.num_features
