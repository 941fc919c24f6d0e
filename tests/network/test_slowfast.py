"""SlowFast: two pathways from one clip, as published, and from training to a device's engine."""

from __future__ import annotations

import copy
import json
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.fold import fold
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.cost import count_macs
from ffn_edge.network.families.slowfast import Lateral, SlowFast, slow_indices
from ffn_edge.network.layers import Route
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.step import Order, backward

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]

NAME = "slowfast_resnet50"
CASE = Path(__file__).parents[1] / "data" / "parity" / "slowfast_resnet50.json"
CARD = ModelCard(classes=tuple("abcde"), size=32, short_side=32)


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(CASE.read_text())
    return content


@pytest.fixture(scope="module")
def shapes() -> FrameFlexibleNetwork:
    """The paper's network, without values."""
    with torch.device("meta"):
        return network.build(NAME, 174)


@pytest.fixture(scope="module")
def model(randomise: Randomise) -> FrameFlexibleNetwork:
    """A network for 4 and 8 frames that looks trained. Not to be changed."""
    torch.manual_seed(0)
    return randomise(network.build(NAME, 5, (4, 8), dropout=0.0))


def random_clip(frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, 32, 32, generator=generator)


# As published.


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("s1.pathway1_stem.conv.weight", "s1.pathway1_stem.conv.weight"),
        ("s1.pathway0_stem.bn.norms.16.running_var", "s1.pathway0_stem.bn_4.running_var"),
        ("s3_fuse.bn.norms.32.bias", "s3_fuse.bn_8.bias"),
        ("s2.pathway1_res0.branch1_bn.norms.64.weight", "s2.pathway1_res0.branch1_bn_16.weight"),
        ("s4.pathway0_res5.branch2.a.conv.weight", "s4.pathway0_res5.branch2.a.weight"),
        ("s4.pathway0_res5.branch2.a.alteration.phi.64",
         "s4.pathway0_res5.branch2.adaconv_16.weight"),
        ("s5.pathway0_res2.branch2.a_bn.norms.16.weight", "s5.pathway0_res2.branch2.a_bn_4.weight"),
        ("head.projection.bias", "head.projection.bias"),
    ],
)  # fmt: skip
def test_names_are_those_of_the_published_code(ours: str, published: str) -> None:
    assert published_name(NAME, f"body.{ours}") == published


