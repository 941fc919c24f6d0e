"""A bundle's graph with composed weights in place of the shared ones and their vectors.

No PyTorch: `ffn-edge build` runs this on the device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ffn_edge.bundle.compose import Array

INPUT, OUTPUT = "frames", "logits"


def composed_graph(model: onnx.ModelProto, composed: Mapping[str, Array]) -> onnx.ModelProto:
    """Return the graph with a frame count's composed weights in place of W, s_in and s_out.

    Args:
        model: a bundle's graph; left as it is.
        composed: the weights by name, from `ffn_edge.bundle.compose.compose`.
    """
    result = rewired(model, composed)
    missing = read_by_nodes(result) & set(composed)
    for name, array in composed.items():
        if name in missing:
            result.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(array), name)
            )
    return result


def plain_graph(
    model: onnx.ModelProto, tensors: Mapping[str, Array], composed: Mapping[str, Array]
) -> onnx.ModelProto:
    """Return one frame count as an ordinary model, all of whose tensors are inside.

    Args:
        model: a bundle's graph; left as it is.
        tensors: of the bundle, for what no layer modulates, such as a LayerNorm's affine.
        composed: the weights by name, from `ffn_edge.bundle.compose.compose`.
    """
    result = composed_graph(model, composed)
    for tensor in result.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    return result


def rewired(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return the graph whose layers read `names`, `LAYER.weight` and `LAYER.bias`, themselves.

    The Cast and Mul nodes between a stored weight and its layer disappear; the layer reads one
    tensor, as TensorRT's refit wants it. The initializers of `names` are the caller's to add.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    stored = {initializer.name for initializer in graph.initializer}
    makes = {output: node for node in graph.node for output in node.output}

    def source(name: str) -> str:
        """Follow Cast and Mul from a layer's weight back to the shared tensor."""
        while name not in stored and name in makes and makes[name].op_type in ("Cast", "Mul"):
            name = makes[name].input[0]
        return name

    for node in graph.node:
        if node.op_type in ("Cast", "Mul"):
            continue
        for i, name in enumerate(node.input):
            origin = source(name)
            if origin in stored:
                key = f"{layer_of(origin)}.{'bias' if origin.endswith('.bias') else 'weight'}"
                if key in names:
                    node.input[i] = key
    drop_unread(result)
    kept = [i for i in graph.initializer if i.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def drop_unread(model: onnx.ModelProto) -> None:
    """Remove the nodes and initializers that nothing reads."""
    graph = model.graph
    while True:
        read = read_by_nodes(model)
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def read_by_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of all tensors that something reads, the outputs among them."""
    outputs = {each.name for each in model.graph.output}
    return {name for node in model.graph.node for name in node.input} | outputs


def layer_of(tensor: str) -> str:
    """Return the layer's name of a shared tensor or a frame count's vector."""
    name = tensor.split("/", 2)[2] if tensor.startswith("frames/") else tensor
    return name.rpartition(".")[0]
