"""Shared weights and modulation -> the weights of one frame count, bit for bit.

    W_T[o, i, ...] = W[o, i, ...] · s_in_T[i] · s_out_T[o]

Only element-wise products in float32, in one fixed order, so every machine and every
library gives the same bits: TensorRT refits identical weights, and a hash proves it.
NumPy only: this runs on the device.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

# The three vectors that a frame count may own in a layer. Any of them may be absent (s = 1).
# They are stored ready to broadcast: for a convolution s_in is (1, I, 1, 1), s_out (O, 1, 1, 1).
S_IN = "s_in"
S_OUT = "s_out"
BIAS = "bias"


class FreshTensors(Mapping[str, Array]):
    """Tensors by name, read anew each time: every array belongs to the caller, who may change it.

    So a layer is composed in the array that it was read into, and never held twice.
    """

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""

    @abstractmethod
    def float32(self, name: str) -> Array:
        """Read a tensor as float32, whatever it is stored as."""


def vector_name(frames: int, layer: str, vector: str) -> str:
    """Return the name in the weight file of one layer's vector for one frame count."""
    return f"frames/{frames}/{layer}.{vector}"


def modulate(weight: Array, s_in: Array | None, s_out: Array | None) -> Array:
    """Return weight · s_in · s_out, in the order of the graph's two Mul nodes.

    Args:
        weight: float32, (O, I, ...). It is multiplied in place: a large layer is never held twice.
        s_in: float32, broadcastable to the weight's input channels.
        s_out: float32, broadcastable to the weight's output channels.
    """
    for scale in (s_in, s_out):
        if scale is not None:
            np.multiply(weight, scale.astype(np.float32, copy=False), out=weight)
    return weight


def _own_float32(tensors: Mapping[str, Array], name: str) -> Array:
    """Return a tensor as a float32 array that no one else holds."""
    if isinstance(tensors, FreshTensors):
        return tensors.float32(name)
    return tensors[name].astype(np.float32)


def compose(
    tensors: Mapping[str, Array], layers: Iterable[str], frames: int
) -> Iterator[tuple[str, Array]]:
    """Yield every weight of the sub-network for `frames`, layer by layer.

    A layer yields `LAYER.weight`, composed, float32, and then `LAYER.bias` where it has one.
    One layer at a time, so host memory never holds a second whole model.

    Args:
        tensors: by name, from the weight file; they are left as they are.
        layers: the modulated layers, from the manifest.
        frames: a frame count of the bundle.
    """
    for layer in layers:
        s_in, s_out = (
            tensors[name] if (name := vector_name(frames, layer, vector)) in tensors else None
            for vector in (S_IN, S_OUT)
        )
        name = f"{layer}.weight"
        yield name, modulate(_own_float32(tensors, name), s_in, s_out)
        bias = _bias_name(tensors, layer, frames)
        if bias is not None:
            yield f"{layer}.bias", _own_float32(tensors, bias)


def composed_shapes(
    tensors: Mapping[str, Array], layers: Iterable[str], frames: int
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of what `compose` yields, in its order, and compose nothing."""
    shapes = {}
    for layer in layers:
        shapes[f"{layer}.weight"] = _shape(tensors, f"{layer}.weight")
        bias = _bias_name(tensors, layer, frames)
        if bias is not None:
            shapes[f"{layer}.bias"] = _shape(tensors, bias)
    return shapes


def check_layers(shapes: Mapping[str, tuple[int, ...]], layers: Sequence[str], frames: int) -> None:
    """Raise a ValueError unless tensors of these shapes by name can be composed for `frames`."""
    if len(set(layers)) < len(layers):
        raise ValueError("a layer is there twice")
    for layer in layers:
        weight = shapes.get(f"{layer}.weight")
        if weight is None:
            raise ValueError(f"the layer {layer} has no weight")
        for vector in (S_IN, S_OUT):
            scale = shapes.get(vector_name(frames, layer, vector), ())
            if np.broadcast_shapes(weight, scale) != weight:
                raise ValueError(f"{vector} of the layer {layer} does not fit its weight")


def _shape(tensors: Mapping[str, Array], name: str) -> tuple[int, ...]:
    return tensors.shape(name) if isinstance(tensors, FreshTensors) else tensors[name].shape


def _bias_name(tensors: Mapping[str, Array], layer: str, frames: int) -> str | None:
    """Return where a layer's bias is stored: a frame count's own goes before the shared one."""
    names = (vector_name(frames, layer, BIAS), f"{layer}.bias")
    return next((name for name in names if name in tensors), None)


def blocks(array: Array, size: int = 1 << 18) -> Iterator[Array]:
    """Yield the values of a contiguous array in flat pieces of at most `size`.

    What converts or copies a large layer piece by piece needs no second copy of it.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, size):
        yield flat[start : start + size]


class ComposedHash:
    """The hash of composed weights: names, types, shapes and bytes, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, array: Array) -> None:
        """Add one weight."""
        self._digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        self._digest.update(np.ascontiguousarray(array).data)

    def hexdigest(self) -> str:
        """Return the hash of all that was added."""
        return self._digest.hexdigest()


def composed_sha256(composed: Iterable[tuple[str, Array]]) -> str:
    """Return the hash of composed weights, as the manifest holds it."""
    digest = ComposedHash()
    for name, array in composed:
        digest.update(name, array)
    return digest.hexdigest()
