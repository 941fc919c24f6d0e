"""Graphs of one step: from the start of a stream, T of them are the clip's graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from benchmarks.example import quantized
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.graph_check import check_graph, external_tensors
from ffn_edge.bundle.known_answer import known_clips, known_logits
from ffn_edge.bundle.onnxruntime_graph import for_onnxruntime
from ffn_edge.bundle.stream_state import Stored, kept_by, stored_states
from ffn_edge.errors import BundleError, ExportError
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.quantize import QuantizeOptions, quantize_bundle
from ffn_edge.export.report import quantized_summary
from ffn_edge.network import FrameFlexibleNetwork, build, specialize
from ffn_edge.network.checkpoint import ModelCard
from tests.conftest import Randomise
from tests.export.test_quantize import waves, write_clips

CausalNetwork = Callable[..., FrameFlexibleNetwork]
Damage = Callable[[onnx.GraphProto], None]
CARD = ModelCard(classes=("a", "b", "c"), size=64, short_side=64)


@pytest.fixture
def causal_network(randomise: Randomise) -> CausalNetwork:
    torch.manual_seed(0)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def built(architecture: str, counts: tuple[int, ...] = (2, 4)) -> FrameFlexibleNetwork:
        network = randomise(build(architecture, 3, counts, causal=True))
        if "mobilenet" in architecture:  # so many gates and thin layers let little through
            for name, tensor in network.state_dict().items():
                if ".norms." in name and name.endswith("weight"):
                    tensor.uniform_(1.5, 3.0)
                elif name.endswith("classifier.3.weight"):
                    tensor.normal_(std=0.1)
        return network

    return built


@pytest.mark.parametrize("weights_dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("architecture", ["tsm_tiny", "tsm_resnet18", "tsm_mobilenet_v3_small"])
def test_steps_from_the_start_are_the_clip(
    architecture: str, weights_dtype: str, causal_network: CausalNetwork, tmp_path: Path
) -> None:
    network = causal_network(architecture)
    bundle = export_bundle(network, CARD, tmp_path / "bundle", weights_dtype=weights_dtype)

    assert bundle.manifest.causal
    for frames in (2, 4):
        graph = bundle.read_graph(frames, step=True)
        session, stored = _session(graph, bundle, fused=True), stored_states(graph)
        clips = known_clips(bundle.manifest.input, frames)
        answers = known_logits(bundle.tensors(), frames)
        assert not np.allclose(*answers)  # a network whose ReLUs are all 0 would prove nothing
        for clip, expected in zip(clips, answers, strict=True):
            difference = np.abs(_mean_of_steps(session, clip, stored) - expected).max()
            assert difference <= 1e-5 * np.abs(expected).max()


def _session(graph: bytes, bundle: Bundle, *, fused: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    tensors, names = bundle.tensors(), list(external_tensors(graph))
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensors[name]) for name in names]
    options.add_external_initializers(names, values)
    session = onnxruntime.InferenceSession(graph, options)
    session.values = values  # it reads them where they are
    return session


def _mean_of_steps(
    session: onnxruntime.InferenceSession,
    clip: npt.NDArray[np.uint8],
    stored: Mapping[str, Stored],
) -> npt.NDArray[np.float32]:
    types = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
    state = {
        each.name: np.full(each.shape, stored[each.name].zero_point, types[each.type])
        for each in session.get_inputs()[1:]
    }
    logits = []
    for t in range(clip.shape[1]):
        found, *after = session.run(None, {"frames": clip[:, t : t + 1], **state})
        logits.append(found)
        state = {f"state_{i}": each for i, each in enumerate(after)}
    mean: npt.NDArray[np.float32] = np.mean(logits, 0)
    return mean


@pytest.mark.parametrize("architecture", ["tsm_tiny", "tsm_mobilenet_v3_small"])
@pytest.mark.parametrize("form", ["as stored", "for ONNX Runtime"])
def test_steps_in_int8_are_the_clip_in_int8(
    architecture: str, form: str, causal_network: CausalNetwork, tmp_path: Path
) -> None:
    float32 = export_bundle(causal_network(architecture), CARD, tmp_path / "bundle")
    bundle = quantized(float32, tmp_path / "quantized")
    fused = form == "for ONNX Runtime"
    for frames in (2, 4):
        graphs = [bundle.read_graph(frames, "int8", step=step) for step in (False, True)]
        if fused:
            graphs = [for_onnxruntime(graph) for graph in graphs]
        whole, step = (_session(graph, bundle, fused=fused) for graph in graphs)
        states = {each.type for each in step.get_inputs()[1:]}
        assert states == {"tensor(uint8)" if fused else "tensor(int8)"}
        for clip in known_clips(bundle.manifest.input, frames):
            (expected,) = whole.run(None, {"frames": clip})
            np.testing.assert_allclose(
                _mean_of_steps(step, clip, stored_states(graphs[1])),
                expected,
                atol=1e-5 * np.abs(expected).max(),
            )


def test_a_network_that_looks_both_ways_has_no_steps(exported: Bundle) -> None:
    assert not exported.manifest.causal
    with pytest.raises(BundleError, match="future"):
        exported.read_graph(4, step=True)


def test_a_frame_count_that_is_added_has_steps_too(
    causal_network: CausalNetwork, tmp_path: Path
) -> None:
    network = causal_network("tsm_tiny", (2, 4, 8))
    bundle = export_bundle(network, CARD, tmp_path / "bundle", frame_counts=(2, 8))

    updated = update_bundle(network, CARD, bundle.path, (4,)).bundle

    assert updated.manifest.causal
    assert updated.read_graph(4, step=True)
    again = update_bundle(network, CARD, bundle.path, (4,)).bundle
    names = {file.name for file in bundle.path.iterdir()}
    assert again.graph_path(4, step=True).name == "step_4-2.onnx"
    assert "step_4.onnx" not in names


def test_a_two_sided_network_is_not_added_to_a_causal_bundle(
    causal_network: CausalNetwork, tmp_path: Path
) -> None:
    bundle = export_bundle(causal_network("tsm_tiny"), CARD, tmp_path / "bundle")
    with pytest.raises(ExportError, match="past"):
        update_bundle(build("tsm_tiny", 3, (2, 4)), CARD, bundle.path, (2,))


def check_damaged(bundle: Bundle, precision: Precision, damage: Damage) -> None:
    """Check a step graph of a bundle that was damaged."""
    model = onnx.load_model_from_string(bundle.read_graph(4, precision, step=True))
    damage(model.graph)
    check_graph(
        model.SerializeToString(),
        "step_4.onnx",
        frames=1,
        manifest=bundle.manifest,
        entries=bundle.tensors().entries,
        has_state=True,
    )


def _without_next(graph: onnx.GraphProto) -> None:
    del graph.output[-1]


def _of_another_size(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.shape.dim[1].dim_value += 1


def _of_another_type(graph: onnx.GraphProto) -> None:
    for port in (graph.input[1], graph.output[1]):
        port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def _crossed(graph: onnx.GraphProto) -> None:
    """The states change places: those of one size would pass as the other's."""
    graph.input[1].name, graph.input[2].name = graph.input[2].name, graph.input[1].name


