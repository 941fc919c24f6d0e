"""Placement of INT8: what is quantised, and that what only moves values moves bytes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.bundle.known_answer import known_clips
from ffn_edge.bundle.onnxruntime_graph import for_onnxruntime
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.graph_session import GraphSession
from ffn_edge.export.int8_graph import Placement, only_moves, place, quantized_graph
from ffn_edge.network.checkpoint import ModelCard

FRAMES = 4


def graph_of(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read_graph(FRAMES))


@pytest.fixture(scope="module")
def placement(exported: Bundle) -> Placement:
    return place(graph_of(exported))


@pytest.fixture(scope="module")
def quantized(exported: Bundle, placement: Placement) -> onnx.ModelProto:
    """The graph for 4 frames, with the ranges of the known clips."""
    model = graph_of(exported)
    session = GraphSession(exported.read_graph(FRAMES), exported.tensors(), placement.tensors)
    clips = known_clips(exported.manifest.input, FRAMES)
    values = [session.run(clip)[1:] for clip in clips]
    scales = {
        name: float(max(np.abs(each[i]).max() for each in values)) / 127
        for i, name in enumerate(placement.tensors)
    }
    return quantized_graph(model, placement, scales)


def tensors_of(bundle: Bundle, model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    """Run a model on the first known clip, and return tensors of it."""
    session = GraphSession(model.SerializeToString(), bundle.tensors(), names)
    return list(session.run(known_clips(bundle.manifest.input, FRAMES)[0])[1:])


def test_all_but_the_first_and_the_last_layer_are_quantised(placement: Placement) -> None:
    assert placement.in_float32 == {"conv1": "the first layer", "fc.linear": "the last layer"}
    assert len(placement.layers) == 19


def test_a_convolution_reads_int8_and_both_inputs_of_an_addition_do(
    quantized: onnx.ModelProto, placement: Placement
) -> None:
    makes = {name: node for node in quantized.graph.node for name in node.output}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    integer = [
        node
        for node in convolutions
        if all(makes[name].op_type == "DequantizeLinear" for name in node.input[:2])
    ]
    assert len(integer) == len(placement.layers) == len(convolutions) - 1
    residual = [
        node
        for node in quantized.graph.node
        if node.op_type == "Add" and set(node.input) <= makes.keys()
    ]
    assert len(residual) == 8
    for node in residual:
        assert {makes[name].op_type for name in node.input} == {"DequantizeLinear"}


def test_nothing_but_bytes_is_moved(quantized: onnx.ModelProto) -> None:
    moved = [node for node in quantized.graph.node if only_moves(node)]
    by_bytes = Counter(node.op_type for node in moved if node.input[0].endswith(".q"))
    assert by_bytes == {"Split": 8, "Slice": 16, "Pad": 16, "Concat": 8, "MaxPool": 1}


def test_the_shift_of_int8_is_int8_of_the_shift(
    exported: Bundle, quantized: onnx.ModelProto
) -> None:
    concat = next(node for node in quantized.graph.node if node.op_type == "Concat")
    split = next(node for node in quantized.graph.node if node.op_type == "Split")
    whole, moved = tensors_of(exported, quantized, [split.input[0], concat.output[0]])
    assert whole.dtype == moved.dtype == np.int8
    constants = {each.name: each for each in quantized.graph.initializer}
    fold = onnx.numpy_helper.to_array(constants[split.input[1]])[0]
    assert whole[:, : 2 * fold].any()
    expected = whole.copy()
    expected[:, :fold] = np.concatenate([whole[1:, :fold], np.zeros_like(whole[:1, :fold])])
    back = whole[:-1, fold : 2 * fold]
    expected[:, fold : 2 * fold] = np.concatenate([np.zeros_like(back[:1]), back])
    np.testing.assert_array_equal(moved, expected)


def test_a_weight_is_rounded_by_its_channels_largest_value(
    exported: Bundle, quantized: onnx.ModelProto, placement: Placement
) -> None:
    composed = dict(compose(exported.tensors(), exported.manifest.layers, FRAMES))
    nodes = [node for node in quantized.graph.node if node.output[0].endswith(".q")]
    weights = [node for node in nodes if len(node.attribute) and node.op_type == "QuantizeLinear"]
    assert len(weights) == len(placement.layers)
    for node, layer in zip(weights, placement.layers, strict=True):
        scale, values = tensors_of(exported, quantized, [node.input[1], node.output[0]])
        weight = composed[f"{layer}.weight"]
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        np.testing.assert_array_equal(scale, largest * np.float32(1 / 127))
        assert np.abs(values).reshape(len(weight), -1).max(axis=1).min() == 127
        np.testing.assert_allclose(
            values * scale.reshape(-1, 1, 1, 1), weight, atol=0.501 * scale.max()
        )


def test_a_channel_of_zeros_stays_zeros(exported: Bundle, placement: Placement) -> None:
    model = graph_of(exported)
    graph = quantized_graph(model, placement, dict.fromkeys(placement.tensors, 1.0))
    node = next(n for n in graph.graph.node if n.output[0].endswith(".dq") and n.attribute)
    zeros = {
        name: np.zeros_like(tensor) if name.endswith("weight") else tensor
        for name, tensor in exported.tensors().items()
    }
    session = GraphSession(graph.SerializeToString(), zeros, [node.output[0]])
    found = session.run(known_clips(exported.manifest.input, FRAMES)[0])[1]
    assert not found.any()


def test_onnxruntime_computes_the_same_in_integers(
    exported: Bundle, quantized: onnx.ModelProto, placement: Placement, tmp_path: Path
) -> None:
    graph = for_onnxruntime(quantized.SerializeToString())
    clip = known_clips(exported.manifest.input, FRAMES)[0]
    sessions = [
        GraphSession(each, exported.tensors()) for each in (quantized.SerializeToString(), graph)
    ]
    expected, found = (session.run(clip)[0] for session in sessions)
    assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    names = external_tensors(graph)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(exported.tensors()[name]) for name in names]
    options.add_external_initializers(list(names), values)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(str(tmp_path / "optimized.onnx"))
    counts = Counter(node.op_type for node in optimized.graph.node)
    assert counts["QLinearConv"] == len(placement.layers)
    assert counts["NhwcMaxPool"] == 1


def test_what_computes_a_gate_stays_float32(tmp_path: Path) -> None:
    model = network.build("tsm_mobilenet_v3_small", 5, (2,)).eval()
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=40)
    bundle = export_bundle(model, card, tmp_path / "bundle")
    found = place(onnx.load_model_from_string(bundle.read_graph(2)))
    gates = {name for name, why in found.in_float32.items() if why == "computes a gate"}
    assert gates and all(name.endswith(("fc1", "fc2")) for name in gates)
    assert not any(name.endswith(("fc1", "fc2")) for name in found.layers)


def test_layers_are_left_in_float32_as_asked(exported: Bundle, placement: Placement) -> None:
    left = {placement.layers[3]: "why not"}
    found = place(graph_of(exported), left)
    assert found.in_float32[placement.layers[3]] == "why not"
    assert found.layers == tuple(name for name in placement.layers if name not in left)
    graph = quantized_graph(graph_of(exported), found, dict.fromkeys(found.tensors, 0.1))
    assert sum(node.op_type == "Conv" for node in graph.graph.node) == 20
    GraphSession(graph.SerializeToString(), exported.tensors())


def graph_with(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """A graph from `x` (1, 4, 8, 8) to `y`: a first convolution, these nodes, and a last one."""
    weights |= {"first.weight": np.ones((4, 4, 1, 1)), "last.weight": np.ones((4, 4, 1, 1))}
    make = onnx.helper.make_node
    float32, shape = onnx.TensorProto.FLOAT, [1, 4, 8, 8]
    graph = onnx.helper.make_graph(
        [
            make("Conv", ["x", "first.weight"], ["a"]),
            *nodes,
            make("Conv", ["b", "last.weight"], ["y"]),
        ],
        "graph",
        [onnx.helper.make_tensor_value_info("x", float32, shape)],
        [onnx.helper.make_tensor_value_info("y", float32, None)],
        [
            onnx.numpy_helper.from_array(value.astype(np.float32), name)
            if name.endswith("weight") or name == "number"
            else onnx.numpy_helper.from_array(value, name)
            for name, value in weights.items()
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def int8_of(model: onnx.ModelProto) -> onnx.ModelProto:
    found = place(model)
    return quantized_graph(model, found, dict.fromkeys(found.tensors, 0.05))


def outputs(*models: onnx.ModelProto) -> list[np.ndarray]:
    """Run models on the same values."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    found = []
    for model in models:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found.append(session.run(None, {"x": x})[0])
    return found


