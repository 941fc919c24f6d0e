"""TSM: image networks with a temporal shift, on torchvision's ResNets. The one place with sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import URLError

import torchvision.models.resnet as resnet  # type: ignore[import-untyped]
from torch import Tensor, nn

from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.network.conversion import specialize
from ffn_edge.network.family import Family, PublishedNames
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.torch_file import load_torch_file

_RESNETS: dict[str, Callable[[], resnet.ResNet]] = {
    "tsm_resnet18": resnet.resnet18,
    "tsm_resnet34": resnet.resnet34,
    "tsm_resnet50": resnet.resnet50,
    "tsm_resnet101": resnet.resnet101,
}
_WEIGHTS: dict[str, type[resnet.WeightsEnum]] = {
    "tsm_resnet18": resnet.ResNet18_Weights,
    "tsm_resnet34": resnet.ResNet34_Weights,
    "tsm_resnet50": resnet.ResNet50_Weights,
    "tsm_resnet101": resnet.ResNet101_Weights,
}


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
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(inputs: int, width: int, index: int) -> nn.Sequential:
    stride = 1 if index == 0 else 2
    downsample = None
    if stride != 1:
        downsample = nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    return nn.Sequential(
        resnet.BasicBlock(inputs, width, stride, downsample), resnet.BasicBlock(width, width)
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
    """Build a TSM network; see `ffn_edge.network.build`."""
    tiny = architecture == "tsm_tiny"
    if tiny and weights is not None:
        raise NetworkError("tsm_tiny has no pre-trained weights", "leave `weights` out.")
    body = TinyResNet() if tiny else _RESNETS[architecture]()
    if weights is not None:
        body.load_state_dict(_image_weights(architecture, weights))
    classifier = nn.Linear(128 if tiny else _features(body), num_classes)
    if not tiny:
        # TSM's start, for pre-trained features. From random ones a network learns nothing for
        # many epochs with it: the gradient reaches the body through these weights.
        nn.init.normal_(classifier.weight, std=0.001)
        nn.init.zeros_(classifier.bias)
    body.fc = nn.Sequential()
    body.fc.add_module("dropout", nn.Dropout(dropout))
    body.fc.add_module("linear", classifier)
    return specialize(
        body,
        frame_counts,
        num_classes=num_classes,
        architecture=architecture,
        # At width 16, 1/8 would shift only two channels each way, too few to learn motion from.
        shift_fraction=4 if tiny else 8,
        without=without,
    )


def _features(body: nn.Module) -> int:
    assert isinstance(body.fc, nn.Linear)
    return body.fc.in_features


def _image_weights(architecture: str, weights: str) -> dict[str, Tensor]:
    """Return torchvision's image weights, by name (downloaded once) or from a local file."""
    path = Path(weights)
    if path.is_file():
        loaded = load_torch_file(path)
        expected = _RESNETS[architecture]().state_dict()
        wrong = [
            name
            for name, tensor in expected.items()
            if getattr(loaded.get(name), "shape", None) != tensor.shape
        ]
        if wrong:
            raise CheckpointError(
                f"{path} does not hold torchvision's {architecture.removeprefix('tsm_')}: "
                f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}",
                "give the state_dict that torchvision publishes for the same ResNet.",
            )
        return {name: loaded[name] for name in expected}
    enum = _WEIGHTS[architecture]
    try:
        member = enum[weights]
    except KeyError as error:
        names = ", ".join(enum.__members__)
        raise NetworkError(
            f"{weights!r} is neither a file nor the name of {architecture}'s weights",
            f"give a path, or one of {names}.",
        ) from error
    try:
        downloaded: dict[str, Tensor] = member.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        raise NetworkError(
            f"could not download {member}: {error}",
            f"fetch {member.url} elsewhere and give the file's path as `weights`.",
        ) from error
    return downloaded


def _published(name: str) -> str:
    if name.startswith("fc.linear."):
        return "new_fc." + name.removeprefix("fc.linear.")
    name = re.sub(r"conv1\.alteration\.phi\.(\d+)$", r"adaconv_\1.weight", name)
    name = name.replace(".conv1.conv.", ".conv1.")
    name = re.sub(r"\.downsample\.1\.norms\.(\d+)\.", r".downsample_bn_\1.", name)
    name = name.replace(".downsample.0.", ".downsample_conv.")
    return "base_model." + re.sub(r"\.norms\.(\d+)\.", r"_\1.", name)


FAMILY = Family(
    architectures=(*_RESNETS, "tsm_tiny"),
    build=build,
    published=PublishedNames(
        name=_published,
        norm=r"base_model\.bn1_(\d+)\.weight",
        classifier="new_fc.weight",
    ),
)
