"""A graph of a bundle costs what a clip and its weights cost, or is refused before it is opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ffn_edge.bundle.bundle import WEIGHTS, Bundle
from ffn_edge.bundle.graph_check import MOST_BYTES, check_graph, external_tensors
from ffn_edge.errors import BundleError

Change = Callable[[onnx.ModelProto], None]


def check(bundle: Bundle, content: bytes) -> None:
    entries = bundle.tensors().entries
    check_graph(content, "it", frames=4, manifest=bundle.manifest, entries=entries)


def changed(bundle: Bundle, change: Change) -> bytes:
    model = onnx.load_model_from_string(bundle.read_graph(4))
    change(model)
    content: bytes = model.SerializeToString()
    return content


def before_the_logits(
    nodes: Iterable[onnx.NodeProto], **constants: object
) -> Callable[[onnx.ModelProto], None]:
    """Put nodes at the end of a graph: from "old", what were its logits, to "logits"."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        (last,) = (node for node in graph.node if "logits" in node.output)
        last.output[0] = "old"
        for name, value in constants.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        graph.node.extend(nodes)

    return change


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    names = ("" if name == "-" else name for name in inputs.split())
    return helper.make_node(kind, list(names), outputs.split(), **attributes)


def body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [])


LOGITS = node("Add", "old more", "logits")
SUM = node("ReduceSum", "big", "more", keepdims=0)


def test_a_graph_that_was_exported_is_taken(exported: Bundle) -> None:
    check(exported, exported.read_graph(4))


def test_a_straight_line_of_small_tensors_is_taken(exported: Bundle) -> None:
    nodes = [node("Expand", "one shape", "big"), SUM, LOGITS]

    check(exported, changed(exported, before_the_logits(nodes, one=np.float32(1), shape=[4, 8])))


