"""UniFormer-S for video: convolutions in the early stages, attention in the late ones.

Legend: B clips of T frames; C channels; N = T·H·W positions of a stage, each one token.

Source: Li et al., "UniFormer: Unified Transformer for Efficient Spatiotemporal Representation
Learning", ICLR 2022, and its code (github.com/Sense-X/UniFormer), whose tensor names the layers
have. Nothing in it depends on T: convolutions pad along time, attention takes any N.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]

from ffn_edge.frames import interval_random
from ffn_edge.network.families.family import PYSLOWFAST_MEAN, PYSLOWFAST_STD, Family, PublishedNames
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.layers import AlterationPoint
from ffn_edge.network.pretrained import load_start
from ffn_edge.network.specializing import specialize

_WIDTHS = (64, 128, 320, 512)
_DEPTHS = (3, 4, 8, 3)
_HEAD_WIDTH = 64
_MLP_RATIO = 4
# The paper's rate for Something-Something. It rises linearly from 0 at the first block.
_DROP_PATH = 0.2
_SOURCE = "UniFormer-S for video, as uniformer_small_k600_16x4.pth of github.com/Sense-X/UniFormer"


class PatchEmbedding(nn.Module):
    """Cut a clip into patches, one token each, normalised.

    Args:
        proj: a convolution whose patches do not overlap in space. What is left of a frame beyond
            whole patches is not seen.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj
        self.norm = nn.LayerNorm(proj.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed (B, C, T, H, W) as (B, C', T', H', W')."""
        y: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 4, 1))
        # In order, as below: on a CPU the network took 1.5 times as long on transposed views.
        return y.permute(0, 4, 1, 2, 3).contiguous()


class Mlp(nn.Module):
    """Two layers that widen and narrow each position, with a GELU between."""

    def __init__(self, fc1: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1 = fc1
        self.act = nn.GELU()
        self.fc2 = fc2

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; the shape stays."""
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head attention of every position of a clip to every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among tokens (B, N, C); the shape stays."""
        width = self.proj.in_features
        query, key, value = self.qkv(tokens).split([width, width, width], dim=2)
        mixed = F.scaled_dot_product_attention(
            self._by_head(query), self._by_head(key), self._by_head(value)
        )
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, tokens: Tensor) -> Tensor:
        return torch.unflatten(tokens, 2, (-1, _HEAD_WIDTH)).transpose(1, 2)  # (B, heads, N, 64)


class ConvolutionBlock(nn.Module):
    """A block of the early stages, where positions learn from their 5×5×5 neighbours."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.alteration = AlterationPoint(width)
        self.pos_embed = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv1 = nn.Conv3d(width, width, 1)
        self.attn = nn.Conv3d(width, width, 5, padding=2, groups=width)
        self.conv2 = nn.Conv3d(width, width, 1)
        self.norm2 = nn.BatchNorm3d(width)
        wide = _MLP_RATIO * width
        self.mlp = Mlp(nn.Conv3d(width, wide, 1), nn.Conv3d(wide, width, 1))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to (B, C, T, H, W); the shape stays."""
        x = self.alteration(x)  # of the residual stream too, as in the paper's code
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class AttentionBlock(nn.Module):
    """A block of the late stages, where positions learn from the whole clip."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.alteration = AlterationPoint(width)
        self.pos_embed = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)  # the patch embeddings have the usual 1e-5
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        wide = _MLP_RATIO * width
        self.mlp = Mlp(nn.Linear(width, wide), nn.Linear(wide, width))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to (B, C, T, H, W); the shape stays."""
        x = self.alteration(x)  # of the residual stream too, as in the paper's code
        x = x + self.pos_embed(x)
        tokens: Tensor = x.flatten(2).transpose(1, 2).contiguous()  # (B, N, C)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape)


class UniFormer(nn.Module):
    """UniFormer-S: clips (B, 3, T, H, W) to logits (B, classes), H and W at least 32.

    Args:
        num_classes: the number of logits.
        dropout: the probability before the classifier. The original has none.
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        rates = [_DROP_PATH * i / (sum(_DEPTHS) - 1) for i in range(sum(_DEPTHS))]

        def stage(index: int, block: type[ConvolutionBlock | AttentionBlock]) -> nn.Sequential:
            first = sum(_DEPTHS[:index])
            own = rates[first : first + _DEPTHS[index]]
            return nn.Sequential(*(block(_WIDTHS[index], rate) for rate in own))

        # The first one halves T (rounded up) too.
        stem = nn.Conv3d(3, _WIDTHS[0], (3, 4, 4), stride=(2, 4, 4), padding=(1, 0, 0))
        self.patch_embed1 = PatchEmbedding(stem)
        self.blocks1 = stage(0, ConvolutionBlock)
        self.patch_embed2 = PatchEmbedding(_halving(_WIDTHS[0], _WIDTHS[1]))
        self.blocks2 = stage(1, ConvolutionBlock)
        self.patch_embed3 = PatchEmbedding(_halving(_WIDTHS[1], _WIDTHS[2]))
        self.blocks3 = stage(2, AttentionBlock)
        self.patch_embed4 = PatchEmbedding(_halving(_WIDTHS[2], _WIDTHS[3]))
        self.blocks4 = stage(3, AttentionBlock)
        self.norm = nn.BatchNorm3d(_WIDTHS[3])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(_WIDTHS[3], num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # the original's start; convolutions have PyTorch's
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips."""
        x = self.blocks1(self.patch_embed1(x))
        x = self.blocks2(self.patch_embed2(x))
        x = self.blocks3(self.patch_embed3(x))
        x = self.norm(self.blocks4(self.patch_embed4(x)))
        return self.head(self.dropout(x.mean((2, 3, 4))))


def _halving(inputs: int, width: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, width, (1, 2, 2), stride=(1, 2, 2))


def build(
    architecture: str,
    num_classes: int,
    frame_counts: Sequence[int],
    *,
    weights: str | None,
    dropout: float,
    without: Sequence[str],
) -> FrameFlexibleNetwork:
    """Build a UniFormer; see `ffn_edge.network.build`. `weights` is a file of the original code."""
    body = UniFormer(num_classes, dropout)
    if weights is not None:
        load_start(body, weights, source=_SOURCE, new=lambda name: name.startswith("head."))
    return specialize(
        body,
        frame_counts,
        num_classes=num_classes,
        architecture=architecture,
        layout="clip",
        branches=[],
        shift_fraction=None,
        without=without,
    )


def _published(name: str) -> str:
    name = re.sub(r"\.alteration\.phi\.(\d+)$", r".adaconv_\1.weight", name)
    return re.sub(r"\.norms\.(\d+)\.", r"_\1.", name)


FAMILY = Family(
    architectures=("uniformer_small",),
    build=build,
    published=PublishedNames(
        name=_published,
        norm=r"norm_(\d+)\.weight",
        classifier="head.weight",
        # Its frames come from OpenCV, and its configurations leave out DATA.REVERSE_INPUT_CHANNEL,
        # which SlowFast's have.
        blue_first="patch_embed1.proj.weight",
    ),
    stages=(
        r"patch_embed1\.",
        r"blocks1\.",
        *(rf"(patch_embed|blocks){i}\." for i in range(2, 5)),
    ),
    short_side=224,
    mean=PYSLOWFAST_MEAN,
    std=PYSLOWFAST_STD,
    draw_frames=interval_random,
)
