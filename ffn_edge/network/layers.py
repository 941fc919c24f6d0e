"""The layers that know their frame count: specialised norm, weight alteration, temporal shift.

Legend: B clips of T frames each; rows are frames, so 2-D networks see (B·T, C, H, W).
Every specialised layer of a network shares one `Route`, which the network sets for one
forward pass. Rows of several frame counts may stand in one batch: only these layers split it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torchvision.models.convnext import LayerNorm2d  # type: ignore[import-untyped]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (*CONVOLUTIONS, nn.Linear)  # what holds a matrix of weights, into which a norm can fold
# Every norm that can be specialised: BatchNorm 1/2/3-D (and SyncBatchNorm) and LayerNorm.
NORM_TYPES = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_FORWARDS = (
    nn.modules.batchnorm._BatchNorm.forward,
    nn.SyncBatchNorm.forward,
    nn.LayerNorm.forward,
    LayerNorm2d.forward,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of a batch that one sub-network serves.

    `sub_network` is a trained frame count; `frames` is the clips' own T, which the temporal
    shift uses. They differ in any-frame inference.
    """

    rows: int
    sub_network: int
    frames: int


class Route:
    """What one forward pass is for.

    Attributes:
        segments: which rows of the batch belong to which frame count.
        memory: of a stream, what each causal shift has kept of the frames before, and puts what it
            keeps for the next one; None where the rows are whole clips.
        joined: to a causal shift the clips of a batch are one stream, each after the one before, so
            that all but the first find the end of another where a clip of its own has zeros.
    """

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()
        self.memory: dict[TemporalShift, Tensor] | None = None
        self.joined = False


class SpecializedNorm(nn.Module):
    """One norm (statistics and affine) per frame count. Paper: specialised normalisation.

    Args:
        norm: the ordinary norm; each frame count starts from a copy of it.
        frame_counts: the trained frame counts.
        route: the network's route.
    """

    def __init__(self, norm: nn.Module, frame_counts: Sequence[int], route: Route) -> None:
        super().__init__()
        # A group of processes cannot be copied, and is one for all.
        group = getattr(norm, "process_group", None)
        self.norms = nn.ModuleDict(
            {str(t): copy.deepcopy(norm, {id(group): group}) for t in frame_counts}
        )
        self.route = route

    def forward(self, input: Tensor) -> Tensor:  # by the name that PyTorch's norms give it
        """Normalise each row by its own frame count's norm; the shape stays."""
        segments = self.route.segments
        if len(segments) == 1:
            return self.norms[str(segments[0].sub_network)](input)
        parts = torch.split(input, [segment.rows for segment in segments])
        return torch.cat(
            [
                self.norms[str(segment.sub_network)](part)
                for segment, part in zip(segments, parts, strict=True)
            ]
        )


