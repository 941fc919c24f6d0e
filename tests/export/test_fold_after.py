"""What folds into the linear layers after it: alterations, and norms that follow no layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from ffn_edge import network
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.layers import Route, WeightAlteration

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
# From a network, for its layers by name, and features (rows, 8, 6, 6) to those (rows, 8).
Block = Callable[[Any, Tensor], Tensor]
COUNTS = (2, 4)
C = 8


@dataclass(frozen=True)
class Arrangement:
    """Layers, how they stand, what each frame count owns of them, and what stays in the graph."""

    layers: Callable[[Route], dict[str, nn.Module]]
    block: Block
    owned: str = ""
    unfolded: str = ""


class Network(nn.Module):
    """Stem, arrangement, classifier."""

    def __init__(self, arrangement: Arrangement, route: Route) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 4, stride=4)
        self.stem_norm = nn.BatchNorm2d(C)
        self.head = nn.Linear(C, 5)
        for name, layer in arrangement.layers(route).items():
            self.add_module(name, layer)
        self.block = arrangement.block

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, 24, 24)."""
        return self.head(self.block(self, F.relu(self.stem_norm(self.stem(x)))))


def images(block: Block) -> Block:
    """Let `block` take and give (rows, 8, height, width)."""
    return lambda m, x: block(m, x).mean((2, 3))


def tokens(block: Block) -> Block:
    """Let `block` take and give (rows, 36, 8)."""
    return lambda m, x: block(m, x.flatten(2).transpose(1, 2)).mean(1)


def alter(route: Route, dim: int, channels: int = C) -> WeightAlteration:
    return WeightAlteration(channels, COUNTS, route, dim)


