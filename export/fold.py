"""Fold one frame count's norms and alterations into the shared layers around them.

    W_T = W · s_in_T · s_out_T        b_T = s_out_T · (b + W · t_in_T) + t_out_T

A batch norm folds into the convolution before it, which gives s_out and t_out:

    s_out = γ_T/√(σ²_T + ε)           t_out = β_T − γ_T·μ_T/√(σ²_T + ε)

An alteration, the affine of a LayerNorm, and a batch norm that has no convolution before it fold
into all linear layers after them, which gives s_in and t_in: 1 + φ_T and no shift, γ_T and β_T, or
scale and shift as above. An alteration that has no such layers goes into the norm before it.
`ffn_edge.network.folding` says where which can go with no change of the result. Vectors are
computed in float64 and rounded once. What cannot be folded stays in the graph as an operation of
its own, with vectors of its own.

An ordinary batch norm (a network without specialised normalisation) folds in the same way; its
vectors are the same for each frame count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ffn_edge.bundle.bundle import WeightsDtype
from ffn_edge.bundle.compose import BIAS, S_IN, S_OUT, vector_name
from ffn_edge.errors import ExportError
from ffn_edge.export.folded_layers import (
    Affine,
    ChannelAffine,
    FusableGelu,
    ModulatedLayer,
    affine_of,
    layer_norm,
)
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.channels import POOLINGS
from ffn_edge.network.folding import FoldTarget, fold_targets
from ffn_edge.network.layers import (
    LINEAR,
    FixedFrames,
    SpecializedNorm,
    TemporalLayer,
    WeightAlteration,
    does_more,
    is_plain,
)
from ffn_edge.network.tracing import TracedNetwork, traced


@dataclass
class FoldedNetwork:
    """The sub-network of one frame count, without a specialised layer.

    `body` takes what the network's body takes. `tensors` names its tensors as the weight file
    does; `parameters` gives for each of them the name in `body`.
    """

    frames: int
    body: fx.GraphModule
    layers: list[str] = field(default_factory=list)
    unfolded: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)


def fold(
    network: FrameFlexibleNetwork, frames: int, weights_dtype: WeightsDtype = "float32"
) -> FoldedNetwork:
    """Fold the sub-network of `frames`. The network itself is left as it is.

    Shared weights are referenced, not copied.

    Args:
        network: a trained network; it is folded as in evaluation mode.
        frames: one of its frame counts.
        weights_dtype: what the weights will be stored as. They are left as they are; for int8 every
            linear layer has an s_out, for the scale of its weight to be multiplied into.

    Raises:
        ExportError: the frame count does not exist, the frame counts share no weights, or a layer
            does more than its type says.
        NetworkError: the body cannot be traced.
    """
    if frames not in network.frame_counts:
        raise ExportError(
            f"the network has no sub-network for {frames} frames",
            f"choose from {', '.join(map(str, network.frame_counts))}.",
        )
    if network.serving(frames) is not network:
        raise ExportError(
            "a network without weight sharing is not one bundle",
            "export one that was trained with it; `ffn-edge train --method separate` trains "
            "networks that can be exported one by one.",
        )
    _check_plain("the network", network)
    _check_plain("its body", network.body)  # whose forward alone is traced
    traced_body = traced(network.body)
    body, graph = traced_body.module, traced_body.graph
    folder = _Folder(traced_body, frames, scaled=weights_dtype == "int8")
    folder.run()
    # A fresh root: fx copies only what the graph calls, and by reference.
    root = nn.Module()
    for name, module in folder.replaced.items():
        _put(root, name, module)
    for name in {str(node.target) for node in graph.nodes if node.op == "get_attr"}:
        *path, last = name.split(".")
        _put(root, name, getattr(body.get_submodule(".".join(path)), last))
    folded = fx.GraphModule(root, graph, class_name=f"Folded{type(body).__name__}").eval()
    result = FoldedNetwork(frames, folded, folder.linear_layers, folder.unfolded)
    for parameter, tensor in (*folded.named_parameters(), *folded.named_buffers()):
        name = folder.names.get(parameter, parameter)
        result.tensors[name] = tensor.detach()
        result.parameters[name] = parameter
    for layer in result.layers:
        if f"{layer}.weight" not in result.tensors:  # PyTorch names a tied parameter once
            raise ExportError(
                f"{layer} shares its weight tensor with another layer, which cannot be exported",
                "use one layer in both places, or give each a weight of its own.",
            )
    return result


class _Folder:
    """Rewrites a traced graph for one frame count; collects the layers that replace others."""

    def __init__(self, network: TracedNetwork, frames: int, *, scaled: bool) -> None:
        self.network = network
        self.graph = network.graph
        self.layers = network.layers
        self.frames = frames
        self.scaled = scaled
        self.replaced: dict[str, nn.Module] = {}
        self.names: dict[str, str] = {}  # parameter of the folded body -> name in the weight file
        self.linear_layers: list[str] = []
        self.unfolded: list[str] = []
        self.inputs: dict[str, Affine | None] = {}  # linear layer -> what is done to its inputs
        self.outputs: dict[str, Affine] = {}
        self.altered: dict[str, Affine] = {}  # norm -> the alteration after it

    def run(self) -> None:
        targets = fold_targets(self.network)  # before anything is taken out of the graph
        for node, target in targets.items():
            alteration = self.layers[str(node.target)]
            if isinstance(alteration, WeightAlteration) and target.producer is not None:
                self.altered[target.producer] = self._alteration(alteration)
        for node, target in targets.items():
            self._fold_into(target, node)
        for node in self.graph.nodes:
            _pool_by_mean(node, self.network.layer_of(node))
        for node in self.graph.nodes:
            layer, name = self.network.layer_of(node), str(node.target)
            if layer is None or name in self.replaced:
                continue  # also a layer that the graph calls in several places
            if isinstance(layer, LINEAR):
                self._modulate(name, layer)
            elif isinstance(layer, TemporalLayer):
                _check_plain(name, layer)
                self.replaced[name] = FixedFrames(layer, self.frames)
                for tensor in layer.state_dict():
                    self.names[f"{name}.layer.{tensor}"] = f"{name}.{tensor}"
            elif type(layer) is nn.GELU and layer.approximate == "none" and not does_more(layer):
                self.replaced[name] = FusableGelu()
            else:
                self.replaced[name] = layer
        self.graph.lint()

    def _fold_into(self, target: FoldTarget, node: fx.Node) -> None:
        """Put a norm or an alteration where it goes."""
        name, layer = str(node.target), self.layers[str(node.target)]
        _check_plain(name, layer)
        affine: Affine | None
        if isinstance(layer, WeightAlteration):
            if target.producer is not None:
                self._drop(node)  # the norm there takes it up
                return
            affine = self._alteration(layer)
        elif isinstance(layer, SpecializedNorm):
            layer = layer.norms[str(self.frames)]
            _check_plain(name, layer)
            affine = _then(affine_of(layer), self.altered.get(name))
        else:
            affine = affine_of(layer)
            if target.reason:
                return  # an ordinary norm stays as it is
        if target.producer is not None and affine is not None:
            self.outputs[target.producer] = affine
        for consumer in target.consumers:
            self.inputs[consumer] = _then(self.inputs.get(consumer), affine)
        if isinstance(layer, nn.LayerNorm):
            self._keep(name, layer_norm(layer, affine if target.reason else None))
        elif target.reason:
            assert affine is not None
            dim = layer.dim if isinstance(layer, WeightAlteration) else 1
            self._keep(name, ChannelAffine(affine, dim))
        else:
            self._drop(node)

    def _drop(self, node: fx.Node) -> None:
        node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.erase_node(node)

    def _alteration(self, layer: WeightAlteration) -> Affine:
        return Affine(1 + layer.phi[str(self.frames)].detach().double())

    def _keep(self, name: str, layer: nn.Module) -> None:
        """Leave an operation in the graph, with vectors of this frame count if it has any."""
        if name in self.replaced:
            return
        self.replaced[name] = layer
        for parameter, _ in layer.named_parameters():
            self.names[f"{name}.{parameter}"] = vector_name(self.frames, name, parameter)
            if name not in self.unfolded:
                self.unfolded.append(name)

    def _modulate(self, name: str, layer: nn.Module) -> None:
        assert isinstance(layer, LINEAR)
        _check_plain(name, layer)
        inputs, outputs = self.inputs.get(name), self.outputs.get(name)
        self.replaced[name] = ModulatedLayer(layer, inputs, outputs, self.scaled)
        self.linear_layers.append(name)
        shifted = outputs is not None or (inputs is not None and inputs.shift is not None)
        for vector in (S_IN, S_OUT, BIAS) if shifted else (S_IN, S_OUT):
            self.names[f"{name}.{vector}"] = vector_name(self.frames, name, vector)


def _check_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer that does more than its type says: what takes its place would not.

    Raises:
        ExportError: it has a hook, a forward of its own or a parametrization, or its class computes
            something else.
    """
    if is_plain(layer):
        return
    if does_more(layer):
        more = "has a hook or a forward of its own"
    elif parametrize.is_parametrized(layer):
        more = "has a parametrization"
    else:
        more = "computes something else by its class"
    raise ExportError(
        f"{name}, a {type(layer).__name__}, {more}, which cannot be exported",
        "remove the hook, bake what computes the weight into it "
        "(torch.nn.utils.parametrize.remove_parametrizations), or write a class of its own.",
    )