def test_products_of_indices_and_recurrent_layers_are_taken(exported: Bundle) -> None:
    nodes = [
        node("Einsum", "old old", "square", equation="...i,...j->...ij"),
        node("GRU", "square w r", "all", hidden_size=2),
        node("ReduceSum", "all", "more", keepdims=0),
        LOGITS,
    ]
    values = {"w": np.ones((1, 6, 5), np.float32), "r": np.ones((1, 6, 2), np.float32)}

    check(exported, changed(exported, before_the_logits(nodes, **values)))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Loop", "n yes old", "logits", body=body(node("Identity", "old", "x")))],
        [node("If", "yes", "logits", then_branch=body(), else_branch=body())],
        [node("Scan", "old", "logits", body=body(), num_scan_inputs=1)],
        [node("Relu", "old", "logits", hidden=body())],
        [node("Relu", "old", "logits", hidden=[body()])],
        [node("SequenceConstruct", "old", "s"), node("SequenceAt", "s n", "logits")],
        [node("Optional", "old", "o"), node("OptionalGetElement", "o", "logits")],
        [node("RandomNormalLike", "old", "logits")],
        [node("Multinomial", "old", "logits")],
        [node("Gelu", "old", "logits", domain="com.microsoft")],
        [node("Abacus", "old", "logits")],
        [node("NonZero", "old", "where"), node("Add", "old where", "logits")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_an_operator_without_a_bound_is_refused(
    nodes: list[onnx.NodeProto], exported: Bundle
) -> None:
    content = changed(exported, before_the_logits(nodes, n=np.int64(1 << 62), yes=np.bool_(True)))

    with pytest.raises(BundleError, match=r"it has a node|holds more than numbers"):
        check(exported, content)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "huge", "big"), SUM, LOGITS],
        [node("Expand", "one huge", "big"), SUM, LOGITS],
        [node("Expand", "old tall", "big"), SUM, LOGITS],
        [node("Tile", "old huge", "big"), SUM, LOGITS],
        [node("Pad", "old pads", "big"), SUM, LOGITS],
        [node("Resize", "old - - huge", "big"), SUM, LOGITS],
        [node("Range", "zero many step", "big"), SUM, LOGITS],
        # each of them is small enough
        [
            *(node("Expand", "one third", f"big{i}") for i in range(400)),
            node("Sum", " ".join(f"big{i}" for i in range(400)), "big"), SUM, LOGITS,
        ],
        [
            *(node("Expand", "one_logit third", f"big{i}") for i in range(900)),
            node("Sum", " ".join(f"big{i}" for i in range(900)), "big"), SUM, LOGITS,
        ],
        # doubled until it is beyond 64 bits
        [
            node("Concat", "old old", "d0", axis=0),
            *(node("Concat", f"d{i} d{i}", f"d{i + 1}", axis=0) for i in range(70)),
            node("ReduceSum", "d70", "more", keepdims=0), LOGITS,
        ],
    ],
    ids=[
        "made", "expanded", "expanded from the clip", "tiled", "padded", "resized", "counted",
        "constants together", "alive together", "doubled",
    ],
)  # fmt: skip
def test_memory_beyond_what_a_clip_takes_is_refused(
    nodes: list[onnx.NodeProto], exported: Bundle
) -> None:
    if "one_logit" in nodes[0].input:
        nodes = [node("ReduceSum", "old", "one_logit", keepdims=0), *nodes]
    content = changed(
        exported,
        before_the_logits(
            nodes, one=np.float32(1), huge=[1 << 13, 1 << 14], tall=[1 << 26, 5],
            third=[1 << 10, 40], pads=[0, 0, 1 << 20, 1 << 20], zero=np.float32(0),
            many=np.float32(1e9), step=np.float32(1),
        ),
    )  # fmt: skip

    with pytest.raises(BundleError, match=r"at once|constant|not known"):
        check(exported, content)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Expand", "one_logit square", "s0"),
            *(node("MatMul", f"s{i} s{i}", f"s{i + 1}") for i in range(900)),
            node("ReduceSum", "s900", "more", keepdims=0), LOGITS,
        ],
        [
            node("Reshape", "old picture", "p"),
            node("MaxPool", "p", "q", kernel_shape=[1 << 40, 1], pads=[(1 << 40) - 1, 0, 0, 0]),
            node("ReduceSum", "q", "more", keepdims=0), LOGITS,
        ],
        [
            node("Reshape", "old picture", "p"), node("LRN", "p", "q", size=1 << 40),
            node("ReduceSum", "q", "more", keepdims=0), LOGITS,
        ],
        [
            node("Expand", "one_logit square", "s"),
            *(node("Einsum", "s s", f"t{i}", equation="a...,b...->ab") for i in range(900)),
            node("ReduceSum", "t899", "more", keepdims=0), LOGITS,
        ],
    ],
    ids=["products", "a window", "neighbours", "indices"],
)  # fmt: skip
def test_work_beyond_that_of_a_network_is_refused(
    nodes: list[onnx.NodeProto], exported: Bundle
) -> None:
    nodes = [node("ReduceSum", "old", "one_logit", keepdims=0), *nodes]
    content = changed(exported, before_the_logits(nodes, square=[1500, 1500], picture=[1, 1, 5, 1]))

    with pytest.raises(BundleError, match="multiplications"):
        check(exported, content)


def test_a_tensor_without_what_its_shape_says_gives_no_room_to_others(exported: Bundle) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.add(name="nothing", dims=[1 << 40], data_type=TensorProto.FLOAT)

    with pytest.raises(BundleError):
        check(exported, changed(exported, change))


def test_a_shape_that_follows_from_values_is_refused(exported: Bundle) -> None:
    nodes = [
        node("Cast", "old", "sizes", to=TensorProto.INT64),
        node("Squeeze", "sizes", "shape"),
        node("ConstantOfShape", "shape", "big"),
        SUM,
        LOGITS,
    ]

    with pytest.raises(BundleError, match="not known"):
        check(exported, changed(exported, before_the_logits(nodes)))


def test_a_shape_that_is_only_claimed_is_not_believed(exported: Bundle) -> None:
    nodes = [node("Cast", "old", "sizes", to=TensorProto.INT64), node("Squeeze", "sizes", "s")]
    nodes += [node("Expand", "old s", "logits")]

    def claim(model: onnx.ModelProto) -> None:
        before_the_logits(nodes)(model)
        model.graph.value_info.append(helper.make_tensor_value_info("logits", 1, [1, 5]))

    with pytest.raises(BundleError, match="not known"):
        check(exported, changed(exported, claim))


