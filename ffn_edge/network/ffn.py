"""The Frame Flexible Network: one shared body that serves several frame counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts, nearest_frame_count
from ffn_edge.network.specialized import (
    NORM_TYPES,
    Route,
    Segment,
    SpecializedNorm,
    TemporalShift,
    WeightAlteration,
)

Layout = Literal["frames", "clip"]

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


class FrameFlexibleNetwork(nn.Module):
    """Shared weights, with a norm and an alteration of its own for each frame count.

    Args:
        body: the network, already specialised. With layout "frames" it takes (rows, 3, H, W) and
            gives logits per frame, which are averaged over T; with "clip" it takes
            (B, 3, T, H, W) and gives logits per clip.
        route: the route that the body's specialised layers share.
        frame_counts: the trained frame counts, ascending.
        architecture: the name under which `build` makes the same network again.
        num_classes: the number of logits.
        layout: what the body takes.
    """

    def __init__(
        self,
        body: nn.Module,
        route: Route,
        frame_counts: Sequence[int],
        *,
        architecture: str,
        num_classes: int,
        layout: Layout = "frames",
    ) -> None:
        super().__init__()
        self.body = body
        self.route = route
        self.frame_counts = check_frame_counts(frame_counts)
        self.architecture = architecture
        self.num_classes = num_classes
        self.layout: Layout = layout

    @overload
    def forward(self, clip: Tensor, frames: int | None = None) -> Tensor: ...

    @overload
    def forward(self, clip: Mapping[int, Tensor], *, together: bool = ...) -> dict[int, Tensor]: ...

    def forward(
        self,
        clip: Tensor | Mapping[int, Tensor],
        frames: int | None = None,
        together: bool = False,
    ) -> Tensor | dict[int, Tensor]:
        """Classify clips of one frame count, or of several in one pass.

        Args:
            clip: float32 (B, T, 3, H, W), normalised; or such clips by frame count.
            frames: the sub-network; left out, the nearest to T, ties to the larger.
            together: with several frame counts, pass all rows through each shared layer in one
                call and split them only at specialised layers. Equal to one pass per frame count
                but for rounding; which is faster depends on the device. Layout "frames" only.

        Returns:
            Logits, (B, classes); by frame count if `clip` was.

        Raises:
            NetworkError: a clip of another shape, or a sub-network that does not exist.
        """
        if isinstance(clip, Tensor):
            return self._one(clip, frames)
        if together and self.layout == "frames":
            return self._together(clip)
        return {t: self._one(part, t) for t, part in clip.items()}

    def _one(self, clip: Tensor, frames: int | None) -> Tensor:
        segment = self._segment(clip, frames)
        if self.layout == "clip":
            self.route.segments = (Segment(clip.shape[0], segment.sub_network, segment.frames),)
            logits: Tensor = self.body(clip.transpose(1, 2))  # (B, 3, T, H, W)
            return logits
        self.route.segments = (segment,)
        per_frame: Tensor = self.body(clip.flatten(0, 1))  # (B*T, classes)
        return mean_over_frames(per_frame, segment.frames)

    def _together(self, clips: Mapping[int, Tensor]) -> dict[int, Tensor]:
        segments = tuple(self._segment(clip, t) for t, clip in clips.items())
        self.route.segments = segments
        rows = torch.cat([clip.flatten(0, 1) for clip in clips.values()])
        parts = torch.split(self.body(rows), [segment.rows for segment in segments])
        return {
            t: mean_over_frames(part, segment.frames)
            for t, part, segment in zip(clips, parts, segments, strict=True)
        }

    def _segment(self, clip: Tensor, frames: int | None) -> Segment:
        if clip.dim() != 5 or clip.shape[2] != 3:
            raise NetworkError(
                f"a clip has the shape (B, T, 3, H, W); got {tuple(clip.shape)}",
                "stack RGB frames along dimension 1.",
            )
        batch, own = clip.shape[:2]
        if frames is None:
            frames = nearest_frame_count(own, self.frame_counts)
        elif frames not in self.frame_counts:
            served = ", ".join(map(str, self.frame_counts))
            raise NetworkError(
                f"the network has sub-networks for {served} frames; {frames} was asked for",
                f"name one of {served}, or leave `frames` out for the nearest.",
            )
        return Segment(batch * own, frames, own)


def mean_over_frames(per_frame: Tensor, frames: int) -> Tensor:
    """Average logits per frame (B*T, classes) over T = `frames`: (B, classes)."""
    return torch.unflatten(per_frame, 0, (-1, frames)).mean(1)


def specialize(
    module: nn.Module,
    frame_counts: Sequence[int],
    *,
    num_classes: int,
    architecture: str = "custom",
    layout: Layout = "frames",
    branches: Sequence[str] | None = None,
    shift_fraction: int | None = 8,
) -> FrameFlexibleNetwork:
    """Turn an ordinary network into a Frame Flexible Network, in place.

    Every norm becomes a `SpecializedNorm`. At the start of every residual branch, the
    convolution gets a `TemporalShift` (layout "frames" only) and a `WeightAlteration` before it.

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

    Raises:
        NetworkError: no norm layer, or no residual branch was found.
    """
    counts = check_frame_counts(frame_counts)
    route = Route()
    starts = list(branches) if branches is not None else branch_starts(module)
    if not starts:
        raise NetworkError(
            f"found no residual branch in {type(module).__name__}",
            "name the first convolution of each branch: specialize(..., branches=[...]).",
        )
    _replace(module, NORM_TYPES, lambda norm: SpecializedNorm(norm, counts, route))
    for name, conv in [_first_convolution(module, name) for name in starts]:
        start = nn.Sequential()
        if shift_fraction is not None and layout == "frames":
            start.add_module("shift", TemporalShift(route, shift_fraction))
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
