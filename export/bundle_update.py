"""Add frame counts to a bundle that is deployed already, or replace them: kilobytes for each.

    frames_12.safetensors  the vectors of the frame count, and its known answers
    graph_12.onnx          its tensors are external data there and in weights.safetensors
    manifest.json          written last: until then the bundle is the old one

No byte of the weight file and of the other frame counts changes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

import ffn_edge
from ffn_edge.bundle.bundle import (
    MANIFEST,
    SCHEMA_VERSION_WITH_VECTORS,
    WEIGHTS,
    Bundle,
    Manifest,
    SubNetwork,
)
from ffn_edge.bundle.known_answer import answer_name
from ffn_edge.bundle.weight_file import WeightFile, read_header
from ffn_edge.errors import ExportError
from ffn_edge.export.bundle_files import (
    changing,
    free_name,
    replace_manifest,
    with_sub_networks,
)
from ffn_edge.export.bundle_writer import (
    check_before_use,
    check_steps,
    input_contract,
    kinds_of_graphs,
    known_answer,
    save_tensors,
    stored_tensors,
    sub_network_entry,
)
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.export.graph import graph_from_folded, save_graph
from ffn_edge.files.atomic import atomic_file, locked
from ffn_edge.frames import check_frame_counts
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

_log = logging.getLogger(__name__)

_EXPORT_WHOLE = "export the whole checkpoint as a bundle of its own: -o FOLDER."


@dataclass(frozen=True, slots=True)
class BundleUpdate:
    """A bundle after an update.

    Attributes:
        bundle: as it is now.
        frame_counts: that were added or replaced.
        files: what to copy to where the bundle is deployed, in this order: name -> bytes. The
            manifest is the last, so that a copy is never a bundle that names what it lacks.
    """

    bundle: Bundle
    frame_counts: tuple[int, ...]
    files: dict[str, int]

    def to_json(self) -> str:
        """Return it as JSON; sizes in bytes."""
        fields = {
            "path": str(self.bundle.path),
            "identity": self.bundle.identity,
            "frames": self.frame_counts,
            "serves": self.bundle.manifest.frame_counts,
            "files": self.files,
        }
        return json.dumps(fields)

    def to_text(self) -> str:
        """Return what people read: the files to copy, in their order."""
        served = ", ".join(map(str, self.bundle.manifest.frame_counts))
        lines = [f"{self.bundle.path} serves {served} frames; to copy, in this order:"]
        lines += [f"  {name}  {size:,} bytes" for name, size in self.files.items()]
        if self.bundle.manifest.quantized:
            lines.append("it has no INT8 at these frames yet: ffn-edge quantize")
        lines.append("then measure it again: ffn-edge profile")
        return "\n".join(lines)


def update_bundle(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    path: str | os.PathLike[str],
    frame_counts: Sequence[int],
    *,
    progress: Callable[[str], None] = _log.info,
) -> BundleUpdate:
    """Put frame counts of a network into the bundle in folder `path`.

    Args:
        network: shares its weights with the one that the bundle was exported from.
        card: its classes and input preparation.
        path: the bundle.
        frame_counts: to add; one that the bundle serves already is replaced.
        progress: is told each step.

    Raises:
        BundleError: there is no whole bundle at `path`.
        ExportError: the bundle is of another network, a frame count does not exist, or the disk
            is full. The bundle is then as it was.
    """
    counts = check_frame_counts(frame_counts)
    folder = Path(path)
    if not folder.is_dir():
        Bundle.load(folder)  # which says so
    with locked(folder, lambda: progress("waiting for another export into it")):
        return _update(network, card, folder, counts, progress)


def _update(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    folder: Path,
    counts: tuple[int, ...],
    progress: Callable[[str], None],
) -> BundleUpdate:
    before = Bundle.load(folder)
    manifest = before.manifest
    _check_same_kind(manifest, network, card)
    progress(f"folding {', '.join(map(str, counts))} frames")
    folded = [fold(network, frames, manifest.weights_dtype) for frames in counts]
    stored = stored_tensors(folded, manifest.weights_dtype)
    _check_same_weights(before, folded[0], stored)
    sub_networks: dict[int, SubNetwork] = {}
    written: dict[str, Path] = {}
    with changing(folder):
        for sub in folded:
            progress(f"writing the vectors and the graph for {sub.frames} frames")
            vectors = free_name(f"frames_{sub.frames}", ".safetensors", manifest.files)
            graphs = [
                free_name(f"{kind}_{sub.frames}", ".onnx", manifest.files)
                for kind in kinds_of_graphs(network)
            ]
            for name in (vectors, *graphs):
                written[name] = folder / name
            with atomic_file(folder / vectors) as temporary:
                save_tensors(_own(sub, manifest, network, stored), temporary)
            entries = {**read_header(folder / WEIGHTS), **read_header(folder / vectors)}
            for name, step in zip(graphs, (False, True), strict=False):
                model = graph_from_folded(sub, manifest.input, network.layout, entries, step=step)
                with atomic_file(folder / name) as temporary:
                    save_graph(model, temporary)
            tensors = WeightFile(folder / WEIGHTS, {sub.frames: folder / vectors})
            sub_networks[sub.frames] = sub_network_entry(
                network, card, sub, tensors, graphs, vectors
            )
        after = dataclasses.replace(
            with_sub_networks(manifest, sub_networks, written),
            schema_version=SCHEMA_VERSION_WITH_VECTORS,
            producer=f"ffn-edge {ffn_edge.__version__}",
        )
        check_before_use(Bundle(folder, after, ""))
        replace_manifest(folder, after)
    sizes = {name: file.stat().st_size for name, file in written.items()}
    sizes[MANIFEST] = (folder / MANIFEST).stat().st_size
    return BundleUpdate(Bundle.load(folder), counts, sizes)


def _own(
    sub: FoldedNetwork,
    manifest: Manifest,
    network: FrameFlexibleNetwork,
    stored: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the tensors of one frame count alone, and its known answers."""
    answer = known_answer(sub, manifest.input, network.layout, stored)
    if network.causal:
        answered = {**stored, answer_name(sub.frames): answer}
        check_steps(sub, manifest.input, network.layout, answered)
    own = {name: stored[name] for name in sub.tensors if name.startswith("frames/")}
    return {**own, answer_name(sub.frames): answer}


