"""The graph that TensorRT parses: by ONNX Runtime, and by the real TensorRT-RTX parser."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.example import quantized
from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.known_answer import fault, known_clips, known_logits, tolerance
from ffn_edge.errors import ExportError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.plan_graph import GRAPH, for_the_parser, write_plan_graph
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from tests.emulator.graph import read_graph, set_zero_points
from tests.rtx_parser import parse

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
# One of each kind that is built differently. `benchmarks/refit_names.py` has all, at full depth.
KINDS = ("tsm_tiny", "tsm_mobilenet_v3_small", "tea_resnet50", "slowfast_resnet50",
         "uniformer_small")  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize("frames", [2, 4])
def test_the_graph_that_tensorrt_parses_gives_the_known_answers(
    precision: Precision, frames: int, exported_int8: Bundle, tmp_path: Path
) -> None:
    exported = exported_int8
    weights = write_plan_graph(exported, frames, precision, tmp_path)

    graph = onnx.load(str(tmp_path / GRAPH), load_external_data=False).graph
    assert not any(
        node.input[2:]  # a zero point, which an engine could ask for
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )
    as_tensorrt_reads_it(tmp_path / GRAPH)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"]
    )
    clips = known_clips(exported.manifest.input, frames)
    logits = np.stack([session.run(None, {"frames": clip})[0] for clip in clips])
    expected = known_logits(exported.tensors(), frames)
    assert fault(logits, expected, tolerance(exported.manifest, frames, precision)) is None
    # What the sidecar will name is what the graph reads, type for type.
    model = onnx.load(str(tmp_path / "graph.onnx"), load_external_data=False)
    initializers = {
        each.name: (helper.tensor_dtype_to_np_dtype(each.data_type).name, int(np.prod(each.dims)))
        for each in model.graph.initializer
        if not each.name.startswith("zero points")
    }
    assert {each.name: (each.dtype, each.count) for each in weights} == initializers
    composed = dict(compose(exported.tensors(), exported.manifest.layers, frames))
    assert {each.name for each in weights if each.source == "composed"} == set(composed)


def as_tensorrt_reads_it(path: Path) -> None:
    """Write out that quantisation is to INT8, which ONNX Runtime does not take for granted."""
    model = onnx.load(str(path), load_external_data=False)
    set_zero_points(model.graph)
    path.write_bytes(model.SerializeToString())


def test_the_scales_of_weights_are_those_that_onnx_runtime_computes(
    exported_int8: Bundle, tmp_path: Path
) -> None:
    weights = {each.name: each for each in write_plan_graph(exported_int8, 4, "int8", tmp_path)}

    model = onnx.load_model_from_string(exported_int8.read_graph(4, "int8"))
    stored = {each.name for each in model.graph.initializer}
    computed = [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[1] not in stored
    ]
    for name in computed:
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    written = shutil.copytree(exported_int8.path, tmp_path / "bundle") / "scales.onnx"
    written.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    clip = known_clips(exported_int8.manifest.input, 4)[0]
    expected = session.run(computed, {"frames": clip})
    scales = [each for name, each in weights.items() if name.endswith("weight.scale")]
    assert len(scales) == len(computed) > 10
    assert all(each.source == "constant" for each in scales)
    found = [np.array(each.values, np.float32).tobytes() for each in scales]
    assert sorted(found) == sorted(values.tobytes() for values in expected)


def test_weights_in_half_of_the_bundle_are_composed_in_float32(
    half_exported: Bundle, tmp_path: Path
) -> None:
    weights = write_plan_graph(half_exported, 4, "fp32", tmp_path)
    assert {each.dtype for each in weights if each.dtype.startswith("float")} == {"float32"}


@pytest.mark.slow
def test_composing_holds_one_layer_in_memory_and_not_a_model(
    randomise: Randomise, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = randomise(network.build("tsm_resnet18", 5, (2, 4)))
    bundle = export_bundle(
        model, ModelCard(classes=tuple("abcde"), size=32, short_side=32), tmp_path / "bundle"
    )
    composed = compose(bundle.tensors(), bundle.manifest.layers, 2)
    sizes = [array.nbytes for _, array in composed]
    write_plan_graph(bundle, 2, "fp16", tmp_path)  # imports and caches are paid here
    tracemalloc.start()
    write_plan_graph(bundle, 2, "fp16", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # The layer, pieces of it in float16, and a fixed amount for the graph itself.
    assert peak < 1.2 * max(sizes) + 3e6 < 0.5 * sum(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", KINDS)
def test_an_engine_can_ask_for_no_weight_that_the_list_lacks(
    architecture: str, randomise: Randomise, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    frames = network.family_of(architecture).frame_counts[0]
    model = randomise(network.build(architecture, 5, (frames,)))
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    bundle = quantized(export_bundle(model, card, tmp_path / "bundle"), tmp_path / "int8")
    for precision in get_args(Precision):
        weights = write_plan_graph(bundle, frames, precision, tmp_path)
        parsed = parse(tmp_path / GRAPH)
        assert parsed.refittable <= {each.name for each in weights}
        floats = {each.name for each in weights if each.dtype.startswith("float")}
        assert floats <= parsed.refittable  # else what the engine is given is not what it reads
        emulated = read_graph((tmp_path / GRAPH).read_bytes(), str(tmp_path))
        assert emulated is not None
        assert emulated.weights.keys() == parsed.refittable


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """A model from `frames`, float32 (4, 6, 8), to `logits`, of any shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("frames", FLOAT, (4, 6, 8))],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, ir_version=9, opset_imports=opset)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


