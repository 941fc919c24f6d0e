"""A folded network as an ONNX model whose tensors lie in the bundle's weight file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call

from ffn_edge.bundle import WEIGHTS, InputContract, TensorEntry
from ffn_edge.compose import Array
from ffn_edge.export.fold import FoldedNetwork
from ffn_edge.network.ffn import Layout, mean_over_frames

INPUT, OUTPUT = "frames", "logits"
# The newest opset that TensorRT 10.3 (JetPack 6) and ONNX Runtime 1.18 both read in full.
OPSET = 18
_TYPES = {
    "F32": onnx.TensorProto.FLOAT,
    "F16": onnx.TensorProto.FLOAT16,
    "I64": onnx.TensorProto.INT64,
}


class _Graph(nn.Module):
    """From uint8 frames to logits, with every weight an input.

    As inputs the weights are opaque to the exporter's optimiser, which would otherwise fold,
    drop or merge them by their values.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, folded: FoldedNetwork, contract: InputContract, layout: Layout) -> None:
        super().__init__()
        self.folded = [folded.body]  # in a list: not a child, so its tensors are not exported
        self.parameter_names = list(folded.parameters.values())
        self.frames = folded.frames
        self.layout = layout
        std = torch.tensor(contract.std, dtype=torch.float64) * 255
        self.register_buffer("pixel_scale", (1 / std).float().reshape(3, 1, 1))
        shift = -torch.tensor(contract.mean, dtype=torch.float64) * 255 / std
        self.register_buffer("pixel_shift", shift.float().reshape(3, 1, 1))

    def forward(self, frames: Tensor, *tensors: Tensor) -> Tensor:
        """Classify uint8 (N, T, H, W, 3)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float()
        clip = pixels * self.pixel_scale + self.pixel_shift  # (N, T, 3, H, W)
        state = dict(zip(self.parameter_names, tensors, strict=True))
        if self.layout == "clip":
            logits: Tensor = functional_call(self.folded[0], state, (clip.transpose(1, 2),))
            return logits
        per_frame: Tensor = functional_call(self.folded[0], state, (clip.flatten(0, 1),))
        return mean_over_frames(per_frame, self.frames)


def graph_from_folded(
    folded: FoldedNetwork,
    contract: InputContract,
    layout: Layout,
    entries: Mapping[str, TensorEntry],
) -> onnx.ModelProto:
    """Write a folded network as ONNX; its initializers point into the weight file.

    Args:
        folded: the sub-network of one frame count.
        contract: the input that the graph takes.
        layout: what the folded body takes.
        entries: where each tensor of `folded.tensors` lies in the weight file.
    """
    example = torch.zeros(
        contract.batch, folded.frames, contract.height, contract.width, 3, dtype=torch.uint8
    )
    # The weight file may hold half precision; the graph then casts, so trace with its types.
    tensors = [
        tensor.half() if entries[name].dtype == "F16" else tensor
        for name, tensor in folded.tensors.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            _Graph(folded, contract, layout).eval(),
            (example, *tensors),
            input_names=[INPUT, *folded.tensors],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for value in list(model.graph.input):
        if value.name != INPUT:
            model.graph.input.remove(value)
            model.graph.initializer.append(_external(value.name, entries[value.name]))
    return _stripped(model)


def composed_graph(model: onnx.ModelProto, composed: Mapping[str, Array]) -> onnx.ModelProto:
    """Return the graph with a frame count's composed weights in place of W, s_in and s_out.

    The Cast and Mul nodes between a stored weight and its layer disappear; the layer reads one
    float32 initializer, as TensorRT's refit wants it.

    Args:
        model: a bundle's graph; left as it is.
        composed: the weights by name, from `ffn_edge.compose.compose`.
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
                key = f"{_layer_of(origin)}.{'bias' if origin.endswith('.bias') else 'weight'}"
                if key in composed:
                    node.input[i] = key
    return _only_what_is_read(result, composed)


def _layer_of(tensor: str) -> str:
    """Return the layer's name of a shared tensor or a frame count's vector."""
    name = tensor.split("/", 2)[2] if tensor.startswith("frames/") else tensor
    return name.rpartition(".")[0]


def _only_what_is_read(model: onnx.ModelProto, composed: Mapping[str, Array]) -> onnx.ModelProto:
    """Drop nodes and initializers that nothing reads; add the composed weights that are read."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input} | {OUTPUT}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [i for i in graph.initializer if i.name in read and i.name not in composed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, array in composed.items():
        if name in read:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return model


def _external(name: str, entry: TensorEntry) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name,
        data_type=_TYPES[entry.dtype],
        dims=entry.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", WEIGHTS), ("offset", entry.offset), ("length", entry.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only the exporter needs: traces of source lines, inferred shapes, the version."""
    graph = model.graph
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del model.functions[:]
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    graph.name = "ffn_edge"
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; its initializers stay in the weight file beside it."""
    path.write_bytes(model.SerializeToString(deterministic=True))