def _check_same_kind(manifest: Manifest, network: FrameFlexibleNetwork, card: ModelCard) -> None:
    """Raise an ExportError unless architecture, classes and input are the bundle's."""
    ours, theirs = manifest.input, input_contract(card, manifest.input.batch)
    for what, bundles, checkpoints in (
        ("architecture", manifest.architecture, network.architecture),
        ("looking into the past alone", manifest.causal, network.causal),
        ("number of classes", len(manifest.classes), network.num_classes),
        ("number of class names", len(manifest.classes), len(card.classes)),
        *(
            (f"class {label}", *names)
            for label, names in enumerate(zip(manifest.classes, card.classes, strict=False))
        ),
        *(
            (field.name, getattr(ours, field.name), getattr(theirs, field.name))
            for field in dataclasses.fields(ours)
        ),
    ):
        if bundles != checkpoints:
            raise ExportError(
                f"the bundle's {what} is {bundles}, the checkpoint's {checkpoints}", _EXPORT_WHOLE
            )


def _check_same_weights(bundle: Bundle, sub: FoldedNetwork, stored: Mapping[str, Tensor]) -> None:
    """Raise an ExportError unless the shared tensors are the bundle's, as they are stored there."""
    tensors = bundle.tensors()
    differing = [
        name
        for name, tensor in stored.items()
        if not name.startswith("frames/")
        and (name not in tensors or not _equal(tensors[name], tensor))
    ]
    manifest = bundle.manifest
    layers = (tuple(sub.layers), tuple(sub.unfolded))
    if differing or layers != (manifest.layers, manifest.unfolded):
        raise ExportError(
            f"the checkpoint does not share the bundle's weights: {len(differing)} tensors differ"
            f"{', such as ' + differing[0] if differing else ', but other layers are folded'}",
            "name a checkpoint that was adapted from the one that was exported; or "
            + _EXPORT_WHOLE,
        )


def _equal(stored: np.ndarray, tensor: Tensor) -> bool:
    array = tensor.numpy()
    return stored.dtype == array.dtype and np.array_equal(stored, array)