def _then(one: Affine | None, other: Affine | None) -> Affine | None:
    """Return the affine of both, one after the other; None is neither."""
    if one is None or other is None:
        return one or other
    return one.then(other)


def _pool_by_mean(node: fx.Node, layer: Any) -> None:
    """Make a mean of a node that calls an adaptive average pooling to size 1.

    The exporter turns the latter and a flatten into a Gather with a table of rows × channels
    indices: 262 kB of a ResNet-50's graph at 16 frames.
    """
    rank = POOLINGS.get(node.target if layer is None else type(layer))
    if rank is None or (layer is not None and does_more(layer)):
        return
    if layer is not None:
        size = layer.output_size
    else:
        size = node.kwargs["output_size"] if "output_size" in node.kwargs else node.args[1]
    sizes = size if isinstance(size, tuple | list) else (size,) * rank
    dims = tuple(i - rank for i, each in enumerate(sizes) if each == 1)
    if dims and all(each in (1, None) for each in sizes):  # without dims, mean() is of all
        node.op, node.target = "call_method", "mean"
        node.args, node.kwargs = (node.all_input_nodes[0], dims, True), {}


def _put(root: nn.Module, name: str, value: nn.Module | Tensor) -> None:
    """Set `root.a.b.c = value`, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Module):
        root.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value)
