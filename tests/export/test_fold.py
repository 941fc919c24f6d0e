"""Folding changes no result: the folded network against the network, all norms randomised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


# From a network, for its layers by name, and features (rows, 8, H, W) to the same shape.
Branch = Callable[[Any, Tensor], Tensor]
C = 8


def residual(m: Any, x: Tensor) -> Tensor:
    return F.relu(x + m.norm(m.conv(x)))


class Body(nn.Module):
    """A small network around one arrangement of layers; its branch begins at `conv`."""

    def __init__(
        self, branch: Branch = residual, groups: int = 1, bias: bool = False, **layers: nn.Module
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, stride=2, padding=1, bias=bias)
        self.stem_norm = nn.BatchNorm2d(C)
        self.conv = nn.Conv2d(C, C, 3, padding=1, groups=groups, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(C)
        self.head: nn.Module = nn.Linear(C, 5)
        self.first: nn.Module = nn.Identity()
        self.branch = branch
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        x = F.relu(self.stem_norm(self.stem(self.first(x))))
        return self.head(self.branch(self, x).mean((2, 3)))


def rectified(layer: nn.Module) -> nn.Module:
    """Let a hook change what the layer gives, so that it no longer is what its class says."""
    layer.register_forward_hook(lambda layer, inputs, result: F.relu(result - 0.1))
    return layer


def mixed_tokens(m: Any, x: Tensor) -> Tensor:
    return m.token_norm(m.mix(residual(m, x).flatten(2)))[..., None]


def read_twice(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return F.relu(y + m.norm(y))


BODIES: dict[str, tuple[Callable[[], Body], list[str]]] = {
    "plain": (Body, []),
    "two groups, whose output channels have inputs of their own": (lambda: Body(groups=2), []),
    "depth-wise": (lambda: Body(groups=C), []),
    "biases before the norms": (lambda: Body(bias=True), []),
    "a norm without weight and bias": (
        lambda: Body(norm=nn.BatchNorm2d(C, affine=False)),
        [],
    ),
    "a GELU and a pooling, which export writes anew where they are plain, with hooks": (
        lambda: Body(
            lambda m, x: m.pool(m.act(residual(m, x))),
            act=rectified(nn.GELU()),
            pool=rectified(nn.AdaptiveAvgPool2d(1)),
        ),
        [],
    ),
    "a dropout with a hook between a norm and the layer that it could fold into": (
        lambda: Body(
            lambda m, x: residual(m, m.mix(m.drop(m.before(x)))),
            before=nn.BatchNorm2d(C),
            drop=rectified(nn.Dropout()),
            mix=nn.Conv2d(C, C, 1),
        ),
        ["before"],
    ),
    "BatchNorm1d by linear layers: whether on (B, C), no graph says": (
        lambda: Body(
            head=nn.Sequential(
                nn.Linear(C, 6),
                nn.BatchNorm1d(6),
                nn.ReLU(),
                nn.Linear(6, 7),
                nn.ReLU(),
                nn.BatchNorm1d(7),
                nn.Linear(7, 5),
            )
        ),
        ["head.1", "head.5"],
    ),
    "BatchNorm1d over tokens (rows, N, C): it normalises N, not the linear layer's outputs": (
        lambda: Body(mixed_tokens, mix=nn.Linear(16 * 16, C), token_norm=nn.BatchNorm1d(C)),
        ["token_norm"],
    ),
    "a norm that follows no convolution": (
        lambda: Body(lambda m, x: F.relu(m.norm(x + m.conv(x)))),
        ["norm"],
    ),
    "a norm on the input, where nothing is before it": (
        lambda: Body(first=nn.BatchNorm2d(3)),
        ["first"],
    ),
    "two norms in a row: the convolution can take up the first alone": (
        lambda: Body(lambda m, x: F.relu(m.second(m.norm(m.conv(x)))), second=nn.BatchNorm2d(C)),
        ["second"],
    ),
    "one norm behind two convolutions, and behind itself": (
        lambda: Body(lambda m, x: F.relu(m.norm(m.norm(m.conv(x)))) + m.norm(x)),
        ["norm"],
    ),
    "a convolution that its norm reads, and another": (lambda: Body(read_twice), ["norm"]),
    "one alteration in two places, of which one has the convolution behind it": (
        lambda: Body(lambda m, x: F.relu(m.norm(m.conv(m.conv.alteration(x))))),
        ["conv.alteration"],
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_each_arrangement_folds_as_far_as_it_can(name: str, randomise: Randomise) -> None:
    body, unfolded = BODIES[name]
    model = randomise(network.specialize(body(), (2, 4), num_classes=5, branches=["conv"]))

    assert assert_folds(model).unfolded == unfolded


def test_a_convolution_used_twice_is_not_folded_into(randomise: Randomise) -> None:
    # `branches` would put one shift and one alteration before both uses; here only norms.
    body = Body(lambda m, x: m.conv(F.relu(m.norm(m.conv(x)))))
    model = randomise(network.specialize(body, (2, 4), num_classes=5, branches=["stem"]))

    folded = assert_folds(model)

    assert folded.unfolded == ["norm"]
    assert "conv" in folded.layers
    assert "frames/4/conv.s_out" not in folded.tensors


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


def regularised(m: Any, x: Tensor) -> Tensor:
    """Drop in three ways, one of which reads the mode when it is traced."""
    y = m.depth(m.dropout(m.norm(m.conv(x))))
    return x + F.dropout(y, 0.9, training=m.training)


def test_a_network_in_training_is_folded_as_in_evaluation_and_stays_in_training(
    randomise: Randomise,
) -> None:
    body = Body(regularised, depth=StochasticDepth(0.9, "row"), dropout=nn.Dropout(0.9))
    model = network.specialize(body, (2, 4), num_classes=5, branches=["conv"])
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


def pooled(m: Any, x: Tensor) -> Tensor:
    """Pool to means, over all dimensions of space, some and none."""
    x = m.norm(m.conv(x))
    means = m.one(x) + m.rows(x) + m.volume(x) + F.adaptive_avg_pool2d(x, 1)
    means = means + F.adaptive_avg_pool2d(x, output_size=(1, 1))
    means = means + F.adaptive_avg_pool1d(x.flatten(2), 1)[..., None]
    means = means + F.adaptive_avg_pool3d(x, (None, None, 1)) + m.four(x).mean()
    return (means + m.same(x)).sigmoid()


def test_adaptive_poolings_to_one_become_means(randomise: Randomise) -> None:
    body = Body(
        pooled,
        one=nn.AdaptiveAvgPool2d(1),
        rows=nn.AdaptiveAvgPool2d((None, 1)),
        volume=nn.AdaptiveAvgPool3d((None, 1, 1)),
        four=nn.AdaptiveAvgPool2d((2, 2)),
        same=nn.AdaptiveAvgPool2d((None, None)),
    )
    model = randomise(network.specialize(body, (2, 4), num_classes=5, branches=["conv"]))

    folded = assert_folds(model)

    called = [str(node.target) for node in folded.body.graph.nodes]
    assert not any("pool" in name for name in called)
    assert not {"one", "rows", "volume"} & set(called)
    # Means over parts are left to the exporter, and those over nothing.
    assert {"four", "same"} <= set(called)


def with_constant(m: Any, x: Tensor) -> Tensor:
    """Scale by constants."""
    scale = torch.tensor([0.5, 2.0]).repeat(C // 2).reshape(-1, 1, 1)
    return m.norm(m.conv(x)) * scale


def test_constants_that_tracing_makes_are_kept(randomise: Randomise) -> None:
    model = randomise(
        network.specialize(Body(with_constant), (2, 4), num_classes=5, branches=["conv"])
    )

    folded = assert_folds(model)

    assert any(name.startswith("_tensor_constant") for name in folded.tensors)