SLICES = {
    "starts and ends alone": model_of(
        [helper.make_node("Slice", ["frames", "s", "e"], ["logits"])],
        s=ints(1, 0), e=ints(3, 2**63 - 1),
    ),
    "axes": model_of(
        [helper.make_node("Slice", ["frames", "s", "e", "a"], ["logits"])],
        s=ints(-2), e=ints(2**63 - 1), a=ints(-1),
    ),
    "steps backwards": model_of(
        [helper.make_node("Slice", ["frames", "s", "e", "a", "d"], ["logits"])],
        s=ints(-1), e=ints(-(2**63)), a=ints(1), d=ints(-2),
    ),
    "steps without axes": model_of(
        [helper.make_node("Slice", ["frames", "s", "e", "", "d"], ["logits"])],
        s=ints(0, 0, 1), e=ints(4, 6, 8), d=ints(1, 2, 3),
    ),
    "constants that others read too": model_of(
        [
            helper.make_node("Slice", ["frames", "s", "e"], ["cut"]),
            helper.make_node("Gather", ["cut", "s"], ["logits"], axis=1),
        ],
        s=ints(1), e=ints(3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", SLICES.values(), ids=SLICES.keys())
def test_a_slice_by_int32_cuts_what_it_cut(model: onnx.ModelProto, tmp_path: Path) -> None:
    written = for_the_parser(model, {})

    clip = np.random.default_rng(0).standard_normal((4, 6, 8), np.float32)
    results = [
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"frames": clip})[0]
        for each in (model, written)
    ]
    assert np.array_equal(*results)
    (tmp_path / "after.onnx").write_bytes(written.SerializeToString())
    indices = sum(node.op_type == "Gather" for node in model.graph.node)
    # A layer for each node, a constant and its cast for the Gather: no arithmetic of shapes.
    assert parse(tmp_path / "after.onnx").layers == len(model.graph.node) + 2 * indices


def test_a_slice_by_what_lies_in_the_weight_file_is_left_as_it_is() -> None:
    model = model_of([helper.make_node("Slice", ["frames", "s", "e"], ["logits"])], e=ints(3, 5, 7))
    stored = model.graph.initializer.add(name="s", data_type=INT64, dims=[3])
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="weights.safetensors")

    assert list(for_the_parser(model, {}).graph.node[0].input) == ["frames", "s", "e"]


