"""What folds into the linear layers after it: alterations, and norms that follow no layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from ffn_edge import network
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.specialized import Route, WeightAlteration

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
COUNTS = (2, 4)
C = 8


class Images(nn.Module):
    """A network around `block`, which takes and gives (rows, 8, 6, 6)."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route
        self.stem = nn.Conv2d(3, C, 4, stride=4)
        self.stem_norm = nn.BatchNorm2d(C)
        self.head = nn.Linear(C, 5)
        self.add_layers()

    def add_layers(self) -> None:
        """The layers of the block."""

    def alteration(self, dim: Literal[1, -1]) -> WeightAlteration:
        """An alteration of the block's 8 channels."""
        return WeightAlteration(C, COUNTS, self.route, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, 24, 24)."""
        return self.head(self.block(F.relu(self.stem_norm(self.stem(x)))).mean((2, 3)))

    def block(self, x: Tensor) -> Tensor:
        """What is tested."""
        raise NotImplementedError


class Tokens(Images):
    """A network around `tokens`, which takes and gives (rows, 36, 8)."""

    def block(self, x: Tensor) -> Tensor:
        """Take positions as tokens."""
        return self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2)[..., None]

    def tokens(self, x: Tensor) -> Tensor:
        """What is tested."""
        raise NotImplementedError


def folded_and_equal(
    kind: type[Images], randomise: Randomise, without: tuple[str, ...] = ()
) -> FoldedNetwork:
    """Fold each frame count of a randomised network; return the last."""
    torch.manual_seed(0)
    route = Route()
    model = randomise(
        network.specialize(
            kind(route), COUNTS, num_classes=5, branches=[], route=route, without=without
        )
    )
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
    """Name what this frame count owns in the block."""
    prefix = f"frames/{folded.frames}/"
    owned = {name.removeprefix(prefix) for name in folded.tensors if name.startswith(prefix)}
    stem = {"stem.s_out", "stem.bias"}
    assert stem <= owned
    return owned - stem


class FusedAttention(Tokens):
    """Pre-norm attention, whose query, key and value are one linear layer without a bias."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.LayerNorm(C)
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.proj = nn.Linear(C, C)

    def tokens(self, x: Tensor) -> Tensor:
        """Attend, with two heads."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, C // 2)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)  # (rows, 2, 36, C/2)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class SeparateAttention(Tokens):
    """The same with three linear layers, all of which read the norm."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.LayerNorm(C)
        self.q, self.k, self.v = (nn.Linear(C, C) for _ in range(3))

    def tokens(self, x: Tensor) -> Tensor:
        """Attend, with one head."""
        y = self.norm(x)
        weights = (self.q(y) @ self.k(y).transpose(1, 2)).softmax(-1)
        return x + weights @ self.v(y)


class NormWithoutShift(Tokens):
    """A LayerNorm that scales only: the linear layer keeps its shared bias."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.LayerNorm(C, bias=False)
        self.mix = nn.Linear(C, C)

    def tokens(self, x: Tensor) -> Tensor:
        """Normalise, then mix."""
        return x + self.mix(self.norm(x))


class NormWithoutAffine(NormWithoutShift):
    """A LayerNorm that owns nothing."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.norm = nn.LayerNorm(C, elementwise_affine=False)


class NormReadTwice(NormWithoutShift):
    """A LayerNorm that is read by a linear layer and by an addition."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.norm = nn.LayerNorm(C)

    def tokens(self, x: Tensor) -> Tensor:
        """Add what was normalised."""
        x = self.norm(x)
        return x + self.mix(x)


class NormOfTwoDimensions(Tokens):
    """A LayerNorm over tokens and channels: its scale is not one of channels."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.LayerNorm((36, C))
        self.mix = nn.Linear(C, C)

    def tokens(self, x: Tensor) -> Tensor:
        """Normalise, then mix."""
        return x + self.mix(self.norm(x))


class LinearCalledTwice(NormWithoutShift):
    """The linear layer also reads what no norm scaled."""

    def tokens(self, x: Tensor) -> Tensor:
        """Mix twice."""
        return self.mix(x) + self.mix(self.norm(x))


