"""An INT8 graph as ONNX Runtime is fastest with it on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffn_edge.bundle.stream_state import kept_by

# What is never negative stays so.
_KEEP = {"MaxPool", "Concat", "Split", "Slice", "Pad", "Reshape", "Flatten", "Transpose"}
_KEEP |= {"Squeeze", "Unsqueeze", "Identity", "QuantizeLinear", "DequantizeLinear"}
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid"}
_QUANTISE = {"QuantizeLinear", "DequantizeLinear"}
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def for_onnxruntime(content: bytes) -> bytes:
    """Return a bundle's INT8 graph with activations in uint8.

    Where a tensor is never negative its zero point becomes 0, elsewhere 128. So ONNX Runtime takes
    a ReLU into the integer convolution before it, whose least value that zero point is; between
    int8 with the zero point 0 it would convolve in float32. Its integer convolutions have the
    channels last, and so has its one fast pooling of bytes.

    What is never negative gets steps of half the size, twice as many, since there are bytes for
    them: so it rounds less than int8 does, over the same range.

    The state of a stream is in uint8 as well; see `stream_state`.
    """
    import onnx

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    model = onnx.load_model_from_string(content)
    graph = model.graph
    fixed = {each.name: each for each in graph.initializer}

    def least_of(clip: Any) -> float:
        least = fixed.get(clip.input[1]) if len(clip.input) > 1 else None
        return -np.inf if least is None else float(numpy_helper.to_array(least))

    scalars = {each.name for each in graph.initializer if not each.dims}
    states: dict[str, list[str]] = {}  # by the tensor that they keep
    for state, node in kept_by(graph).items():
        if node is not None:
            states.setdefault(node.output[0], []).append(state)
    positive: set[str] = set()
    zero_points: dict[str, str] = {}  # of quantised activations
    nodes: list[Any] = []
    own: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        read = [name for name in node.input if name and name not in fixed]
        if (
            node.op_type in _NEVER_NEGATIVE
            or (node.op_type == "Clip" and least_of(node) >= 0)
            or (node.op_type in _KEEP and read and positive.issuperset(read))
        ):
            positive.update(node.output)
        if node.op_type == "QuantizeLinear" and node.input[2] in scalars:
            node.input[2] = "zero" if node.input[0] in positive else "middle"
            zero_points[node.output[0]] = node.input[2]
            for state in states.get(node.output[0], ()):
                zero_points[state] = node.input[2]
                if node.input[0] in positive:
                    positive.add(state)
        elif node.op_type in _QUANTISE and node.input[2] not in scalars:
            # Of a weight. ONNX Runtime may change it (`session.x64quantprecision`), and fails
            # where two of them share one.
            shared = numpy_helper.to_array(fixed[node.input[2]])
            node.input[2] = f"{node.output[0]}.zero"
            own.append(numpy_helper.from_array(shared, node.input[2]))
        elif read and read[0] in zero_points:
            zero_point = zero_points[read[0]]
            if node.op_type == "DequantizeLinear":
                node.input[2] = zero_point
            else:
                zero_points.update(dict.fromkeys(node.output, zero_point))
            if node.op_type == "Pad":
                # Zeros are stored without a constant; what follows it are the axes.
                node.input[2:3] = [zero_point]
            elif node.op_type == "MaxPool" and _dimensions(node) == 2:
                first, last = node.input[0], node.output[0]
                node.input[0], node.output[0] = f"{first}.last", f"{last}.last"
                node.op_type, node.domain = "NhwcMaxPool", "com.microsoft"
                kept = [each for each in node.attribute if each.name != "storage_order"]
                del node.attribute[:]
                node.attribute.extend(kept)
                nodes[-1:] = [
                    helper.make_node("Transpose", [first], [f"{first}.last"], perm=_CHANNELS_LAST),
                    node,
                    helper.make_node("Transpose", [f"{last}.last"], [last], perm=_CHANNELS_FIRST),
                ]
    halved = {
        node.input[1]
        for node in nodes
        if node.op_type == "QuantizeLinear" and node.input[2] == "zero"
    }
    for tensor in graph.initializer:
        if tensor.name in halved:
            half = numpy_helper.to_array(tensor) / np.float32(2)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    rewritten = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(rewritten)
    graph.initializer.extend(own)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.uint8), name)
        for name, value in (("zero", 0), ("middle", 128))
    )
    for port in (*graph.input, *graph.output):
        if port.name in zero_points:
            port.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.opset_import.append(helper.make_operatorsetid("com.microsoft", 1))
    return bytes(model.SerializeToString())


def _dimensions(pool: Any) -> int:
    return next(len(each.ints) for each in pool.attribute if each.name == "kernel_shape")
