"""Where a graph computes in INT8: quantisation, put into a bundle's graph.

    W · s_in · s_out ─ QuantizeLinear (per output channel) ─ DequantizeLinear ─┐
    x ─ QuantizeLinear (one scale) ─ temporal shift ─ DequantizeLinear ──────── Conv ─ ReLU ─ …

The state of a stream holds what a shift passes on, so it is as quantised as that is.

A tensor is quantised once, after a ReLU or as the convolution gives it, and whoever reads it reads
it so: convolutions, both inputs of a residual addition, and what only moves values, which then
moves bytes. All is symmetric: the zero points are 0, so the zeros that a shift pads with are zeros.
Scales of weights follow from the composed weights in the graph itself; those of activations are its
only new numbers.

float32 stay the first and the last weighted layers, biases, whatever computes a gate (attention),
sums, norms and softmax, and layers whose arithmetic no backend has in INT8. So NVIDIA's rules say
for ResNet-like blocks: https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.stream_state import NEXT, STATE
from ffn_edge.export.composed_graph import layer_of

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_GATES = {"Sigmoid", "HardSigmoid", "Softmax"}
# These change no value, so they do the same to quantised ones.
_MOVES = {"Split", "Slice", "Pad", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze"}
_MOVES |= {"Unsqueeze", "Identity", "MaxPool"}
_FIRST, _LAST = "the first layer", "the last layer"
_GATE, _OTHER = "computes a gate", "no convolution"
ALWAYS_IN_FLOAT32 = frozenset({_FIRST, _LAST, _GATE, _OTHER})
LARGEST = 127  # of a quantised value: -128 is not used, so that a range is symmetric


def only_moves(node: NodeProto) -> bool:
    """Whether a node changes no value, and adds none but zeros."""
    return node.op_type in _MOVES and not (node.op_type == "Pad" and any(node.input[2:3]))


@dataclass(frozen=True, slots=True)
class Placement:
    """What is quantised.

    Attributes:
        layers: their names, in the graph's order.
        in_float32: the weighted layers that are not, and why.
        tensors: the activations that are, each of which needs a scale.
    """

    layers: tuple[str, ...]
    in_float32: dict[str, str]
    tensors: tuple[str, ...]


def place(model: onnx.ModelProto, left: Mapping[str, str] | None = None) -> Placement:
    """Say what of a bundle's float32 graph is to be quantised.

    Args:
        model: one frame count's graph.
        left: layers to leave in float32 beside those that always are, and why.
    """
    flow = _Flow(model)
    left = left or {}
    # A layer that is called in several places is quantised in all of them or in none.
    reasons = {
        name: reason
        for index, name in flow.weighted.items()
        if (reason := left.get(name) or flow.why_in_float32(index))
    }
    tensors: dict[str, None] = {}
    for index, name in flow.weighted.items():
        if name not in reasons:
            node = flow.nodes[index]
            tensors[flow.origin(node.input[0])] = None
            tensors[flow.activated(node.output[0])] = None
    layers = dict.fromkeys(name for name in flow.weighted.values() if name not in reasons)
    return Placement(tuple(layers), reasons, tuple(tensors))


def quantized_graph(
    model: onnx.ModelProto, placement: Placement, scales: Mapping[str, float]
) -> onnx.ModelProto:
    """Return a graph that computes what `placement` says in INT8.

    Args:
        model: a bundle's float32 graph; left as it is.
        placement: of that graph.
        scales: of each of its tensors, positive: what one step of the quantised values is worth.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Quantizer(result, placement, scales).run()
    return result


def scales_of_step(
    step: Placement, clip: Placement, scales: Mapping[str, float]
) -> dict[str, float]:
    """Return the scales of a step's graph: those of the clip's, whose layers come in one order."""
    assert step.layers == clip.layers
    assert len(step.tensors) == len(clip.tensors)
    return {name: scales[same] for name, same in zip(step.tensors, clip.tensors, strict=True)}


class _Flow:
    """Which node reads what, and which of it depends on the frames."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
        self.fixed = set(self.shapes)  # what does not depend on the frames
        for node in self.nodes:
            if self.fixed.issuperset(node.input):
                self.fixed.update(node.output)
        # What a stream has kept of the frames before: values of another time.
        self.kept = {each.name for each in model.graph.input if each.name.startswith(STATE)}
        self.makes = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)
        self.weighted = {
            i: layer_of(self.source(node.input[1]))
            for i, node in enumerate(self.nodes)
            if node.op_type in _WEIGHTED
            and node.input[0] not in self.fixed
            and node.input[1] in self.fixed
        }
        self.after_weights = self._spread(range(len(self.nodes)), self._producers)
        self.before_weights = self._spread(reversed(range(len(self.nodes))), self._consumers)
        self.gated: set[int] = set()  # all that follows from them opens or shuts a gate
        for i in reversed(range(len(self.nodes))):
            following = self._consumers(i)
            if following and all(
                self.nodes[each].op_type in _GATES or each in self.gated for each in following
            ):
                self.gated.add(i)

    def _producers(self, index: int) -> list[int]:
        return [self.makes[name] for name in self.nodes[index].input if name in self.makes]

    def _consumers(self, index: int) -> list[int]:
        return [each for name in self.nodes[index].output for each in self.readers.get(name, ())]

    def _spread(self, order: Iterable[int], neighbours: Callable[[int], list[int]]) -> set[int]:
        """Return the nodes that have a weighted layer on one side of them."""
        found: set[int] = set()
        for i in order:
            if any(each in found or each in self.weighted for each in neighbours(i)):
                found.add(i)
        return found

    def source(self, name: str) -> str:
        """Follow Cast, Mul and alike from a layer's weight back to the stored tensor."""
        while name in self.makes and self.nodes[self.makes[name]].input:
            name = str(self.nodes[self.makes[name]].input[0])
        return name

    def why_in_float32(self, index: int) -> str | None:
        """Say why a weighted layer always stays float32; None if it need not."""
        node = self.nodes[index]
        if index not in self.after_weights:
            return _FIRST
        if index not in self.before_weights:
            return _LAST
        if index in self.gated:
            return _GATE
        if node.op_type != "Conv" or self.source(node.input[1]) not in self.shapes:
            return _OTHER
        return None

    def origin(self, name: str) -> str:
        """Follow what only moves values back to the tensor that they come from."""
        while name in self.makes and only_moves(self.nodes[self.makes[name]]):
            moved = set(self.nodes[self.makes[name]].input) - self.fixed - self.kept
            origins: set[str] = {self.origin(each) for each in moved if each}
            if len(origins) != 1:  # of several, each has a scale of its own
                return name
            name = origins.pop()
        return name

    def activated(self, name: str) -> str:
        """Return the output of the ReLU (or ReLU6) that alone reads a tensor; or the tensor."""
        readers = self.readers.get(name, ())
        if len(readers) == 1 and self.nodes[readers[0]].op_type in ("Relu", "Clip"):
            return str(self.nodes[readers[0]].output[0])
        return name