MIDDLE = np.random.default_rng(1).uniform(-1, 1, (4, 4, 1, 1))
conv = onnx.helper.make_node


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        # Padded with what is not zero.
        (
            [
                conv("Relu", ["a"], ["r"]),
                conv("Pad", ["r", "pads", "number"], ["p"]),
                conv("Conv", ["p", "middle.weight"], ["b"]),
            ],
            {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "number": np.array(0.7)},
        ),
        # Padded with zeros that are stored.
        (
            [
                conv("Relu", ["a"], ["r"]),
                conv("Pad", ["r", "pads", "number"], ["p"]),
                conv("Conv", ["p", "middle.weight"], ["b"]),
            ],
            {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "number": np.array(0.0)},
        ),
        # A signed tensor, padded with zeros.
        (
            [
                conv("Conv", ["a", "middle.weight"], ["m"]),
                conv("Pad", ["m", "pads"], ["p"]),
                conv("Conv", ["p", "middle.weight"], ["b"]),
            ],
            {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        ),
        # One layer in two places, and one of them follows on no other.
        (
            [
                conv("Conv", ["a", "middle.weight"], ["m"]),
                conv("Relu", ["m"], ["r"]),
                conv("Conv", ["r", "middle.weight"], ["b"]),
            ],
            {},
        ),
        # ReLU6, and a tensor that is moved and read as it is.
        (
            [
                conv("Conv", ["a", "middle.weight"], ["m"]),
                conv("Clip", ["m", "number", "six"], ["r"]),
                conv("Concat", ["r", "r"], ["c"], axis=2),
                conv("Slice", ["c", "from", "to"], ["s"]),
                conv("Add", ["s", "r"], ["t"]),
                conv("Conv", ["t", "middle.weight"], ["b"]),
            ],
            {
                "number": np.array(0.0),
                "six": np.array(6, np.float32),
                "from": np.array([0, 0, 4, 0]),
                "to": np.array([1, 4, 12, 8]),
            },
        ),
    ],
)
def test_other_graphs_are_quantised_as_well(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]
) -> None:
    model = graph_with(*nodes, **constants, **{"middle.weight": MIDDLE})
    quantized = int8_of(model)
    expected, found, faster = outputs(
        model,
        quantized,
        onnx.load_model_from_string(for_onnxruntime(quantized.SerializeToString())),
    )
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 3
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(faster - expected).max() < 0.05 * np.abs(expected).max()
