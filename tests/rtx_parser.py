"""What the real TensorRT-RTX parser, which needs no GPU, makes of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from ffn_edge.device.tensorrt_api import load

# The names that the parser gives to constants of its own are these, and these with a number.
_OWN = ("tmp_weight", "tmp_batch_norm_weight")
_MOST_OWN = 2000


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed network: its number of layers, and the names that a refit may ask for."""

    layers: int
    refittable: frozenset[str]


def parse(graph: Path) -> Parsed:
    """Parse a graph into a strongly typed network."""
    api = load("rtx")
    trt = api.module
    builder = trt.Builder(api.log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, api.log)
    assert parser.parse_from_file(str(graph)), api.errors()
    model = onnx.load(str(graph), load_external_data=False)
    names = {each.name for each in model.graph.initializer}
    names.update(name for node in model.graph.node for name in node.output)
    for own in _OWN:
        names.update((own, *(f"{own}_{number}" for number in range(_MOST_OWN))))
    # There is no list of them, but a mark is taken for such a name alone.
    refittable = frozenset(name for name in names if network.mark_weights_refittable(name))
    api.errors()
    return Parsed(network.num_layers, refittable)
