"""The emulator's plans: magic bytes, a JSON header, the graph, and the weights if not stripped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import uuid
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .graph import NUMPY_TYPES, Graph, Port

MAGIC = b"EMULATED TENSORRT PLAN\n"
_LENGTH = struct.Struct("<Q")


class BadPlanError(Exception):
    """A plan cannot be deserialised; the text is for the log."""


@dataclass(frozen=True)
class WeightEntry:
    """One refittable weight."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    refittable: bool
    stripped: bool

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.count * NUMPY_TYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Plan:
    """A deserialised plan.

    Attributes:
        version: of TensorRT.
        sm: what it was built for; None if it runs on any, as those of RTX do.
        identical_only: whether other weights than those it was built with are undefined.
        inputs: of the network.
        outputs: of the network.
        activation_bytes: of the largest tensor.
        layers: number of layers.
        weights: by name.
        graph: an ONNX model that takes its weights as inputs.
        values: the weights that were not stripped.
        build: told apart from every other.
    """

    version: str
    sm: tuple[int, int] | None
    identical_only: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    activation_bytes: int
    layers: int
    weights: dict[str, WeightEntry]
    graph: bytes
    values: dict[str, npt.NDArray[np.generic]]
    build: str

    @property
    def is_refittable(self) -> bool:
        """Whether a refitter can be made."""
        return any(entry.refittable for entry in self.weights.values())


def digest(data: npt.NDArray[np.generic]) -> str:
    """Return the hash by which weights are told apart."""
    return hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()


def serialize(
    graph: Graph,
    *,
    version: str,
    sm: tuple[int, int] | None,
    refittable: frozenset[str],
    stripped: frozenset[str],
    identical_only: bool,
) -> bytes:
    """Write a plan. No two are alike, as with the real builder."""
    body = [graph.model.SerializeToString()]
    entries = {}
    for name, array in graph.weights.items():
        data = np.ascontiguousarray(array)
        kind = next(k for k, v in NUMPY_TYPES.items() if v == array.dtype)
        entries[name] = WeightEntry(
            kind,
            array.shape,
            digest(data),
            refittable=name in refittable,
            stripped=name in stripped,
        )
        if name not in stripped:
            body.append(data.tobytes())
    payload = b"".join(body)
    header = {
        "version": version,
        "sm": sm,
        "identical_only": identical_only,
        "inputs": [dataclasses.astuple(port) for port in graph.inputs],
        "outputs": [dataclasses.astuple(port) for port in graph.outputs],
        "activation_bytes": graph.activation_bytes,
        "layers": len(graph.layers),
        "weights": {name: dataclasses.asdict(entry) for name, entry in entries.items()},
        "graph_bytes": len(body[0]),
        "payload_bytes": len(payload),
        "build": uuid.uuid4().hex,
    }
    text = json.dumps(header).encode()
    return b"".join((MAGIC, _LENGTH.pack(len(text)), text, payload))


def deserialize(data: memoryview, *, version: str, sm: tuple[int, int]) -> Plan:
    """Read a plan.

    Raises:
        BadPlanError: it is damaged, or not for this version of TensorRT and this GPU.
    """
    start = len(MAGIC) + _LENGTH.size
    if len(data) < start:
        raise BadPlanError("Assertion bufferSize >= minBufferSize failed.")
    if data[: len(MAGIC)] != MAGIC:
        raise BadPlanError("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
    (length,) = _LENGTH.unpack(data[len(MAGIC) : start])
    if len(data) < start + length:
        raise BadPlanError("Serialization assertion bufferSize >= header.size failed.")
    header = json.loads(bytes(data[start : start + length]))
    if header["version"] != version:
        raise BadPlanError(
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            f"library version {version} got {header['version']}, please rebuild."
        )
    if header["sm"] is not None and tuple(header["sm"]) != sm:
        raise BadPlanError(
            "The engine plan file is generated on an incompatible device, expecting compute "
            f"{sm[0]}.{sm[1]} got compute {header['sm'][0]}.{header['sm'][1]}, please rebuild."
        )
    payload = data[start + length :]
    if len(payload) != header["payload_bytes"]:
        raise BadPlanError("Serialization assertion payload.size == header.size failed.")
    weights = {
        name: WeightEntry(**{**entry, "shape": tuple(entry["shape"])})
        for name, entry in header["weights"].items()
    }
    values: dict[str, npt.NDArray[np.generic]] = {}
    at = header["graph_bytes"]
    for name, entry in weights.items():
        if not entry.stripped:
            array = np.frombuffer(payload, NUMPY_TYPES[entry.dtype], entry.count, at)
            values[name] = array.reshape(entry.shape).copy()
            at += entry.nbytes
    return Plan(
        version=version,
        sm=None if header["sm"] is None else tuple(header["sm"]),
        identical_only=header["identical_only"],
        inputs=tuple(Port(n, d, tuple(s)) for n, d, s in header["inputs"]),
        outputs=tuple(Port(n, d, tuple(s)) for n, d, s in header["outputs"]),
        activation_bytes=header["activation_bytes"],
        layers=header["layers"],
        weights=weights,
        graph=bytes(payload[: header["graph_bytes"]]),
        values=values,
        build=header["build"],
    )
