"""What a stream's state stands for, whatever an engine keeps it in: float32 values.

Engines of other rates and precisions keep the same values: at a change of rate the one takes them
over from the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Of a stream: what one step gives as NEXT0, the following one takes as STATE0.
STATE, NEXT = "state_", "next_"
# Of each temporal shift, float32, in the order of a graph's inputs.
State = tuple[npt.NDArray[np.float32], ...]
_MOVES = {"Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split"}
_MOVES |= {"NhwcMaxPool", "Squeeze", "Transpose", "Unsqueeze"}


class Stored(NamedTuple):
    """How values are kept: value = scale · (number − zero_point)."""

    scale: float = 1.0
    zero_point: int = 0

    def values(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the values that numbers stand for."""
        values: npt.NDArray[np.float32] = numbers.astype(np.float32)
        return (values - np.float32(self.zero_point)) * np.float32(self.scale)

    def numbers(self, values: npt.NDArray[np.float32], like: npt.NDArray[Any]) -> Any:
        """Return the numbers for values, in the type and shape of others."""
        if np.issubdtype(like.dtype, np.floating):
            return values.astype(like.dtype)
        limits = np.iinfo(like.dtype)
        numbers = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.clip(numbers, limits.min, limits.max).astype(like.dtype)


def stored_states(content: bytes) -> dict[str, Stored]:
    """Return how a graph of steps keeps each state, by the name of its input.

    Args:
        content: an ONNX model, as a bundle has it or as ONNX Runtime takes it.
    """
    import onnx

    graph = onnx.load_model_from_string(content).graph
    stored = {each.name: each for each in graph.initializer}
    found = {}
    for state, node in kept_by(graph).items():
        found[state] = Stored()
        if node is not None and node.op_type == "QuantizeLinear":
            scale, zero = (onnx.numpy_helper.to_array(stored[name]) for name in node.input[1:3])
            found[state] = Stored(float(scale), int(zero))
    return found


def kept_by(graph: Any) -> dict[str, Any]:
    """Return for each state of a graph of steps the node that computes what it keeps.

    None where that is no node's.
    """
    makes = {name: node for node in graph.node for name in node.output}
    found = {}
    for state in (each.name for each in graph.input if each.name.startswith(STATE)):
        node = makes.get(state.replace(STATE, NEXT))
        while node is not None and node.op_type in _MOVES:
            node = makes.get(node.input[0])
        found[state] = node
    return found
