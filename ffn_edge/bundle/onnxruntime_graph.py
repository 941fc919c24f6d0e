"""An INT8 graph as ONNX Runtime is fastest with it, on a CPU."""

from __future__ import annotations


def for_onnxruntime(graph: bytes) -> bytes:
    """Return a bundle's INT8 graph in the form that ONNX Runtime runs in integers."""
    return graph
