"""The deployable bundle: a folder of plain files. Manifest, load, check. NumPy only.

    manifest.json        this module's `Manifest`
    weights.safetensors  every shared tensor once, `frames/<T>/<layer>.{s_in,s_out,bias}` per T
    graph_<T>.onnx       a complete ONNX model; its tensors are external data in the weight file
    step_<T>.onnx        of a causal network, the same for the next frame of a stream

A frame count that was added or replaced since the bundle was exported lies beside them:

    frames_<T>.safetensors  its `frames/<T>/…`, which go before those in the weight file
    graph_<T>.onnx          its graph, whose tensors are external data in both files

`ffn-edge quantize` adds, and touches no other byte:

    graph_<T>.int8.onnx  the same over the same weight file, with scales to compute in INT8
    step_<T>.int8.onnx   likewise

Nothing in a bundle can run code when it is loaded: JSON, safetensors and ONNX only. A bundle may
come from a stranger: `Manifest` checks every value, `weight_file` every place, `graph_check` every
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

from ffn_edge.bundle.compose import check_layers
from ffn_edge.bundle.graph_check import MOST_BYTES as MOST_GRAPH_BYTES
from ffn_edge.bundle.graph_check import check_graph
from ffn_edge.bundle.weight_file import EXPORT_AGAIN, RENAME, WeightFile, opening
from ffn_edge.errors import BundleError, reason_of
from ffn_edge.files.regular_file import MOST_TEXT_BYTES, open_regular, read_bytes
from ffn_edge.files.schema import (
    Above0,
    Between,
    Count,
    Format,
    NotNegative,
    Positive,
    Rgb,
    RgbAbove0,
    Share,
)
from ffn_edge.frames import check_frame_counts

if TYPE_CHECKING:
    from ffn_edge.bundle.signature import PublicKey

# A bundle as it is exported. One with vector files is of the next version: a release that does not
# know them would compose its weights from the wrong vectors, and must refuse it.
SCHEMA_VERSION = 1
SCHEMA_VERSION_WITH_VECTORS = 2
MANIFEST = "manifest.json"
WeightsDtype = Literal["float32", "float16", "int8"]
# What an engine computes in. float16 is TensorRT's alone, and needs no graph of its own.
Precision = Literal["fp32", "fp16", "int8"]
# The accuracy that a precision may lose against float32; an accuracy of fewer clips says nothing
# of so little.
MOST_LOSS = 0.005
ENOUGH_CLIPS = 128
WEIGHTS = "weights.safetensors"

# A clip of 64 frames of 1080p has 400 MB.
_MOST_CLIP_BYTES = 1 << 30
MOST_SHORT_SIDE = 8192  # in pixels
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAMES = "use up to 100 letters, digits, '_', '-' and '.', and begin with a letter."


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """What the graphs take: `frames`, uint8 (batch, T, height, width, 3), RGB.

    The graph itself casts, normalises with `mean` and `std` (of values in [0, 1]) and
    transposes. A frame is prepared by scaling its short side to `short_side` pixels and
    cropping the centre. `window_s` is the seconds that a clip spanned in training, which `run`
    takes up; None where that was a whole video, however long.
    """

    batch: Positive
    height: Positive
    width: Positive
    short_side: Annotated[int, Between(1, MOST_SHORT_SIDE)]
    mean: Rgb
    std: RgbAbove0
    window_s: Above0 | None = None

    def check_streamable(self) -> None:
        """Raise a BundleError unless it takes what a stream gives: one square clip at a time."""
        if self.batch != 1 or self.height != self.width:
            raise BundleError(
                f"the bundle takes {self.batch} clips of {self.width}x{self.height} at once; "
                "a stream gives one square clip at a time",
                "export it again without --batch.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Measured at export's source: fractions in [0, 1] over `clips` validation clips.

    Differences within `standard_error` are none: the policy takes more frames to be no worse then.
    0 clips are those of an accuracy that was published without them.
    """

    top1: Share
    top5: Share
    clips: Count