def fused_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(m.norm(x)).unflatten(2, (3, 2, C // 2)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v)  # (rows, 2 heads, 36, C/2)
    return x + m.proj(y.transpose(1, 2).flatten(2))


def separate_attention(m: Any, x: Tensor) -> Tensor:
    y = m.norm(x)
    return x + (m.q(y) @ m.k(y).transpose(1, 2)).softmax(-1) @ m.v(y)


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def add_mixed(m: Any, x: Tensor) -> Tensor:
    return x + m.mix(x)


def add_both(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.one(x)) + m.other(x)


class Dropping(nn.Module):
    """Three ways to drop in training; in evaluation, nothing happens."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = StochasticDepth(0.9, "row")
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Drop; the shape stays."""
        return F.dropout(self.depth(self.dropout(x)), 0.9, self.training)


ARRANGEMENTS = {
    "pre-norm attention with one layer for query, key and value, without a bias": Arrangement(
        lambda _: {
            "norm": nn.LayerNorm(C),
            "qkv": nn.Linear(C, 3 * C, bias=False),
            "proj": nn.Linear(C, C),
        },
        tokens(fused_attention),
        owned="qkv.s_in qkv.bias",
    ),
    "pre-norm attention with three layers": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C), **{name: nn.Linear(C, C) for name in "qkv"}},
        tokens(separate_attention),
        owned="q.s_in q.bias k.s_in k.bias v.s_in v.bias",
    ),
    "a layer norm without a shift: the layer's bias stays shared": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C, bias=False), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: x + m.mix(m.norm(x))),
        owned="mix.s_in",
    ),
    "a layer norm without an affine": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C, elementwise_affine=False), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: x + m.mix(m.norm(x))),
    ),
    "a layer norm that an addition reads too": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: add_mixed(m, m.norm(x))),
        owned="norm.weight norm.bias",
        unfolded="norm",
    ),
    "a layer norm over tokens and channels": Arrangement(
        lambda _: {"norm": nn.LayerNorm((36, C)), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: x + m.mix(m.norm(x))),
        owned="norm.weight norm.bias",
        unfolded="norm",
    ),
    "a linear layer that also reads what no norm scaled": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: m.mix(x) + m.mix(m.norm(x))),
        owned="norm.weight norm.bias",
        unfolded="norm",
    ),
    "a batch norm before a 1×1 convolution without a bias": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C), "conv": nn.Conv2d(C, C, 1, bias=False)},
        images(lambda m, x: x + m.conv(m.norm(x))),
        owned="conv.s_in conv.bias",
    ),
    "a batch norm on either side of a convolution": Arrangement(
        lambda _: {
            "norm": nn.BatchNorm2d(C),
            "conv": nn.Conv2d(C, C, 1),
            "second": nn.BatchNorm2d(C),
        },
        images(lambda m, x: x + m.second(m.conv(m.norm(x)))),
        owned="conv.s_in conv.s_out conv.bias",
    ),
    "a batch norm before groups that read several positions and pad with nothing": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C), "conv": nn.Conv2d(C, C, (3, 1), groups=2)},
        images(lambda m, x: m.conv(m.norm(x)).sigmoid()),
        owned="conv.s_in conv.bias",
    ),
    # The norm would have shifted the zeros at the border: no bias can stand for that.
    "a batch norm before a padded convolution": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C), "conv": nn.Conv2d(C, C, 3, padding=1)},
        images(lambda m, x: x + m.conv(m.norm(x))),
        owned="norm.scale norm.shift",
        unfolded="norm",
    ),
    "ConvNeXt's layer norm over dimension 1 before a strided convolution": Arrangement(
        lambda _: {"norm": LayerNorm2d(C), "conv": nn.Conv2d(C, C, 2, stride=2)},
        images(lambda m, x: m.conv(m.norm(x))),
        owned="conv.s_in conv.bias",
    ),
    "an alteration of tokens": Arrangement(
        lambda route: {"alter": alter(route, -1), "mix": nn.Linear(C, C)},
        tokens(lambda m, x: x + m.mix(m.alter(x))),
        owned="mix.s_in",
    ),
    "a norm, then an alteration": Arrangement(
        lambda route: {
            "norm": nn.LayerNorm(C),
            "alter": alter(route, -1),
            "mix": nn.Linear(C, C),
        },
        tokens(lambda m, x: x + m.mix(m.alter(m.norm(x)))),
        owned="mix.s_in mix.bias",
    ),
    "a norm, then an alteration that an addition reads too": Arrangement(
        lambda route: {
            "norm": nn.LayerNorm(C),
            "alter": alter(route, -1),
            "mix": nn.Linear(C, C),
        },
        tokens(lambda m, x: add_mixed(m, m.alter(m.norm(x)))),
        owned="norm.weight norm.bias",
        unfolded="norm",
    ),
    "UniFormer's norm over the last dimension, then an alteration of dimension 1": Arrangement(
        lambda route: {"norm": nn.LayerNorm(C), "alter": alter(route, 1)},
        images(lambda m, x: m.alter(channels_first(m.norm(channels_last(x)))).sigmoid()),
        owned="norm.weight norm.bias",
        unfolded="norm",
    ),
    "a convolution that takes up a batch norm and the alteration after it": Arrangement(
        lambda route: {
            "conv": nn.Conv2d(C, C, 3, padding=1),
            "norm": nn.BatchNorm2d(C),
            "alter": alter(route, 1),
        },
        images(lambda m, x: m.alter(m.norm(m.conv(x))).sigmoid()),
        owned="conv.s_out conv.bias",
    ),
    "a norm of channels, then an alteration of tokens": Arrangement(
        lambda route: {
            "norm": nn.LayerNorm(C),
            "alter": alter(route, 1, channels=36),
            "mix": nn.Linear(C, C),
        },
        tokens(lambda m, x: m.mix(m.alter(m.norm(x)))),
        owned="norm.weight norm.bias alter.scale",
        unfolded="norm alter",
    ),
    "a batch norm and an alteration before a padded convolution": Arrangement(
        lambda route: {
            "norm": nn.BatchNorm2d(C),
            "alter": alter(route, 1),
            "conv": nn.Conv2d(C, C, 3, padding=1),
        },
        images(lambda m, x: x + m.conv(m.alter(m.norm(x)))),
        owned="norm.scale norm.shift conv.s_in",
        unfolded="norm",
    ),
    "Swin's classifier, behind a norm, a pooling and a dropout": Arrangement(
        lambda _: {
            "norm": nn.LayerNorm(C),
            "pool": nn.AdaptiveAvgPool2d(1),
            "head": nn.Sequential(nn.Flatten(1), nn.Dropout(0.5), nn.Linear(C, 5)),
        },
        lambda m, x: m.pool(channels_first(m.norm(channels_last(x)))),
        owned="head.2.s_in head.2.bias",
    ),
    "UniFormer's classifier, behind a batch norm and a mean": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C)},
        lambda m, x: m.norm(x).transpose(2, 3).mean((2, 3)),
        owned="head.s_in head.bias",
    ),
    "a classifier behind a mean by name": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C)},
        lambda m, x: m.norm(x).mean(dim=(2, 3)),
        owned="head.s_in head.bias",
    ),
    "a classifier behind a mean that keeps its dimensions": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C)},
        lambda m, x: torch.flatten(m.norm(x).mean((2, 3), keepdim=True), start_dim=1),
        owned="head.s_in head.bias",
    ),
    "a classifier behind a pooling by a function": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C)},
        lambda m, x: F.adaptive_avg_pool2d(m.norm(x), 1).flatten(1),
        owned="head.s_in head.bias",
    ),
    "a linear layer behind what acts in training only": Arrangement(
        lambda _: {"norm": nn.LayerNorm(C), "mix": nn.Linear(C, C), "drop": Dropping()},
        tokens(lambda m, x: m.mix(m.drop(m.norm(x)))),
        owned="mix.s_in mix.bias",
    ),
    "layers that are called by the name of their argument": Arrangement(
        lambda _: {
            "norm": nn.BatchNorm2d(C),
            "conv": nn.Conv2d(C, C, 1),
            "second": nn.BatchNorm2d(C),
            "third": nn.BatchNorm2d(C),
        },
        images(lambda m, x: m.third(input=m.second(input=m.conv(input=m.norm(input=x))).sigmoid())),
        owned="conv.s_in conv.s_out conv.bias head.s_in head.bias",
    ),
    "a norm that stays, called by the name of its argument": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C)},
        images(lambda m, x: m.norm(input=x).sigmoid()),
        owned="norm.scale norm.shift",
        unfolded="norm",
    ),
    "a norm of channels, then an alteration of every position": Arrangement(
        lambda route: {
            "norm": nn.BatchNorm2d(C),
            "alter": alter(route, -1, channels=36 * C),
            "head": nn.Linear(36 * C, 5),
        },
        lambda m, x: m.alter(m.norm(x).flatten(1)),
        owned="norm.scale norm.shift head.s_in",
        unfolded="norm",
    ),
    "the same, where the alteration stays too": Arrangement(
        lambda route: {
            "norm": nn.BatchNorm2d(C),
            "alter": alter(route, 1, channels=36 * C),
            "head": nn.Linear(36 * C, 5),
        },
        lambda m, x: m.alter(m.norm(x).flatten(1)).sigmoid(),
        owned="norm.scale norm.shift alter.scale",
        unfolded="norm alter",
    ),
    "a classifier of every position": Arrangement(
        lambda _: {"norm": nn.BatchNorm2d(C), "head": nn.Linear(36 * C, 5)},
        lambda m, x: m.norm(x).flatten(1),
        owned="norm.scale norm.shift",
        unfolded="norm",
    ),
    # A norm undoes a factor of all channels, but not one of each.
    "an alteration, then a norm": Arrangement(
        lambda route: {
            "norm": nn.LayerNorm(C),
            "alter": alter(route, -1),
            "mix": nn.Linear(C, C),
        },
        tokens(lambda m, x: x + m.mix(m.norm(m.alter(x)))),
        owned="mix.s_in mix.bias alter.scale",
        unfolded="alter",
    ),
    # It shifts nothing, so zeros at the border stay zeros.
    "an alteration that two convolutions read, one of them padded": Arrangement(
        lambda route: {
            "alter": alter(route, 1),
            "one": nn.Conv2d(C, C, 3, padding=1),
            "other": nn.Conv2d(C, C, 1, groups=2),
        },
        images(lambda m, x: add_both(m, m.alter(x))),
        owned="one.s_in other.s_in",
    ),
    "UniFormer's alteration of the residual stream": Arrangement(
        lambda route: {"alter": alter(route, 1), "mix": nn.Conv2d(C, C, 3, padding=1)},
        images(lambda m, x: add_mixed(m, m.alter(x))),
        owned="alter.scale",
        unfolded="alter",
    ),
}