class Pointwise(Images):
    """A batch norm that follows an addition, before a 1×1 convolution without a bias."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.BatchNorm2d(C)
        self.conv = nn.Conv2d(C, C, 1, bias=False)

    def block(self, x: Tensor) -> Tensor:
        """Pre-activation style: normalise, then convolve."""
        return x + self.conv(self.norm(x))


class PointwiseThenNorm(Pointwise):
    """The 1×1 convolution takes up a batch norm on either side, and has a bias of its own."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.conv = nn.Conv2d(C, C, 1)
        self.second = nn.BatchNorm2d(C)

    def block(self, x: Tensor) -> Tensor:
        """Normalise on both sides."""
        return x + self.second(self.conv(self.norm(x)))


class Grouped(Pointwise):
    """Two groups, and a kernel that reads several positions but pads with nothing."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.conv = nn.Conv2d(C, 2 * C, (3, 1), groups=2)
        self.back = nn.Conv2d(2 * C, C, 1)

    def block(self, x: Tensor) -> Tensor:
        """Convolve in groups."""
        return self.back(F.relu(self.conv(self.norm(x))))


class Padded(Pointwise):
    """Zeros at the border, which the norm does not shift: nothing can stand for it."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.conv = nn.Conv2d(C, C, 3, padding=1)


class Downsampling(Images):
    """ConvNeXt's: a LayerNorm over channels in dimension 1, then a strided convolution."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = LayerNorm2d(C)
        self.conv = nn.Conv2d(C, C, 2, stride=2)

    def block(self, x: Tensor) -> Tensor:
        """Halve the size."""
        return self.conv(self.norm(x))


class AlteredTokens(Tokens):
    """An alteration of channels in the last dimension."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.alter = self.alteration(dim=-1)
        self.mix = nn.Linear(C, C)

    def tokens(self, x: Tensor) -> Tensor:
        """Alter, then mix."""
        return x + self.mix(self.alter(x))


class NormThenAlteration(AlteredTokens):
    """A norm and an alteration, which land in the same layer."""

    def add_layers(self) -> None:
        """The layers of the block."""
        super().add_layers()
        self.norm = nn.LayerNorm(C)

    def tokens(self, x: Tensor) -> Tensor:
        """Normalise, alter, mix."""
        return x + self.mix(self.alter(self.norm(x)))


class AlterationThenNorm(NormThenAlteration):
    """A norm undoes a common factor, but not one for each channel."""

    def tokens(self, x: Tensor) -> Tensor:
        """Alter, normalise, mix."""
        return x + self.mix(self.norm(self.alter(x)))


class AlterationOfTwoConvolutions(Images):
    """An alteration goes into all layers that read it, padded or not: it shifts nothing."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.alter = self.alteration(dim=1)
        self.one = nn.Conv2d(C, C, 3, padding=1)
        self.other = nn.Conv2d(C, C, 1, groups=2)

    def block(self, x: Tensor) -> Tensor:
        """Alter, then convolve in two ways."""
        x = self.alter(x)
        return F.relu(self.one(x)) + self.other(x)


class AlterationOfTheStream(Images):
    """UniFormer's: the residual stream itself is altered."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.alter = self.alteration(dim=1)
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def block(self, x: Tensor) -> Tensor:
        """Alter, then add what was altered."""
        x = self.alter(x)
        return x + self.conv(x)


