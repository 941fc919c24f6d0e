"""Folding changes no result: the folded network against the network, all norms randomised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from ffn_edge import network
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.export.folded_layers import affine_of
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.layers import SpecializedNorm, WeightAlteration

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]


def random_clip(frames: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(2, frames, 3, size, size, generator=generator)


def assert_folds(model: FrameFlexibleNetwork, size: int = 32) -> FoldedNetwork:
    """Fold each frame count of `model`; return the last."""
    for frames in model.frame_counts:
        clip = random_clip(frames, size)
        folded = fold(model, frames)
        with torch.inference_mode():
            expected = model(clip)
            if model.layout == "clip":
                logits = folded.body(clip.transpose(1, 2))
            else:
                logits = folded.body(clip.flatten(0, 1)).unflatten(0, (-1, frames)).mean(1)
        assert expected.abs().max() > 1e-3  # there is something to compare
        # float32: the same sums in another order, through up to fifty layers
        assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
        kinds = {type(module) for module in folded.body.modules()}
        assert not kinds & {SpecializedNorm, WeightAlteration}
    return folded


@pytest.mark.parametrize(
    "architecture", ["tsm_tiny", pytest.param("tsm_resnet50", marks=pytest.mark.slow)]
)
def test_a_folded_network_equals_the_network(architecture: str, randomise: Randomise) -> None:
    model = randomise(network.build(architecture, 5, (2, 4)))

    folded = assert_folds(model, size=64)

    assert folded.unfolded == []  # every norm and alteration of a ResNet found its convolution


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "convnext_tiny"])
def test_torchvisions_networks_fold(name: str, randomise: Randomise) -> None:
    body = torchvision.models.get_model(name, num_classes=5)
    model = randomise(network.specialize(body, (2, 4), num_classes=5))

    folded = assert_folds(model)

    # ConvNeXt's first norm starts the residual stream.
    stays = ["features.0.1"] if name == "convnext_tiny" else []
    assert folded.unfolded == stays


class Body(nn.Module):
    """A small network around one arrangement of layers; its branch begins at `conv`."""

    channels = 8
    groups = 1
    bias = False

    def __init__(self) -> None:
        super().__init__()
        c = self.channels
        self.stem = nn.Conv2d(3, c, 3, stride=2, padding=1, groups=1, bias=self.bias)
        self.stem_norm = nn.BatchNorm2d(c)
        self.conv = nn.Conv2d(c, c, 3, padding=1, groups=self.groups, bias=self.bias)
        self.norm = nn.BatchNorm2d(c)
        self.head = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        x = F.relu(self.stem_norm(self.stem(x)))
        return self.head(self.branch(x).mean((2, 3)))

    def branch(self, x: Tensor) -> Tensor:
        """The arrangement: (rows, C, H, W), the shape stays."""
        return F.relu(x + self.norm(self.conv(x)))


class Grouped(Body):
    """A convolution of two groups: each output channel has inputs of its own."""

    groups = 2


class DepthWise(Body):
    """One input channel for each output channel."""

    groups = 8


class WithBias(Body):
    """Convolutions with a bias before their norms."""

    bias = True


class NormAfterAddition(Body):
    """A norm that follows no convolution."""

    def branch(self, x: Tensor) -> Tensor:
        """Add, then normalise."""
        return F.relu(self.norm(x + self.conv(x)))


class ConvolutionTwice(Body):
    """One convolution at two places, a norm behind one of them."""

    def branch(self, x: Tensor) -> Tensor:
        """Convolve with a norm, then without."""
        return self.conv(F.relu(self.norm(self.conv(x))))


class ConvolutionReadTwice(Body):
    """What the convolution gives is read by its norm and by another."""

    def branch(self, x: Tensor) -> Tensor:
        """Add what was normalised to what was not."""
        y = self.conv(x)
        return F.relu(y + self.norm(y))


class NormTwice(Body):
    """One norm behind two convolutions, and behind itself."""

    def branch(self, x: Tensor) -> Tensor:
        """Normalise three times."""
        return F.relu(self.norm(self.norm(self.conv(x)))) + self.norm(x)


class TwoNorms(Body):
    """Two norms in a row: the convolution can take up the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm2d(self.channels)

    def branch(self, x: Tensor) -> Tensor:
        """Normalise twice."""
        return F.relu(self.second(self.norm(self.conv(x))))


