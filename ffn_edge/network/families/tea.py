"""TEA: a Res2Net-50 with motion excitation and temporal convolutions. The one place with sizes.

Source: Li et al., "TEA: Temporal Excitation and Aggregation for Action Recognition", CVPR 2020, on
Gao et al., "Res2Net", TPAMI 2021, in its size 26w × 4s. As an FFN it has specialised norms and no
weight alteration, as in the paper's published code.
Legend: rows are frames, B clips of T each; C channels. Before it is specialised, the network has
the tensor names of Res2Net's own files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge.network.families.family import (
    RESNET_STAGES,
    Family,
    PublishedNames,
    in_base_model,
)
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.layers import Route, TemporalLayer
from ffn_edge.network.pretrained import load_start
from ffn_edge.network.specializing import specialize

_BLOCKS = (3, 4, 6, 3)
_WIDTHS = (26, 52, 104, 208)  # of one of a block's four parts
_SCALE = 4
_STRIDES = (1, 2, 2, 2)
_OUTPUTS = (64, 256, 512, 1024, 2048)  # of the stem, and of each stage
_REDUCTION = 16
_SOURCE = (
    "Res2Net-50 26w 4s for ImageNet: https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/"
    "res2net50_26w_4s-06e79181.pth"
)


class TemporalConvolution(TemporalLayer):
    """A depth-wise convolution over three frames, with zeros beyond a clip's ends.

    Args:
        channels: C, even.
        route: the network's route.
        start: "still" for the identity, "shift" for TSM's shift of all channels: the first half
            comes from the next frame, the other from the previous one.
    """

    def __init__(self, channels: int, route: Route, start: Literal["still", "shift"]) -> None:
        super().__init__(route)
        kernel = torch.zeros(channels, 1, 3, 1)
        if start == "still":
            kernel[:, 0, 1] = 1
        else:
            kernel[: channels // 2, 0, 2] = 1
            kernel[channels // 2 :, 0, 0] = 1
        # With its last dimension it is a Conv2d's kernel as it stands. To TensorRT, a kernel that
        # the graph computes, be it only reshaped, is an input of the convolution and no weight.
        self.weight = nn.Parameter(kernel)

    def along_time(self, x: Tensor, frames: int) -> Tensor:
        """Convolve (B·T, C, H, W) in time; the shape stays."""
        clips = torch.unflatten(x, 0, (-1, frames)).flatten(3).transpose(1, 2)  # (B, C, T, H·W)
        mixed = F.conv2d(clips, self.weight, padding=(1, 0), groups=self.weight.shape[0])
        return mixed.transpose(1, 2).reshape(x.shape)


class MotionDifference(TemporalLayer):
    """By how much each channel changes: the mean over space of conv(next frame) − this frame.

    A clip's last frame has no next one and gives zero.
    """

    def __init__(self, channels: int, route: Route) -> None:
        super().__init__(route)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def along_time(self, x: Tensor, frames: int) -> Tensor:
        """Give (B·T, C, 1, 1) for (B·T, C, H, W)."""
        this = torch.unflatten(x, 0, (-1, frames))[:, :-1]  # (B, T-1, C, H, W)
        following = torch.unflatten(self.conv(x), 0, (-1, frames))[:, 1:]
        # Subtract before the mean: in half precision, means of single frames would lose a small
        # change.
        change = (following - this).mean((3, 4), keepdim=True)  # (B, T-1, C, 1, 1)
        return F.pad(change, (0, 0, 0, 0, 0, 0, 0, 1)).flatten(0, 1)


class MotionExcitation(nn.Module):
    """Scale each channel of each frame by 0.5 to 1.5, by how the frame changes to the next."""

    def __init__(self, channels: int, route: Route) -> None:
        super().__init__()
        reduced = channels // _REDUCTION
        self.conv1 = nn.Conv2d(channels, reduced, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(reduced)
        self.difference = MotionDifference(reduced, route)
        self.conv3 = nn.Conv2d(reduced, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Excite (B·T, C, H, W); the shape stays."""
        change = self.difference(self.bn1(self.conv1(x)))
        return x * (torch.sigmoid(self.bn3(self.conv3(change))) + 0.5)


