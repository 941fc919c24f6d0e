"""An ONNX model as the parser keeps it: a graph without weights, and the weights by name."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from .memory import unseen
from .onnx_rules import Refusal, check_node

# ONNX element type -> name of the DataType, and NumPy's type.
DATA_TYPES: dict[int, tuple[str, type[np.generic]]] = {
    TensorProto.FLOAT: ("FLOAT", np.float32),
    TensorProto.FLOAT16: ("HALF", np.float16),
    TensorProto.INT8: ("INT8", np.int8),
    TensorProto.UINT8: ("UINT8", np.uint8),
    TensorProto.INT32: ("INT32", np.int32),
    TensorProto.INT64: ("INT64", np.int64),
    TensorProto.BOOL: ("BOOL", np.bool_),
}
NUMPY_TYPES = {name: np.dtype(kind) for name, kind in DATA_TYPES.values()}

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)

# Inputs that become attributes of a layer while parsing; no refit reaches them.
_CONSUMED = {
    "Clip": (1, 2), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "Dropout": (1, 2),
    "Reshape": (1,), "Expand": (1,), "Split": (1,), "Squeeze": (1,), "Tile": (1,),
    "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceSum": (1,),
    "Slice": (1, 2, 3, 4),
}  # fmt: skip
# int64 inputs that become constants, on which only shapes depend.
_SHAPES = {"Slice": (1, 2), "Unsqueeze": (1,), "ConstantOfShape": (0,), "TopK": (1,)}
_NORM_ROLES = ("scale", "bias", "mean", "variance")


@dataclass(frozen=True)
class Port:
    """An input or output: DataType's name and the dimensions, -1 where one is not fixed."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Graph:
    """A parsed model.

    Attributes:
        model: the model; its weights are inputs of the graph.
        weights: what can be refitted, by the name that the refitter uses.
        shapes: those of them on which only shapes depend. They cannot be marked one by one.
        inputs: of the network.
        outputs: of the network.
        activation_bytes: of the largest tensor that a node makes.
        layers: names of the nodes.
    """

    model: onnx.ModelProto
    weights: Mapping[str, npt.NDArray[np.generic]]
    shapes: frozenset[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    activation_bytes: int
    layers: tuple[str, ...]


def read_graph(serialized: bytes, folder: str) -> Graph | None:
    """Parse a model.

    Args:
        serialized: an ONNX model; nothing at all is a model, without anything in it.
        folder: where its external data lies.

    Raises:
        Refusal: the parser does not take it.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(serialized)
    except DecodeError:
        message = "Assertion failed: model->ParseFromCodedStream(&codedInput): "
        raise Refusal(
            "MODEL_DESERIALIZE_FAILED",
            message + "Failed to parse the ONNX model.",
            function="deserializeOnnxModel",
        ) from None
    graph = model.graph
    if not graph.node:
        return None
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise NotImplementedError(f"the emulator has no {node.op_type} with graphs inside")
    _make_biases(graph)
    own = set_zero_points(graph)
    shape_constants = _shape_constants(graph)
    weights = dict(_take_weights(model, folder, shape_constants)) | own
    types, shapes = _infer(model)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    outputs = frozenset(value.name for value in graph.output)
    known = {value.name: types[value.name] for value in graph.input}
    known |= {initializer.name: initializer.data_type for initializer in graph.initializer}
    for i, node in enumerate(graph.node):
        known |= {name: types[name] for name in node.output if name in types}
        check_node(i, node, known, outputs, opset)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise Refusal("INVALID_GRAPH", f"onnx.checker: {error}") from None
    activations = [
        math.prod(shapes[name]) * np.dtype(DATA_TYPES[types[name]][1]).itemsize
        for node in graph.node
        for name in node.output
        if types.get(name) in DATA_TYPES and name in shapes
    ]
    return Graph(
        model=model,
        weights=weights,
        shapes=frozenset(shape_constants),
        inputs=tuple(
            _port(value.name, types, shapes) for value in graph.input if value.name not in weights
        ),
        outputs=tuple(_port(value.name, types, shapes) for value in graph.output),
        activation_bytes=max(activations, default=0),
        layers=tuple(n.name or f"node_of_{n.output[0]}" for n in graph.node),
    )


def _port(name: str, types: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Port:
    if types.get(name) not in DATA_TYPES:
        raise NotImplementedError(f"the emulator has no type for {name}: {types.get(name)}")
    return Port(name, DATA_TYPES[types[name]][0], shapes.get(name, ()))


def _make_biases(graph: onnx.GraphProto) -> None:
    """Give each LayerNormalization that lacks one a bias of zeros, as the parser does."""
    sizes = {each.name: list(each.dims) for each in graph.initializer}
    made = 0
    for node in graph.node:
        if node.op_type == "LayerNormalization" and len(node.input) < 3:
            name = _own_name(made)
            made += 1
            zeros = np.zeros(sizes[node.input[1]], np.float32)
            graph.initializer.append(numpy_helper.from_array(zeros, name))
            node.input.append(name)


def _own_name(number: int) -> str:
    """Return what the parser calls a constant of its own; its numbers have gaps."""
    return f"tmp_weight_{number - 1}" if number else "tmp_weight"


def set_zero_points(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """Let each QuantizeLinear and DequantizeLinear have zero points of INT8, as the parser does.

    To the parser, quantisation without zero points is to INT8; of those that it is given, which
    must be zero, it makes float constants of its own.

    Returns:
        Those constants.

    Raises:
        Refusal: a zero point is not zero, or a scale not positive.
    """
    constants = {each.name: each for each in graph.initializer}
    own: dict[str, npt.NDArray[np.generic]] = {}
    for place, node in enumerate(graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = constants.get(node.input[1])
        if scale is None:
            raise NotImplementedError("the emulator has no scales that are computed")
        if not (numpy_helper.to_array(scale) > 0).all():
            text = (
                "(scaleAllPositive || allowNegativeScale): Scale coefficients must all be positive"
            )
            raise _invalid(place, node, text, "resolveScaleInput")
        if len(node.input) > 2:
            if numpy_helper.to_array(constants[node.input[2]]).any():
                text = "shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
                raise _invalid(place, node, text, "buildZeroPointTensor")
            own[_own_name(len(own))] = np.zeros(scale.dims, np.float32)
        zeros = f"zero points {list(scale.dims)}"
        if zeros not in constants:
            constants[zeros] = numpy_helper.from_array(np.zeros(scale.dims, np.int8), zeros)
            graph.initializer.append(constants[zeros])
        node.input[2:] = [zeros]
    return own


def _invalid(place: int, node: onnx.NodeProto, assertion: str, function: str) -> Refusal:
    return Refusal(
        "INVALID_NODE",
        f"Assertion failed: {assertion}",
        node=place,
        node_name=node.name,
        operator=node.op_type,
        function=function,
    )


def _shape_constants(graph: onnx.GraphProto) -> set[str]:
    """Return the integers that become constants on which shapes depend."""
    integers = {each.name for each in graph.initializer if each.data_type == TensorProto.INT64}
    return {
        node.input[i]
        for node in graph.node
        for i in _SHAPES.get(node.op_type, ())
        if len(node.input) > i and node.input[i] in integers
    }


def _take_weights(
    model: onnx.ModelProto, folder: str, shape_constants: set[str]
) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    """Turn each refittable weight into an input of the graph, and yield it."""
    graph = model.graph
    names = _refittable_names(graph)
    initializers = list(graph.initializer)
    kept = []
    listed = {value.name: value for value in graph.input}
    for initializer in initializers:
        data = _read(initializer, folder)
        if initializer.name in listed:  # as models before IR version 4 do
            graph.input.remove(listed[initializer.name])
        if initializer.data_type == TensorProto.DOUBLE:
            raise NotImplementedError("the emulator has no double-precision weights")
        if initializer.name in shape_constants:
            yield initializer.name, data
            kept.append(numpy_helper.from_array(data, initializer.name))
        elif initializer.name in names:
            yield from _as_input(graph, initializer.name, names[initializer.name], data)
        else:
            kept.append(numpy_helper.from_array(data, initializer.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in list(graph.node):
        if node.op_type == "Constant" and node.output[0] in names:
            graph.node.remove(node)
            array = numpy_helper.to_array(node.attribute[0].t)
            yield from _as_input(graph, node.output[0], names[node.output[0]], array)


def _as_input(
    graph: onnx.GraphProto, tensor: str, name: str, data: npt.NDArray[np.generic]
) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    kind = helper.np_dtype_to_tensor_dtype(data.dtype)
    if name != tensor:
        for node in graph.node:
            for i, read in enumerate(node.input):
                if read == tensor:
                    node.input[i] = name
    graph.input.append(helper.make_tensor_value_info(name, kind, data.shape))
    copy = unseen(data.nbytes).view(data.dtype).reshape(data.shape)
    copy[...] = data
    yield name, copy


def _refittable_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the refitter's name of each tensor that a layer holds as a weight."""
    kinds = _FLOATS + _INTEGERS
    known = {
        initializer.name for initializer in graph.initializer if initializer.data_type in kinds
    }
    for node in graph.node:
        # A constant is registered under the name of its output, like any other weight.
        if node.op_type == "Constant" and node.attribute[0].t.data_type in kinds:
            known.add(node.output[0])
    names: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name not in known or i in _CONSUMED.get(node.op_type, ()):
                continue
            if node.op_type == "BatchNormalization":
                # Its weights are combined while parsing and get names of their own.
                names[name] = f"{node.name or node.output[0]}_{_NORM_ROLES[i - 1]}"
            else:
                names[name] = name
    return names


def _read(initializer: TensorProto, folder: str) -> npt.NDArray[np.generic]:
    """Return an initializer's values, from the file beside the model if they lie there."""
    if initializer.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(initializer)
    entry = {field.key: field.value for field in initializer.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(initializer.data_type)
    nbytes = math.prod(initializer.dims) * dtype.itemsize
    data = unseen(nbytes)
    is_beside = not os.path.isabs(entry["location"]) and ".." not in entry["location"].split("/")
    try:
        with open(os.path.join(folder, entry["location"]), "rb") as file:
            file.seek(int(entry.get("offset", 0)))
            got = file.readinto(data.data)
    except OSError:
        got = -1
    if not is_beside or got != nbytes or int(entry.get("length", nbytes)) != nbytes:
        raise Refusal(
            "INVALID_GRAPH",
            "Failed to import initializer: In node -1 with name:  and operator:  "
            "(importInitializers): UNSUPPORTED_NODE: Assertion failed: "
            "ctx->getWeightsContext().convertOnnxWeights(initializer, &weights): "
            f"Failed to import initializer: {initializer.name}",
            function="importInitializers",
        )
    return data.view(dtype).reshape(tuple(initializer.dims))


def _infer(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Return type and shape of every tensor that shape inference knows.

    What the model says of its outputs is replaced: TensorRT goes by what the layers make.
    """
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise Refusal("INVALID_GRAPH", f"shape inference: {error}") from None
    for value, found in zip(model.graph.output, inferred.output, strict=True):
        value.CopyFrom(found)
    types: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.output, *inferred.value_info, *inferred.input):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim
            )
    return types, shapes
