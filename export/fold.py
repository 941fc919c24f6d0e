"""Fold one frame count's specialised norms and alterations into the shared layers around them.

    W_T = W · s_in_T · s_out_T        b_T = β_T − γ_T·μ_T/√(σ²_T + ε) + s_out_T·b
    s_in = 1 + φ_T                    s_out = γ_T/√(σ²_T + ε)

A norm folds into the convolution (or linear layer) before it, an alteration into the one after
it, where nothing else reads the value between them. Vectors are computed in float64 and rounded
once. What cannot be folded stays in the graph as an operation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from ffn_edge.compose import BIAS, S_IN, S_OUT, vector_name
from ffn_edge.errors import ExportError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.specialized import (
    FixedFrames,
    SpecializedNorm,
    TemporalLayer,
    WeightAlteration,
)
from ffn_edge.network.tracing import traced

_Linear = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


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


class ModulatedLayer(nn.Module):
    """A convolution or linear layer with the weight W · s_in · s_out and a bias.

    The two products stand in the graph as two Mul nodes, in the order of `compose.modulate`.
    """

    def __init__(
        self, layer: _Linear, s_in: Tensor | None, s_out: Tensor | None, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.weight = layer.weight
        self.s_in = _parameter(s_in)
        self.s_out = _parameter(s_out)
        self.bias = _parameter(bias)
        if isinstance(layer, nn.Linear):
            self.convolve = None
        else:
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise ExportError(
                    f"a convolution with padding {layer.padding!r} ({layer.padding_mode}) "
                    "cannot be exported",
                    "use zero padding with numbers.",
                )
            self.convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[layer.weight.dim() - 2]
            self.settings = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer as the shared one would, with this frame count's weight."""
        weight = self.weight.float()
        if self.s_in is not None:
            weight = weight * self.s_in
        if self.s_out is not None:
            weight = weight * self.s_out
        bias = None if self.bias is None else self.bias.float()
        if self.convolve is None:
            return F.linear(x, weight, bias)
        return self.convolve(x, weight, bias, *self.settings)


class ChannelAffine(nn.Module):
    """x · scale + shift per channel: what is left of a norm or alteration with no linear layer."""

    def __init__(self, scale: Tensor, shift: Tensor | None) -> None:
        super().__init__()
        self.scale = _parameter(scale)
        self.shift = _parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift dimension 1 of `x`; the shape stays."""
        assert self.scale is not None
        shape = (-1, *(1,) * (x.dim() - 2))
        scaled = x * self.scale.reshape(shape)
        return scaled if self.shift is None else scaled + self.shift.reshape(shape)


class GlobalMean(nn.Module):
    """The mean over all positions, in place of AdaptiveAvgPool(1).

    The exporter turns the latter and a flatten into a Gather with a table of rows × channels
    indices: 262 kB of a ResNet-50's graph at 16 frames.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average (rows, C, ...) over all but the first two dimensions, which become 1."""
        return x.mean(tuple(range(2, x.dim())), keepdim=True)


