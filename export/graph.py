"""A folded network as an ONNX model whose tensors lie in the bundle's weight files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ffn_edge.bundle.bundle import InputContract
from ffn_edge.bundle.stream_state import NEXT, STATE
from ffn_edge.bundle.weight_file import TensorEntry
from ffn_edge.errors import ExportError
from ffn_edge.export.composed_graph import INPUT, OUTPUT
from ffn_edge.export.fold import FoldedNetwork
from ffn_edge.network.ffn import Layout, mean_over_frames
from ffn_edge.network.layers import FixedFrames, TemporalShift

# The newest opset that TensorRT 10.3 (JetPack 6) and ONNX Runtime 1.18 both read in full.
OPSET = 18
_TYPES = {
    "F32": onnx.TensorProto.FLOAT,
    "F16": onnx.TensorProto.FLOAT16,
    "I8": onnx.TensorProto.INT8,
    "I32": onnx.TensorProto.INT32,
    "I64": onnx.TensorProto.INT64,
}
_ROUNDED = {"F16": torch.float16, "I8": torch.int8}


class GraphModule(nn.Module):
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
        clip = self._normalised(frames)
        if self.layout == "clip":
            return self._called(clip.transpose(1, 2), tensors)
        return mean_over_frames(self._called(clip.flatten(0, 1), tensors), self.frames)

    def _normalised(self, frames: Tensor) -> Tensor:
        """Return float32 (N, T, 3, H, W)."""
        # TensorRT casts an 8-bit input and does nothing else with it: cast first.
        pixels = frames.float().permute(0, 1, 4, 2, 3)
        return pixels * self.pixel_scale + self.pixel_shift

    def _called(self, rows: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        parameters = dict(zip(self.parameter_names, tensors, strict=True))
        logits: Tensor = functional_call(self.folded[0], parameters, (rows,))
        return logits


class StepModule(GraphModule):
    """From the next uint8 frame of a stream and the state before it to its logits and the next."""

    def __init__(self, folded: FoldedNetwork, contract: InputContract, layout: Layout) -> None:
        super().__init__(folded, contract, layout)
        fixed = [each for each in folded.body.modules() if isinstance(each, FixedFrames)]
        # In a list, as above.
        self.shifts = [each.layer for each in fixed if isinstance(each.layer, TemporalShift)]

    def forward(self, frames: Tensor, *given: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Classify uint8 (N, 1, H, W, 3); `given` are the states and the tensors."""
        states, tensors = given[: len(self.shifts)], given[len(self.shifts) :]
        return self.stepped(frames, dict(zip(self.shifts, states, strict=True)), tensors)

    def stepped(
        self, frames: Tensor, memory: dict[TemporalShift, Tensor], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Classify; `memory` has the states, or nothing at the start of a stream."""
        for shift in self.shifts:
            shift.route.memory = memory
        try:
            logits = self._called(self._normalised(frames).flatten(0, 1), tensors)
        finally:
            for shift in self.shifts:
                shift.route.memory = None
        return (logits, *(memory[shift] for shift in self.shifts))


def graph_from_folded(
    folded: FoldedNetwork,
    contract: InputContract,
    layout: Layout,
    entries: Mapping[str, TensorEntry],
    *,
    step: bool = False,
) -> onnx.ModelProto:
    """Write a folded network as ONNX; its initializers point into the weight files.

    Args:
        folded: the sub-network of one frame count.
        contract: the input that the graph takes.
        layout: what the folded body takes.
        entries: where each tensor of `folded.tensors` lies.
        step: of a causal network, what is done for the next frame of a stream, in place of what is
            done for a clip.

    Raises:
        ExportError: the network computes something that ONNX, or a bundle, cannot hold.
    """
    for name, tensor in folded.tensors.items():
        # TensorRT takes int8 for a quantised float, and a weight is not rounded yet here.
        if tensor.dtype == torch.int8 or entries[name].dtype not in _TYPES:
            raise ExportError(
                f"{name} is of the type {entries[name].dtype}, which a bundle does not hold",
                "make it a buffer of float32 or int64.",
            )
    frames = 1 if step else folded.frames
    example = torch.zeros(
        contract.batch, frames, contract.height, contract.width, 3, dtype=torch.uint8
    )
    # The weight file may hold other types; the graph then casts, so trace with them.
    tensors = [
        tensor.to(_ROUNDED.get(entries[name].dtype, tensor.dtype))
        for name, tensor in folded.tensors.items()
    ]
    module = GraphModule(folded, contract, layout)
    states: list[Tensor] = []
    if step:
        module = StepModule(folded, contract, layout)
        with torch.no_grad():  # for their sizes
            _, *states = module.eval().stepped(example, {}, tensors)
    inputs = [INPUT, *(f"{STATE}{i}" for i in range(len(states)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        try:
            program = torch.onnx.export(
                module.eval(),
                (example, *states, *tensors),
                input_names=[*inputs, *folded.tensors],
                output_names=[OUTPUT, *(f"{NEXT}{i}" for i in range(len(states)))],
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"PyTorch cannot write the network as ONNX: {_cause(error)}",
                "compute the same with other operations.",
            ) from error
    assert program is not None
    model = program.model_proto
    for value in list(model.graph.input):
        if value.name not in inputs:
            model.graph.input.remove(value)
            model.graph.initializer.append(_external(value.name, entries[value.name]))
    return _stripped(model)


def _cause(error: BaseException) -> str:
    """Say in one line what the exporter failed on, and why."""
    operator = re.search(r"target=torch\.ops\.(\S+?)\]", str(error))
    while error.__cause__ is not None:
        error = error.__cause__
    reason = str(error).partition("\n")[0]
    return f"{operator[1]}: {reason}" if operator else reason


def _external(name: str, entry: TensorEntry) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name,
        data_type=_TYPES[entry.dtype],
        dims=entry.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    places = {"location": entry.file, "offset": entry.offset, "length": entry.length}
    for key, value in places.items():
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
    """Write a graph; its initializers stay in the weight files beside it."""
    path.write_bytes(model.SerializeToString(deterministic=True))
