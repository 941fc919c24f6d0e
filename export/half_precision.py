"""A float32 graph in float16, but for the parts that need float32.

TensorRT builds a strongly typed network as it is written, so precision is written into the graph.
float32 stay: what comes before the first weighted layer (the input's normalisation), the last
weighted layer and what follows it (the logits and their mean over frames), and the operations
that add up many values or exponentiate. No PyTorch: this runs on the device.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ffn_edge.bundle.stream_state import NEXT, STATE
from ffn_edge.errors import ExportError

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Sums over many values lose digits in float16, exponentials and squares leave its range; the last
# three read float32 by definition. A LayerNormalization's mean and variance are such sums, and so
# is what a Softmax divides by, over all positions of a clip.
_FULL = {"GlobalAveragePool", "ReduceMean", "ReduceSum", "LayerNormalization", "Softmax", "Exp"}
_FULL |= {"InstanceNormalization", "BatchNormalization"}
_FULL |= {"Pow", "Sqrt", "QuantizeLinear", "ConstantOfShape", "Resize", "Range"}
# What TensorRT may make one INT8 kernel of, from the DequantizeLinear of its inputs to the
# QuantizeLinear of its output: in float32, as the scales are, which float16 would round to nothing.
_FUSED = {"Add", "Mul", "Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"}
_MANY = 16  # values of an average: up to here, float16 loses no more than it does by storing them
# These change no value, so they take the type of what they are given.
_MOVES = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split"}
_MOVES |= {"Pad", "Gather", "Expand", "Identity"}


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with float16 tensors; inputs and outputs keep their types.

    But for the states of a stream, which are taken as the step before has made them.

    An initializer that only float16 operations read becomes float16 itself: its values are
    rounded if they are in the model, and are the caller's to round if they are external.

    Args:
        model: float32, its initializers declared with type and shape; left as it is.

    Raises:
        ExportError: a value in the model is beyond the range of float16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    floats = _float_tensors(model)
    full = _full_precision(list(graph.node), {i.name for i in graph.initializer}, floats)

    readers: dict[str, set[int]] = {}  # tensor -> the types that its readers want
    for i, node in enumerate(graph.node):
        for name in floats.intersection(node.input):
            readers.setdefault(name, set()).add(_type(full[i]))
    types: dict[str, int] = dict.fromkeys(floats, TensorProto.FLOAT)
    for initializer in graph.initializer:
        if readers.get(initializer.name) == {TensorProto.FLOAT16}:
            _round(initializer)
            types[initializer.name] = TensorProto.FLOAT16
    makes = {name: i for i, node in enumerate(graph.node) for name in node.output}
    for state in floats.intersection(each.name for each in graph.input):
        if state.startswith(STATE):
            types[state] = _type(full[makes[state.replace(STATE, NEXT)]])

    nodes: list[NodeProto] = []
    casts: set[str] = set()
    for i, node in enumerate(graph.node):
        wanted = _type(full[i])
        for position, name in enumerate(node.input):
            if name in floats and types[name] != wanted:
                cast = f"{name}.{'fp32' if full[i] else 'fp16'}"
                if cast not in casts:
                    casts.add(cast)
                    nodes.append(helper.make_node("Cast", [name], [cast], to=wanted))
                node.input[position] = cast
        for name in floats.intersection(node.output):
            types[name] = wanted
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for port in (*graph.input, *graph.output):
        if port.name in floats:
            port.type.tensor_type.elem_type = types[port.name]
    return result


def _type(full: bool) -> int:
    return int(TensorProto.FLOAT if full else TensorProto.FLOAT16)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for port in (*copy.graph.input, *copy.graph.output):
        # Without zero points, which TensorRT's parser wants none of, ONNX takes INT8 for this.
        if port.type.tensor_type.elem_type == TensorProto.INT8:
            port.type.tensor_type.elem_type = TensorProto.UINT8
    graph = onnx.shape_inference.infer_shapes(copy, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {initializer.name: initializer.data_type for initializer in graph.initializer}
    return {name for name, type_ in types.items() if type_ == TensorProto.FLOAT}


def _full_precision(nodes: list[NodeProto], initializers: set[str], floats: set[str]) -> list[bool]:
    """Say of each node, in the graph's order, whether it stays float32."""
    constants = set(initializers)  # and what follows from them alone, such as a transposed weight
    for node in nodes:
        if node.input and constants.issuperset(node.input):
            constants.update(node.output)
    weighted = [
        node.op_type in _WEIGHTED and bool(constants.intersection(node.input)) for node in nodes
    ]
    makes = {name: i for i, node in enumerate(nodes) for name in node.output}
    producers = [[makes[name] for name in node.input if name in makes] for node in nodes]
    # A weighted layer is upstream, in a step before as well, or the node is one.
    after = [any(name.startswith(STATE) for name in node.input) for node in nodes]
    for i in range(len(nodes)):
        after[i] |= weighted[i] or any(after[producer] for producer in producers[i])
    before = [False] * len(nodes)  # a weighted layer is downstream
    readers: list[list[int]] = [[] for _ in nodes]
    for i in reversed(range(len(nodes))):
        for producer in producers[i]:
            before[producer] |= weighted[i] or before[i]
            readers[producer].append(i)
    full = [
        not (after[i] and before[i]) or _sums(node) or not floats.intersection(node.input)
        for i, node in enumerate(nodes)
    ]
    int8 = [node.op_type == "DequantizeLinear" for node in nodes]  # or of the kernel after it
    for i, node in enumerate(nodes):
        inputs = {nodes[each].op_type for each in producers[i] if int8[each]}
        int8[i] |= "DequantizeLinear" in inputs or bool(inputs and node.op_type in _FUSED)
        full[i] |= int8[i]
    moves = [node.op_type in _MOVES and bool(floats.intersection(node.input)) for node in nodes]
    fixed = [constants.issuperset(node.output) for node in nodes]
    for i in range(len(nodes)):
        sources = [each for each in producers[i] if floats.intersection(nodes[each].output)]
        moved = [full[each] for each in sources if not fixed[each]]
        if moves[i] and moved:
            full[i] = all(moved)
    for i in reversed(range(len(nodes))):
        if moves[i] and fixed[i]:  # the weight itself takes the type, and is not cast each time
            full[i] = all(full[reader] for reader in readers[i])
    return full


def _sums(node: NodeProto) -> bool:
    """Whether a node needs float32 by what it computes."""
    if node.op_type == "AveragePool":
        window = next(each.ints for each in node.attribute if each.name == "kernel_shape")
        return bool(math.prod(window) > _MANY)
    return node.op_type in _FULL


def _round(initializer: TensorProto) -> None:
    if initializer.data_location != TensorProto.EXTERNAL:
        values = half(initializer.name, numpy_helper.to_array(initializer))
        initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    initializer.data_type = TensorProto.FLOAT16


def half(name: str, values: np.ndarray) -> np.ndarray:
    """Round to float16, ties to even, as every machine does.

    Raises:
        ExportError: a value is beyond its range.
    """
    if values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise ExportError(
            f"{name} has values beyond the range of float16", "build with --precision fp32."
        )
    return values.astype(np.float16)