class WeightAlteration(nn.Module):
    """x + φ·x, one scalar per channel and frame count: the paper's W* = φ⊗W + W.

    A 1×1 depth-wise convolution with a residual. It stands before a shared convolution, into
    which export folds it as s_in = 1 + φ. φ starts at zero, which keeps the behaviour of
    pre-trained weights (the paper's purpose; its own N(0, 1e-3) is overwritten in its code).

    Args:
        channels: how many.
        frame_counts: the trained frame counts.
        route: the network's route.
        dim: where the channels are: 1, or -1 before a linear layer over tokens.
    """

    def __init__(
        self, channels: int, frame_counts: Sequence[int], route: Route, dim: Literal[1, -1] = 1
    ) -> None:
        super().__init__()
        self.phi = nn.ParameterDict({str(t): torch.zeros(channels) for t in frame_counts})
        self.route = route
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of each row by its frame count's 1 + φ; the shape stays."""
        segments = self.route.segments
        if len(segments) == 1:
            phi = self.phi[str(segments[0].sub_network)]
        else:
            phi = torch.cat(
                [self.phi[str(s.sub_network)].expand(s.rows, -1) for s in segments]
            )  # (rows, C)
        ones = (1,) * (x.dim() - 2)
        shape = (*ones, phi.shape[-1]) if self.dim == -1 else (phi.shape[-1], *ones)
        phi = phi.reshape(-1, *shape).to(x.dtype)
        # addcmul rounds once in half precision; a cast 1 + φ would lose a φ below 2⁻⁸ in bfloat16.
        return torch.addcmul(x, x, phi)

    def altered(self, weight: Tensor, groups: int = 1) -> Tensor:
        """Scale the inputs of a layer's weight (O, I / groups, ...) instead of what it is given.

        For rows of one frame count: W* = φ⊗W + W, as the paper writes it.
        """
        (segment,) = self.route.segments
        outputs = weight.shape[0]
        phi = self.phi[str(segment.sub_network)].reshape(groups, 1, -1)
        phi = phi.expand(-1, outputs // groups, -1).reshape(outputs, -1)
        return torch.addcmul(weight, weight, phi[(...,) + (None,) * (weight.dim() - 2)])


class BranchStart(nn.Sequential):
    """What a residual branch begins with: a temporal shift, a weight alteration, its first layer.

    Training alters that layer's weight where all rows are of one frame count, and it computes what
    its type says: to alter the activations takes more time and a copy of them (docs/measured.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layers, one after the other."""
        *before, layer = self
        alteration = before[-1] if before else None
        traced = not isinstance(input, Tensor)
        if (
            traced
            or not self.training
            or not isinstance(alteration, WeightAlteration)
            or len(alteration.route.segments) > 1
            or not is_plain(layer)
        ):
            return super().forward(input)  # type: ignore[no-untyped-call]
        for each in before[:-1]:
            input = each(input)
        weight: Any = layer.weight
        altered = alteration.altered(weight, getattr(layer, "groups", 1))
        return functional_call(layer, {"weight": altered}, (input,))


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its type says, and a linear one from a weight of its own.

    A subclass may standardise its weight; a hook or a parametrization may compute it anew.
    """
    return not (
        does_more(layer)
        or parametrize.is_parametrized(layer)
        or (
            isinstance(layer, LINEAR)
            and not any(
                all(
                    getattr(type(layer), method, None) is getattr(kind, method, None)
                    for method in ("forward", "_conv_forward")
                )
                for kind in LINEAR
            )
        )
    )


def does_more(layer: nn.Module) -> bool:
    """Whether a call does more than the layer's class says: a hook, or a forward of its own."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return bool(hooked) or "forward" in vars(layer)


class AlterationPoint(nn.Identity):
    """Where a network of our own wants a weight alteration that precedes no convolution of its own.

    `specialize` puts a `WeightAlteration` of `channels` in its place.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class TemporalLayer(nn.Module, ABC):
    """A layer that works along time, and so must know where each clip begins and ends.

    Subclasses implement `along_time`, for clips of one length; rows of several lengths may stand
    in one batch here.
    """

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to each clip within itself; rows in clip order."""
        segments = self.route.segments
        if len(segments) == 1:
            return self.along_time(x, segments[0].frames)
        parts = torch.split(x, [segment.rows for segment in segments])
        return torch.cat(
            [
                self.along_time(part, segment.frames)
                for segment, part in zip(segments, parts, strict=True)
            ]
        )

    @abstractmethod
    def along_time(self, x: Tensor, frames: int) -> Tensor:
        """Apply the layer to clips of T = `frames`: (B·T, C, H, W), or (B, C, T, H, W)."""


class FixedFrames(nn.Module):
    """A temporal layer for clips of one length, without a route: what export writes."""

    def __init__(self, layer: TemporalLayer, frames: int) -> None:
        super().__init__()
        self.layer = layer
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return self.layer.along_time(x, self.frames)


# How many frames late the first and the next C/n channels of a shift are.
TWO_SIDED, CAUSAL = (-1, 1), (0, 1)


class TemporalShift(TemporalLayer):
    """Move the first C/n channels from the next frame and the next C/n from the previous one.

    Zero where there is no such frame; the other channels stay. Each clip is shifted within
    itself, by its own T. Source: TSM (Lin et al., ICCV 2019), with n = 8.

    Args:
        route: the network's route.
        fraction: n.
        causal: take nothing from the future: the first C/n channels stay. The next C/n come from
            the previous frame either way, so that trained weights of the one may begin the other.
    """

    def __init__(self, route: Route, fraction: int = 8, *, causal: bool = False) -> None:
        super().__init__(route)
        self.fraction = fraction
        self.causal = causal

    def along_time(self, x: Tensor, frames: int) -> Tensor:
        """Shift (B·T, C, H, W); the shape stays.

        Where the route has a memory, x is the next frame of B streams, (B, C, H, W).
        """
        if self.route.memory is not None:
            return self._next(x, self.route.memory)
        if not self.causal:
            return temporal_shift(x, frames, self.fraction, TWO_SIDED)
        return temporal_shift(x, len(x) if self.route.joined else frames, self.fraction, CAUSAL)

    def _next(self, x: Tensor, memory: dict[TemporalShift, Tensor]) -> Tensor:
        """Shift one frame of each stream; what is kept of it is (B, C/n, H, W)."""
        fold = x.shape[1] // self.fraction
        first, passed_on, rest = torch.split(x, [fold, fold, x.shape[1] - 2 * fold], dim=1)
        before = memory.get(self)
        memory[self] = passed_on
        kept = torch.zeros_like(passed_on) if before is None else before
        return torch.cat([first, kept, rest], dim=1)


def temporal_shift(
    x: Tensor, frames: int, fraction: int, delays: tuple[int, int] = TWO_SIDED
) -> Tensor:
    """Shift (B·T, C, H, W) in time, T = `frames`; see `TemporalShift`."""
    fold = x.shape[1] // fraction
    if x.requires_grad and torch.is_grad_enabled():
        return _Shift.apply(x, frames, fold, delays)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    # One clip, as a bundle's graphs take it, needs no fifth dimension: TensorRT then keeps its
    # layout of pictures around the shift.
    is_one = x.shape[0] == frames
    clips = x if is_one else torch.unflatten(x, 0, (-1, frames))  # ([B,] T, C, H, W)
    *moved, rest = torch.split(clips, [fold, fold, x.shape[1] - 2 * fold], dim=-3)
    shifted = torch.cat([*map(_delayed, moved, delays), rest], dim=-3)
    if not is_one:
        shifted = shifted.flatten(0, 1)
    return shifted.contiguous(memory_format=torch.channels_last) if channels_last else shifted


def _delayed(x: Tensor, delay: int) -> Tensor:
    """Return ([B,] T, ...) one frame later (1), earlier (-1) or as it is; zeros come in."""
    if not delay:
        return x
    first, pad = (0, (1, 0)) if delay > 0 else (1, (0, 1))
    return F.pad(x.narrow(-4, first, x.shape[-4] - 1), (0, 0, 0, 0, 0, 0, *pad))


class _Shift(torch.autograd.Function):
    """The shift in training. Its gradient is the shift back: one pass over memory.

    That of split, pad and cat fills a tensor of zeros for each part: both ways 3 to 8 times as
    long on an H200.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, frames: int, fold: int, delays: tuple[int, int]) -> Tensor:
        ctx.frames, ctx.fold, ctx.delays = frames, fold, delays
        return _moved(x, frames, fold, delays)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        first, second = ctx.delays
        return _moved(grad, ctx.frames, ctx.fold, (-first, -second)), None, None, None


def _moved(x: Tensor, frames: int, fold: int, delays: tuple[int, int]) -> Tensor:
    """Shift (B·T, C, H, W) in time."""
    moved = torch.empty_like(x)
    source, target, dim = x, moved, -3
    parts = [fold, fold, x.shape[1] - 2 * fold]
    per_word = 16 // x.element_size()
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    if is_last and not any(number % per_word for number in (*parts, x.storage_offset())):
        # Channels lie side by side: 16 bytes at a time are copied twice as fast on a GPU.
        source, target = (
            torch.unflatten(
                each.permute(0, 2, 3, 1).flatten(0, 2).view(torch.complex128), 0, (x.shape[0], -1)
            )
            for each in (source, target)
        )
        dim, parts = -1, [channels // per_word for channels in parts]
    sources, targets = (
        torch.split(torch.unflatten(each, 0, (-1, frames)), parts, dim) for each in (source, target)
    )
    for before, after, delay in zip(sources[:2], targets[:2], delays, strict=True):
        if not delay:
            after.copy_(before)
        elif delay > 0:
            after[:, 1:] = before[:, :-1]
            after[:, 0] = 0
        else:
            after[:, :-1] = before[:, 1:]
            after[:, -1] = 0
    targets[2].copy_(sources[2])
    return moved


def can_be_specialized(layer: nn.Module) -> bool:
    """Whether a layer is a norm, and computes what its type says.

    A subclass with a forward of its own may do more: timm's BatchNormAct2d activates as well.
    """
    return isinstance(layer, NORM_TYPES) and type(layer).forward in _FORWARDS