def model_of(
    arrangement: Arrangement, randomise: Randomise, without: tuple[str, ...] = ()
) -> FrameFlexibleNetwork:
    torch.manual_seed(0)
    route = Route()
    body = Network(arrangement, route)
    return randomise(
        network.specialize(body, COUNTS, num_classes=5, branches=[], route=route, without=without)
    )


def folded_and_equal(model: FrameFlexibleNetwork) -> FoldedNetwork:
    """Fold each frame count of a network; return the last."""
    for frames in COUNTS:
        clip = torch.randn(2, frames, 3, 24, 24, generator=torch.Generator().manual_seed(frames))
        folded = fold(model, frames)
        with torch.inference_mode():
            logits = folded.body(clip.flatten(0, 1)).unflatten(0, (-1, frames)).mean(1)
            expected = model(clip)
        # float32: rounding only
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    return folded


def vectors(folded: FoldedNetwork) -> set[str]:
    """Name what this frame count owns behind the stem."""
    prefix = f"frames/{folded.frames}/"
    owned = {name.removeprefix(prefix) for name in folded.tensors if name.startswith(prefix)}
    stem = {"stem.s_out", "stem.bias"}
    assert stem <= owned
    return owned - stem


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_each_arrangement_folds_as_far_as_it_can(name: str, randomise: Randomise) -> None:
    arrangement = ARRANGEMENTS[name]

    folded = folded_and_equal(model_of(arrangement, randomise))

    assert vectors(folded) == set(arrangement.owned.split())
    assert folded.unfolded == arrangement.unfolded.split()