class _Quantizer:
    """Rewrites one graph, in its order."""

    def __init__(
        self, model: onnx.ModelProto, placement: Placement, scales: Mapping[str, float]
    ) -> None:
        self.graph = model.graph
        self.flow = _Flow(model)
        self.layers = set(placement.layers)
        self.scales = scales
        self.tensors = set(placement.tensors)
        self.nodes: list[NodeProto] = []
        self.held: dict[str, str] = {}  # tensors that are there as INT8 -> whose scale they have
        self.dequantized: set[str] = set()
        self.constants: dict[str, Array] = {}

    def run(self) -> None:
        """Put the nodes and constants in."""
        self.constants["zero_point"] = np.zeros((), np.int8)
        ports: dict[str, str] = {}  # of the state, by the names that they get on the way
        for state in (each.name for each in self.graph.input[1:]):
            after = NEXT + state.removeprefix(STATE)
            owner = self.flow.origin(after)
            if owner in self.tensors:
                self.held[state] = owner
                ports |= {f"{name}.q": name for name in (state, after)}
        for index, node in enumerate(self.flow.nodes):
            outputs = list(node.output)
            held = [name for name in node.input if name in self.held]
            moved = [name for name in node.input if name and name not in self.flow.fixed]
            if only_moves(node) and held and len({self.held.get(each) for each in moved}) == 1:
                owner = self.held[held[0]]
                self._rename(node.input, {name: f"{name}.q" for name in held})
                self._rename(node.output, {name: f"{name}.q" for name in outputs})
                self.held.update(dict.fromkeys(outputs, owner))
            else:
                self._rename(node.input, {name: self._dequantized(name) for name in held})
                if self.flow.weighted.get(index) in self.layers:
                    node.input[1] = self._quantized_weight(node.input[1])
            self.nodes.append(node)
            for name in self.tensors.intersection(outputs) - self.held.keys():
                self._add("QuantizeLinear", (name, self._scale(name), "zero_point"), f"{name}.q")
                self.held[name] = name
        for node in self.nodes:
            self._rename(node.input, ports)
            self._rename(node.output, ports)
        for port in (*self.graph.input, *self.graph.output):
            if port.name in ports.values():
                port.type.tensor_type.elem_type = onnx.TensorProto.INT8
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(
            numpy_helper.from_array(values, name) for name, values in self.constants.items()
        )

    def _rename(self, names: Any, new: Mapping[str, str]) -> None:
        names[:] = [new.get(name, name) for name in names]

    def _add(self, op: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def _scale(self, name: str) -> str:
        scale = f"{name}.scale"
        self.constants[scale] = np.asarray(self.scales[name], np.float32)
        return scale

    def _dequantized(self, name: str) -> str:
        """Return the name of a held tensor as float32; all that read it share one."""
        found = f"{name}.dq"
        if found not in self.dequantized:
            self.dequantized.add(found)
            scale = self._scale(self.held[name])
            self._add("DequantizeLinear", (f"{name}.q", scale, "zero_point"), found)
        return found

    def _quantized_weight(self, name: str) -> str:
        """Quantise a composed weight (O, I, *kernel), each output channel by its largest value.

        The scales are computed where the weights are: they need no bytes, and always fit.
        """
        if f"{name}.dq" in self.dequantized:  # the layer is called in several places
            return f"{name}.dq"
        self.dequantized.add(f"{name}.dq")
        outputs, *others = self.flow.shapes[self.flow.source(name)]
        zeros, axes = f"zero_points.{outputs}", f"axes.{len(others)}"
        self.constants[zeros] = np.zeros(outputs, np.int8)
        self.constants[axes] = np.arange(1, 1 + len(others))
        self.constants["step"] = np.asarray(1 / LARGEST, np.float32)
        self.constants["least_scale"] = np.asarray(
            1e-12, np.float32
        )  # of a channel that is all zeros
        size = self._add("Abs", (name,), f"{name}.abs")
        size = self._add("ReduceMax", (size, axes), f"{name}.max", keepdims=0)
        size = self._add("Mul", (size, "step"), f"{name}.step")
        scale = self._add("Max", (size, "least_scale"), f"{name}.scale")
        weight = self._add("QuantizeLinear", (name, scale, zeros), f"{name}.q", axis=0)
        return self._add("DequantizeLinear", (weight, scale, zeros), f"{name}.dq", axis=0)
