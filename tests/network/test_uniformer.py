"""UniFormer: convolutions and attention, as published, and from training to an engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torchvision.ops import StochasticDepth

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
from ffn_edge.network.families.uniformer import AttentionBlock, ConvolutionBlock, UniFormer
from ffn_edge.network.layers import SpecializedNorm, WeightAlteration
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.step import Order, backward

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]

NAME = "uniformer_small"
CARD = ModelCard(classes=tuple("abcde"), size=32, short_side=32)


@pytest.fixture(scope="module")
def shapes() -> FrameFlexibleNetwork:
    """The paper's network, without values."""
    with torch.device("meta"):
        return network.build(NAME, 174)


@pytest.fixture(scope="module")
def model(randomise: Randomise) -> FrameFlexibleNetwork:
    """A network for 2 and 5 frames that looks trained. Not to be changed."""
    torch.manual_seed(0)
    return randomise(network.build(NAME, 5, (2, 5)))


def random_clip(frames: int, size: int = 32, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, size, size, generator=generator)


# As published.


def test_it_has_the_papers_parameters(shapes: FrameFlexibleNetwork) -> None:
    def count(kind: type[torch.nn.Module]) -> int:
        found = [module for module in shapes.modules() if isinstance(module, kind)]
        return sum(p.numel() for module in found for p in module.parameters())

    assert count(SpecializedNorm) == 66_816
    assert count(WeightAlteration) == 14_400
    assert sum(p.numel() for p in shapes.body.head.parameters()) == 89_262
    assert sum(p.numel() for p in shapes.parameters()) == 21_343_406


@pytest.mark.parametrize(("frames", "gflops"), [(8, 70), (16, 167)])
def test_it_costs_what_uniformers_authors_say(
    frames: int, gflops: int, shapes: FrameFlexibleNetwork
) -> None:
    # Theirs are multiply-accumulates of four clips at 224×224 pixels.
    assert round(4 * count_macs(shapes, frames, 224) / 1e9) == gflops


def test_branches_are_dropped_the_more_often_the_deeper(shapes: FrameFlexibleNetwork) -> None:
    rates = [module.p for module in shapes.modules() if isinstance(module, StochasticDepth)]

    assert rates == pytest.approx(np.linspace(0, 0.2, 18))


def test_the_recipe_is_the_papers() -> None:
    recipe = load_recipe("uniformer_something_v1")

    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adamw", 2e-4, 0.05)
    assert (recipe.schedule, recipe.final_learning_rate) == ("cosine", 1e-6)
    assert (recipe.epochs, recipe.batch_size, recipe.warmup_epochs) == (60, 32, 5)
    assert (recipe.clip_gradient, recipe.label_smoothing) == (20, 0.1)


# Frame counts.


@pytest.mark.parametrize(("frames", "nearest"), [(1, 2), (3, 2), (4, 5), (9, 5)])
def test_a_clip_of_any_length_is_served_by_the_nearest_sub_network(
    frames: int, nearest: int, model: FrameFlexibleNetwork
) -> None:
    clip = random_clip(frames, size=48)  # 48 is no multiple of 32: the last stage sees a part
    with torch.inference_mode():
        logits = model(clip)
        other = model(clip, frames=7 - nearest)

        assert torch.equal(logits, model(clip, frames=nearest))
    assert logits.isfinite().all()
    assert not torch.allclose(logits, other, rtol=0.1)


def test_the_last_frame_of_an_odd_clip_counts(model: FrameFlexibleNetwork) -> None:
    clip = random_clip(5)
    changed = clip.clone()
    changed[:, -1] += 1

    with torch.inference_mode():
        assert not torch.allclose(model(clip), model(changed), rtol=1e-3)


def test_an_ablation_leaves_out_what_it_names() -> None:
    with torch.device("meta"):
        without_norms = network.build(NAME, 5, (2, 4), without=("sn",))
        without_alteration = network.build(NAME, 5, (2, 4), without=("wa",))

    kinds = {type(module) for module in without_norms.modules()}
    assert WeightAlteration in kinds and SpecializedNorm not in kinds
    kinds = {type(module) for module in without_alteration.modules()}
    assert SpecializedNorm in kinds and WeightAlteration not in kinds


