"""The bundle's graphs: complete ONNX models that give what PyTorch gives, in anyone's hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge import network
from ffn_edge.bundle.bundle import WEIGHTS, Bundle
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.known_answer import TOLERANCES, fault, known_clips, known_logits
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import ExportError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.composed_graph import composed_graph
from ffn_edge.export.plan_graph import write_plan_graph
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
Frames = npt.NDArray[np.uint8]
CARD = ModelCard(classes=("a", "b", "c", "d", "e"), size=32, short_side=32)


# Of logits, by what rounded the weights; see `NETWORK_TOLERANCE`.
_ROUNDING = {"fp32": 1e-5, "fp16": 3e-3, "int8": 0.1}


def random_frames(bundle: Bundle, frames: int) -> Frames:
    contract = bundle.manifest.input
    shape = (contract.batch, frames, contract.height, contract.width, 3)
    return np.random.default_rng(frames).integers(0, 256, shape, dtype=np.uint8)


def by_pytorch(model: FrameFlexibleNetwork, clip: Frames, card: ModelCard = CARD) -> Tensor:
    """The network's logits for uint8 (N, T, H, W, 3), normalised here as the card says."""
    pixels = torch.from_numpy(clip).permute(0, 1, 4, 2, 3) / 255
    mean = torch.tensor(card.mean).reshape(3, 1, 1)
    std = torch.tensor(card.std).reshape(3, 1, 1)
    with torch.inference_mode():
        return model((pixels - mean) / std)


def by_onnxruntime(model: str | bytes, clip: Frames) -> Tensor:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"frames": clip})[0])


