"""What a bundle's graph may be, so that one from a stranger costs no more than one of ours.

ONNX can hold loops, random numbers, operators of other libraries, and paths of other files. A
graph of a bundle is a straight line of known operators over tensors whose sizes are known before
anything runs. What it may take is measured in its own clip and weights:

    tensors   the weight files' under their own names, or small and inside the graph
    memory    of what is alive at once, and of what is computed when an engine opens
    work      multiplications for one clip

A list of operators and not of refusals: outside of it stand those whose loops or buffers follow
from an attribute and not from a tensor (RoiAlign, LRN, DFT, TfIdfVectorizer), and what a later
ONNX may add. The `onnx` package is imported when a graph is checked.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ffn_edge.bundle.stream_state import NEXT, STATE, kept_by
from ffn_edge.errors import BundleError

if TYPE_CHECKING:
    from ffn_edge.bundle.bundle import Manifest
    from ffn_edge.bundle.weight_file import TensorEntry

INPUT, OUTPUT = "frames", "logits"

# Ours have 20 to 130 kB and up to 1000 nodes.
MOST_BYTES = 4 << 20
_MOST_NODES = 20_000
_MOST_AXES = 16
# A constant that says how something is reshaped, cut or padded, with room.
_MOST_PARAMETERS = 64

_ONE_BY_ONE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Div Dropout Elu Equal Erf "
    "Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu "
    "Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal "
    "Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
    "ThresholdedRelu Where Xor"
)
_ALONG_AXES = (
    "ArgMax ArgMin BatchNormalization CumSum GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "GroupNormalization Hardmax InstanceNormalization LayerNormalization LogSoftmax "
    "LpNormalization MeanVarianceNormalization RMSNormalization ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax "
    "TopK"
)
_MOVED = (
    "Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements "
    "GatherND GridSample OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size "
    "Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze"
)
# Those whose work is more than what they read and write: `_Check._work` counts it.
_PRODUCTS = "AveragePool Conv ConvTranspose Einsum GRU Gemm LRN LSTM LpPool MatMul MaxPool RNN"
_OPERATORS = frozenset(" ".join((_ONE_BY_ONE, _ALONG_AXES, _MOVED, _PRODUCTS)).split())

_HINT = (
    "do not use it if you did not export it yourself; if you did, export it again with "
    "`ffn-edge export`."
)


class _RefusedError(Exception):
    """Why a graph is not one that a bundle may hold."""


def check_graph(
    content: bytes,
    where: object,
    *,
    frames: int,
    manifest: Manifest,
    entries: Mapping[str, TensorEntry],
    has_state: bool = False,
) -> None:
    """Raise a BundleError unless a graph is one that a bundle may hold.

    Args:
        content: an ONNX model.
        where: it comes from, for the message.
        frames: T, of its clips.
        manifest: says what it takes and gives.
        entries: the tensors of the bundle's weight files, for this frame count.
        has_state: it takes the next frame of a stream, with the state before it.

    Raises:
        BundleError: it is not, or `onnx` is not installed.
    """
    onnx = _onnx()
    try:
        if len(content) > MOST_BYTES:
            raise _RefusedError(f"it has {len(content)} bytes; {MOST_BYTES} are the most")
        model = onnx.load_model_from_string(content)
        _Check(onnx, entries).run(model, frames, manifest, has_state)
    except Exception as error:  # what onnx and protobuf raise has no base class of its own
        raise BundleError(f"{where} is not a graph of a bundle: {_line(error)}", _HINT) from error


def external_tensors(content: bytes) -> tuple[str, ...]:
    """Return the names of the tensors that a graph of ours takes from the weight files."""
    graph = _onnx().load_model_from_string(content).graph
    return tuple(each.name for each in graph.initializer if each.external_data)


def _onnx() -> ModuleType:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise BundleError(
            f"a bundle's graphs are checked with the package onnx, which is missing ({error})",
            "pip install onnx",
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Check:
    """Goes through one graph in its order, and knows each tensor's shape and what is alive.

    The bounds leave room: in parentheses stands the most that was found in `ARCHITECTURES`, at 64
    and 224 pixels, and in the networks of `benchmarks/any_network.py`.
    """

    # Values alive at once, for each of the clip (29).
    ALIVE = 256
    # Values computed when an engine opens, for each that is stored or of the clip (1.5; 2.2 for a
    # ResNet-50 stored as float16). No single tensor has more than those together.
    CONSTANT = 16
    # Multiplications, for each value of the clip (78,000).
    WORK = 1 << 21

    def __init__(self, onnx: ModuleType, entries: Mapping[str, TensorEntry]) -> None:
        self.onnx = onnx
        self.entries = entries
        tensor = onnx.TensorProto
        self.codes = {
            "F32": tensor.FLOAT,
            "F16": tensor.FLOAT16,
            "I64": tensor.INT64,
            "I32": tensor.INT32,
            "I8": tensor.INT8,
        }
        numbers = (
            "FLOAT FLOAT16 BFLOAT16 DOUBLE BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64"
        )
        self.numbers = {getattr(tensor, name) for name in numbers.split()}
        self.types: dict[str, Any] = {}  # of every tensor that was met
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constant: set[str] = set()  # what does not depend on the frames
        self.small: dict[str, Any] = {}  # constants that say how something is reshaped

    def run(self, model: Any, frames: int, manifest: Manifest, has_state: bool) -> None:
        """Check the model."""
        graph = model.graph
        if model.functions or model.training_info or graph.sparse_initializer:
            raise _RefusedError("it holds functions, training or sparse tensors")
        if [each.domain for each in model.opset_import] not in ([""], ["ai.onnx"]):
            raise _RefusedError("it asks for operators of others than ONNX")
        if len(graph.node) > _MOST_NODES:
            raise _RefusedError(f"it has {len(graph.node)} nodes")
        contract = manifest.input
        clip = (contract.batch, frames, contract.height, contract.width, 3)
        tensor = self.onnx.TensorProto
        output = (contract.batch, len(manifest.classes))
        states = [each.type for each in graph.input[1:]] if has_state else []
        self._check_states(graph, states)
        for ports, first, others in (
            (graph.input, (INPUT, self._type(tensor.UINT8, clip)), STATE),
            (graph.output, (OUTPUT, self._type(tensor.FLOAT, output)), NEXT),
        ):
            self._check_ports(ports, [first, *((f"{others}{i}", t) for i, t in enumerate(states))])
        stored = 0
        for initializer in graph.initializer:
            stored += self._take_initializer(initializer)
        self._take(INPUT, self._type(tensor.UINT8, clip))
        kept = sum(self._take(f"{STATE}{i}", kind) for i, kind in enumerate(states))
        self._go_through(graph.node, model, math.prod(clip), stored, kept)
        for port in graph.output:
            if self.shapes.get(port.name) != _dimensions(port.type):
                raise _RefusedError(f"its {port.name} are {self.shapes.get(port.name)}")
        for i, kind in enumerate(states):
            if self.types[f"{NEXT}{i}"].tensor_type.elem_type != kind.tensor_type.elem_type:
                raise _RefusedError(f"its {NEXT}{i} is of another type than {STATE}{i}")

    def _check_states(self, graph: Any, states: list[Any]) -> None:
        """Refuse what no engine of ours keeps from step to step."""
        tensor = self.onnx.TensorProto
        for kind in states:
            types = (tensor.FLOAT, tensor.INT8)
            if kind.tensor_type.elem_type not in types or len(_dimensions(kind) or ()) != 4:
                raise _RefusedError("a state is not four-dimensional in float32 or INT8")
        inside = {each.name: each for each in graph.initializer if not each.external_data}
        for node in kept_by(graph).values():
            if node is not None and node.op_type == "QuantizeLinear":
                known = [inside.get(name) for name in node.input[1:3]]
                if len(known) < 2 or any(each is None or each.dims for each in known):
                    raise _RefusedError("the scale of a state is no number in the graph")
                if not 0 < float(self.onnx.numpy_helper.to_array(known[0])) < math.inf:
                    raise _RefusedError("the scale of a state is not positive")

    def _check_ports(self, ports: Any, expected: list[tuple[str, Any]]) -> None:
        if [(each.name, each.type) for each in ports] != expected:
            said = [f"{each.name} {_dimensions(each.type)}" for each in ports[:5]]
            wanted = [f"{name} {_dimensions(kind)}" for name, kind in expected[:5]]
            raise _RefusedError(
                f"its ports are {', '.join(said)}; its manifest says {', '.join(wanted)}"
            )

    def _type(self, code: int, shape: Iterable[int]) -> Any:
        return self.onnx.helper.make_tensor_type_proto(code, shape)

    def _take(self, name: str, kind: Any) -> int:
        """Note a tensor; return how many values it has."""
        if name in self.types:
            raise _RefusedError(f"{name} is there twice")
        shape = _dimensions(kind)
        if shape is None or len(shape) > _MOST_AXES:
            raise _RefusedError(f"the shape of {name} is not known before it runs")
        if kind.tensor_type.elem_type not in self.numbers:
            raise _RefusedError(f"{name} does not hold numbers")
        self.types[name], self.shapes[name] = kind, shape
        return math.prod(shape)

    def _take_initializer(self, tensor: Any) -> int:
        shape = tuple(tensor.dims)
        if tensor.external_data or tensor.data_location != self.onnx.TensorProto.DEFAULT:
            self._check_place(tensor, shape)
        else:
            self.onnx.numpy_helper.to_array(tensor)  # fails unless it holds what its shape says
            self._keep_small(tensor.name, tensor)
        values = self._take(tensor.name, self._type(tensor.data_type, shape))
        self.constant.add(tensor.name)
        return values

    def _check_place(self, tensor: Any, shape: tuple[int, ...]) -> None:
        """A tensor outside the graph is one of the weight files, whole, under its own name."""
        entry = self.entries.get(tensor.name)
        found = {each.key: each.value for each in tensor.external_data}
        if entry is None or (found, tensor.data_type, shape) != (
            {"location": entry.file, "offset": str(entry.offset), "length": str(entry.length)},
            self.codes[entry.dtype],
            entry.shape,
        ):
            place = found.get("location", "nowhere")
            raise _RefusedError(f"its {tensor.name} in {place!r} is no tensor of the weight files")

    def _keep_small(self, name: str, tensor: Any) -> None:
        if math.prod(tensor.dims) <= _MOST_PARAMETERS:
            self.small[name] = tensor

    def _go_through(self, nodes: Any, model: Any, clip: int, stored: int, alive: int) -> None:
        last = {name: place for place, node in enumerate(nodes) for name in node.input}
        work = constant = 0
        for place, node in enumerate(nodes):
            made = self._take_outputs(node, model)
            if made.keys() <= self.constant:
                constant += sum(made.values())
                if max(made.values(), default=0) > clip + stored:
                    raise _RefusedError(f"its constant {', '.join(made)} is larger than its clip")
            else:
                alive += sum(made.values())
            work += self._work(node, made)
            if (
                alive > self.ALIVE * clip + stored
                or constant > self.CONSTANT * (clip + stored)
                or work > self.WORK * clip
            ):
                raise _RefusedError(
                    f"up to its {node.op_type} of {', '.join(made)} it takes {alive} values at "
                    f"once, {constant} beforehand and {work} multiplications: too many for a clip "
                    f"of {clip} and {stored} weights"
                )
            for name in {*node.input, *made} - self.constant - {INPUT, ""}:
                if last.get(name, place) == place:
                    alive -= math.prod(self.shapes[name])

    def _take_outputs(self, node: Any, model: Any) -> dict[str, int]:
        """Infer what a node makes: how many values by name."""
        self._check_node(node)
        schema = self.onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
        types = {name: self.types[name] for name in node.input if name}
        found = self.onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            types,
            {name: self.small[name] for name in types if name in self.small},
            opset_imports=list(model.opset_import),
            ir_version=model.ir_version,
        )
        if types.keys() <= self.constant:
            self.constant.update(node.output)
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self._keep_small(node.output[0], attribute.t)
        nothing = self.onnx.TypeProto()
        return {name: self._take(name, found.get(name, nothing)) for name in node.output if name}

    def _check_node(self, node: Any) -> None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATORS:
            raise _RefusedError(f"it has a node {node.domain} {node.op_type}")
        for name in node.input:
            if name and name not in self.types:
                raise _RefusedError(f"a {node.op_type} reads {name}, which is made by nothing")
        # Without a zero point, runtimes differ on the type: uint8 by ONNX, INT8 by TensorRT.
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not any(node.input[2:]):
            raise _RefusedError(f"a {node.op_type} has no zero point")
        for each in node.attribute:
            tensors = (each.t, *each.tensors)
            if (
                each.ref_attr_name
                or any(map(each.HasField, ("g", "sparse_tensor", "tp")))
                or (each.graphs or each.sparse_tensors or each.type_protos)
                or any(tensor.external_data or tensor.data_location for tensor in tensors)
            ):
                raise _RefusedError(f"a {node.op_type} holds more than numbers in {each.name}")

    def _work(self, node: Any, made: Mapping[str, int]) -> int:
        """Return about how many multiplications, or moves, a node takes."""
        outputs = sum(made.values())
        attributes = {each.name: each for each in node.attribute}
        inputs = [self.shapes[name] for name in node.input if name]
        match node.op_type:
            case "Conv":
                return outputs * math.prod(inputs[1][1:])
            case "ConvTranspose":
                return math.prod(inputs[0]) * math.prod(inputs[1][1:])
            case "MatMul":
                return outputs * inputs[0][-1]
            case "Gemm":
                by_columns = "transA" in attributes and attributes["transA"].i
                return outputs * inputs[0][0 if by_columns else 1]
            case "Einsum":
                return _einsum_work(attributes["equation"].s.decode(), inputs)
            case "GRU" | "LSTM" | "RNN":
                return math.prod(inputs[0][:2]) * (math.prod(inputs[1]) + math.prod(inputs[2]))
            case "LRN":
                return outputs * abs(int(attributes["size"].i))
            case "AveragePool" | "LpPool" | "MaxPool":
                window: int = math.prod(map(abs, attributes["kernel_shape"].ints))
                return outputs * window
        return outputs + sum(map(math.prod, inputs))


def _einsum_work(equation: str, inputs: list[tuple[int, ...]]) -> int:
    """Return the product of the sizes of all axes, shared ones once."""
    sizes: dict[object, int] = {}
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    for term, shape in zip(terms, inputs, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        labels: list[object] = [*before, *range(-hidden, 0), *after]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _dimensions(kind: Any) -> tuple[int, ...] | None:
    """Return a tensor's shape; None if a part of it is not known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dimensions = kind.tensor_type.shape.dim
    if any(not each.HasField("dim_value") or each.dim_value < 0 for each in dimensions):
        return None
    return tuple(each.dim_value for each in dimensions)
