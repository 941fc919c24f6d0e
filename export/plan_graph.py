"""The graph that TensorRT parses: a frame count's, with composed weights, as its parser likes it.

    graph ─ composed weights in place of W, s_in, s_out ─ explicit biases, INT32 slices ─ fp16

In an INT8 graph the scales of a weight are computed from it; here they become constants, as
TensorRT wants them. What is not quantised is in float16.

Every constant is a named initializer, and every initializer is on the list that
`write_plan_graph` returns: TensorRT may ask for any of them when an engine is refitted. The
weights lie in a file and not in this process. No PyTorch: `ffn-edge build` runs this on the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.compose import Array, ComposedHash, blocks, compose, composed_shapes
from ffn_edge.device.plan_cache import PlanWeight
from ffn_edge.errors import ExportError
from ffn_edge.export.composed_graph import drop_unread, read_by_nodes, rewired
from ffn_edge.export.half_precision import half, in_half
from ffn_edge.export.int8_graph import only_moves

GRAPH = "graph.onnx"
_WEIGHTS = "weights.bin"
_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
_PAGE = 4096  # parsers map external data; the ONNX standard asks for offsets of whole pages


def write_plan_graph(
    bundle: Bundle, frames: int, precision: Precision, folder: Path, *, step: bool = False
) -> tuple[PlanWeight, ...]:
    """Write the graph that TensorRT parses, `graph.onnx`, and its weights, composed, beside it.

    The weights go through this process layer by layer.

    Args:
        bundle: what to build.
        frames: T, a frame count of the bundle.
        precision: of the engine.
        folder: where to write.
        step: of the next frame of a stream, and not of a clip.

    Returns:
        Every constant and weight of the graph, the layers' and those of shape arithmetic.

    Raises:
        ExportError: a weight is beyond float16, scales do not follow from one weight, or the
            bundle's weights are not those of its manifest.
    """
    manifest, tensors = bundle.manifest, bundle.tensors()
    shapes = composed_shapes(tensors, manifest.layers, frames)
    source = onnx.load_model_from_string(bundle.read_graph(frames, precision, step=step))
    model = for_the_parser(rewired(source, shapes), shapes)
    read = read_by_nodes(model)
    for name, shape in shapes.items():
        if name in read:
            model.graph.initializer.append(
                TensorProto(
                    name=name,
                    data_type=TensorProto.FLOAT,
                    dims=shape,
                    data_location=TensorProto.EXTERNAL,
                )
            )
    if precision != "fp32":
        model = in_half(model)
    scales = _take_scales(model)
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    external = {
        name for name, each in initializers.items() if each.data_location == TensorProto.EXTERNAL
    }
    digest = ComposedHash()
    with open(folder / _WEIGHTS, "wb") as file:

        def write(name: str, array: Array) -> None:
            _write_external(file, initializers[name], array)
            if name in scales:
                found: Any = scales[name].run(None, {name: array})
                model.graph.initializer.append(numpy_helper.from_array(found[0], _scale_name(name)))

        for name, array in compose(tensors, manifest.layers, frames):
            digest.update(name, array)
            if name in external:
                write(name, array)
            del array  # before the next is composed
        for name in sorted(external - set(shapes)):
            write(name, tensors[name])
    if digest.hexdigest() != manifest.sub_networks[frames].composed_sha256:
        raise ExportError(
            f"the composed weights for {frames} frames are not those of the manifest",
            "export the bundle again with `ffn-edge export`.",
        )
    (folder / GRAPH).write_bytes(model.SerializeToString())
    return tuple(
        _plan_weight(each, each.name in shapes, each.name in external)
        for each in model.graph.initializer
        if each.data_type in _DTYPES
    )


def for_the_parser(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> onnx.ModelProto:
    """Return a graph that computes the same, without what TensorRT's parser would name itself.

    Args:
        model: left as it is.
        shapes: of the tensors that are yet to become initializers.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _name_constants(result)
    _drop_zero_points(result)
    _pool_volumes_in_float(result)
    _slice_by_int32(result)
    _add_biases(result, shapes)
    return result