def _of_whole_numbers(graph: onnx.GraphProto) -> None:
    for port in (graph.input[1], graph.output[1]):
        port.type.tensor_type.elem_type = onnx.TensorProto.INT64


@pytest.mark.parametrize(
    "damage",
    [_without_next, _of_another_size, _of_another_type, _of_whole_numbers, _crossed],
)
def test_a_graph_whose_state_is_not_its_next_is_refused(
    damage: Damage, causal_network: CausalNetwork, tmp_path: Path
) -> None:
    bundle = export_bundle(causal_network("tsm_tiny"), CARD, tmp_path / "bundle")
    with pytest.raises(BundleError, match="not a graph of a bundle"):
        check_damaged(bundle, "fp32", damage)


def _scale(graph: onnx.GraphProto) -> onnx.TensorProto:
    """Return the scale of the first state."""
    node = kept_by(graph)["state_0"]
    assert node is not None
    return next(each for each in graph.initializer if each.name == node.input[1])


def _no_scale(graph: onnx.GraphProto) -> None:
    _scale(graph).CopyFrom(onnx.numpy_helper.from_array(np.float32(0), _scale(graph).name))


def _a_scale_of_many(graph: onnx.GraphProto) -> None:
    _scale(graph).CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), _scale(graph).name))


def _a_computed_scale(graph: onnx.GraphProto) -> None:
    scale = _scale(graph)
    graph.node.insert(0, onnx.helper.make_node("Abs", [scale.name], ["computed"]))
    for node in graph.node[1:]:
        node.input[:] = ["computed" if name == scale.name else name for name in node.input]


@pytest.mark.parametrize("damage", [_no_scale, _a_scale_of_many, _a_computed_scale])
def test_a_state_of_unknown_scale_is_refused(damage: Damage, causal_int8: Bundle) -> None:
    with pytest.raises(BundleError, match="scale of a state"):
        check_damaged(causal_int8, "int8", damage)


def test_quantize_gives_a_causal_bundle_steps_that_are_its_clips(
    exported_causal: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported_causal.path, tmp_path / "bundle"))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{name}\n" for name in write_clips(tmp_path, waves)))
    bundle = quantize_bundle(folder, listed, QuantizeOptions(clips=8))
    assert "step_4.int8.onnx" in quantized_summary(bundle, graphs=True)
    for frames in bundle.manifest.frame_counts:
        graphs = [bundle.read_graph(frames, "int8", step=step) for step in (False, True)]
        whole, step = (_session(graph, bundle, fused=False) for graph in graphs)
        for clip in known_clips(bundle.manifest.input, frames):
            (expected,) = whole.run(None, {"frames": clip})
            found = _mean_of_steps(step, clip, stored_states(graphs[1]))
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


class Twice(nn.Module):
    """An image network with one convolution in two places of a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give logits."""
        x = self.norm(self.stem(x))
        x = x + self.conv(x)
        x = x + self.conv(x)
        return self.fc(x.mean((2, 3)))


def test_a_network_whose_steps_are_not_its_clip_is_not_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = specialize(Twice(), (2, 4), branches=["conv"], shift_fraction=4, causal=True).eval()
    with pytest.raises(ExportError, match="frame by frame"):
        export_bundle(network, CARD, tmp_path / "bundle")