def assert_close(logits: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (logits - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("frames", [2, 4])
def test_a_graph_gives_what_pytorch_gives(
    frames: int, exported: Bundle, tiny: FrameFlexibleNetwork
) -> None:
    clip = random_frames(exported, frames)

    logits = by_onnxruntime(str(exported.graph_path(frames)), clip)

    assert_close(logits, by_pytorch(tiny, clip), 1e-5)  # float32: rounding only


@pytest.mark.parametrize("frames", [2, 4])
def test_a_graph_is_a_valid_model_by_the_onnx_checker(frames: int, exported: Bundle) -> None:
    onnx.checker.check_model(str(exported.graph_path(frames)), full_check=True)


@pytest.mark.parametrize("frames", [2, 4])
def test_a_graph_is_small_and_holds_no_weight(frames: int, exported: Bundle) -> None:
    path = exported.graph_path(frames)
    model = onnx.load(str(path), load_external_data=False)

    assert path.stat().st_size < 200_000
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = {entry.key: entry.value for entry in tensor.external_data}
            assert location["location"] == WEIGHTS
        else:
            assert len(tensor.raw_data) < 100  # shapes, axes, the normalisation


def test_a_graph_opens_wherever_the_folder_is_moved(bundle_copy: Path, tmp_path: Path) -> None:
    moved = bundle_copy.rename(tmp_path / "moved elsewhere")
    clip = random_frames(Bundle.load(moved), 2)

    assert by_onnxruntime(str(moved / "graph_2.onnx"), clip).shape == (1, 5)


def test_each_shared_tensor_is_stored_once(exported: Bundle, tiny: FrameFlexibleNetwork) -> None:
    tensors = exported.tensors()
    shared = {name for name in tensors if not name.startswith("frames/")}

    expected = {
        name.removeprefix("body."): tuple(parameter.shape)
        for name, parameter in tiny.named_parameters()
        if ".norms." not in name and ".phi." not in name
    }
    assert {name: tensors[name].shape for name in shared} == expected


@pytest.mark.parametrize("frames", [2, 4])
def test_composed_weights_are_the_graphs_own_products_bit_for_bit(
    frames: int, exported: Bundle
) -> None:
    # ONNX's reference implementation runs the graph's Mul nodes one by one.
    model = onnx.load(str(exported.graph_path(frames)))
    read = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    for name in read:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    products = ReferenceEvaluator(Extractor(model).extract_model([], read)).run(None, {})
    composed = dict(compose(exported.tensors(), exported.manifest.layers, frames))

    kernels = [weight for weight in composed.values() if weight.ndim == 4]
    assert len(products) == len(kernels) == 20
    for product in products:
        assert any(np.array_equal(product, kernel) for kernel in kernels)


@pytest.mark.parametrize("frames", [2, 4])
def test_the_composed_graph_gives_the_same_bits(frames: int, exported: Bundle) -> None:
    path = exported.graph_path(frames)
    composed = dict(compose(exported.tensors(), exported.manifest.layers, frames))
    clip = random_frames(exported, frames)

    model = composed_graph(onnx.load(str(path), load_external_data=False), composed)

    assert not any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    assert [node.op_type for node in model.graph.node].count("Mul") == 1  # the normalisation's
    onnx.checker.check_model(model)
    assert torch.equal(
        by_onnxruntime(model.SerializeToString(), clip), by_onnxruntime(str(path), clip)
    )


def test_half_precision_weights_are_read_by_the_graph(
    half_exported: Bundle, tiny: FrameFlexibleNetwork
) -> None:
    path, clip = half_exported.graph_path(4), random_frames(half_exported, 4)
    layers = half_exported.manifest.layers

    logits = by_onnxruntime(str(path), clip)

    types = {name: array.dtype for name, array in half_exported.tensors().items()}
    assert {types[f"{layer}.weight"] for layer in layers} == {np.dtype("float16")}
    assert {t for name, t in types.items() if name.startswith("frames/")} == {np.dtype("float32")}
    assert logits.shape == (2, 5)
    # A weight is rounded by up to 2⁻¹¹, and signs cancel; the vectors are float32.
    assert_close(logits, by_pytorch(tiny, clip), 3e-3)
    composed = dict(compose(half_exported.tensors(), layers, 4))
    model = composed_graph(onnx.load(str(path), load_external_data=False), composed)
    assert torch.equal(by_onnxruntime(model.SerializeToString(), clip), logits)


class Mixed(nn.Module):
    """A 3-D network with all that a graph can hold: what folds, and what stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), bias=False)
        self.stem_norm = nn.BatchNorm3d(8)
        self.conv = nn.Conv3d(8, 8, 3, padding=1, groups=4)
        self.after = nn.BatchNorm3d(8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1, 1))
        self.tokens = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.attended = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.last = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W)."""
        x = F.relu(self.stem_norm(self.stem(x)))
        x = self.after(x + self.scale * self.conv(x))
        x = x.flatten(2).transpose(1, 2)  # (B, T*H*W, 8)
        x = x + F.gelu(self.mix(self.tokens(x)))
        q, k, v = self.qkv(self.attended(x))[:, None].chunk(3, dim=3)  # (B, 1 head, N, 8)
        x = self.last(x + F.scaled_dot_product_attention(q, k, v)[:, 0])
        return self.head(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1))


@pytest.fixture(scope="module")
def mixed(randomise: Randomise) -> FrameFlexibleNetwork:
    torch.manual_seed(0)
    return randomise(
        network.specialize(Mixed(), (2, 4), num_classes=5, layout="clip", branches=["conv"])
    )


@pytest.mark.parametrize("weights_dtype", ["fp32", "fp16", "int8"])
def test_norms_that_stay_and_linear_layers_on_tokens_are_exported(
    weights_dtype: str, mixed: FrameFlexibleNetwork, tmp_path: Path
) -> None:
    bundle = export_bundle(
        mixed, CARD, tmp_path / "bundle", frame_counts=(4,), weights_dtype=weights_dtype
    )

    assert bundle.manifest.unfolded == ("after", "last", "head.1")
    clip = random_frames(bundle, 4)
    path = bundle.graph_path(4)
    logits = by_onnxruntime(str(path), clip)
    assert_close(logits, by_pytorch(mixed, clip), _ROUNDING[weights_dtype])
    composed = dict(compose(bundle.tensors(), bundle.manifest.layers, 4))
    graph = composed_graph(onnx.load(str(path), load_external_data=False), composed)
    (bundle.path / "composed.onnx").write_bytes(graph.SerializeToString())
    assert torch.equal(by_onnxruntime(str(bundle.path / "composed.onnx"), clip), logits)
    # Only the pixels are still cast: the linear layer on tokens reads through a Transpose.
    assert [node.op_type for node in graph.graph.node].count("Cast") == 1
    types = {bundle.tensors()[name].dtype for name in ("scale", "frames/4/last.weight")}
    assert types == {np.dtype("float32")}


@pytest.mark.parametrize("weights_dtype", ["fp32", "fp16", "int8"])
def test_norms_and_attention_on_tokens_are_built_by_tensorrt(
    weights_dtype: str, mixed: FrameFlexibleNetwork, tmp_path: Path
) -> None:
    bundle = export_bundle(
        mixed, CARD, tmp_path / "bundle", frame_counts=(4,), weights_dtype=weights_dtype
    )
    clips = known_clips(bundle.manifest.input, 4)
    expected = known_logits(bundle.tensors(), 4)

    for precision in ("fp32", "fp16"):
        weights = write_plan_graph(bundle, 4, precision, tmp_path)
        (built,) = build_plans(
            bundle, PlanCache(tmp_path / "cache"), BuildOptions(target="rtx", precision=precision)
        )

        assert built.plan.sidecar.weights == weights
        # The very graph that TensorRT parsed, in ONNX Runtime.
        logits = [by_onnxruntime(str(tmp_path / "graph.onnx"), clip).numpy() for clip in clips]
        assert fault(np.stack(logits), expected, TOLERANCES[precision]) is None
        # A linear layer on tokens is stored once, in the type in which it multiplies.
        types = {weight.name: weight.dtype for weight in weights}
        assert types["qkv.weight"] == ("float16" if precision == "fp16" else "float32")


class SingularValues(Mixed):
    """An operation that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W)."""
        return super().forward(x * torch.linalg.svdvals(x)[..., :1, None])


class WithMask(Mixed):
    """A buffer of a type that a bundle does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(3, 1, 1, 1, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W)."""
        return super().forward(x * self.mask)


class WithInt8Mask(WithMask):
    """A buffer that TensorRT would take for a quantised float."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = self.mask.to(torch.int8)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            SingularValues,
            r"cannot write the network as ONNX: aten\._linalg_svd.*: No ONNX function",
        ),
        (WithMask, "mask is of the type BOOL"),
        (WithInt8Mask, "mask is of the type I8"),
    ],
)
def test_what_no_graph_can_hold_is_named_and_nothing_is_written(
    body: type[nn.Module], message: str, randomise: Randomise, tmp_path: Path
) -> None:
    model = randomise(
        network.specialize(body(), (2, 4), num_classes=5, layout="clip", branches=["conv"])
    )

    with pytest.raises(ExportError, match=message):
        export_bundle(model, CARD, tmp_path / "bundle", frame_counts=(2,))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_of_torchvision_goes_all_the_way(randomise: Randomise, tmp_path: Path) -> None:
    body = torchvision.models.mobilenet_v3_small(num_classes=5)
    model = randomise(network.specialize(body, (2, 4), num_classes=5))

    bundle = export_bundle(model, CARD, tmp_path / "bundle", frame_counts=(4,))

    clip = random_frames(bundle, 4)
    logits = by_onnxruntime(str(bundle.graph_path(4)), clip)
    assert_close(logits, by_pytorch(model, clip), 1e-5)
    assert bundle.graph_path(4).stat().st_size < 200_000


class Activated(nn.Module):
    """A GELU between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.gelu = nn.GELU()
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify (rows, 3, H, W)."""
        y: Tensor = self.last(self.gelu(self.norm(self.conv(x))).mean((2, 3)))
        return y


def test_a_gelu_is_one_operation_of_onnx_runtime(randomise: Randomise, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(network.specialize(Activated(), (2, 4), branches=[]))
    bundle = export_bundle(model, CARD, tmp_path / "bundle", frame_counts=(4,))

    clip = random_frames(bundle, 4)
    logits = by_onnxruntime(str(bundle.graph_path(4)), clip)
    assert_close(logits, by_pytorch(model, clip), 1e-5)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(bundle.path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(bundle.graph_path(4)), options, providers=["CPUExecutionProvider"]
    )
    kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert "Gelu" in kinds and "Erf" not in kinds
