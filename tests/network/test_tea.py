"""TEA: as published, within each clip, from Res2Net's weights, and from training to an engine."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.families.tea import TEA, MotionDifference, TemporalConvolution
from ffn_edge.network.layers import Route, temporal_shift
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.step import Order, backward
from tests.data.parity.cases import published_tensor

NAME = "tea_resnet50"
CARD = ModelCard(classes=tuple("abcde"), size=64, short_side=64)


@pytest.fixture(scope="module")
def shapes() -> FrameFlexibleNetwork:
    """The paper's network, without values."""
    with torch.device("meta"):
        return network.build(NAME, 174)


@pytest.fixture(scope="module")
def model() -> FrameFlexibleNetwork:
    """A network for 2 and 4 frames, with values as in a published case. Not to be changed."""
    built = network.build(NAME, 5, (2, 4), dropout=0.0)
    for name, tensor in built.state_dict().items():
        tensor.copy_(published_tensor(published_name(NAME, name), tensor.shape))
    return built.eval()


def random_clip(frames: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, 32, 32, generator=generator)


# As published.


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("bn1.norms.16.running_var", "bn1_16.running_var"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("layer1.0.me.conv1.weight", "layer1.0.me.conv1.weight"),
        ("layer1.0.me.difference.conv.weight", "layer1.0.me.conv2.weight"),
        ("layer1.0.me.bn3.norms.4.bias", "layer1.0.me.bn3_4.bias"),
        ("layer3.5.convs.2.weight", "layer3.5.convs.2.weight"),
        ("layer3.5.bns.2.norms.8.running_mean", "layer3.5.bns_8.2.running_mean"),
        ("layer4.2.shifts.3.weight", "layer4.2.shifts.3.conv.weight"),
        ("layer2.0.downsample.0.weight", "layer2.0.downsample_conv.weight"),
        ("layer2.0.downsample.1.norms.8.weight", "layer2.0.downsample_bn_8.weight"),
    ],
)
def test_names_are_those_of_the_published_code(ours: str, published: str) -> None:
    assert published_name(NAME, f"body.{ours}") == f"base_model.{published}"


def test_the_network_has_the_published_number_of_parameters(shapes: FrameFlexibleNetwork) -> None:
    counted = Counter[str]()
    for name, parameter in shapes.named_parameters():
        kind = next((part for part in ("norms", "phi", "fc") if f".{part}." in name), "shared")
        counted[kind] += parameter.numel()

    assert counted == {"shared": 24_027_226, "norms": 217_584, "fc": 356_526}


# Along time.


def test_at_its_start_a_temporal_convolution_is_the_identity_or_a_shift() -> None:
    x = torch.randn(6, 8, 5, 4)

    still = TemporalConvolution(8, Route(), "still").along_time(x, 3)
    shift = TemporalConvolution(8, Route(), "shift").along_time(x, 3)

    assert torch.equal(still, x)
    assert torch.equal(shift, temporal_shift(x, 3, 2))


def test_a_change_is_from_each_frame_to_the_next_and_zero_at_a_clips_end() -> None:
    x = torch.randn(6, 4, 5, 5)
    layer = MotionDifference(4, Route())

    change = layer.along_time(x, 3)

    convolved = layer.conv(x)
    for row in (0, 1, 3, 4):
        expected = (convolved[row + 1] - x[row]).mean((1, 2))
        torch.testing.assert_close(change[row, :, 0, 0], expected)
    assert not change[[2, 5]].any()


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_clips_of_any_length_are_classified_each_by_itself(
    frames: int, model: FrameFlexibleNetwork
) -> None:
    clips = random_clip(frames)
    with torch.inference_mode():
        both = model(clips)
        each = torch.cat([model(clip[None]) for clip in clips])
        backwards = model(clips.flip(1))

    assert (both - each).abs().max() < 1e-5 * each.abs().max()  # float32: rounding only
    # The order of frames tells, where there is one.
    assert torch.allclose(both, backwards, rtol=1e-3) == (frames == 1)


@pytest.mark.parametrize("without", ["sn", "wa", "ws"])
def test_each_ablation_can_be_built(without: str) -> None:
    with torch.device("meta"):
        ablated = network.build(NAME, 5, (2, 4), without=[without])

    assert ablated.eval()(torch.empty(1, 4, 3, 32, 32, device="meta")).shape == (1, 5)
    assert any(".norms." in name for name in ablated.state_dict()) == (without != "sn")