def fold(network: FrameFlexibleNetwork, frames: int) -> FoldedNetwork:
    """Fold the sub-network of `frames`. The network itself is left as it is.

    Shared weights are referenced, not copied.

    Args:
        network: a trained network; it is folded as in evaluation mode.
        frames: one of its frame counts.

    Raises:
        ExportError: the frame count does not exist.
        NetworkError: the body cannot be traced.
    """
    if frames not in network.frame_counts:
        raise ExportError(
            f"the network has no sub-network for {frames} frames",
            f"choose from {', '.join(map(str, network.frame_counts))}.",
        )
    body, graph = traced(network.body)
    layers = dict(body.named_modules())
    folder = _Folder(graph, layers, frames)
    folder.run()
    # A fresh root: fx copies only what the graph calls, and by reference.
    root = nn.Module()
    for name, module in folder.replaced.items():
        _put(root, name, module)
    for name, tensor in (*body.named_parameters(), *body.named_buffers()):
        if any(node.op == "get_attr" and node.target == name for node in graph.nodes):
            _put(root, name, tensor)
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

    def __init__(self, graph: fx.Graph, layers: dict[str, nn.Module], frames: int) -> None:
        self.graph = graph
        self.layers = layers
        self.frames = frames
        self.replaced: dict[str, nn.Module] = {}
        self.names: dict[str, str] = {}  # parameter of the folded body -> name in the weight file
        self.linear_layers: list[str] = []
        self.unfolded: list[str] = []

    def run(self) -> None:
        norms: dict[str, nn.Module] = {}  # linear layer -> the norm after it
        scales: dict[str, Tensor] = {}  # linear layer -> s_in
        for node in list(self.graph.nodes):
            layer = self._layer(node)
            if isinstance(layer, SpecializedNorm):
                norm = layer.norms[str(self.frames)]
                producer = self._sole_linear(node.args[0], reader=node)
                if (
                    producer is not None
                    and producer not in norms
                    and _folds_into(self.layers[producer], norm)
                ):
                    norms[producer] = norm
                    self._drop(node)
                else:
                    self._keep_norm(str(node.target), norm)
            elif isinstance(layer, WeightAlteration):
                scale = 1 + layer.phi[str(self.frames)].detach().double()
                readers = list(node.users)
                reader = self._sole_linear(readers[0]) if len(readers) == 1 else None
                if reader is not None:
                    scales[reader] = scale
                    self._drop(node)
                else:
                    self._keep(str(node.target), ChannelAffine(scale.float(), None))
            elif isinstance(layer, TemporalLayer):
                name = str(node.target)
                self.replaced[name] = FixedFrames(layer, self.frames)
                for tensor in layer.state_dict():
                    self.names[f"{name}.layer.{tensor}"] = f"{name}.{tensor}"
        for node in self.graph.nodes:
            layer = self._layer(node)
            name = str(node.target)
            if isinstance(layer, _Linear):
                self._modulate(name, layer, scales.get(name), norms.get(name))
            elif _is_global_pool(layer):
                self.replaced[name] = GlobalMean()
            elif layer is not None and name not in self.replaced:
                self.replaced[name] = layer
        self.graph.lint()

    def _layer(self, node: Any) -> nn.Module | None:
        called = isinstance(node, fx.Node) and node.op == "call_module"
        return self.layers[str(node.target)] if called else None

    def _sole_linear(self, node: Any, reader: fx.Node | None = None) -> str | None:
        """Name the linear layer that `node` calls, if only there, and only `reader` reads it."""
        if not isinstance(self._layer(node), _Linear):
            return None
        if reader is not None and list(node.users) != [reader]:
            return None
        called = [n for n in self.graph.nodes if self._layer(n) is self._layer(node)]
        return str(node.target) if len(called) == 1 else None

    def _drop(self, node: fx.Node) -> None:
        assert isinstance(node.args[0], fx.Node)
        node.replace_all_uses_with(node.args[0])
        self.graph.erase_node(node)

    def _keep_norm(self, name: str, norm: nn.Module) -> None:
        if _is_batch_norm(norm):
            scale, shift = affine_of(norm)
            self._keep(name, ChannelAffine(scale.float(), shift.float()))
        else:
            self._keep(name, norm)

    def _keep(self, name: str, layer: nn.Module) -> None:
        if name not in self.unfolded:
            self.unfolded.append(name)
            self.replaced[name] = layer
            for parameter, _ in layer.named_parameters():
                self.names[f"{name}.{parameter}"] = vector_name(self.frames, name, parameter)

    def _modulate(
        self, name: str, layer: _Linear, s_in: Tensor | None, norm: nn.Module | None
    ) -> None:
        if name in self.replaced:
            return  # a layer that the graph calls in several places
        bias = None if layer.bias is None else layer.bias.detach()
        s_out = None
        if norm is not None:
            s_out, shift = affine_of(norm)
            bias = (shift if bias is None else shift + s_out * bias.double()).float()
            s_out = s_out.reshape(-1, *(1,) * (layer.weight.dim() - 1)).float()
        if s_in is not None:
            s_in = _along_inputs(s_in, layer).float()
        self.replaced[name] = ModulatedLayer(layer, s_in, s_out, bias)
        self.linear_layers.append(name)
        for vector in (S_IN, S_OUT) if norm is None else (S_IN, S_OUT, BIAS):
            self.names[f"{name}.{vector}"] = vector_name(self.frames, name, vector)


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a batch norm in evaluation as scale and shift per channel: float64 (C,) each.

    Raises:
        ExportError: the norm keeps no running statistics.
    """
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(
            "a batch norm without running statistics cannot be folded",
            "build it with track_running_stats=True.",
        )
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def _along_inputs(scale: Tensor, layer: _Linear) -> Tensor:
    """Shape one scale per input channel so that it broadcasts to the layer's weight."""
    if isinstance(layer, nn.Linear):
        return scale.reshape(1, -1)
    tail = (1,) * (layer.weight.dim() - 2)
    if layer.groups == 1:
        return scale.reshape(1, -1, *tail)
    # Each output channel reads its own group's inputs: (O, I/groups, 1, 1).
    per_group = scale.reshape(layer.groups, -1)
    return per_group.repeat_interleave(layer.out_channels // layer.groups, 0).reshape(
        layer.out_channels, -1, *tail
    )


def _folds_into(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether `norm` is a batch norm over the output channels of `layer`."""
    # After a linear layer on (B, N, C), BatchNorm1d normalises N.
    assert isinstance(layer, _Linear)
    return _is_batch_norm(norm) and bool(norm.num_features == layer.weight.shape[0])


def _is_batch_norm(norm: nn.Module) -> bool:
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)


def _is_global_pool(layer: nn.Module | None) -> bool:
    adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    return isinstance(layer, adaptive) and layer.output_size in (1, (1, 1), (1, 1, 1))


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor, requires_grad=False)


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
