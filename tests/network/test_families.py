"""What every family of the paper keeps: as published, from its authors' weights to an engine."""

from __future__ import annotations

import copy
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

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
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.families.slowfast import SlowFast
from ffn_edge.network.families.tea import TEA
from ffn_edge.network.families.uniformer import UniFormer
from ffn_edge.network.layers import Route
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.step import Order, backward
from tests.data.parity.cases import published_tensor

TSM, TEA_50, SLOWFAST, UNIFORMER = (
    "tsm_resnet50",
    "tea_resnet50",
    "slowfast_resnet50",
    "uniformer_small",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A family: two frame counts, and the file that its authors' weights come in.

    Attributes:
        name: of its architecture.
        frame_counts: of the network that is tested.
        body: makes the authors' network, of another number of classes.
        new: finds the tensors that start anew in it.
        source: what a refusal's hint names.
        millions: of weights.
        gathered: the indices that its graph gathers by.
        unfolded_alterations: how many stay in its graph.
    """

    name: str
    frame_counts: tuple[int, int]
    body: Callable[[], torch.nn.Module]
    new: str
    source: str
    millions: float
    gathered: tuple[list[int], ...] = ()
    unfolded_alterations: int = 0


CASES = [
    Case(
        name=TEA_50,
        frame_counts=(2, 4),
        body=lambda: TEA(1000, Route(), 0.5),
        new=r"fc\.|.*\.(me|shifts)\.",
        source="res2net50_26w_4s-06e79181.pth",
        millions=24,
    ),
    Case(
        name=SLOWFAST,
        frame_counts=(4, 8),
        body=lambda: SlowFast(400, 0.5, Route()),
        new=r"head\.",
        source="SLOWFAST_8x8_R50",
        millions=33.5,
        gathered=([0, 7],),  # the slow pathway's frames
    ),
    Case(
        name=UNIFORMER,
        frame_counts=(2, 5),
        body=lambda: UniFormer(400, 0.0),
        new=r"head\.",
        source="uniformer_small_k600_16x4.pth",
        millions=21,
        # Of 18 blocks, the first of a stage reads a patch embedding, whose norm takes it up.
        unfolded_alterations=14,
    ),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> FrameFlexibleNetwork:
    """A network with values as in a published case. Not to be changed."""
    built = network.build(case.name, 5, case.frame_counts, dropout=0.0)
    for name, tensor in built.state_dict().items():
        tensor.copy_(published_tensor(published_name(case.name, name), tensor.shape))
    return built.eval()


def random_clip(frames: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, 32, 32, generator=generator)


# As published.


@pytest.mark.parametrize(
    ("architecture", "ours", "published"),
    [
        (TEA_50, "bn1.norms.16.running_var", "base_model.bn1_16.running_var"),
        (TEA_50, "layer1.0.conv1.weight", "base_model.layer1.0.conv1.weight"),
        (TEA_50, "layer1.0.me.conv1.weight", "base_model.layer1.0.me.conv1.weight"),
        (TEA_50, "layer1.0.me.difference.conv.weight", "base_model.layer1.0.me.conv2.weight"),
        (TEA_50, "layer1.0.me.bn3.norms.4.bias", "base_model.layer1.0.me.bn3_4.bias"),
        (TEA_50, "layer3.5.bns.2.norms.8.weight", "base_model.layer3.5.bns_8.2.weight"),
        (TEA_50, "layer4.2.shifts.3.weight", "base_model.layer4.2.shifts.3.conv.weight"),
        (TEA_50, "layer2.0.downsample.0.weight", "base_model.layer2.0.downsample_conv.weight"),
        (TEA_50, "layer2.0.downsample.1.norms.8.bias", "base_model.layer2.0.downsample_bn_8.bias"),
        # By the slow pathway's frames, a quarter of the clip's.
        (SLOWFAST, "s1.pathway1_stem.conv.weight", "s1.pathway1_stem.conv.weight"),
        (SLOWFAST, "s1.pathway0_stem.bn.norms.16.bias", "s1.pathway0_stem.bn_4.bias"),
        (SLOWFAST, "s3_fuse.bn.norms.32.bias", "s3_fuse.bn_8.bias"),
        (
            SLOWFAST,
            "s2.pathway1_res0.branch1_bn.norms.64.bias",
            "s2.pathway1_res0.branch1_bn_16.bias",
        ),
        (SLOWFAST, "s4.pathway0_res5.branch2.a.conv.weight", "s4.pathway0_res5.branch2.a.weight"),
        (
            SLOWFAST,
            "s4.pathway0_res5.branch2.a.alteration.phi.64",
            "s4.pathway0_res5.branch2.adaconv_16.weight",
        ),
        (SLOWFAST, "head.projection.bias", "head.projection.bias"),
    ],
)
def test_names_are_those_of_the_published_code(
    architecture: str, ours: str, published: str
) -> None:
    assert published_name(architecture, f"body.{ours}") == published


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (TSM, {"shared": 23_454_912, "norms": 159_360, "phi": 39_360, "classifier": 356_526}),
        (TEA_50, {"shared": 24_027_226, "norms": 217_584, "classifier": 356_526}),
        (
            SLOWFAST,
            {"shared": 33_583_800, "norms": 182_064, "phi": 45_672, "classifier": 401_070},
        ),
        (
            UNIFORMER,
            {"shared": 21_172_928, "norms": 66_816, "phi": 14_400, "classifier": 89_262},
        ),
    ],
)
def test_it_has_the_published_number_of_parameters(
    architecture: str, parameters: dict[str, int]
) -> None:
    with torch.device("meta"):
        model = network.build(architecture, 174)

    counted = Counter[str]()
    for name, parameter in model.named_parameters():
        kind = next((part for part in ("norms", "phi") if f".{part}." in name), "shared")
        is_last = name.startswith(("body.fc.", "body.head."))
        counted["classifier" if is_last else kind] += parameter.numel()
    assert counted == parameters


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        (
            "tea_something_v1",
            {
                "architecture": TEA_50,
                "frame_counts": (4, 8, 16),
                "learning_rate": 0.02,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": 50,
                "batch_size": 32,
                "step_epochs": (30, 40, 45),
                "dropout": 0.5,
            },
        ),
        (
            "slowfast_something_v1",
            {
                "architecture": SLOWFAST,
                "frame_counts": (16, 32, 64),
                "learning_rate": 0.03,
                "momentum": 0.9,
                "nesterov": True,
                "epochs": 22,
                "batch_size": 16,
                "step_epochs": (14, 18),
                "weight_decay": 1e-6,
                "dropout": 0.5,
                "warmup_epochs": 0.19,
            },
        ),
        (
            "uniformer_something_v1",
            {
                "architecture": UNIFORMER,
                "optimizer": "adamw",
                "learning_rate": 2e-4,
                "weight_decay": 0.05,
                "schedule": "cosine",
                "final_learning_rate": 1e-6,
                "epochs": 60,
                "batch_size": 32,
                "warmup_epochs": 5,
                "clip_gradient": 20,
                "label_smoothing": 0.1,
            },
        ),
    ],
)
def test_the_recipe_is_the_papers(recipe: str, fields: Mapping[str, Any]) -> None:
    loaded = load_recipe(recipe)
    assert {name: getattr(loaded, name) for name in fields} == fields


def test_the_clips_of_a_batch_do_not_mix(case: Case, model: FrameFlexibleNetwork) -> None:
    clips = random_clip(case.frame_counts[1])
    with torch.inference_mode():
        both = model(clips)
        each = torch.cat([model(clip[None]) for clip in clips])

    assert (both - each).abs().max() < 1e-5 * each.abs().max()  # float32: rounding only


@pytest.mark.parametrize("without", ["sn", "wa", "ws"])
def test_each_ablation_can_be_built(without: str, case: Case) -> None:
    with torch.device("meta"):
        whole, ablated = (
            network.build(case.name, 5, case.frame_counts, without=parts)
            for parts in ([], [without])
        )
        logits = ablated.eval()(torch.empty(1, case.frame_counts[1], 3, 32, 32))

    assert logits.shape == (1, 5)
    for part, vectors in (("sn", ".norms."), ("wa", ".phi.")):
        had = any(vectors in name for name in whole.state_dict())
        assert any(vectors in name for name in ablated.state_dict()) == (had and without != part)


# Where it starts.


@pytest.fixture(scope="module")
def pretrained(case: Case) -> dict[str, Tensor]:
    """The authors' tensors, each of one value that follows from its name: a short file."""
    with torch.device("meta"):
        state = case.body().state_dict()
    return {
        name: torch.tensor(zlib.crc32(name.encode()) % 97, dtype=value.dtype).expand(value.shape)
        for name, value in state.items()
    }


@pytest.mark.parametrize("key", ["model_state", "model", None])
def test_training_starts_from_its_authors_weights(
    key: str | None, case: Case, pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({key: pretrained, "epoch": 196} if key else pretrained, tmp_path / "weights.pth")

    started = network.build(
        case.name, 5, case.frame_counts, weights=str(tmp_path / "weights.pth")
    ).body.state_dict()

    read = set()
    for name, tensor in started.items():
        theirs = re.sub(r"\.norms\.\d+|(?<=\.a)\.conv", "", name)
        if theirs in pretrained and not re.match(case.new, theirs):
            assert torch.equal(tensor, pretrained[theirs]), name
            read.add(theirs)
        elif ".phi." in name:
            assert not tensor.any()
    assert read == {name for name in pretrained if not re.match(case.new, name)}


@pytest.mark.parametrize(
    ("fault", "message"), [("fewer", "missing"), ("more", "unexpected"), ("other", "another shape")]
)
def test_weights_of_another_network_are_refused(
    fault: str, message: str, case: Case, pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    name = next(name for name in pretrained if name.endswith("weight"))
    tensors = dict(pretrained)
    if fault == "fewer":
        del tensors[name]
    else:
        tensors[name if fault == "other" else "layer9.weight"] = torch.zeros(64, 32, 5)
    torch.save(tensors, tmp_path / "other.pth")

    with pytest.raises(CheckpointError, match=message) as caught:
        network.build(case.name, 5, weights=str(tmp_path / "other.pth"))

    assert case.source in caught.value.hint


def test_a_name_of_weights_is_answered_with_the_file_to_give(case: Case) -> None:
    with pytest.raises(NetworkError, match="no weights file IMAGENET1K_V1") as caught:
        network.build(case.name, 5, weights="IMAGENET1K_V1")

    assert case.source.partition("_")[0] in caught.value.hint


# Training.


@pytest.mark.slow
def test_every_order_of_a_step_gives_the_same_gradients(model: FrameFlexibleNetwork) -> None:
    trained = copy.deepcopy(model).double().train()
    for module in trained.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # each order would draw others
    clips = {frames: random_clip(frames).double() for frames in model.frame_counts}
    target = torch.tensor([1, 3])
    loss = MultiFrequencyLoss(0.7, label_smoothing=0.1)
    gradients: dict[str, dict[str, Tensor]] = {}
    for order in get_args(Order):
        backward(trained, clips, target, loss, order=order, autocast=nullcontext)
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


def test_a_step_of_one_frame_count_leaves_the_vectors_of_the_others(
    case: Case, model: FrameFlexibleNetwork
) -> None:
    few, many = case.frame_counts
    trained = copy.deepcopy(model).train()
    trained(random_clip(many), frames=many).sum().backward()

    before = dict(model.named_buffers())
    changed = {name for name, b in trained.named_buffers() if not torch.equal(b, before[name])}
    assert changed == {name for name in before if f".norms.{many}." in name}
    learning = {name for name, p in trained.named_parameters() if p.grad is not None}
    others = re.compile(rf"\.(norms|phi)\.{few}(\.|$)")
    assert learning == {name for name, _ in trained.named_parameters() if not others.search(name)}


# Export.


@pytest.fixture(scope="module")
def bundle(
    case: Case, model: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The bundle of the higher frame count."""
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    folder = tmp_path_factory.mktemp(case.name) / "bundle"
    return export_bundle(model, card, folder, frame_counts=case.frame_counts[1:])


@pytest.mark.slow
def test_the_graph_gives_what_pytorch_gives(
    case: Case,
    model: FrameFlexibleNetwork,
    bundle: Bundle,
    graph_error: Callable[[FrameFlexibleNetwork, Bundle, int], float],
) -> None:
    frames = case.frame_counts[1]
    onnx.checker.check_model(str(bundle.graph_path(frames)), full_check=True)

    assert graph_error(model, bundle, frames) < 1e-5  # float32 sums in another order


def test_the_graph_is_small_and_what_could_not_fold_is_named(case: Case, bundle: Bundle) -> None:
    path = bundle.graph_path(case.frame_counts[1])
    graph = onnx.load(str(path), load_external_data=False).graph
    inside = [each for each in graph.initializer if not each.external_data]
    own = {each.name: onnx.numpy_helper.to_array(each).tolist() for each in inside}

    gathers = [own[node.input[1]] for node in graph.node if node.op_type.startswith("Gather")]

    assert path.stat().st_size < 200_000
    assert gathers == list(case.gathered)
    unfolded = [name for name in bundle.manifest.unfolded if name.endswith(".alteration")]
    assert len(unfolded) == case.unfolded_alterations
    assert not any(name.endswith(".0.alteration") for name in unfolded)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_real_tensorrt_builds_the_graph(
    precision: str, case: Case, bundle: Bundle, tmp_path: Path
) -> None:
    options = BuildOptions(target="rtx", precision=precision)

    (built,) = build_plans(bundle, PlanCache(tmp_path), options)

    size = 2e6 if precision == "fp16" else 4e6
    assert built.plan.path.stat().st_size > case.millions * size