@pytest.mark.parametrize(
    ("kind", "owned", "unfolded"),
    [
        (FusedAttention, {"qkv.s_in", "qkv.bias"}, []),
        (SeparateAttention, {f"{n}.{v}" for n in "qkv" for v in ("s_in", "bias")}, []),
        (NormWithoutShift, {"mix.s_in"}, []),
        (NormWithoutAffine, set(), []),
        (NormReadTwice, {"norm.weight", "norm.bias"}, ["norm"]),
        (NormOfTwoDimensions, {"norm.weight", "norm.bias"}, ["norm"]),
        (LinearCalledTwice, {"norm.weight"}, ["norm"]),
        (Pointwise, {"conv.s_in", "conv.bias"}, []),
        (PointwiseThenNorm, {"conv.s_in", "conv.s_out", "conv.bias"}, []),
        (Grouped, {"conv.s_in", "conv.bias"}, []),
        (Padded, {"norm.scale", "norm.shift"}, ["norm"]),
        (Downsampling, {"conv.s_in", "conv.bias"}, []),
        (AlteredTokens, {"mix.s_in"}, []),
        (NormThenAlteration, {"mix.s_in", "mix.bias"}, []),
        (AlterationThenNorm, {"mix.s_in", "mix.bias", "alter.scale"}, ["alter"]),
        (AlterationOfTwoConvolutions, {"one.s_in", "other.s_in"}, []),
        (AlterationOfTheStream, {"alter.scale"}, ["alter"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_each_arrangement_folds_as_far_as_it_can(
    kind: type[Images], owned: set[str], unfolded: list[str], randomise: Randomise
) -> None:
    folded = folded_and_equal(kind, randomise)

    assert vectors(folded) == owned
    assert folded.unfolded == unfolded


def test_a_norm_and_an_alteration_are_multiplied_in_float64_and_rounded_once(
    randomise: Randomise,
) -> None:
    torch.manual_seed(0)
    route = Route()
    body = NormThenAlteration(route)
    model = randomise(network.specialize(body, COUNTS, num_classes=5, branches=[], route=route))

    folded = fold(model, 4)

    norm, phi = body.norm.norms["4"], body.alter.phi["4"].double()
    scale = norm.weight.double() * (1 + phi)
    shift = norm.bias.double() * (1 + phi)
    bias = body.mix.bias + (body.mix.weight.double() * shift).sum(1)
    assert torch.equal(folded.tensors["frames/4/mix.s_in"], scale.float()[None])
    assert torch.equal(folded.tensors["frames/4/mix.bias"], bias.float())


@pytest.mark.parametrize("kind", [FusedAttention, Downsampling])
def test_a_folded_layer_norm_is_the_same_for_every_frame_count(
    kind: type[Images], randomise: Randomise
) -> None:
    folded = folded_and_equal(kind, randomise)

    norm = folded.body.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    assert list(norm.parameters()) == []
    assert norm.eps == kind(Route()).norm.eps


def test_an_ordinary_batch_norm_folds_and_an_ordinary_layer_norm_stays_shared(
    randomise: Randomise,
) -> None:
    folded = folded_and_equal(PointwiseThenNorm, randomise, without=("sn",))
    assert vectors(folded) == {"conv.s_in", "conv.s_out", "conv.bias"}
    assert folded.unfolded == []

    folded = folded_and_equal(Padded, randomise, without=("sn",))
    assert vectors(folded) == set()
    assert {"norm.weight", "norm.running_var"} < set(folded.tensors)
    assert folded.unfolded == []

    folded = folded_and_equal(FusedAttention, randomise, without=("sn",))
    assert vectors(folded) == set()
    assert {"norm.weight", "norm.bias"} < set(folded.tensors)


class Pooled(Images):
    """Every way to ask for a mean over positions."""

    def add_layers(self) -> None:
        """The layers of the block."""
        self.norm = nn.BatchNorm2d(C)
        self.conv = nn.Conv2d(C, C, 1)
        self.one = nn.AdaptiveAvgPool2d(1)
        self.rows = nn.AdaptiveAvgPool2d((None, 1))
        self.volume = nn.AdaptiveAvgPool3d((None, 1, 1))
        self.four = nn.AdaptiveAvgPool2d((2, 2))

    def block(self, x: Tensor) -> Tensor:
        """Add up the means."""
        x = self.conv(self.norm(x))
        means = self.one(x) + self.rows(x) + self.volume(x) + F.adaptive_avg_pool2d(x, 1)
        means = means + F.adaptive_avg_pool2d(x, output_size=(1, 1))
        means = means + F.adaptive_avg_pool1d(x.flatten(2), 1)[..., None]
        return means + F.adaptive_avg_pool3d(x, (None, None, 1)) + self.four(x).mean()


def test_adaptive_poolings_to_one_become_means(randomise: Randomise) -> None:
    folded = folded_and_equal(Pooled, randomise)

    called = [str(node.target) for node in folded.body.graph.nodes]
    assert sum("pool" in name for name in called) == 0
    assert "four" in called  # means over parts are left to the exporter


class Constant(Pointwise):
    """A tensor that is made while the network is traced."""

    def block(self, x: Tensor) -> Tensor:
        """Scale by a constant."""
        return super().block(x) * torch.tensor([0.5, 2.0]).repeat(C // 2).reshape(C, 1, 1)


def test_constants_that_tracing_makes_are_kept(randomise: Randomise) -> None:
    folded = folded_and_equal(Constant, randomise)

    assert any(name.startswith("_tensor_constant") for name in folded.tensors)