class LinearNorm(Body):
    """BatchNorm1d after a linear layer and before one: whether on (B, C), no graph says."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(self.channels, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 7),
            nn.ReLU(),
            nn.BatchNorm1d(7),
            nn.Linear(7, 5),
        )


class TokenNorm(Body):
    """BatchNorm1d over tokens (rows, N, C): it normalises N, not the linear layer's N outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16 * 16, self.channels)
        self.token_norm = nn.BatchNorm1d(self.channels)

    def branch(self, x: Tensor) -> Tensor:
        """Mix the positions of each channel."""
        x = F.relu(x + self.norm(self.conv(x)))
        return self.token_norm(self.mix(x.flatten(2)))[..., None]


class WithoutAffine(Body):
    """A norm without weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(self.channels, affine=False)


class NormFirst(Body):
    """A norm on the input, where nothing is before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        return super().forward(self.first(x))


def rectified(layer: nn.Module) -> nn.Module:
    """Let a hook change what the layer gives, so that it no longer is what its class says."""
    layer.register_forward_hook(lambda layer, inputs, result: F.relu(result - 0.1))
    return layer


class Hooked(Body):
    """A GELU and a pooling, which export writes anew where they are plain, with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.pool = rectified(nn.GELU()), rectified(nn.AdaptiveAvgPool2d(1))

    def branch(self, x: Tensor) -> Tensor:
        """Activate and pool after the branch."""
        return self.pool(self.act(super().branch(x)))


class HookedBetween(Body):
    """A dropout with a hook between a norm and the layer that it could fold into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.BatchNorm2d(self.channels), rectified(nn.Dropout())
        self.mix = nn.Conv2d(self.channels, self.channels, 1)

    def branch(self, x: Tensor) -> Tensor:
        """Normalise and mix before the branch."""
        return super().branch(self.mix(self.drop(self.first(x))))