def standard_error(share: float, clips: int) -> float:
    """Return the standard error of a share of so many clips: √(p(1 − p)/n)."""
    return math.sqrt(share * (1 - share) / clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """One frame count in INT8, and how near it is to float32.

    Attributes:
        graph: of the same weight file, with quantised layers.
        method: how the scales of activations were found.
        calibrated_on: so many clips.
        agreement: share of clips with the same first class as float32 has ...
        compared_on: ... of so many clips.
        accuracy: on those clips; None if they had no labels.
        accuracy_float32: of the float32 graph on the same clips.
        deviation: largest |Δlogit| of the clips that it was calibrated on and of the known answers,
            relative to the largest logit of the clip: how far INT8 itself is off.
        in_float32: layers that were left so, and why.
        step: the graph for the next frame of a stream; None of a network that is not causal.
    """

    graph: str
    method: str
    calibrated_on: Count
    agreement: Share
    compared_on: Positive
    accuracy: Accuracy | None = None
    accuracy_float32: Accuracy | None = None
    deviation: NotNegative
    in_float32: dict[str, str]
    step: str | None = None

    @property
    def loss(self) -> float | None:
        """The accuracy that it was seen to lose against float32; None without labels."""
        if self.accuracy is None or self.accuracy_float32 is None:
            return None
        return self.accuracy_float32.top1 - self.accuracy.top1

    @property
    def loss_error(self) -> float:
        """The standard error of a measured loss, at most: of the answers that changed."""
        return math.sqrt((1 - self.agreement) / self.compared_on)

    @property
    def is_accurate(self) -> bool:
        """Whether enough clips showed that it loses no more than may be lost.

        But for the rounding of two shares.
        """
        is_known = self.loss is not None and self.compared_on >= ENOUGH_CLIPS
        return is_known and (self.loss or 0.0) <= MOST_LOSS + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SubNetwork:
    """One frame count: its graph, the hash of its composed weights, its cost for one clip.

    `vectors` is the file of its tensors where that is not the weight file; `int8` is None where it
    was not quantised. `step` is its graph for the next frame of a stream, of a causal network.
    """

    graph: str
    composed_sha256: str
    macs: Count
    accuracy: Accuracy | None = None
    vectors: str | None = None
    int8: Quantized | None = None
    step: str | None = None

    def accuracy_in(self, precision: Precision) -> Accuracy | None:
        """Return the accuracy on the validation clips: in INT8, less what that was seen to lose.

        Where that was not measured, as if all answers that changed had been right before.
        """
        if self.accuracy is None or precision != "int8" or self.int8 is None:
            return self.accuracy
        loss = 1 - self.int8.agreement if self.int8.loss is None else self.int8.loss
        top1 = min(max(self.accuracy.top1 - loss, 0.0), 1.0)
        return dataclasses.replace(self.accuracy, top1=top1)

    @property
    def graphs(self) -> dict[Precision, str]:
        """The names of its graphs, by what they compute in."""
        if self.int8 is None:
            return {"fp32": self.graph}
        return {"fp32": self.graph, "int8": self.int8.graph}

    @property
    def steps(self) -> dict[Precision, str]:
        """The same of its graphs for the next frame of a stream."""
        found = {"fp32": self.step, "int8": self.int8 and self.int8.step}
        return {each: found[each] or "" for each in self.graphs if found[each]}

    @property
    def all_graphs(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (*self.graphs.values(), *self.steps.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a file of the bundle must be."""

    bytes: Count
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
    weights_dtype: WeightsDtype
    input: InputContract
    sub_networks: dict[int, SubNetwork]
    layers: tuple[str, ...]
    unfolded: tuple[str, ...]
    files: dict[str, FileRecord]

    @property
    def causal(self) -> bool:
        """Whether the network can go frame by frame along a stream."""
        return all(sub.step for sub in self.sub_networks.values())

    @property
    def quantized(self) -> dict[int, Quantized]:
        """What there is in INT8, by frame count."""
        return {t: sub.int8 for t, sub in self.sub_networks.items() if sub.int8 is not None}

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST) -> Manifest:
        """Read the text of a `manifest.json`.

        Raises:
            BundleError: not JSON, a schema version that this release does not know, a field
                that is missing or of another kind.
        """
        return _FORMAT.from_text(text, where)

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
        check_frame_counts(self.frame_counts)
        if set(self.sub_networks) != set(self.frame_counts):
            raise BundleError("frame_counts and sub_networks differ", EXPORT_AGAIN)
        subs = self.sub_networks.values()
        vectors = [sub.vectors for sub in subs if sub.vectors]
        graphs = [graph for sub in subs for graph in sub.all_graphs]
        if any(len(set(sub.all_graphs)) < len(sub.all_graphs) for sub in subs):
            raise BundleError("a graph is there for two purposes", EXPORT_AGAIN)
        for name in (WEIGHTS, *graphs, *vectors):
            if name not in self.files:
                raise BundleError(f"no record of {name}", EXPORT_AGAIN)
        for graph in graphs:
            if self.files[graph].bytes > MOST_GRAPH_BYTES:  # before it is hashed
                raise BundleError(f"{graph} is larger than a graph can be", EXPORT_AGAIN)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise BundleError("the classes are none, or one is there twice", EXPORT_AGAIN)
        contract = self.input
        frame = contract.batch * contract.height * contract.width * 3
        if max(self.frame_counts) * frame > _MOST_CLIP_BYTES:
            raise BundleError(
                f"a clip of {max(self.frame_counts)} frames has more than {_MOST_CLIP_BYTES} bytes",
                "export for smaller frames, fewer of them, or a smaller batch.",
            )
        if contract.short_side < max(contract.height, contract.width):
            raise BundleError(
                f"frames of short_side {contract.short_side} have no "
                f"{contract.width}x{contract.height} pixels to cut out",
                EXPORT_AGAIN,
            )


_FORMAT = Format(
    cls=Manifest,
    versions=(SCHEMA_VERSION, SCHEMA_VERSION_WITH_VECTORS),
    kind="a bundle's manifest",
    hint=EXPORT_AGAIN,
    hint_for_others="update ffn-edge on this machine, or export again with this release.",
    error=BundleError,
)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle whose other files are not looked at.

    Raises:
        BundleError: it cannot be read, or is damaged.
    """
    return _FORMAT.read(folder / MANIFEST)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on the disk, which has been checked. `Bundle.load` is the way in.

        bundle = ffn_edge.Bundle.load("demo/bundle")
        print(bundle.manifest.frame_counts, bundle.manifest.classes)

    Attributes:
        path: the folder.
        manifest: what it serves, what its graphs take, how accurate it was on validation clips.
        identity: sha256 of manifest.json, which names the hash of every other file.
    """

    path: Path
    manifest: Manifest
    identity: str
    _tensors: WeightFile | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path, signed_by: PublicKey | None = None) -> Bundle:
        """Open the bundle in folder `path` and check each file's size and sha256, and each graph.

        Weight files stay open, and graphs are hashed again when they are read: what replaces a
        file later is not what was checked, and is not used.

        Args:
            path: the folder.
            signed_by: the key that must have signed it; None takes any bundle.

        Raises:
            BundleError: no such folder, an unknown schema version, a file that is missing,
                truncated or altered, a graph that a bundle may not hold; it is not signed, was
                signed by another key, or was changed since.
        """
        folder = Path(path)
        try:
            content = read_bytes(folder / MANIFEST, MOST_TEXT_BYTES)
        except OSError as error:
            raise BundleError(
                f"{folder} is not a bundle: "
                + (
                    f"cannot read {MANIFEST}: {reason_of(error)}"
                    if os.path.exists(folder)
                    else "there is no such folder"
                ),
                "name the folder that `ffn-edge export` wrote.",
            ) from error
        if signed_by is not None:
            signed_by.check(folder, content)
        manifest = Manifest.from_json(content, str(folder / MANIFEST))
        # A file may be a link, as in stores that share files between bundles: what it leads to
        # has the hash of the manifest, and is opened here alone and not by a library's own rules.
        bundle = cls(folder, manifest, hashlib.sha256(content).hexdigest())
        weights = {WEIGHTS, *bundle._vectors.values()}
        for name, record in manifest.files.items():
            if name not in weights:
                check_file(folder / name, record)
        bundle = dataclasses.replace(bundle, _tensors=bundle._open_weights(check=True))
        bundle.check()
        return bundle

    def check(self) -> None:
        """Raise a BundleError unless its weights can be composed and its graphs may be run."""
        entries = self.tensors().entries
        shapes = {name: entry.shape for name, entry in entries.items()}
        for frames in self.manifest.frame_counts:
            try:
                check_layers(shapes, self.manifest.layers, frames)
            except ValueError as error:
                raise BundleError(f"{self.path} is damaged: {error}", EXPORT_AGAIN) from error
            for layer in self.manifest.layers:
                in_int8 = entries[f"{layer}.weight"].dtype == "I8"
                if in_int8 != (self.manifest.weights_dtype == "int8"):
                    raise BundleError(
                        f"{self.path} is damaged: the weight of {layer} is not stored as "
                        f"{self.manifest.weights_dtype}",
                        EXPORT_AGAIN,
                    )
            sub_network = self.manifest.sub_networks[frames]
            for step, graphs in ((False, sub_network.graphs), (True, sub_network.steps)):
                for precision in graphs:
                    check_graph(
                        self.read_graph(frames, precision, step=step),
                        self.graph_path(frames, precision, step=step),
                        frames=1 if step else frames,
                        manifest=self.manifest,
                        entries=entries,
                        has_state=step,
                    )

    def graph_path(self, frames: int, precision: Precision = "fp32", *, step: bool = False) -> Path:
        """Return the ONNX model of the sub-network for `frames`; in float16 it is float32's.

        Args:
            frames: T.
            precision: what it computes in.
            step: for the next frame of a stream, and not for a clip.

        Raises:
            BundleError: the bundle has no such sub-network, it was not quantised, or its network is
                not causal.
        """
        sub_network = self.manifest.sub_networks.get(frames)
        if sub_network is None:
            served = ", ".join(map(str, self.manifest.frame_counts))
            raise BundleError(
                f"the bundle serves {served} frames; {frames} was asked for",
                f"choose one of {served}; a network learns another by `ffn-edge adapt CHECKPOINT "
                f"--frames {frames} …`, and `ffn-edge export --only {frames} --into` adds it.",
            )
        if step and not self.manifest.causal:
            raise BundleError(
                f"the network of {self.path} looks into the future, and cannot go frame by frame",
                "leave out --stream; or train a causal network, `ffn-edge train … --causal`, and "
                "export it.",
            )
        graphs = sub_network.steps if step else sub_network.graphs
        graph = graphs.get("int8" if precision == "int8" else "fp32")
        if graph is None:
            raise BundleError(
                f"the bundle has no INT8 for {frames} frames",
                f"ffn-edge quantize {self.path} --list val.txt --labels",
            )
        return self.path / graph

    def read_graph(
        self, frames: int, precision: Precision = "fp32", *, step: bool = False
    ) -> bytes:
        """Return the bytes of an ONNX model: those that were checked when the bundle was loaded.

        Raises:
            BundleError: as `graph_path`, or the file was altered since.
        """
        path = self.graph_path(frames, precision, step=step)
        try:
            content = read_bytes(path, MOST_GRAPH_BYTES)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {reason_of(error)}", EXPORT_AGAIN) from error
        if hashlib.sha256(content).hexdigest() != self.manifest.files[path.name].sha256:
            raise BundleError(f"{path} was altered while in use", RENAME)
        return content

    def tensors(self) -> WeightFile:
        """Return the tensors of all weight files: those that were checked when it was loaded."""
        return self._tensors or self._open_weights()

    @property
    def _vectors(self) -> dict[int, str]:
        subs = self.manifest.sub_networks.items()
        return {frames: sub.vectors for frames, sub in subs if sub.vectors}

    def _open_weights(self, *, check: bool = False) -> WeightFile:
        def check_opened(path: Path, file: BinaryIO) -> None:
            _check_opened(path, file, self.manifest.files[path.name])

        vectors = {frames: self.path / name for frames, name in self._vectors.items()}
        return WeightFile(self.path / WEIGHTS, vectors, check_opened if check else None)


def file_record(path: Path) -> FileRecord:
    """Measure a file: its size and sha256.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return _record_of(file)


def _record_of(file: BinaryIO) -> FileRecord:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return FileRecord(bytes=file.tell(), sha256=digest.hexdigest())


def check_file(path: Path, expected: FileRecord) -> None:
    """Raise a BundleError unless the file at `path` is the one that was recorded."""
    with opening(path), open_regular(path) as file:
        _check_opened(path, file, expected)


def _check_opened(path: Path, file: BinaryIO, expected: FileRecord) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != expected.bytes:  # before it is hashed
        raise BundleError(
            f"{path} has {size} bytes; the manifest says {expected.bytes}", EXPORT_AGAIN
        )
    if _record_of(file).sha256 != expected.sha256:
        raise BundleError(f"{path} was altered: its sha256 is not the manifest's", EXPORT_AGAIN)
