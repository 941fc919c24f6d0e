"""SlowFast: a clip in two pathways, joined by lateral connections. The one place with sizes.

Legend: B clips of T frames. The slow pathway sees T/α of them; the fast one sees all, with 1/β
of the channels. α = 4 and β = 8.

Source: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019, in the
arrangement of PySlowFast's SLOWFAST_8x8_R50, whose tensor names this network has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import interval_random
from ffn_edge.network.families.family import PYSLOWFAST_MEAN, PYSLOWFAST_STD, Family, PublishedNames
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.layers import Route, TemporalLayer
from ffn_edge.network.pretrained import load_start
from ffn_edge.network.specializing import specialize

ALPHA = 4
BETA = 8
_BLOCKS = (3, 4, 6, 3)  # of each stage: a ResNet-50 in both pathways
_STEM = 64
# Lengths of the convolutions along time in the stem and the four stages: the slow pathway looks
# along time late, where the receptive field in space is large.
_SLOW_KERNELS = (1, 1, 1, 3, 3)
_FAST_KERNELS = (5, 3, 3, 3, 3)


def slow_indices(frames: int) -> list[int]:
    """Return which frames of a clip the slow pathway sees: T/α of them, both ends included.

    The published code rounds linspace(0, T - 1, T/α) down, in float32. Whole numbers give the
    same up to T = 1032 but at 160 and 544, where its rounding error puts one frame a place earlier.

    Raises:
        NetworkError: T is no multiple of α. A lateral connection has a stride of α along time and
            gives ⌈T/α⌉ frames, which the slow pathway's ⌊T/α⌋ could not join.
    """
    slow, rest = divmod(frames, ALPHA)
    if slow == 0 or rest:
        near = f"{slow * ALPHA} or {(slow + 1) * ALPHA}" if slow else f"{ALPHA}"
        raise NetworkError(
            f"SlowFast takes clips of a multiple of {ALPHA} frames, one in {ALPHA} of which its "
            f"slow pathway sees; got {frames}",
            f"give {near} frames.",
        )
    return [i * (frames - 1) // max(slow - 1, 1) for i in range(slow)]


class SlowFrames(TemporalLayer):
    """Pick the frames of the slow pathway out of a clip."""

    def along_time(self, x: Tensor, frames: int) -> Tensor:
        """Turn (B, C, T, H, W) into (B, C, T/α, H, W)."""
        return x.index_select(2, torch.tensor(slow_indices(frames), device=x.device))


class Stem(nn.Module):
    """Convolution, norm and pooling of one pathway: a quarter of the height and width."""

    def __init__(self, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            3, outputs, (kernel, 7, 7), stride=(1, 2, 2), padding=(kernel // 2, 3, 3), bias=False
        )
        self.bn = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, 3, T, H, W) into (B, C, T, H/4, W/4)."""
        return self.pool(self.relu(self.bn(self.conv(x))))


class Lateral(nn.Module):
    """The connection from the fast to the slow pathway: a convolution with stride α along time."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv_f2s = nn.Conv3d(
            inputs, 2 * inputs, (7, 1, 1), stride=(ALPHA, 1, 1), padding=(3, 0, 0), bias=False
        )
        self.bn = nn.BatchNorm3d(2 * inputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Append 2·C/β channels to `slow`, (B, C, T/α, H, W), from `fast`, (B, C/β, T, H, W)."""
        return torch.cat([slow, self.relu(self.bn(self.conv_f2s(fast)))], dim=1)


class Bottleneck(nn.Module):
    """The residual branch of a block: along time, in space, and back to all channels."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(inputs, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.a_bn = nn.BatchNorm3d(width)
        self.b = nn.Conv3d(
            width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False
        )
        self.b_bn = nn.BatchNorm3d(width)
        self.c = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(4 * width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, T, H, W) into (B, 4·width, T, H/stride, W/stride)."""
        x = self.relu(self.a_bn(self.a(x)))
        x = self.relu(self.b_bn(self.b(x)))
        return self.c_bn(self.c(x))


class Block(nn.Module):
    """A residual block; the first one of a stage changes the shape, so its shortcut does too."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        self.first = first
        if first:
            self.branch1 = nn.Conv3d(inputs, 4 * width, 1, stride=(1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(4 * width)
        self.branch2 = Bottleneck(inputs, width, kernel, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, T, H, W) into (B, 4·width, T, H/stride, W/stride)."""
        shortcut = self.branch1_bn(self.branch1(x)) if self.first else x
        return self.relu(shortcut + self.branch2(x))