# Where it starts.


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    """The tensors of an ImageNet Res2Net, each of one value that follows from its name."""
    with torch.device("meta"):
        names = TEA(1000, Route(), 0.5).state_dict()
    tensors = {
        name: torch.tensor(zlib.crc32(name.encode()) % 97, dtype=value.dtype).expand(value.shape)
        for name, value in names.items()
        if not any(f".{part}." in name for part in ("me", "shifts", "linear"))
    }
    return tensors | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


def test_training_starts_from_res2nets_weights(
    pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(pretrained, tmp_path / "res2net50.pth")

    body = network.build(NAME, 5, (2, 4), weights=str(tmp_path / "res2net50.pth")).body

    block = body.layer2[0]
    assert torch.equal(block.convs[1].weight, pretrained["layer2.0.convs.1.weight"])
    assert torch.equal(block.downsample[0].weight, pretrained["layer2.0.downsample.0.weight"])
    for norm in block.bns[2].norms.values():
        assert torch.equal(norm.running_mean, pretrained["layer2.0.bns.2.running_mean"])
    # What Res2Net has not is as it starts without weights.
    x = torch.randn(4, 52, 3, 3)
    assert torch.equal(block.shifts[0].along_time(x, 2), x)
    assert body.fc.linear.weight.std().item() == pytest.approx(0.001, rel=0.1)


def test_a_res2net_of_another_depth_is_refused(
    pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    deeper = pretrained | {"layer3.6.conv1.weight": torch.zeros(416, 1024, 1, 1)}
    torch.save(deeper, tmp_path / "res2net101.pth")

    with pytest.raises(CheckpointError, match=r"unexpected \(layer3.6.conv1.weight") as caught:
        network.build(NAME, 5, weights=str(tmp_path / "res2net101.pth"))

    assert "res2net50_26w_4s-06e79181.pth" in caught.value.hint


def test_torchvisions_name_of_weights_is_refused() -> None:
    with pytest.raises(NetworkError, match="no weights file IMAGENET1K_V1"):
        network.build(NAME, 5, weights="IMAGENET1K_V1")


# Training.


def test_every_order_of_a_step_gives_the_same_gradients(model: FrameFlexibleNetwork) -> None:
    trained = copy.deepcopy(model).double().train()
    clips = {frames: random_clip(frames).double() for frames in model.frame_counts}
    target = torch.tensor([1, 3])
    gradients: dict[str, dict[str, Tensor]] = {}
    for order in get_args(Order):
        backward(trained, clips, target, MultiFrequencyLoss(), order=order, autocast=nullcontext)
        gradients[order] = {name: p.grad for name, p in trained.named_parameters()}
        trained.zero_grad()

    largest = max(gradient.abs().max() for gradient in gradients["joint"].values())
    for name, expected in gradients["joint"].items():
        assert expected.isfinite().all() and expected.any(), name
        for order in ("each", "together"):
            # The loss is computed in float32, so its gradient is exact to 1e-7 of the largest.
            torch.testing.assert_close(
                gradients[order][name], expected, rtol=1e-5, atol=1e-6 * float(largest)
            )


def test_a_clip_changes_the_statistics_of_its_own_frame_count_alone(
    model: FrameFlexibleNetwork,
) -> None:
    trained = copy.deepcopy(model).train()
    with torch.no_grad():
        trained(random_clip(4), frames=4)

    before = dict(model.named_buffers())
    changed = {
        name for name, tensor in trained.named_buffers() if not torch.equal(tensor, before[name])
    }
    assert changed == {name for name in before if ".norms.4." in name}


def test_the_recipe_is_the_papers() -> None:
    recipe = load_recipe("tea_something_v1")

    assert (recipe.architecture, recipe.frame_counts) == (NAME, (4, 8, 16))
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.02, 0.9, 5e-4)
    assert (recipe.epochs, recipe.batch_size, recipe.step_epochs) == (50, 32, (30, 40, 45))
    assert recipe.dropout == 0.5


# Export.


@pytest.fixture(scope="module")
def bundle(model: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tea") / "bundle"
    return export_bundle(model, CARD, folder, frame_counts=(4,))


def test_the_graph_gives_what_pytorch_gives(
    model: FrameFlexibleNetwork,
    bundle: Bundle,
    graph_error: Callable[[FrameFlexibleNetwork, Bundle, int], float],
) -> None:
    assert graph_error(model, bundle, 4) < 1e-5  # float32 sums in another order
    assert bundle.manifest.unfolded == ()


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_graph_builds_with_tensorrt(precision: str, bundle: Bundle, tmp_path: Path) -> None:
    options = BuildOptions(target="rtx", precision=precision)

    (built,) = build_plans(bundle, PlanCache(tmp_path), options)

    # 24 million weights, of 2 or 4 bytes
    assert built.plan.path.stat().st_size > (48e6 if precision == "fp16" else 96e6)