@pytest.mark.parametrize(
    ("body", "unfolded"),
    [
        (Body, []),
        (Hooked, []),
        (HookedBetween, ["first"]),
        (Grouped, []),
        (DepthWise, []),
        (WithBias, []),
        (WithoutAffine, []),
        (LinearNorm, ["head.1", "head.5"]),
        (NormAfterAddition, ["norm"]),
        (NormFirst, ["first"]),
        (TwoNorms, ["second"]),
        (NormTwice, ["norm"]),
        (TokenNorm, ["token_norm"]),
        (ConvolutionReadTwice, ["norm"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_each_arrangement_folds_as_far_as_it_can(
    body: type[Body], unfolded: list[str], randomise: Randomise
) -> None:
    model = randomise(network.specialize(body(), (2, 4), num_classes=5, branches=["conv"]))

    assert assert_folds(model).unfolded == unfolded


def test_a_convolution_used_twice_is_not_folded_into(randomise: Randomise) -> None:
    # `branches` would put one shift and one alteration before both uses; here only norms.
    body = ConvolutionTwice()
    model = randomise(network.specialize(body, (2, 4), num_classes=5, branches=["stem"]))

    folded = assert_folds(model)

    assert folded.unfolded == ["norm"]
    assert "conv" in folded.layers
    assert "frames/4/conv.s_out" not in folded.tensors


class AlterationTwice(Body):
    """One alteration in two places, of which one has the convolution behind it."""

    def branch(self, x: Tensor) -> Tensor:
        """Alter twice."""
        return F.relu(self.norm(self.conv(self.conv.alteration(x))))


def test_an_alteration_that_is_used_twice_stays(randomise: Randomise) -> None:
    body = AlterationTwice()
    model = randomise(network.specialize(body, (2, 4), num_classes=5, branches=["conv"]))

    assert assert_folds(model).unfolded == ["conv.alteration"]


class Video(nn.Module):
    """A 3-D network over clips: layout "clip"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), bias=False)
        self.stem_norm = nn.BatchNorm3d(8)
        self.conv = nn.Conv3d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm3d(8)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W)."""
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.norm(self.conv(x)))
        return self.head(self.pool(x).flatten(1))


def test_a_video_network_folds(randomise: Randomise) -> None:
    model = randomise(
        network.specialize(Video(), (2, 4), num_classes=5, layout="clip", branches=["conv"])
    )

    assert assert_folds(model).unfolded == []


def test_folding_shares_the_weights_and_leaves_the_network_as_it_is(
    tiny: FrameFlexibleNetwork,
) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}

    folded = fold(tiny, 4)

    shared = tiny.body.layer1[0].conv2.weight
    assert folded.tensors["layer1.0.conv2.weight"].data_ptr() == shared.data_ptr()
    assert all(torch.equal(t, before[name]) for name, t in tiny.state_dict().items())
    assert isinstance(tiny.body.bn1, SpecializedNorm)


class Regularised(Body):
    """Layers that act in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = StochasticDepth(0.9, "row")
        self.dropout = nn.Dropout(0.9)

    def branch(self, x: Tensor) -> Tensor:
        """Drop in three ways, one of which reads the mode when it is traced."""
        y = self.depth(self.dropout(self.norm(self.conv(x))))
        return x + F.dropout(y, 0.9, training=self.training)


def test_a_network_in_training_is_folded_as_in_evaluation_and_stays_in_training(
    randomise: Randomise,
) -> None:
    model = network.specialize(Regularised(), (2, 4), num_classes=5, branches=["conv"])
    expected = fold(randomise(model), 4).body(random_clip(4).flatten(0, 1))
    model.train()

    folded = fold(model, 4)

    assert torch.equal(folded.body(random_clip(4).flatten(0, 1)), expected)
    assert all(module.training for module in model.modules())


def test_vectors_are_computed_in_float64() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean.fill_(1e4)
        norm.running_var.fill_(3.0)
        norm.bias.fill_(1e-3)

    affine = affine_of(norm)

    assert affine.scale.dtype == affine.shift.dtype == torch.float64
    expected = 1e-3 - 1e4 / (3 + 1e-5) ** 0.5
    assert affine.shift[0].item() == pytest.approx(
        expected, rel=1e-7
    )  # float32's bias itself: 6e-8


class Pooling(Body):
    """Means as adaptive poolings, over all dimensions of space, some and none."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.AdaptiveAvgPool2d(1)
        self.rows = nn.AdaptiveAvgPool2d((None, 1))
        self.volume = nn.AdaptiveAvgPool3d((None, 1, 1))
        self.four = nn.AdaptiveAvgPool2d((2, 2))
        self.same = nn.AdaptiveAvgPool2d((None, None))

    def branch(self, x: Tensor) -> Tensor:
        """Pool in many ways."""
        x = self.norm(self.conv(x))
        means = self.one(x) + self.rows(x) + self.volume(x) + F.adaptive_avg_pool2d(x, 1)
        means = means + F.adaptive_avg_pool2d(x, output_size=(1, 1))
        means = means + F.adaptive_avg_pool1d(x.flatten(2), 1)[..., None]
        means = means + F.adaptive_avg_pool3d(x, (None, None, 1)) + self.four(x).mean()
        return (means + self.same(x)).sigmoid()


def test_adaptive_poolings_to_one_become_means(randomise: Randomise) -> None:
    model = randomise(network.specialize(Pooling(), (2, 4), num_classes=5, branches=["conv"]))

    folded = assert_folds(model)

    called = [str(node.target) for node in folded.body.graph.nodes]
    assert not any("pool" in name for name in called)
    assert not {"one", "rows", "volume"} & set(called)
    # Means over parts are left to the exporter, and those over nothing.
    assert {"four", "same"} <= set(called)


class WithConstant(Body):
    """A tensor that its forward makes."""

    def branch(self, x: Tensor) -> Tensor:
        """Scale by constants."""
        scale = torch.tensor([0.5, 2.0]).repeat(self.channels // 2).reshape(-1, 1, 1)
        return self.norm(self.conv(x)) * scale


def test_constants_that_tracing_makes_are_kept(randomise: Randomise) -> None:
    model = randomise(network.specialize(WithConstant(), (2, 4), num_classes=5, branches=["conv"]))

    folded = assert_folds(model)

    assert any(name.startswith("_tensor_constant") for name in folded.tensors)