def test_an_unaltered_network_is_the_ordinary_one() -> None:
    torch.manual_seed(1)
    ordinary = UniFormer(5, dropout=0.0).eval()
    torch.manual_seed(1)
    model = network.build(NAME, 5, (2, 4)).eval()
    clip = random_clip(3)

    with torch.inference_mode():
        assert torch.equal(model(clip), ordinary(clip.transpose(1, 2)))


# The authors' weights.


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """The authors' tensors for 400 classes: each full of one number, and so a short file."""
    with torch.device("meta"):
        body = UniFormer(400, dropout=0.0)
    return {
        name: torch.tensor(i, dtype=tensor.dtype).expand(tensor.shape)
        for i, (name, tensor) in enumerate(body.state_dict().items())
    }


@pytest.mark.parametrize("key", ["model", "model_state", None])
def test_it_starts_from_a_weights_file(
    key: str | None, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "uniformer.pth"
    torch.save({key: weights} if key else weights, path)

    body = network.build(NAME, 5, (2, 4), weights=str(path)).body

    for name in ("patch_embed1.proj.bias", "blocks2.3.mlp.fc2.weight", "blocks3.7.attn.qkv.weight"):
        assert torch.equal(body.get_parameter(name), weights[name])
    for norm in body.blocks4[2].norm2.norms.values():
        assert torch.equal(norm.weight, weights["blocks4.2.norm2.weight"])
    for norm in body.norm.norms.values():
        assert torch.equal(norm.running_var, weights["norm.running_var"])
    assert body.head.out_features == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {n: v for n, v in state.items() if "blocks4" not in n},
            r"missing \(blocks4\.0\.pos_embed\.weight, .*…",
        ),
        # A UniFormer-B has all tensors of a UniFormer-S, of the same shapes, and more blocks.
        (
            lambda state: state | {"blocks4.3.attn.proj.bias": torch.zeros(512)},
            r"unexpected \(blocks4\.3\.attn\.proj\.bias\)",
        ),
        # The image network's patches are 4×4.
        (
            lambda state: state | {"patch_embed1.proj.weight": torch.zeros(64, 3, 4, 4)},
            r"another shape \(patch_embed1\.proj\.weight \(64, 3, 4, 4\), not \(64, 3, 3, 4, 4\)",
        ),
    ],
    ids=["of fewer blocks", "of more blocks", "of images"],
)
def test_weights_of_another_network_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    weights: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.pth"
    torch.save(change(weights), path)

    with pytest.raises(CheckpointError, match=message) as caught:
        network.build(NAME, 5, weights=str(path))

    assert "uniformer_small_k600_16x4.pth" in caught.value.hint


def test_a_name_of_weights_is_answered_with_the_file_to_give() -> None:
    with pytest.raises(NetworkError, match="no weights file IMAGENET1K_V1") as caught:
        network.build(NAME, 5, weights="IMAGENET1K_V1")

    assert "uniformer_small_k600_16x4.pth" in caught.value.hint


# Training.


def test_every_order_of_a_training_step_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    trained = network.build(NAME, 3, (1, 3), dropout=0.0).double().train()
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".phi." in name:
                parameter.uniform_(-0.3, 0.3)
    for module in trained.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # each order would draw others
    clips = {frames: random_clip(frames).double() for frames in (1, 3)}

    def run(order: Order) -> FrameFlexibleNetwork:
        one = copy.deepcopy(trained)
        backward(
            one,
            clips,
            torch.tensor([0, 2]),
            MultiFrequencyLoss(0.7, label_smoothing=0.1),
            order=order,
            autocast=nullcontext,
        )
        return one

    expected = {name: p.grad for name, p in run("joint").named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, parameter in run("each").named_parameters():
        assert parameter.grad.isfinite().all(), name
        # The loss is computed in float32, so its gradient is exact to 1e-7 of the largest.
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-5, atol=1e-6 * largest, msg=name
        )
    assert float(expected["body.blocks1.0.alteration.phi.1"].abs().max()) > 0


