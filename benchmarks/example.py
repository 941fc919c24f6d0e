"""What the benchmarks of exported networks share: a network, its bundle, plain models of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import compose
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.composed_graph import plain_graph
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

CLASSES = 174  # of Something-Something


def example_network(architecture: str) -> FrameFlexibleNetwork:
    """Build a network with random weights; neither speed nor size depends on the values."""
    torch.manual_seed(0)
    return network.build(architecture, CLASSES).eval()


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
