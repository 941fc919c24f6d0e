"""What a folded network is made of: modulated linear layers, and what no linear layer took up."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge.errors import ExportError

Linear = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True, slots=True)
class Affine:
    """x · scale + shift, for each channel: float64 (C,) each. A shift of None is zero."""

    scale: Tensor
    shift: Tensor | None = None

    def then(self, later: Affine) -> Affine:
        """Return the one affine that does what this and then `later` do."""
        shift = None if self.shift is None else self.shift * later.scale
        if later.shift is not None:
            shift = later.shift if shift is None else shift + later.shift
        return Affine(self.scale * later.scale, shift)


def affine_of(norm: nn.Module) -> Affine | None:
    """Return what a norm does to each channel, a LayerNorm after it has normalised.

    None for a LayerNorm that only normalises.

    Raises:
        ExportError: a batch norm keeps no running statistics.
    """
    if isinstance(norm, nn.LayerNorm):
        if norm.weight is None:
            return None
        shift = None if norm.bias is None else norm.bias.detach().double()
        return Affine(norm.weight.detach().double(), shift)
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
    return Affine(scale, shift)


class ModulatedLayer(nn.Module):
    """A convolution or linear layer with the weight W · s_in · s_out and a bias.

    The two products stand in the graph as two Mul nodes, in the order of `compose.modulate`.

    Args:
        layer: the shared one; its weight is referenced.
        inputs: what happens to its inputs before it. With a shift, the layer pads with no zeros.
        outputs: what happens to its outputs after it.
        scaled: with an s_out in any case, of ones where nothing happens to its outputs.
    """

    def __init__(
        self, layer: Linear, inputs: Affine | None, outputs: Affine | None, scaled: bool
    ) -> None:
        super().__init__()
        # W·(s·x + t) + b = (W·s)·x + (W·t + b), and an affine of that likewise.
        bias = None if layer.bias is None else layer.bias.detach()
        if inputs is not None and inputs.shift is not None:
            shift = along_inputs(inputs.shift, layer)
            shifted = (layer.weight.detach().double() * shift).flatten(1).sum(1)  # (O,)
            bias = shifted if bias is None else shifted + bias
        if outputs is not None:
            assert outputs.shift is not None  # a batch norm's
            bias = outputs.shift if bias is None else bias * outputs.scale + outputs.shift
        self.weight = layer.weight
        self.s_in = None if inputs is None else _constant(along_inputs(inputs.scale, layer))
        scale = torch.ones(len(layer.weight)) if scaled else None
        if outputs is not None:
            scale = outputs.scale
        self.s_out = None if scale is None else _constant(along_outputs(scale, layer))
        self.bias = None if bias is None else _constant(bias)
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

    def forward(self, input: Tensor) -> Tensor:  # by the name that PyTorch's layers give it
        """Apply the layer as the shared one would, with this frame count's weight."""
        weight = self.weight.float()
        if self.s_in is not None:
            weight = weight * self.s_in
        if self.s_out is not None:
            weight = weight * self.s_out
        bias = None if self.bias is None else self.bias.float()
        if self.convolve is None:
            return F.linear(input, weight, bias)
        return self.convolve(input, weight, bias, *self.settings)


class ChannelAffine(nn.Module):
    """x · scale + shift per channel: what is left of a norm or alteration with no linear layer.

    Args:
        affine: the scale and shift.
        dim: where the channels are: 1, or -1.
    """

    def __init__(self, affine: Affine, dim: int) -> None:
        super().__init__()
        self.scale = _constant(affine.scale)
        self.shift = None if affine.shift is None else _constant(affine.shift)
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Scale and shift the channels; the shape stays."""
        shape = (-1,) if self.dim == -1 else (-1, *(1,) * (input.dim() - 2))
        scaled = input * self.scale.reshape(shape)
        return scaled if self.shift is None else scaled + self.shift.reshape(shape)


class FusableGelu(nn.Module):
    """The exact GELU, in the order of operations that ONNX Runtime knows as one.

    From PyTorch's own, the exporter multiplies by a half first; ONNX Runtime 1.32 then runs five
    operations in place of one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; the shape stays."""
        return x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5


def layer_norm(like: nn.LayerNorm, affine: Affine | None) -> nn.LayerNorm:
    """Return a LayerNorm that normalises as `like` does, with another affine or without one."""
    norm = copy.copy(like)  # a subclass may take other arguments, and have a forward of its own
    norm._parameters = {
        "weight": None if affine is None else _constant(affine.scale),
        "bias": None if affine is None or affine.shift is None else _constant(affine.shift),
    }
    return norm


def along_inputs(vector: Tensor, layer: Linear) -> Tensor:
    """Shape one value per input channel so that it broadcasts to the layer's weight."""
    if isinstance(layer, nn.Linear):
        return vector.reshape(1, -1)
    tail = (1,) * (layer.weight.dim() - 2)
    if layer.groups == 1:
        return vector.reshape(1, -1, *tail)
    # Each output channel reads its own group's inputs: (O, I/groups, 1, 1).
    per_group = vector.reshape(layer.groups, -1)
    return per_group.repeat_interleave(layer.out_channels // layer.groups, 0).reshape(
        layer.out_channels, -1, *tail
    )


def along_outputs(vector: Tensor, layer: Linear) -> Tensor:
    """Shape one value per output channel so that it broadcasts to the layer's weight."""
    return vector.reshape(-1, *(1,) * (layer.weight.dim() - 1))


def _constant(tensor: Tensor) -> nn.Parameter:
    """Round to float32 what was computed in float64."""
    return nn.Parameter(tensor.detach().to(torch.float32), requires_grad=False)
