"""What a family of architectures gives to the rest: how to build one, and its published names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ffn_edge.files.schema import Rgb, RgbAbove0
from ffn_edge.frames import DrawFrames, segment_random
from ffn_edge.network.ffn import FrameFlexibleNetwork

# Statistics of ImageNet, in [0, 1] RGB: the normalisation of every pre-trained image network.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# PySlowFast's, with which the video networks of its line were pre-trained.
PYSLOWFAST_MEAN = (0.45, 0.45, 0.45)
PYSLOWFAST_STD = (0.225, 0.225, 0.225)


# Of a ResNet by torchvision's names, for `Family.stages`.
RESNET_STAGES = (r"(conv1|bn1)\.", r"layer1\.", r"layer2\.", r"layer3\.", r"layer4\.")


class Builder(Protocol):
    """Builds one architecture of a family; see `ffn_edge.network.build` for the arguments."""

    def __call__(
        self,
        architecture: str,
        num_classes: int,
        frame_counts: Sequence[int],
        *,
        weights: str | None,
        dropout: float,
        without: Sequence[str],
    ) -> FrameFlexibleNetwork:
        """Build it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNames:
    """How the paper's code names a family's tensors.

    Attributes:
        name: our name of a tensor -> the published one, with the number of its frame count.
        norm: a regular expression of a tensor that every frame count has once; its group is the
            number.
        classifier: the name of the classifier's weight, (classes, features).
        frames_per_number: the published number times this is the frame count.
        blue_first: the name of the weight that meets the pixels, (width, colours, ...), where the
            paper's code shows them as blue, green, red; None where as red, green, blue.
    """

    name: Callable[[str], str]
    norm: str
    classifier: str
    frames_per_number: int = 1
    blue_first: str | None = None


def in_base_model(name: str) -> str:
    """Return the published name of a tensor of a ResNet over frames: TSM's, and most of TEA's."""
    if name.startswith("fc.linear."):
        return "new_fc." + name.removeprefix("fc.linear.")
    name = re.sub(r"\.downsample\.1\.norms\.(\d+)\.", r".downsample_bn_\1.", name)
    name = name.replace(".downsample.0.", ".downsample_conv.")
    return "base_model." + re.sub(r"\.norms\.(\d+)\.", r"_\1.", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Architectures that one function builds.

    Attributes:
        architectures: their names.
        build: the function.
        published: how the paper's code names their tensors; None if it has no such network.
        plain: our name of a tensor -> torchvision's in the plain network, or None where that has
            none; None if plain networks trained for actions are not read.
        frame_counts: those of the paper.
        size: the pixels of a test frame's side in the paper.
        short_side: what a frame's short side is scaled to before its centre is cut out.
        mean: of the pixels, in [0, 1] RGB, as the pre-trained weights expect them.
        std: the same.
        stages: of the body, the stem first: regular expressions of how their tensors' names begin.
        draw_frames: the rule by which the paper draws the frames of a training clip.
        build_causal: as `build`, for networks that take from the past alone; None if there are
            none.
    """

    architectures: tuple[str, ...]
    build: Builder
    published: PublishedNames | None
    stages: tuple[str, ...]
    plain: Callable[[str], str | None] | None = None
    frame_counts: tuple[int, ...] = (4, 8, 16)
    size: int = 224
    short_side: int = 256
    mean: Rgb = IMAGENET_MEAN
    std: RgbAbove0 = IMAGENET_STD
    draw_frames: DrawFrames = segment_random
    build_causal: Builder | None = None