def test_the_network_has_the_published_number_of_parameters(
    shapes: FrameFlexibleNetwork, case: dict[str, Any]
) -> None:
    counted = Counter[str]()
    for name, parameter in shapes.named_parameters():
        kind = next((part for part in ("norms", "phi", "head") if f".{part}." in name), "shared")
        counted[kind] += parameter.numel()

    assert counted == {"shared": 33_583_800, "norms": 182_064, "phi": 45_672, "head": 401_070}
    published = sum(
        int(np.prod(shape))
        for name, shape in case["keys"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert counted.total() == published


def test_a_clip_costs_what_the_slowfast_paper_says(shapes: FrameFlexibleNetwork) -> None:
    # Table 2: 65.7 G for SlowFast 8×8, R50 at 32 frames of 256².
    assert count_macs(shapes, 32, 256) == pytest.approx(65.7e9, abs=0.05e9)


def test_the_slow_pathway_sees_the_published_frames() -> None:
    def published(frames: int) -> list[int]:
        return torch.linspace(0, frames - 1, frames // 4).long().tolist()

    lengths = [frames for frames in range(4, 1033, 4) if slow_indices(frames) != published(frames)]

    # Rounding in float32 puts one frame of these a place earlier there.
    assert lengths == [160, 544]
    for frames in lengths:
        pairs = zip(slow_indices(frames), published(frames), strict=True)
        assert [ours - theirs for ours, theirs in pairs if ours != theirs] == [1]


# Any frame count that can be.


@pytest.mark.parametrize("frames", [4, 20, 28, 100])
def test_any_multiple_of_four_frames_is_classified(
    frames: int, shapes: FrameFlexibleNetwork
) -> None:
    clip = torch.empty(2, frames, 3, 32, 32, device="meta")

    assert shapes.eval()(clip).shape == (2, 174)


@pytest.mark.parametrize(
    ("frames", "hint"), [(3, "give 4 frames"), (5, "give 4 or 8"), (18, "give 16 or 20")]
)
def test_a_clip_that_the_pathways_cannot_share_is_refused(
    frames: int, hint: str, shapes: FrameFlexibleNetwork
) -> None:
    with pytest.raises(NetworkError, match=f"multiple of 4 frames.*got {frames}") as caught:
        shapes(torch.empty(1, frames, 3, 32, 32, device="meta"))

    assert hint in caught.value.hint


def test_what_a_lateral_connection_gives_fits_multiples_of_four_alone() -> None:
    lateral = Lateral(8).to("meta")
    for frames in range(4, 24):
        joined = lateral.conv_f2s(torch.empty(1, 8, frames, 1, 1, device="meta"))

        assert (joined.shape[2] == frames // 4) == (frames % 4 == 0)


def test_a_network_for_frame_counts_that_cannot_be_is_not_built() -> None:
    with pytest.raises(NetworkError, match="got 18"):
        network.build(NAME, 5, (16, 18))


def test_the_clips_of_a_batch_do_not_mix(model: FrameFlexibleNetwork) -> None:
    clips = random_clip(8, batch=2)
    with torch.inference_mode():
        both = model(clips)
        each = torch.cat([model(clip[None]) for clip in clips])

    assert (both - each).abs().max() < 1e-5 * each.abs().max()  # float32: rounding only


@pytest.mark.parametrize("without", ["sn", "wa", "ws"])
def test_each_ablation_can_be_built(without: str) -> None:
    with torch.device("meta"):
        ablated = network.build(NAME, 5, (4, 8), without=[without])
    names = set(ablated.state_dict())

    assert ablated.eval()(torch.empty(1, 8, 3, 32, 32, device="meta")).shape == (1, 5)
    assert any(".norms." in name for name in names) == (without != "sn")
    assert any(".phi." in name for name in names) == (without != "wa")


# Where it starts.


def pretrained_tensors() -> dict[str, Tensor]:
    """The tensors of a Kinetics-400 SlowFast, each of one value that follows from its name."""
    with torch.device("meta"):
        body = SlowFast(400, 0.5, Route())
    return {
        name: torch.tensor(zlib.crc32(name.encode()) % 97, dtype=value.dtype).expand(value.shape)
        for name, value in body.state_dict().items()
    }


def save(path: Path, tensors: dict[str, Tensor]) -> str:
    torch.save({"epoch": 196, "model_state": tensors, "cfg": "TRAIN: …"}, path)
    return str(path)


def test_training_starts_from_kinetics_weights(tmp_path: Path) -> None:
    tensors = pretrained_tensors()

    started = network.build(NAME, 5, (4, 8), weights=save(tmp_path / "k400.pkl", tensors))

    block = started.body.s4.pathway1_res5.branch2
    name = "s4.pathway1_res5.branch2"
    assert torch.equal(block.a.conv.weight, tensors[f"{name}.a.weight"])
    for norm in block.c_bn.norms.values():
        assert torch.equal(norm.running_var, tensors[f"{name}.c_bn.running_var"])
    assert started.body.head.projection.weight.shape == (5, 2304)
    assert not any(phi.any() for phi in block.a.alteration.phi.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("s2_fuse.conv_f2s.weight", None, "1 missing .s2_fuse.conv_f2s.weight"),
        # SLOWFAST_4x16 has α = 8 and a shorter lateral kernel
        ("s2_fuse.conv_f2s.weight", torch.zeros(64, 32, 5, 1, 1), r"not \(64, 32, 7, 1, 1\)"),
    ],
)
def test_weights_of_another_network_are_refused(
    name: str, value: Tensor | None, message: str, tmp_path: Path
) -> None:
    tensors = pretrained_tensors()
    del tensors[name]
    if value is not None:
        tensors[name] = value

    with pytest.raises(CheckpointError, match=message) as caught:
        network.build(NAME, 5, weights=save(tmp_path / "other.pkl", tensors))

    assert "SLOWFAST_8x8_R50" in caught.value.hint


def test_without_weights_residual_branches_start_at_nothing() -> None:
    torch.manual_seed(0)
    started = network.build(NAME, 174, (4,))

    last_norms = [
        norm.weight for name, norm in started.named_modules() if name.endswith("c_bn.norms.4")
    ]
    assert len(last_norms) == 2 * 16
    assert not any(weight.any() for weight in last_norms)
    assert started.body.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.01)


# Training.


def test_every_order_of_a_step_gives_the_same_gradients(model: FrameFlexibleNetwork) -> None:
    clips = {frames: random_clip(frames, batch=2) for frames in model.frame_counts}
    target = torch.tensor([1, 3])
    trained = copy.deepcopy(model).train()
    gradients: dict[str, dict[str, Tensor]] = {}
    for order in get_args(Order):
        backward(trained, clips, target, MultiFrequencyLoss(), order=order, autocast=nullcontext)
        gradients[order] = {name: p.grad for name, p in trained.named_parameters()}
        trained.zero_grad()

    for name, expected in gradients["joint"].items():
        assert expected.isfinite().all()
        for order in ("each", "together"):
            # float32: the same terms, added in another order
            torch.testing.assert_close(gradients[order][name], expected, rtol=1e-4, atol=1e-6)
    assert any(gradient.any() for name, gradient in gradients["joint"].items() if ".phi." in name)


def test_a_clip_changes_the_statistics_of_its_own_frame_count_alone(
    model: FrameFlexibleNetwork,
) -> None:
    trained = copy.deepcopy(model).train()
    with torch.no_grad():
        trained(random_clip(4, batch=2), frames=4)

    before = dict(model.named_buffers())
    changed = {
        name for name, tensor in trained.named_buffers() if not torch.equal(tensor, before[name])
    }
    assert changed == {name for name in before if ".norms.4." in name}


def test_the_recipe_is_the_papers() -> None:
    recipe = load_recipe("slowfast_something_v1")

    assert (recipe.architecture, recipe.frame_counts) == (NAME, (16, 32, 64))
    assert (recipe.learning_rate, recipe.momentum, recipe.nesterov) == (0.03, 0.9, True)
    assert (recipe.epochs, recipe.batch_size, recipe.step_epochs) == (22, 16, (14, 18))
    assert (recipe.weight_decay, recipe.dropout, recipe.warmup_epochs) == (1e-6, 0.5, 0.19)


# Export.


@pytest.fixture(scope="module")
def bundle(model: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("slowfast") / "bundle"
    return export_bundle(model, CARD, folder, frame_counts=(8,))


def test_every_norm_and_alteration_is_folded(model: FrameFlexibleNetwork) -> None:
    for frames in model.frame_counts:
        assert fold(model, frames).unfolded == []


def test_the_graph_gives_what_pytorch_gives(
    model: FrameFlexibleNetwork,
    bundle: Bundle,
    graph_error: Callable[[FrameFlexibleNetwork, Bundle, int], float],
) -> None:
    assert graph_error(model, bundle, 8) < 1e-5  # float32 sums in another order


def test_the_slow_frames_are_gathered_by_a_list_of_their_numbers(bundle: Bundle) -> None:
    graph = onnx.load(str(bundle.graph_path(8)), load_external_data=False).graph
    own = {
        each.name: onnx.numpy_helper.to_array(each).tolist()
        for each in graph.initializer
        if each.data_location != onnx.TensorProto.EXTERNAL
    }

    gathers = [node for node in graph.node if node.op_type.startswith("Gather")]

    assert [own[node.input[1]] for node in gathers] == [[0, 7]]
    assert bundle.graph_path(8).stat().st_size < 200_000


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_graph_builds_with_tensorrt(precision: str, bundle: Bundle, tmp_path: Path) -> None:
    options = BuildOptions(target="rtx", precision=precision)

    (built,) = build_plans(bundle, PlanCache(tmp_path), options)

    # 33.6 million weights, of 2 or 4 bytes
    assert built.plan.path.stat().st_size > (67e6 if precision == "fp16" else 134e6)