def test_a_norm_and_an_alteration_are_multiplied_in_float64_and_rounded_once(
    randomise: Randomise,
) -> None:
    model = model_of(ARRANGEMENTS["a norm, then an alteration"], randomise)

    folded = fold(model, 4)

    body = model.body
    norm, phi = body.norm.norms["4"], body.alter.phi["4"].double()
    scale = norm.weight.double() * (1 + phi)
    shift = norm.bias.double() * (1 + phi)
    bias = body.mix.bias + (body.mix.weight.double() * shift).sum(1)
    assert torch.equal(folded.tensors["frames/4/mix.s_in"], scale.float()[None])
    assert torch.equal(folded.tensors["frames/4/mix.bias"], bias.float())


@pytest.mark.parametrize("norm", [nn.LayerNorm(C, eps=1e-3), LayerNorm2d(C, eps=1e-3)])
def test_a_folded_layer_norm_is_the_same_for_every_frame_count(
    norm: nn.LayerNorm, randomise: Randomise
) -> None:
    plain = type(norm) is nn.LayerNorm
    arrangement = Arrangement(
        lambda _: {"norm": norm, "mix": nn.Linear(C, C) if plain else nn.Conv2d(C, C, 1)},
        (tokens if plain else images)(lambda m, x: m.mix(m.norm(x))),
    )

    folded = folded_and_equal(model_of(arrangement, randomise))

    left = folded.body.get_submodule("norm")
    assert type(left) is type(norm)
    assert (list(left.parameters()), left.eps) == ([], 1e-3)


@pytest.mark.parametrize(
    ("name", "owned", "shared"),
    [
        (
            "a batch norm on either side of a convolution",
            {"conv.s_in", "conv.s_out", "conv.bias"},
            set(),
        ),
        (
            "a batch norm before a padded convolution",
            set(),
            {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"},
        ),
        ("pre-norm attention with three layers", set(), {"norm.weight", "norm.bias"}),
    ],
)
def test_an_ordinary_norm_folds_if_it_is_a_batch_norm_and_else_stays_shared(
    name: str, owned: set[str], shared: set[str], randomise: Randomise
) -> None:
    folded = folded_and_equal(model_of(ARRANGEMENTS[name], randomise, without=("sn",)))

    assert vectors(folded) == owned
    assert {each for each in folded.tensors if each.startswith("norm.")} >= shared
    assert folded.unfolded == []  # nothing that is particular to a frame count