@pytest.mark.parametrize("inputs", [["frames", "scale"], ["frames", "scale", ""]])
def test_a_layer_norm_without_a_bias_gets_one_with_a_name(
    inputs: list[str], tmp_path: Path
) -> None:
    model = model_of(
        [helper.make_node("LayerNormalization", inputs, ["logits"])], scale=np.ones(8, np.float32)
    )
    (tmp_path / "before.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "after.onnx").write_bytes(for_the_parser(model, {}).SerializeToString())

    assert parse(tmp_path / "before.onnx").refittable == {"scale", "tmp_weight"}
    assert parse(tmp_path / "after.onnx").refittable == {"scale", "logits.bias"}


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_zero_points_are_left_out_for_the_parser_would_name_them(
    kind: type[np.generic], tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["frames", "scale", "zero"], ["small"]),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["logits"]),
    ]
    model = model_of(nodes, scale=np.array(0.5, np.float32), zero=np.array(0, kind))
    (tmp_path / "before.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "after.onnx").write_bytes(for_the_parser(model, {}).SerializeToString())

    assert parse(tmp_path / "before.onnx").refittable == {"scale", "tmp_weight", "tmp_weight_0"}
    assert parse(tmp_path / "after.onnx").refittable == {"scale"}


def test_scales_of_two_weights_are_refused(
    exported_int8: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_model_from_string(exported_int8.read_graph(4, "int8"))
    stored = {each.name for each in model.graph.initializer}
    nodes = list(model.graph.node)
    first, second = [
        node for node in nodes if node.op_type == "QuantizeLinear" and node.input[1] not in stored
    ][:2]
    more = [
        helper.make_node("ReduceMax", [first.input[0]], ["largest"], keepdims=0),
        helper.make_node("Add", [second.input[1], "largest"], ["of both"]),
    ]
    for node in nodes:
        node.input[:] = ["of both" if name == second.input[1] else name for name in node.input]
    place = nodes.index(second)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *more, *nodes[place:]])
    content = model.SerializeToString()
    monkeypatch.setattr(Bundle, "read_graph", lambda *_, **__: content)
    with pytest.raises(ExportError, match="one weight") as caught:
        write_plan_graph(exported_int8, 4, "int8", tmp_path)
    assert "ffn-edge quantize" in caught.value.hint


def test_a_maximum_over_time_and_space_is_not_of_bytes_for_the_parser_has_none(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Reshape", ["frames", "shape"], ["volumes"]),
        helper.make_node("QuantizeLinear", ["volumes", "scale", "zero"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["pooled"], kernel_shape=[1, 3, 3]),
        helper.make_node("DequantizeLinear", ["pooled", "scale", "zero"], ["logits"]),
    ]
    scale, zero = np.array(0.02, np.float32), np.array(0, np.int8)
    model = model_of(nodes, shape=ints(1, 2, 3, 4, 8), scale=scale, zero=zero)
    changed = for_the_parser(model, {})
    path = tmp_path / GRAPH
    path.write_bytes(changed.SerializeToString())
    assert parse(path).refittable == {"scale"}
    as_tensorrt_reads_it(path)
    values = np.random.default_rng(0).standard_normal((4, 6, 8), np.float32)
    before, after = (
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
            None, {"frames": values}
        )[0]
        for content in (model.SerializeToString(), path.read_bytes())
    )
    assert (before == after).all()


def test_a_layer_norm_with_a_computed_scale_is_left_to_the_parser() -> None:
    nodes = [
        helper.make_node("Neg", ["one"], ["scale"]),
        helper.make_node("LayerNormalization", ["frames", "scale"], ["logits"]),
    ]
    model = model_of(nodes, one=np.ones(8, np.float32))

    assert for_the_parser(model, {}) == model
