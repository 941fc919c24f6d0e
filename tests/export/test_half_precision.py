"""A graph in float16: the right operations stay float32, and the logits stay the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.known_answer import TOLERANCES, fault, known_clips, known_logits
from ffn_edge.errors import ExportError
from ffn_edge.export.composed_graph import composed_graph
from ffn_edge.export.half_precision import half, in_half

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def in_float(bundle: Bundle, frames: int) -> onnx.ModelProto:
    composed = dict(compose(bundle.tensors(), bundle.manifest.layers, frames))
    return composed_graph(
        onnx.load(str(bundle.graph_path(frames)), load_external_data=False), composed
    )


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {each.name: each.data_type for each in graph.initializer}


@pytest.mark.parametrize("frames", [2, 4])
def test_the_logits_stay_the_same_but_for_rounding(frames: int, exported: Bundle) -> None:
    model = in_half(in_float(exported, frames))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    clips = known_clips(exported.manifest.input, frames)
    logits = np.stack([session.run(None, {"frames": clip})[0] for clip in clips])

    expected = known_logits(exported.tensors(), frames)
    assert fault(logits, expected, TOLERANCES["fp16"]) is None
    assert not np.array_equal(logits, expected)  # something was rounded


def test_normalisation_means_and_logits_stay_float32_and_convolutions_do_not(
    exported: Bundle,
) -> None:
    model = in_half(in_float(exported, 4))
    types = types_of(model)

    by_operation: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type != "Cast":
            by_operation.setdefault(node.op_type, set()).add(types[node.output[0]])
    assert by_operation["Conv"] == by_operation["Relu"] == by_operation["Slice"] == {HALF}
    assert by_operation["Mul"] == by_operation["ReduceMean"] == by_operation["Gemm"] == {FLOAT}
    assert types["logits"] == FLOAT
    # From the mean over the picture to the logits nothing is rounded on the way.
    makes = {node.output[0]: node for node in model.graph.node}
    name = "logits"
    while makes[name].op_type != "Cast":
        assert types[name] == FLOAT, name
        name = makes[name].input[0]
    assert types[makes[name].input[0]] == HALF


def test_every_operation_reads_one_type(exported: Bundle) -> None:
    # A strongly typed network takes no operation on float16 and float32 together.
    model = in_half(in_float(exported, 4))
    types = types_of(model)
    for node in model.graph.node:
        floats = {types[name] for name in node.input if name and types[name] in (FLOAT, HALF)}
        assert len(floats) <= 1, node


def test_the_model_that_was_given_is_left_as_it_is(exported: Bundle) -> None:
    model = in_float(exported, 4)
    before = model.SerializeToString(deterministic=True)
    in_half(model)
    assert model.SerializeToString(deterministic=True) == before


def small(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("frames", FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", FLOAT, [1, 3, 4, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_weight_that_both_types_read_stays_float32() -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    shared = np.ones((1, 3, 1, 1), np.float32)
    model = in_half(
        small(
            helper.make_node("Mul", ["frames", "shared"], ["a"]),
            helper.make_node("Conv", ["a", "weight"], ["b"]),
            helper.make_node("Mul", ["b", "shared"], ["c"]),
            helper.make_node("Conv", ["c", "weight"], ["d"]),
            helper.make_node("Add", ["d", "shared"], ["logits"]),
            weight=weight,
            shared=shared,
        )
    )
    types = types_of(model)

    assert types["shared"] == FLOAT
    assert types["shared.fp16"] == HALF
    assert (types["a"], types["b"], types["c"], types["d"]) == (FLOAT, HALF, HALF, FLOAT)


def test_a_residual_around_the_last_layer_is_brought_back_to_float32() -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    model = in_half(
        small(
            helper.make_node("Conv", ["frames", "w1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"]),
            helper.make_node("Add", ["b", "c"], ["logits"]),
            w1=weight,
            w2=weight * 2,
        )
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    frames = np.ones((1, 3, 4, 4), np.float32)
    assert types_of(model)["logits"] == FLOAT
    assert np.array_equal(session.run(None, {"frames": frames})[0], np.full((1, 3, 4, 4), 21.0))


def test_a_transposed_weight_takes_its_readers_type_and_is_the_layers() -> None:
    # As linear layers on tokens are exported; the last of them gives the logits.
    weight = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
    model = in_half(
        small(
            helper.make_node("Transpose", ["w1"], ["t1"], perm=[1, 0]),
            helper.make_node("MatMul", ["frames", "t1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Transpose", ["w2"], ["t2"], perm=[1, 0]),
            helper.make_node("MatMul", ["b", "t2"], ["c"]),
            helper.make_node("Transpose", ["w3"], ["t3"], perm=[1, 0]),
            helper.make_node("MatMul", ["c", "t3"], ["logits"]),
            w1=weight,
            w2=weight,
            w3=weight,
        )
    )
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)

    assert [types[name] for name in ("w1", "t1", "a", "b", "w2", "t2", "c")] == [HALF] * 7
    assert types["w3"] == types["t3"] == types["logits"] == FLOAT
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert casts == ["frames", "c"]


@pytest.mark.parametrize(("window", "type_"), [(3, HALF), (4, HALF), (5, FLOAT)])
def test_an_average_of_many_values_stays_float32(window: int, type_: int) -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    model = in_half(
        small(
            helper.make_node("Conv", ["frames", "w1"], ["a"]),
            helper.make_node("Pad", ["a", "pads"], ["b"]),
            helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[window, window]),
            helper.make_node("Conv", ["c", "w2"], ["d"]),
            helper.make_node("Resize", ["d", "", "", "sizes"], ["logits"]),
            w1=weight,
            w2=weight,
            pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            sizes=np.array([1, 3, 4, 4], np.int64),
        )
    )

    assert types_of(model)["c"] == type_


def test_what_becomes_an_int8_kernel_stays_float32_and_what_was_left_in_float_does_not() -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    scales = np.full(3, 1e-6, np.float32)  # float16 has no such number
    nodes = [
        helper.make_node("Conv", ["frames", "stem"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
    ]
    zeros = np.zeros(3, np.int8)
    for i, (source, output) in enumerate([("b", "c"), ("e", "f")]):
        q, dq, w, rounded = (f"{name}{i}" for name in ("q", "dq", "w", "rounded"))
        nodes += [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [q]),
            helper.make_node("DequantizeLinear", [q, "scale", "zero"], [dq]),
            helper.make_node("QuantizeLinear", ["weight", "scales", "zeros"], [w], axis=0),
            helper.make_node("DequantizeLinear", [w, "scales", "zeros"], [rounded], axis=0),
            helper.make_node("Conv", [dq, rounded], [output]),
        ]
        if i == 0:
            nodes += [
                helper.make_node("Add", ["c", dq], ["d"]),
                helper.make_node("Relu", ["d"], ["e"]),
            ]
    nodes += [
        helper.make_node("Conv", ["f", "gate"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Conv", ["h", "last"], ["logits"]),
    ]
    model = in_half(
        small(*nodes, stem=weight, weight=weight, gate=weight, last=weight, scales=scales,
              scale=np.array(0.5, np.float32), zero=np.array(0, np.int8), zeros=zeros)
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)

    assert [types[name] for name in ("stem", "a", "b", "gate", "g", "h")] == [HALF] * 6
    floats = ("dq0", "c", "d", "e", "dq1", "f", "weight", "scale", "scales", "rounded0", "logits")
    assert [types[name] for name in floats] == [FLOAT] * len(floats)
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert casts == ["frames", "b", "f", "h"]


def test_values_round_to_even() -> None:
    # 2049 lies between 2048 and 2050, 2051 between 2050 and 2052.
    values = np.array([2049, 2051, 65504, 1e-8], np.float32)
    assert half("w", values).tolist() == [2048, 2052, 65504, 0]


def test_a_weight_beyond_float16_is_refused_with_its_name() -> None:
    with pytest.raises(ExportError, match=r"w has values beyond the range") as caught:
        half("w", np.array([1.0, -7e4], np.float32))
    assert "--precision fp32" in caught.value.hint
