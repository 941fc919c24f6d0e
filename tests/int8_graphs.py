"""INT8 graphs for an exported bundle, in the canonical form, with scales of the known clips."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from ffn_edge.bundle.bundle import MANIFEST, Bundle, Quantized, file_record
from ffn_edge.bundle.known_answer import deviation, known_clips, known_logits

_MOVES = {"Split", "Slice", "Pad", "Concat"}
_TINY = np.finfo(np.float32).tiny


def quantized(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle, with an INT8 graph for each frame count."""
    copy = dataclasses.replace(bundle, path=shutil.copytree(bundle.path, folder))
    manifest = bundle.manifest
    subs, files = dict(manifest.sub_networks), dict(manifest.files)
    for frames, sub in subs.items():
        path = folder / f"graph_{frames}.int8.onnx"
        path.write_bytes(int8_graph(copy, frames))
        logits = _run(path, known_clips(manifest.input, frames))
        int8 = Quantized(
            graph=path.name,
            method="maximum",
            calibrated_on=2,
            agreement=1.0,
            compared_on=2,
            deviation=deviation(np.stack(logits), known_logits(bundle.tensors(), frames)),
            in_float32={},
        )
        subs[frames] = dataclasses.replace(sub, int8=int8)
        files[path.name] = file_record(path)
    text = dataclasses.replace(manifest, sub_networks=subs, files=files).to_json()
    (folder / MANIFEST).write_text(text)
    return Bundle.load(folder)


def int8_graph(bundle: Bundle, frames: int) -> bytes:
    """Return the INT8 graph of a frame count."""
    model = onnx.load_model_from_string(bundle.read_graph(frames))
    return _Graph(model, bundle, frames).quantize().SerializeToString(deterministic=True)


def _run(path: Path, clips: np.ndarray, *outputs: str) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    # As it is written: ONNX Runtime's own fusions leave out some of the roundings.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    runs = [session.run(["logits", *outputs], {"frames": clip}) for clip in clips]
    if not outputs:
        return [run[0] for run in runs]
    return [np.concatenate([run[1 + i] for run in runs]) for i in range(len(outputs))]


@dataclass
class _Graph:
    """A graph that is being quantised."""

    model: onnx.ModelProto
    bundle: Bundle
    frames: int

    def quantize(self) -> onnx.ModelProto:
        """Quantise all convolutions but the first, and those of a single pixel (gates)."""
        graph = self.model.graph
        self.shapes = {
            each.name: [d.dim_value for d in each.type.tensor_type.shape.dim]
            for each in onnx.shape_inference.infer_shapes(self.model).graph.value_info
        }
        self.makes = {name: node for node in graph.node for name in node.output}
        self.added: dict[str, onnx.TensorProto] = {}
        self.done: dict[str, str] = {}  # float tensor -> its INT8 one
        self.nodes: list[onnx.NodeProto] = []
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        chosen = [c for c in convolutions[1:] if max(self.shapes[c.input[0]][2:]) > 1]
        makes = {c.output[0] for c in chosen}
        sums = [n for n in graph.node if n.op_type == "Add" and makes.intersection(n.input)]
        sums = [n for n in sums if all(name in self.makes for name in n.input)]
        self.scales = self._measure({name for n in (*chosen, *sums) for name in n.input})
        for node in list(graph.node):
            if node in chosen:
                node.input[0] = self._dequantized(node.input[0])
                node.input[1] = self._weight(node.input[1])
            elif node in sums:
                node.input[:] = [self._dequantized(name) for name in node.input]
            self.nodes.append(node)
        del graph.node[:]
        graph.node.extend(self._live())
        graph.initializer.extend(self.added.values())
        read = {name for node in graph.node for name in node.input}
        kept = [each for each in graph.initializer if each.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model

    def _live(self) -> list[onnx.NodeProto]:
        read, live = {"logits"}, []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(node.input)
                live.append(node)
        return live[::-1]

    def _source(self, name: str) -> str:
        """Return the tensor that is moved to become another, if it is but one."""
        node = self.makes.get(name)
        if node is None or node.op_type not in _MOVES:
            return name
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        sources = {self._source(each) for each in moved}
        return sources.pop() if len(sources) == 1 else name

    def _measure(self, names: set[str]) -> dict[str, float]:
        sources = sorted({self._source(name) for name in names if name in self.makes})
        sources = [each for each in sources if each in self.shapes]
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for name in sources:
            model.graph.output.append(
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        path = self.bundle.path / f"measured_{self.frames}.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            clips = known_clips(self.bundle.manifest.input, self.frames)
            values = _run(path, clips, *sources)
        finally:
            path.unlink()
        return {
            name: float(np.abs(value).max()) / 127
            for name, value in zip(sources, values, strict=True)
        }

    def _constant(self, name: str, value: np.ndarray) -> str:
        return self.added.setdefault(name, numpy_helper.from_array(value, name)).name

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _quantized(self, name: str) -> str:
        """Return the INT8 tensor: quantised once, and then moved as the float one was."""
        if name in self.done:
            return self.done[name]
        source = self._source(name)
        if source == name:
            scale = self._constant(f"{name}.scale", np.float32(max(self.scales[name], 1e-6)))
            zero = self._constant("zero_point", np.int8(0))
            self.done[name] = self._node("QuantizeLinear", [name, scale, zero], f"{name}.int8")
            return self.done[name]
        node = self.makes[name]
        every = node.op_type == "Concat"
        moved = [self._quantized(each) for each in (node.input if every else node.input[:1])]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = moved if every else moved + list(node.input[1:])
        if node.op_type == "Pad":
            del copy.input[2:]  # of zeros
        copy.output[:] = [f"{each}.int8" for each in node.output]
        self.done |= dict(zip(node.output, copy.output, strict=True))
        self.nodes.append(copy)
        return self.done[name]

    def _dequantized(self, name: str) -> str:
        tensor = self._quantized(name)
        output = f"{tensor}.{len(self.nodes)}"
        scale = f"{self._source(name)}.scale"
        return self._node("DequantizeLinear", [tensor, scale, "zero_point"], output)

    def _weight(self, name: str) -> str:
        """Quantise a composed weight by its own largest values, a scale for each channel."""
        if name in self.done:  # several convolutions share it
            return self.done[name]
        channels, *others = self._weight_shape(name)
        axes = self._constant(f"axes.{len(others)}", np.arange(1, len(others) + 1))
        tiny = self._constant("tiny", np.float32(_TINY))
        step = self._constant("step", np.float32(1) / np.float32(127))
        zeros = self._constant(f"zero_points.{channels}", np.zeros(channels, np.int8))
        magnitude = self._node("Abs", [name], f"{name}.abs")
        largest = self._node("ReduceMax", [magnitude, axes], f"{name}.max", keepdims=0)
        safe = self._node("Max", [largest, tiny], f"{name}.safe")
        scale = self._node("Mul", [safe, step], f"{name}.scale")
        values = self._node("QuantizeLinear", [name, scale, zeros], f"{name}.int8", axis=0)
        self.done[name] = self._node(
            "DequantizeLinear", [values, scale, zeros], f"{name}.rounded", axis=0
        )
        return self.done[name]

    def _weight_shape(self, name: str) -> list[int]:
        while name in self.makes:
            name = self.makes[name].input[0]
        return next(list(i.dims) for i in self.model.graph.initializer if i.name == name)