def test_tensors_of_text_and_of_many_axes_are_refused(exported: Bundle) -> None:
    text = [node("Cast", "old", "text", to=TensorProto.STRING)]
    axes = [node("Reshape", "old shape", "deep")]

    with pytest.raises(BundleError, match="does not hold numbers"):
        check(exported, changed(exported, before_the_logits(text)))
    with pytest.raises(BundleError, match="deep is not known"):
        check(exported, changed(exported, before_the_logits(axes, shape=[1] * 40 + [5])))


def test_more_nodes_than_a_network_has_are_refused(exported: Bundle) -> None:
    nodes = [node("Identity", "old", f"i{i}") for i in range(20_000)]

    with pytest.raises(BundleError, match="nodes"):
        check(exported, changed(exported, before_the_logits(nodes)))


def add_function(model: onnx.ModelProto) -> None:
    relu = helper.make_function("", "F", ["x"], ["y"], [node("Relu", "x", "y")], [])
    model.functions.append(relu)


def add_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def add_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def add_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def larger_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 20


def unknown_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "T"


def fewer_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def unordered(model: onnx.ModelProto) -> None:
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    "change",
    [
        add_function, add_domain, add_sparse, add_input, larger_input, unknown_input, fewer_logits,
        twice, unordered,
    ],
)  # fmt: skip
def test_a_graph_of_another_form_is_refused(change: Change, exported: Bundle) -> None:
    with pytest.raises(BundleError, match="is not a graph of a bundle"):
        check(exported, changed(exported, change))


@pytest.mark.parametrize(
    ("quantised", "dequantised"),
    [("old one", "q one zero"), ("old one zero", "q one"), ("old one -", "q one zero")],
)
def test_quantisation_without_a_zero_point_is_refused(
    quantised: str, dequantised: str, exported: Bundle
) -> None:
    nodes = [
        node("QuantizeLinear", quantised, "q"),
        node("DequantizeLinear", dequantised, "logits"),
    ]
    change = before_the_logits(nodes, one=np.float32(1), zero=np.int8(0))
    with pytest.raises(BundleError, match="zero point"):
        check(exported, changed(exported, change))


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08", bytes(MOST_BYTES + 1)])
def test_what_is_no_graph_is_refused(content: bytes, exported: Bundle) -> None:
    with pytest.raises(BundleError, match="is not a graph of a bundle"):
        check(exported, content)


def external(key: str, value: str) -> Change:
    """Change where the first external tensor of a graph lies."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.external_data)
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value

    return change


def swap_places(model: onnx.ModelProto) -> None:
    first, second = [each for each in model.graph.initializer if each.external_data][:2]
    first.name, second.name = second.name, first.name


def another_shape(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.initializer if each.external_data).dims.append(1)


def another_type(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.external_data)
    tensor.data_type = TensorProto.INT8


def external_constant(model: onnx.ModelProto) -> None:
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[1, 5])
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value=WEIGHTS)
    nodes = [node("Constant", "", "more", value=value), LOGITS]
    before_the_logits(nodes)(model)


@pytest.mark.parametrize(
    "change",
    [
        *(
            external("location", place)
            for place in ("/etc/hostname", "../w.bin", "/proc/self/environ", "other.bin", "", "./"
                          + WEIGHTS, "graph_2.onnx")
        ),
        external("offset", "-8"), external("offset", "0"), external("length", "99999999"),
        swap_places, another_shape, another_type, external_constant,
    ],
)  # fmt: skip
def test_a_tensor_elsewhere_than_in_its_weight_file_is_refused(
    change: Change, exported: Bundle
) -> None:
    with pytest.raises(BundleError, match=r"no tensor of the weight files|more than numbers"):
        check(exported, changed(exported, change))


def test_the_tensors_that_a_graph_takes_are_named(exported: Bundle) -> None:
    names = external_tensors(exported.read_graph(2))

    assert set(names) <= set(exported.tensors())
    assert not any(name.startswith("frames/4/") for name in names)
    assert any(name.startswith("frames/2/") for name in names)


def test_a_missing_onnx_is_named_with_its_remedy(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(BundleError, match="onnx") as caught:
        Bundle.load(exported.path)

    assert "pip install onnx" in caught.value.hint