def _name_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers: TensorRT names a weight after its initializer."""
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        value = next((each.t for each in node.attribute if each.name == "value"), None)
        if value is not None:
            initializer = model.graph.initializer.add()
            initializer.CopyFrom(value)
            initializer.name = node.output[0]
            model.graph.node.remove(node)


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """Leave out the zero points, which are zero: TensorRT's parser takes INT8 for granted.

    Of one that is given, it makes a constant with a name of its own, which an engine may want back
    at a refit. To ONNX, quantisation without zero points is to uint8: the graph is for TensorRT
    alone.
    """
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2:]
    drop_unread(model)


def _pool_volumes_in_float(model: onnx.ModelProto) -> None:
    """Take each maximum over time and space of dequantised values: TensorRT has none of INT8.

    Quantised again, it is the same.
    """
    graph = model.graph
    makes = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        source = node
        while only_moves(source) and source.input[0] in makes:
            source = makes[source.input[0]]
        if node.op_type == "MaxPool" and source.op_type == "QuantizeLinear" and _is_3d(node):
            scale, quantised = source.input[1], node.output[0]
            float_in, float_out = f"{quantised}.float_in", f"{quantised}.float_out"
            nodes.append(helper.make_node("DequantizeLinear", [node.input[0], scale], [float_in]))
            node.input[0], node.output[0] = float_in, float_out
            nodes.append(node)
            nodes.append(helper.make_node("QuantizeLinear", [float_out, scale], [quantised]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _is_3d(pool: onnx.NodeProto) -> bool:
    return any(each.name == "kernel_shape" and len(each.ints) == 3 for each in pool.attribute)


def _slice_by_int32(model: onnx.ModelProto) -> None:
    """Give every Slice its starts, ends, axes and steps as int32.

    TensorRT's parser has a short way for four int32 constants. For int64 it writes arithmetic of
    shapes instead, a dozen layers a Slice, whose constants an engine may want back at a refit.
    """
    graph = model.graph
    inside = TensorProto.DEFAULT
    constants = {each.name: each for each in graph.initializer if each.data_location == inside}
    added: dict[str, TensorProto] = {}

    def as_int32(name: str, values: Array) -> str:
        limits = np.iinfo(np.int32)  # the end of an open slice is the largest int64
        narrow = np.clip(values, limits.min, limits.max).astype(np.int32)
        return added.setdefault(name, numpy_helper.from_array(narrow, name)).name

    for node in graph.node:
        if node.op_type != "Slice" or not constants.keys() >= set(filter(None, node.input[1:])):
            continue
        names = list(node.input[1:])
        names += [""] * (4 - len(names))
        count = math.prod(constants[names[0]].dims)
        defaults = {2: ("slice.axes", np.arange(count)), 3: ("slice.steps", np.ones(count))}
        del node.input[1:]
        for i, name in enumerate(names):
            if name:
                values = numpy_helper.to_array(constants[name])
                node.input.append(as_int32(f"{name}.int32", values))
            else:
                default, values = defaults[i]
                node.input.append(as_int32(f"{default}.{count}", values))
    graph.initializer.extend(added.values())
    drop_unread(model)


def _add_biases(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every LayerNormalization a bias.

    For one that is missing, TensorRT's parser makes zeros with a name of its own, which an engine
    wants back at a refit and nobody knows.
    """
    sizes = {each.name: tuple(each.dims) for each in model.graph.initializer} | dict(shapes)
    for node in model.graph.node:
        has_bias = len(node.input) > 2 and node.input[2]
        if node.op_type != "LayerNormalization" or has_bias or node.input[1] not in sizes:
            continue
        name = f"{node.output[0]}.bias"
        zeros = np.zeros(sizes[node.input[1]], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(zeros, name))
        del node.input[2:]
        node.input.append(name)


def _take_scales(model: onnx.ModelProto) -> dict[str, ReferenceEvaluator]:
    """Cut out what computes a weight's scales; return it by the weight's name.

    The scales are then an initializer that the caller adds.
    """
    graph = model.graph
    stored = {each.name: each for each in graph.initializer}
    computed: dict[str, str] = {}  # scales -> what they will be called
    evaluators = {}
    for quantize in list(graph.node):
        scales = quantize.input[1] if quantize.op_type == "QuantizeLinear" else ""
        if not scales or scales in stored or scales in computed:
            continue
        read, nodes = {scales}, []
        for node in reversed(graph.node):
            if read.intersection(node.output):
                read.update(node.input)
                nodes.append(node)
        constants = [stored[name] for name in sorted(read & stored.keys())]
        weights = [each for each in constants if each.data_location == TensorProto.EXTERNAL]
        if len(weights) != 1:
            raise ExportError(
                f"the scales {scales} do not follow from one weight alone",
                "quantise the bundle again with `ffn-edge quantize`.",
            )
        weight = weights[0]
        constants.remove(weight)
        part = helper.make_graph(
            nodes[::-1],
            "scales",
            [helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)],
            [helper.make_tensor_value_info(scales, TensorProto.FLOAT, None)],
            constants,
        )
        evaluators[weight.name] = ReferenceEvaluator(
            helper.make_model(part, opset_imports=model.opset_import)
        )
        computed[scales] = _scale_name(weight.name)
        graph.node.remove(nodes[0])  # of the others, nothing is read then
    for node in graph.node:
        node.input[:] = [computed.get(name, name) for name in node.input]
    drop_unread(model)
    return evaluators


def _scale_name(weight: str) -> str:
    return f"{weight}.scale"


def _write_external(file: Any, initializer: onnx.TensorProto, array: Array) -> None:
    """Append an array to the weight file in its initializer's type, and point that there."""
    offset = -(-file.tell() // _PAGE) * _PAGE
    file.seek(offset)
    for block in blocks(array):
        rounded = initializer.data_type == TensorProto.FLOAT16 and block.dtype != np.float16
        file.write((half(initializer.name, block) if rounded else block).data)
    del initializer.external_data[:]
    length = file.tell() - offset
    for key, value in (("location", _WEIGHTS), ("offset", offset), ("length", length)):
        initializer.external_data.add(key=key, value=str(value))


def _plan_weight(initializer: onnx.TensorProto, composed: bool, external: bool) -> PlanWeight:
    values = None if external else numpy_helper.to_array(initializer).reshape(-1)
    return PlanWeight(
        name=initializer.name,
        dtype=_DTYPES[initializer.data_type],
        count=int(np.prod(initializer.dims, dtype=np.int64)),
        source="composed" if composed else "stored" if external else "constant",
        values=None if values is None else tuple(values.tolist()),
    )
