"""The deployable bundle: a folder of plain files. Manifest, load, check. NumPy only.

    manifest.json        this module's `Manifest`
    weights.safetensors  every shared tensor once, `frames/<T>/<layer>.{s_in,s_out,bias}` per T
    graph_<T>.onnx       a complete ONNX model; its tensors are external data in the weight file

A frame count that was added or replaced since the bundle was exported lies beside them:

    frames_<T>.safetensors  its `frames/<T>/…`, which go before those in the weight file
    graph_<T>.onnx          its graph, whose tensors are external data in both files

Nothing in a bundle can run code when it is loaded: JSON, safetensors and ONNX only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.compose import Array
from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.frames import check_frame_counts
from ffn_edge.versioned_json import read_versioned

# A bundle as it is exported. One with vector files is of the next version: a release that does not
# know them would compose its weights from the wrong vectors, and must refuse it.
SCHEMA_VERSION = 1
SCHEMA_VERSION_WITH_VECTORS = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"

_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
_EXPORT_AGAIN = "export the bundle again with `ffn-edge export`, or copy it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """What the graphs take: `frames`, uint8 (batch, T, height, width, 3), RGB.

    The graph itself casts, normalises with `mean` and `std` (of values in [0, 1]) and
    transposes. A frame is prepared by scaling its short side to `short_side` pixels and
    cropping the centre.
    """

    batch: int
    height: int
    width: int
    short_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Measured at export's source: fractions in [0, 1] over `clips` validation clips."""

    top1: float
    top5: float
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubNetwork:
    """One frame count: its graph, the hash of its composed weights, its cost for one clip.

    `vectors` is the file of its tensors where that is not the weight file.
    """

    graph: str
    composed_sha256: str
    macs: int
    accuracy: Accuracy | None = None
    vectors: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a file of the bundle must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a bundle says of itself.

    `layers` are the layers whose weights are composed, in the graph's order. `unfolded` are the
    layers that keep a per-frame-count operation in the graph, because no linear layer next to
    them could take it up.
    """

    schema_version: int = SCHEMA_VERSION
    producer: str
    architecture: str
    classes: tuple[str, ...]
    frame_counts: tuple[int, ...]
    weights_dtype: str
    input: InputContract
    sub_networks: dict[int, SubNetwork]
    layers: tuple[str, ...]
    unfolded: tuple[str, ...]
    files: dict[str, FileRecord]

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST) -> Manifest:
        """Read the text of a `manifest.json`.

        Raises:
            BundleError: not JSON, a schema version that this release does not know, a field
                that is missing or of another kind.
        """
        raw = read_versioned(
            text,
            (SCHEMA_VERSION, SCHEMA_VERSION_WITH_VECTORS),
            where=where,
            kind="a bundle's manifest",
            hint=_EXPORT_AGAIN,
            hint_for_others="update ffn-edge on this machine, or export the bundle again with "
            "this release.",
            error=BundleError,
        )
        try:
            return cls._from_fields(raw)
        except (KeyError, TypeError, ValueError, AttributeError, FfnEdgeError) as error:
            raise BundleError(
                f"{where} is damaged: {type(error).__name__}: {error}", _EXPORT_AGAIN
            ) from error

    @classmethod
    def _from_fields(cls, raw: Mapping[str, Any]) -> Manifest:
        contract = raw["input"]
        sub_networks = {
            int(frames): SubNetwork(
                graph=str(sub["graph"]),
                composed_sha256=str(sub["composed_sha256"]),
                macs=int(sub["macs"]),
                accuracy=Accuracy(**sub["accuracy"]) if sub.get("accuracy") else None,
                vectors=str(sub["vectors"]) if sub.get("vectors") else None,
            )
            for frames, sub in raw["sub_networks"].items()
        }
        frame_counts = check_frame_counts(raw["frame_counts"])
        files = {str(name): FileRecord(**record) for name, record in raw["files"].items()}
        if set(sub_networks) != set(frame_counts):
            raise ValueError("frame_counts and sub_networks differ")
        graphs = (sub.graph for sub in sub_networks.values())
        vectors = (sub.vectors for sub in sub_networks.values() if sub.vectors)
        for name in (WEIGHTS, *graphs, *vectors):
            if name not in files:
                raise ValueError(f"no record of {name}")
        for name in files:
            # A manifest must not make us read, hash or open a file elsewhere on the machine.
            if Path(name).name != name or name == "..":
                raise ValueError(f"{name!r} is not the name of a file in the bundle")
        return cls(
            schema_version=raw["schema_version"],
            producer=str(raw["producer"]),
            architecture=str(raw["architecture"]),
            classes=tuple(map(str, raw["classes"])),
            frame_counts=frame_counts,
            weights_dtype=str(raw["weights_dtype"]),
            input=InputContract(
                batch=int(contract["batch"]),
                height=int(contract["height"]),
                width=int(contract["width"]),
                short_side=int(contract["short_side"]),
                mean=tuple(map(float, contract["mean"])),
                std=tuple(map(float, contract["std"])),
            ),
            sub_networks=sub_networks,
            layers=tuple(map(str, raw["layers"])),
            unfolded=tuple(map(str, raw["unfolded"])),
            files=files,
        )


class WeightFile(Mapping[str, Array]):
    """The tensors of a bundle by name, memory-mapped: a tensor is read when touched."""

    def __init__(self, path: Path, vectors: Mapping[int, Path] | None = None) -> None:
        """Map the files.

        Args:
            path: the weight file.
            vectors: by frame count, the file that holds its tensors in place of the weight file.

        Raises:
            BundleError: a file is not a whole safetensors file, or one of `vectors` holds more
                than its frame count's.
        """
        self._places = _map_tensors(path)
        for frames, file in (vectors or {}).items():
            own = f"frames/{frames}/"
            places = _map_tensors(file)
            for name in places:
                if not name.startswith(own):  # it would change what other frame counts compute
                    raise BundleError(
                        f"{file} holds {name}, which is not of {frames} frames", _EXPORT_AGAIN
                    )
            for name in [name for name in self._places if name.startswith(own)]:
                del self._places[name]
            self._places.update(places)

    def __getitem__(self, name: str) -> Array:
        content, entry = self._places[name]
        raw = content[entry.offset : entry.offset + entry.length]
        return raw.view(_DTYPES[entry.dtype]).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: the safetensors file's name, dtype code, shape, bytes from the start."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read where each tensor lies in a safetensors file.

    The safetensors library gives values but no offsets, and ONNX external data needs offsets:
    eight bytes of header length (little-endian), a JSON header, then the tensors.

    Raises:
        BundleError: the file is not a whole safetensors file.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {
            name: TensorEntry(
                path.name,
                item["dtype"],
                tuple(item["shape"]),
                8 + length + item["data_offsets"][0],
                item["data_offsets"][1] - item["data_offsets"][0],
            )
            for name, item in header.items()
        }
        for name, entry in entries.items():
            if not 8 + length <= entry.offset <= entry.offset + entry.length <= size:
                raise ValueError(f"{name} does not lie within the file")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BundleError(
            f"{path} is not a whole safetensors file: {error}", _EXPORT_AGAIN
        ) from error
    return entries


def _map_tensors(path: Path) -> dict[str, tuple[npt.NDArray[np.uint8], TensorEntry]]:
    """Map a safetensors file: its bytes, and where in them each tensor lies."""
    entries = read_header(path)
    with open(path, "rb") as file:
        content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    return {name: (content, entry) for name, entry in entries.items()}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on the disk. `Bundle.load` is the way in; it has been checked."""

    path: Path
    manifest: Manifest
    identity: str
    """sha256 of manifest.json, which names the hash of every other file."""

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Open the bundle in folder `path` and check each file's size and sha256.

        Raises:
            BundleError: no such folder, an unknown schema version, a file that is missing,
                truncated or altered.
        """
        folder = Path(path)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{folder} is not a bundle: cannot read {MANIFEST}",
                "name the folder that `ffn-edge export` wrote.",
            ) from error
        manifest = Manifest.from_json(text, str(folder / MANIFEST))
        for name, record in manifest.files.items():
            check_file(folder / name, record)
        return cls(folder, manifest, hashlib.sha256(text.encode()).hexdigest())

    def graph_path(self, frames: int) -> Path:
        """Return the ONNX model of the sub-network for `frames`.

        Raises:
            BundleError: the bundle has no such sub-network.
        """
        sub_network = self.manifest.sub_networks.get(frames)
        if sub_network is None:
            counts = self.manifest.frame_counts
            served = ", ".join(map(str, counts))
            wanted = ",".join(map(str, sorted((*counts, frames))))
            raise BundleError(
                f"the bundle serves {served} frames; {frames} was asked for",
                f"choose one of {served}, or export again with --frames {wanted}.",
            )
        return self.path / sub_network.graph

    def tensors(self) -> WeightFile:
        """Return the tensors of all weight files, memory-mapped."""
        vectors = {
            frames: self.path / sub.vectors
            for frames, sub in self.manifest.sub_networks.items()
            if sub.vectors
        }
        return WeightFile(self.path / WEIGHTS, vectors)


def file_record(path: Path) -> FileRecord:
    """Measure a file: its size and sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


def check_file(path: Path, expected: FileRecord) -> None:
    """Raise a BundleError unless the file at `path` is the one that was recorded."""
    if not path.is_file():
        raise BundleError(f"{path} is missing", _EXPORT_AGAIN)
    size = path.stat().st_size
    if size != expected.bytes:
        raise BundleError(
            f"{path} has {size} bytes; the manifest says {expected.bytes}", _EXPORT_AGAIN
        )
    if file_record(path).sha256 != expected.sha256:
        raise BundleError(f"{path} was altered: its sha256 is not the manifest's", _EXPORT_AGAIN)
