"""TSM: torchvision's image networks with a temporal shift. The one place with sizes."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn
from torchvision.models import (  # type: ignore[import-untyped]
    MobileNetV3,
    get_model,
    get_model_weights,
)
from torchvision.models.resnet import BasicBlock  # type: ignore[import-untyped]

from ffn_edge.errors import NetworkError
from ffn_edge.network.families.family import (
    RESNET_STAGES,
    Family,
    PublishedNames,
    in_base_model,
)
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.pretrained import load_start
from ffn_edge.network.specializing import specialize

# "tsm_" and torchvision's name: the paper's, and those for small boards.
_RESNETS = ("tsm_resnet18", "tsm_resnet34", "tsm_resnet50", "tsm_resnet101")
_MOBILENETS = ("tsm_mobilenet_v3_small", "tsm_mobilenet_v3_large")
_TINY = "tsm_tiny"


class TinyResNet(nn.Module):
    """A ResNet-18 for 64×64 frames: widths 16-32-64-128, a 5×5 stem; 0.7 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.conv1 = nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = [_stage(widths[max(i - 1, 0)], width, i) for i, width in enumerate(widths)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(widths[-1], 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (rows, classes) for frames (rows, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(inputs: int, width: int, index: int) -> nn.Sequential:
    stride = 1 if index == 0 else 2
    downsample = None
    if stride != 1:
        downsample = nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    return nn.Sequential(BasicBlock(inputs, width, stride, downsample), BasicBlock(width, width))


def build(
    architecture: str,
    num_classes: int,
    frame_counts: Sequence[int],
    *,
    weights: str | None,
    dropout: float,
    without: Sequence[str],
    causal: bool = False,
) -> FrameFlexibleNetwork:
    """Build a TSM network; see `ffn_edge.network.build`."""
    tiny = architecture == _TINY
    if tiny and weights is not None:
        raise NetworkError("tsm_tiny has no pre-trained weights", "leave `weights` out.")
    body: Any = TinyResNet() if tiny else get_model(architecture.removeprefix("tsm_"))
    if weights is not None:
        _load_image_weights(body, architecture, weights)
    last = body.classifier[-1] if isinstance(body, MobileNetV3) else body.fc
    classifier = nn.Linear(last.in_features, num_classes)
    if not tiny:
        # TSM's start, for pre-trained features. From random ones a network learns nothing for
        # many epochs with it: the gradient reaches the body through these weights.
        nn.init.normal_(classifier.weight, std=0.001)
        nn.init.zeros_(classifier.bias)
    if isinstance(body, MobileNetV3):
        body.classifier[-2], body.classifier[-1] = nn.Dropout(dropout), classifier
    else:
        body.fc = nn.Sequential()
        body.fc.add_module("dropout", nn.Dropout(dropout))
        body.fc.add_module("linear", classifier)
    return specialize(
        body,
        frame_counts,
        num_classes=num_classes,
        architecture=architecture,
        layout="frames",
        # At width 16, 1/8 would shift only two channels each way, too few to learn motion from.
        shift_fraction=4 if tiny else 8,
        without=without,
        causal=causal,
    )


def _load_image_weights(body: nn.Module, architecture: str, weights: str) -> None:
    """Load torchvision's image weights, by name (downloaded once) or from a local file."""
    name = architecture.removeprefix("tsm_")
    if os.path.isfile(weights):
        # The classifier of images is not used: a file may have one of any size.
        load_start(
            body,
            weights,
            source=f"torchvision's {name}",
            new=lambda tensor: tensor.startswith(("fc.", "classifier.3.")),
        )
        return
    enum = get_model_weights(name)
    try:
        member = enum[weights]
    except KeyError as error:
        names = ", ".join(enum.__members__)
        raise NetworkError(
            f"{weights!r} is neither a file nor the name of {architecture}'s weights",
            f"give a path, or one of {names}.",
        ) from error
    try:
        downloaded = member.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise NetworkError(
            f"could not download {member}: {error}",
            f"fetch {member.url} elsewhere and give the file's path as `weights`.",
        ) from error
    body.load_state_dict(downloaded)


def _published(name: str) -> str:
    name = re.sub(r"conv1\.alteration\.phi\.(\d+)$", r"adaconv_\1.weight", name)
    return in_base_model(name.replace(".conv1.conv.", ".conv1."))


def _plain(name: str) -> str | None:
    if ".phi." in name:
        return None
    name = re.sub(r"\.norms\.\d+\.", ".", name.removeprefix("body."))
    return name.replace(".conv1.conv.", ".conv1.").replace("fc.linear.", "fc.")


_CAUSAL = functools.partial(build, causal=True)
FAMILY = Family(
    architectures=_RESNETS,
    build=build,
    build_causal=_CAUSAL,
    published=PublishedNames(
        name=_published,
        norm=r"base_model\.bn1_(\d+)\.weight",
        classifier="new_fc.weight",
    ),
    plain=_plain,
    stages=RESNET_STAGES,
)
# Those that the paper does not have.
EDGE_FAMILY = Family(
    architectures=_MOBILENETS,
    build=build,
    build_causal=_CAUSAL,
    published=None,
    stages=tuple(rf"features\.{i}\." for i in range(17)),  # the large one's; each a block
)
TINY_FAMILY = dataclasses.replace(EDGE_FAMILY, architectures=(_TINY,), stages=RESNET_STAGES)