class Block(nn.Module):
    """A Res2Net bottleneck, with motion excitation, and a temporal convolution for each part.

    Args:
        inputs: channels of the input.
        width: channels of each of the four parts.
        outputs: channels of the output.
        route: the network's route.
        stride: of the convolutions in space.
        first: of its stage: its parts are independent, in the others each adds to the next.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, route: Route, *, stride: int, first: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.conv1 = nn.Conv2d(inputs, width * _SCALE, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * _SCALE)
        self.me = MotionExcitation(width * _SCALE, route)
        # The last part has no convolution in space.
        self.shifts = nn.ModuleList(
            [TemporalConvolution(width, route, "still") for _ in range(_SCALE - 1)]
            + [TemporalConvolution(width, route, "shift")]
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            for _ in range(_SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(_SCALE - 1))
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1) if first else nn.Identity()
        self.conv3 = nn.Conv2d(width * _SCALE, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if first:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Give (B·T, outputs, H/stride, W/stride) for (B·T, inputs, H, W)."""
        excited = self.me(self.relu(self.bn1(self.conv1(x))))
        parts = torch.chunk(excited, _SCALE, dim=1)
        done: list[Tensor] = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.bns, strict=True)):
            part = parts[i] if self.first or not done else parts[i] + done[-1]
            done.append(self.relu(norm(conv(self.shifts[i](part)))))
        done.append(self.pool(self.shifts[-1](parts[-1])))
        return self.relu(self.bn3(self.conv3(torch.cat(done, dim=1))) + self.downsample(x))


class TEA(nn.Module):
    """TEA-ResNet-50, without frame counts: every norm is an ordinary one."""

    def __init__(self, num_classes: int, route: Route, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _OUTPUTS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_OUTPUTS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = [
            _stage(inputs, width, outputs, route, blocks=blocks, stride=stride)
            for (inputs, outputs), width, blocks, stride in zip(
                pairwise(_OUTPUTS), _WIDTHS, _BLOCKS, _STRIDES, strict=True
            )
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential()
        self.fc.add_module("dropout", nn.Dropout(dropout))
        self.fc.add_module("linear", nn.Linear(_OUTPUTS[-1], num_classes))
        for module in self.modules():  # as Res2Net starts, and TSM's classifier
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (rows, classes) for frames (rows, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    inputs: int, width: int, outputs: int, route: Route, *, blocks: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(
        Block(inputs, width, outputs, route, stride=stride, first=True),
        *(Block(outputs, width, outputs, route, stride=1, first=False) for _ in range(blocks - 1)),
    )


def build(
    architecture: str,
    num_classes: int,
    frame_counts: Sequence[int],
    *,
    weights: str | None,
    dropout: float,
    without: Sequence[str],
) -> FrameFlexibleNetwork:
    """Build a TEA network; see `ffn_edge.network.build`. `weights` is a file of Res2Net's."""
    route = Route()
    body = TEA(num_classes, route, dropout)
    if weights is not None:
        load_start(body, weights, source=_SOURCE, new=_is_new)
    return specialize(
        body,
        frame_counts,
        num_classes=num_classes,
        architecture=architecture,
        branches=[],
        shift_fraction=None,
        route=route,
        without=without,
    )


def _is_new(name: str) -> bool:
    """Tell whether a tensor is none of Res2Net's: the classifier, and what works along time."""
    return name.startswith("fc.") or ".me." in name or ".shifts." in name


def _published(name: str) -> str:
    name = name.replace(".me.difference.conv.", ".me.conv2.")
    name = re.sub(r"(\.shifts\.\d+)\.weight$", r"\1.conv.weight", name)
    return in_base_model(re.sub(r"\.bns\.(\d+)\.norms\.(\d+)\.", r".bns_\2.\1.", name))


FAMILY = Family(
    architectures=("tea_resnet50",),
    build=build,
    published=PublishedNames(
        name=_published,
        norm=r"base_model\.bn1_(\d+)\.weight",
        classifier="new_fc.weight",
    ),
    stages=RESNET_STAGES,
)
