"""The deployable bundle: a folder of plain files. Manifest, load, check. NumPy only.

    manifest.json        this module's `Manifest`
    weights.safetensors  every shared tensor once, `frames/<T>/<layer>.{s_in,s_out,bias}` per T
    graph_<T>.onnx       a complete ONNX model; its tensors are external data in the weight file

A frame count that was added or replaced since the bundle was exported lies beside them:

    frames_<T>.safetensors  its `frames/<T>/…`, which go before those in the weight file
    graph_<T>.onnx          its graph, whose tensors are external data in both files

Nothing in a bundle can run code when it is loaded: JSON, safetensors and ONNX only. A bundle may
come from a stranger: `Manifest` checks every value, `WeightFile` every place, `graph_check` every
graph. And it may change while it is in use: its files are read, never mapped, and a file that is
cut short is an error and not the end of the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.compose import Array, FreshTensors, blocks
from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.frames import check_frame_counts
from ffn_edge.graph_check import MOST_BYTES as MOST_GRAPH_BYTES
from ffn_edge.graph_check import check_graph
from ffn_edge.versioned_json import read_versioned

# A bundle as it is exported. One with vector files is of the next version: a release that does not
# know them would compose its weights from the wrong vectors, and must refuse it.
SCHEMA_VERSION = 1
SCHEMA_VERSION_WITH_VECTORS = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"

_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
_BLOCK = 1 << 18  # values that are converted at once
_EXPORT_AGAIN = "export the bundle again with `ffn-edge export`, or copy it again."
_RENAME = "copy a new bundle beside the one in use, and rename it into place."
# Of a manifest, and of a weight file's header: a hundred times those of large networks.
_MOST_TEXT_BYTES = 16 << 20
# A clip of 64 frames of 1080p has 400 MB.
_MOST_CLIP_BYTES = 1 << 30
_MOST_SHORT_SIDE = 8192
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAMES = "use up to 100 letters, digits, '_', '-' and '.', and begin with a letter."


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
        except FfnEdgeError as error:
            raise BundleError(f"{where} is damaged: {error.message}", _EXPORT_AGAIN) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{where} is damaged: {type(error).__name__}: {error}", _EXPORT_AGAIN
            ) from error

    @classmethod
    def _from_fields(cls, raw: Mapping[str, Any]) -> Manifest:
        contract = raw["input"]
        sub_networks = {
            int(frames): SubNetwork(
                graph=_text(sub["graph"]),
                composed_sha256=_text(sub["composed_sha256"]),
                macs=_whole(sub["macs"], "macs"),
                accuracy=_accuracy(sub["accuracy"]) if sub.get("accuracy") else None,
                vectors=_text(sub["vectors"]) if sub.get("vectors") else None,
            )
            for frames, sub in raw["sub_networks"].items()
        }
        return cls(
            schema_version=raw["schema_version"],
            producer=_text(raw["producer"]),
            architecture=_text(raw["architecture"]),
            classes=_texts(raw["classes"]),
            frame_counts=check_frame_counts(raw["frame_counts"]),
            weights_dtype=_text(raw["weights_dtype"]),
            input=InputContract(
                batch=_whole(contract["batch"], "batch", least=1),
                height=_whole(contract["height"], "height", least=1),
                width=_whole(contract["width"], "width", least=1),
                short_side=_whole(contract["short_side"], "short_side", least=1),
                mean=_numbers(contract["mean"], "mean"),
                std=_numbers(contract["std"], "std"),
            ),
            sub_networks=sub_networks,
            layers=_texts(raw["layers"]),
            unfolded=_texts(raw["unfolded"]),
            files={name: _record(fields) for name, fields in raw["files"].items()},
        )

    def __post_init__(self) -> None:
        """Raise a BundleError unless names are plain and sizes are those of a clip.

        A manifest must not make us read, hash, open or write a file elsewhere on the machine: its
        names become names of files, here and in the cache of plans.
        """
        if not _PLAIN_NAME.fullmatch(self.architecture):
            raise BundleError(f"{self.architecture!r:.50} is not an architecture's name", _NAMES)
        for name in self.files:
            if not _PLAIN_NAME.fullmatch(name) or name.casefold() == MANIFEST:
                raise BundleError(f"{name!r:.50} is not the name of a file in the bundle", _NAMES)
        if set(self.sub_networks) != set(self.frame_counts):
            raise BundleError("frame_counts and sub_networks differ", _EXPORT_AGAIN)
        subs = self.sub_networks.values()
        vectors = [sub.vectors for sub in subs if sub.vectors]
        for name in (WEIGHTS, *(sub.graph for sub in subs), *vectors):
            if name not in self.files:
                raise BundleError(f"no record of {name}", _EXPORT_AGAIN)
        for sub in subs:
            if self.files[sub.graph].bytes > MOST_GRAPH_BYTES:  # before it is hashed
                raise BundleError(f"{sub.graph} is larger than a graph can be", _EXPORT_AGAIN)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise BundleError("the classes are none, or one is there twice", _EXPORT_AGAIN)
        if self.weights_dtype not in ("float32", "float16"):
            raise BundleError(f"there are no weights of {self.weights_dtype}", _EXPORT_AGAIN)
        contract = self.input
        frame = contract.batch * contract.height * contract.width * 3
        if max(self.frame_counts) * frame > _MOST_CLIP_BYTES:
            raise BundleError(
                f"a clip of {max(self.frame_counts)} frames has more than {_MOST_CLIP_BYTES} bytes",
                "export for smaller frames, fewer of them, or a smaller batch.",
            )
        if not max(contract.height, contract.width) <= contract.short_side <= _MOST_SHORT_SIDE:
            raise BundleError(
                f"frames of short_side {contract.short_side} have no "
                f"{contract.width}x{contract.height} pixels to cut out",
                _EXPORT_AGAIN,
            )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is not a text")
    value.encode()  # a lone surrogate could not be written anywhere
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.50} is not a list of texts")
    return tuple(map(_text, values))


def _whole(value: object, what: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise ValueError(f"{what} is {value!r:.50}, not a whole number from {least} on")
    return value


def _number(value: object, what: str, most: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
        raise ValueError(f"{what} is {value!r:.50}, not a number up to {most:g}")
    return float(value)


def _numbers(values: object, what: str) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3:
        raise TypeError(f"{what} is {values!r:.50}, not a list of three numbers")
    return tuple(_number(value, what) for value in values)


def _record(fields: Mapping[str, Any]) -> FileRecord:
    found = FileRecord(**fields)
    _whole(found.bytes, "bytes")
    return found


def _accuracy(fields: Mapping[str, Any]) -> Accuracy:
    found = Accuracy(**fields)
    for name in ("top1", "top5"):
        if _number(getattr(found, name), name, most=1) < 0:
            raise ValueError(f"{name} is below 0")
    _whole(found.clips, "clips")
    return found


class WeightFile(FreshTensors):
    """The tensors of a bundle by name, each read when it is asked for.

    The files stay open: who renames others into their place does not change what is read here.

    Attributes:
        entries: where each tensor lies.
    """

    def __init__(self, path: Path, vectors: Mapping[int, Path] | None = None) -> None:
        """Open the files.

        Args:
            path: the weight file.
            vectors: by frame count, the file that holds its tensors in place of the weight file.

        Raises:
            BundleError: a file is not a whole safetensors file, or one of `vectors` holds more
                than its frame count's.
        """
        opened = _OpenFile(path)
        self.entries = _read_entries(opened)
        self._files = dict.fromkeys(self.entries, opened)
        for frames, file in (vectors or {}).items():
            own = f"frames/{frames}/"
            opened = _OpenFile(file)
            entries = _read_entries(opened)
            for name in entries:
                if not name.startswith(own):  # it would change what other frame counts compute
                    raise BundleError(
                        f"{file} holds {name}, which is not of {frames} frames", _EXPORT_AGAIN
                    )
            for name in [name for name in self.entries if name.startswith(own)]:
                del self.entries[name]
            self.entries.update(entries)
            self._files.update(dict.fromkeys(entries, opened))

    def __getitem__(self, name: str) -> Array:
        """Read a tensor; the array is the caller's own.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        entry = self.entries[name]
        tensor = np.empty(entry.shape, self._dtype(name))
        self._files[name].read_into(tensor, entry.offset)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self.entries[name].shape

    def float32(self, name: str) -> Array:
        """Read a tensor as float32. One of another type is never whole in memory besides.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        dtype = self._dtype(name)
        if dtype == np.float32:
            return self[name]
        entry = self.entries[name]
        tensor = np.empty(entry.shape, np.float32)
        buffer = np.empty(min(tensor.size, _BLOCK), dtype)
        offset = entry.offset
        for block in blocks(tensor, _BLOCK):
            stored = buffer[: block.size]
            self._files[name].read_into(stored, offset)
            block[...] = stored
            offset += stored.nbytes
        return tensor

    def _dtype(self, name: str) -> npt.DTypeLike:
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise BundleError(
                f"{name} in {entry.file} is {entry.dtype}, which a bundle does not hold",
                _EXPORT_AGAIN,
            )
        return _DTYPES[entry.dtype]


class _OpenFile:
    """A file that is read at places of its own; it closes with the last reference."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._opened = self._state()

    def size(self) -> int:
        """Return how many bytes it has now."""
        return self._state()[0]

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def read_into(self, array: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from `offset` on.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        rest = memoryview(array.reshape(-1).view(np.uint8).data)
        while rest:
            try:
                count = os.preadv(self._descriptor, [rest], offset)
            except OSError as error:
                raise BundleError(
                    f"{self.path} cannot be read: {error.strerror}", _EXPORT_AGAIN
                ) from error
            if count == 0:
                break
            rest = rest[count:]
            offset += count
        if rest or self._state() != self._opened:
            raise BundleError(f"{self.path} was altered while in use", _RENAME)


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
    return _read_entries(_OpenFile(path))


def _read_entries(file: _OpenFile) -> dict[str, TensorEntry]:
    size = file.size()
    try:
        if size < 8:
            raise ValueError("it has no header")
        start = np.empty(1, "<u8")
        file.read_into(start, 0)
        length = int(start[0])
        if length > min(size - 8, _MOST_TEXT_BYTES):
            raise ValueError(f"its header would have {length} bytes")
        text = np.empty(length, np.uint8)
        file.read_into(text, 8)
        header = json.loads(text.tobytes())
        header.pop("__metadata__", None)
        entries = {name: _entry(file.path.name, item, 8 + length) for name, item in header.items()}
        end = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
            if not end <= entry.offset <= entry.offset + entry.length <= size:
                raise ValueError(f"{name} does not lie within the file, or in another tensor")
            end = entry.offset + entry.length
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{file.path} is not a whole safetensors file: {error}", _EXPORT_AGAIN
        ) from error
    return entries