class Stage(nn.Module):
    """The blocks of both pathways at one size: stage `index` of the four, from 0."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.blocks = _BLOCKS[index]
        width = _STEM << index
        before = _STEM if index == 0 else 2 * width
        # The slow pathway takes the lateral channels up with its own.
        pathways = (
            (before + 2 * before // BETA, width, _SLOW_KERNELS[index + 1]),
            (before // BETA, width // BETA, _FAST_KERNELS[index + 1]),
        )
        for pathway, (inputs, width, kernel) in enumerate(pathways):
            for i in range(self.blocks):
                first = i == 0
                block = Block(
                    inputs if first else 4 * width,
                    width,
                    kernel,
                    stride=2 if first and index > 0 else 1,
                    first=first,
                )
                self.add_module(f"pathway{pathway}_res{i}", block)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Apply each pathway's blocks."""
        for i in range(self.blocks):
            slow = getattr(self, f"pathway0_res{i}")(slow)
            fast = getattr(self, f"pathway1_res{i}")(fast)
        return slow, fast


class Head(nn.Module):
    """The means of both pathways, side by side, to logits."""

    def __init__(self, features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(features, num_classes)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Give logits (B, classes); the published evaluation's softmax is left to the reader."""
        x = torch.cat([self.pool(slow), self.pool(fast)], dim=1).flatten(1)
        return self.projection(self.dropout(x))


class SlowFast(nn.Module):
    """SlowFast-ResNet-50. Its layers that work along time take T from `route`.

    The start is PySlowFast's: He's normal distribution by fan-out for the convolutions, a
    classifier of standard deviation 0.01, and zero for the last norm of each residual branch.
    """

    def __init__(self, num_classes: int, dropout: float, route: Route) -> None:
        super().__init__()
        self.slow_frames = SlowFrames(route)
        self.s1 = nn.ModuleDict(
            {
                "pathway0_stem": Stem(_STEM, _SLOW_KERNELS[0]),
                "pathway1_stem": Stem(_STEM // BETA, _FAST_KERNELS[0]),
            }
        )
        self.s1_fuse = Lateral(_STEM // BETA)
        self.s2, self.s3, self.s4, self.s5 = (Stage(index) for index in range(4))
        self.s2_fuse, self.s3_fuse, self.s4_fuse = (
            Lateral(4 * (_STEM << index) // BETA) for index in range(3)
        )
        features = 4 * (_STEM << 3)
        self.head = Head(features + features // BETA, num_classes, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.c_bn.weight)
        nn.init.normal_(self.head.projection.weight, std=0.01)
        nn.init.zeros_(self.head.projection.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """Give logits (B, classes) for clips (B, 3, T, H, W)."""
        slow = self.s1["pathway0_stem"](self.slow_frames(clip))
        fast = self.s1["pathway1_stem"](clip)
        slow, fast = self.s2(self.s1_fuse(slow, fast), fast)
        slow, fast = self.s3(self.s2_fuse(slow, fast), fast)
        slow, fast = self.s4(self.s3_fuse(slow, fast), fast)
        slow, fast = self.s5(self.s4_fuse(slow, fast), fast)
        return self.head(slow, fast)


def build(
    architecture: str,
    num_classes: int,
    frame_counts: Sequence[int],
    *,
    weights: str | None,
    dropout: float,
    without: Sequence[str],
) -> FrameFlexibleNetwork:
    """Build a SlowFast network; see `ffn_edge.network.build`.

    Raises:
        NetworkError: a frame count that is no multiple of 4.
    """
    for frames in frame_counts:
        slow_indices(frames)
    route = Route()
    body = SlowFast(num_classes, dropout, route)
    if weights is not None:
        load_start(
            body,
            weights,
            source="PySlowFast's SLOWFAST_8x8_R50 in PyTorch's format, such as "
            "SLOWFAST_8x8_R50_stepwise.pkl of its model zoo (those in Caffe2's are not read)",
            new=lambda name: name.startswith("head."),
        )
    return specialize(
        body,
        frame_counts,
        num_classes=num_classes,
        architecture=architecture,
        layout="clip",
        branches=[name for name, part in body.named_modules() if isinstance(part, Bottleneck)],
        shift_fraction=None,
        route=route,
        without=without,
    )


def _published(name: str) -> str:
    name = re.sub(r"\.a\.alteration\.phi\.(\d+)$", r".adaconv_\1.weight", name)
    name = name.replace(".a.conv.", ".a.")
    return re.sub(r"\.norms\.(\d+)\.", r"_\1.", name)


FAMILY = Family(
    architectures=("slowfast_resnet50",),
    build=build,
    published=PublishedNames(
        name=_published,
        norm=r"s1\.pathway0_stem\.bn_(\d+)\.weight",
        classifier="head.projection.weight",
        frames_per_number=ALPHA,  # published norms are numbered by the slow pathway's frames
    ),
    stages=tuple(rf"s{i}(_fuse)?\." for i in range(1, 6)),
    frame_counts=(16, 32, 64),
    size=256,
    mean=PYSLOWFAST_MEAN,
    std=PYSLOWFAST_STD,
    draw_frames=interval_random,
)
