"""What the benchmarks of exported networks share: a network, its bundle, plain models of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle, Quantized
from ffn_edge.bundle.compose import compose
from ffn_edge.bundle.known_answer import deviation, known_clips, known_logits
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.composed_graph import plain_graph
from ffn_edge.export.graph_session import GraphSession
from ffn_edge.export.int8_graph import place, quantized_graph, scales_of_step
from ffn_edge.export.ranges import Ranges
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

CLASSES = 174  # of Something-Something


def example_network(architecture: str, *, causal: bool = False) -> FrameFlexibleNetwork:
    """Build a network with random weights; neither speed nor size depends on the values."""
    torch.manual_seed(0)
    return network.build(architecture, CLASSES, causal=causal).eval()


def example_bundle(
    model: FrameFlexibleNetwork, size: int, folder: Path, weights_dtype: str = "fp32"
) -> Bundle:
    """Export `model` for frames of `size` pixels."""
    card = ModelCard(
        classes=tuple(f"class {i}" for i in range(CLASSES)), size=size, short_side=size * 8 // 7
    )
    return export_bundle(model, card, folder, weights_dtype=weights_dtype)


def plain_model(bundle: Bundle, frames: int, path: Path) -> Path:
    """Write one frame count as an ordinary ONNX model: weights composed, and inside the file."""
    graph = onnx.load(str(bundle.graph_path(frames)), load_external_data=False)
    tensors = bundle.tensors()
    composed = dict(compose(tensors, bundle.manifest.layers, frames))
    path.write_bytes(plain_graph(graph, tensors, composed).SerializeToString())
    return path


def quantized(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle and quantise it on the known clips, whatever that costs in accuracy."""
    copy = dataclasses.replace(bundle, path=Path(shutil.copytree(bundle.path, folder)))
    tensors = bundle.tensors()
    found, graphs = {}, {}
    for frames in bundle.manifest.frame_counts:
        model = onnx.load_model_from_string(bundle.read_graph(frames))
        placement = place(model)
        session = GraphSession(bundle.read_graph(frames), tensors, placement.tensors)
        ranges, clips = Ranges(), known_clips(bundle.manifest.input, frames)
        for clip in clips:
            values = session.run(clip)[1:]
            ranges.add(dict(zip(placement.tensors, values, strict=True)))
        scales = ranges.scales("max")
        graph = quantized_graph(model, placement, scales)
        graphs[frames] = [graph.SerializeToString(deterministic=True)]
        if bundle.manifest.causal:
            step = onnx.load_model_from_string(bundle.read_graph(frames, step=True))
            placed = place(step)
            step = quantized_graph(step, placed, scales_of_step(placed, placement, scales))
            graphs[frames].append(step.SerializeToString(deterministic=True))
        session = GraphSession(graphs[frames][0], tensors)
        logits = np.stack([session.run(clip)[0] for clip in clips])
        found[frames] = Quantized(
            graph="",
            method="max",
            calibrated_on=len(clips),
            agreement=1.0,
            compared_on=len(clips),
            deviation=deviation(logits, known_logits(tensors, frames)),
            in_float32=placement.in_float32,
        )
    return add_int8(copy, found, graphs)