def _entry(file: str, item: Mapping[str, Any], start: int) -> TensorEntry:
    """Read one tensor of a header; offsets count from `start`."""
    shape = tuple(_whole(each, "an axis") for each in item["shape"])
    first, last = (_whole(each, "an offset") for each in item["data_offsets"])
    dtype = str(item["dtype"])
    if dtype in _DTYPES and last - first != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise ValueError(f"{last - first} bytes are no {dtype} of {shape}")
    return TensorEntry(file, dtype, shape, start + first, last - first)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on the disk. `Bundle.load` is the way in; it has been checked."""

    path: Path
    manifest: Manifest
    identity: str
    """sha256 of manifest.json, which names the hash of every other file."""

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Open the bundle in folder `path` and check each file's size and sha256, and each graph.

        Raises:
            BundleError: no such folder, an unknown schema version, a file that is missing,
                truncated or altered, a graph that a bundle may not hold.
        """
        folder = Path(path)
        try:
            content = _read_small(folder / MANIFEST, _MOST_TEXT_BYTES)
            text = content.decode()
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{folder} is not a bundle: cannot read {MANIFEST}",
                "name the folder that `ffn-edge export` wrote.",
            ) from error
        manifest = Manifest.from_json(text, str(folder / MANIFEST))
        # A file may be a link, as in stores that share files between bundles: what it leads to
        # has the hash of the manifest, and is opened here alone and not by a library's own rules.
        for name, record in manifest.files.items():
            check_file(folder / name, record)
        bundle = cls(folder, manifest, hashlib.sha256(content).hexdigest())
        bundle.check_graphs()
        return bundle

    def check_graphs(self) -> None:
        """Raise a BundleError unless every graph is one that a bundle may hold."""
        entries = self.tensors().entries
        for frames in self.manifest.frame_counts:
            check_graph(
                self.read_graph(frames),
                self.graph_path(frames),
                frames=frames,
                manifest=self.manifest,
                entries=entries,
            )

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

    def read_graph(self, frames: int) -> bytes:
        """Return the bytes of an ONNX model: those that were checked when the bundle was loaded.

        Raises:
            BundleError: the bundle has no such sub-network, or the file was altered since.
        """
        path = self.graph_path(frames)
        try:
            content = _read_small(path, MOST_GRAPH_BYTES)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {error}", _EXPORT_AGAIN) from error
        if hashlib.sha256(content).hexdigest() != self.manifest.files[path.name].sha256:
            raise BundleError(f"{path} was altered while in use", _RENAME)
        return content

    def tensors(self) -> WeightFile:
        """Return the tensors of all weight files."""
        vectors = {
            frames: self.path / sub.vectors
            for frames, sub in self.manifest.sub_networks.items()
            if sub.vectors
        }
        return WeightFile(self.path / WEIGHTS, vectors)


def _read_small(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or something else, such as a pipe.
    """
    if not path.is_file():
        raise ValueError("it is not a file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content


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