def test_a_step_of_one_frame_count_leaves_the_vectors_of_the_others() -> None:
    torch.manual_seed(0)
    trained = network.build(NAME, 3, (2, 4)).train()
    before = {name: tensor.clone() for name, tensor in trained.named_buffers()}

    trained(random_clip(4), frames=4).sum().backward()

    changed = {name for name, tensor in trained.named_buffers() if not before[name].equal(tensor)}
    assert changed == {name for name in before if ".norms.4." in name}
    learning = {name for name, p in trained.named_parameters() if p.grad is not None}
    assert learning == {
        name
        for name, _ in trained.named_parameters()
        if ".norms.2." not in name and not name.endswith(".phi.2")
    }


def test_dropped_branches_differ_between_clips_only_in_training() -> None:
    torch.manual_seed(0)
    clip = random_clip(2, batch=1).expand(8, -1, -1, -1, -1)
    trained = network.build(NAME, 3, (2, 4), dropout=0.0)

    with torch.inference_mode():
        # Evaluation first: training changes the statistics.
        evaluated = trained.eval()(clip)
        logits = trained.train()(clip)

    assert (evaluated - evaluated[0]).abs().max() < 1e-5 * evaluated.abs().max()
    assert (logits - logits[0]).abs().max() > 1e-2 * logits.abs().max()


# Export.


@pytest.fixture(scope="module")
def exported(model: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of `model`'s 5-frame sub-network."""
    folder = tmp_path_factory.mktemp("uniformer") / "bundle"
    return export_bundle(model, CARD, folder, frame_counts=(5,))


def test_folding_changes_no_result(model: FrameFlexibleNetwork) -> None:
    for frames in model.frame_counts:
        clip = random_clip(frames, size=64)
        folded = fold(model, frames)
        with torch.inference_mode():
            expected = model(clip)
            logits = folded.body(clip.transpose(1, 2))
        # float32: the same sums in another order, through 18 blocks
        assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
        assert not {type(m) for m in folded.body.modules()} & {SpecializedNorm, WeightAlteration}


def test_the_manifest_names_the_alterations_that_no_norm_takes_up(
    exported: Bundle, model: FrameFlexibleNetwork
) -> None:
    blocks = {
        name
        for name, module in model.body.named_modules()
        if isinstance(module, ConvolutionBlock | AttentionBlock)
    }

    unfolded = {name for name in exported.manifest.unfolded if name.endswith(".alteration")}

    # The first block of a stage reads a patch embedding, whose norm takes up the alteration.
    assert unfolded == {f"{name}.alteration" for name in blocks if not name.endswith(".0")}
    assert len(unfolded) == 14


def test_onnx_runtime_gives_what_pytorch_gives(
    exported: Bundle,
    model: FrameFlexibleNetwork,
    graph_error: Callable[[FrameFlexibleNetwork, Bundle, int], float],
) -> None:
    onnx.checker.check_model(str(exported.graph_path(5)), full_check=True)

    assert graph_error(model, exported, 5) < 1e-5  # float32: rounding through 18 blocks


def test_a_graph_is_small_and_holds_no_table(exported: Bundle) -> None:
    graph = onnx.load(str(exported.graph_path(5)), load_external_data=False).graph

    assert exported.graph_path(5).stat().st_size < 100_000
    assert "Gather" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_real_tensorrt_builds_the_graph(
    precision: str, exported: Bundle, tmp_path: Path
) -> None:
    options = BuildOptions(target="rtx", precision=precision)

    (built,) = build_plans(exported, PlanCache(tmp_path), options)

    # 21 million weights, of 2 or 4 bytes
    assert built.plan.path.stat().st_size > (42e6 if precision == "fp16" else 84e6)
