"""From a network to a bundle: fold, then write the weight file, the graphs and the manifest."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import ffn_edge
from ffn_edge.bundle.bundle import (
    MANIFEST,
    WEIGHTS,
    Bundle,
    InputContract,
    Manifest,
    SubNetwork,
    WeightsDtype,
    file_record,
    read_manifest,
)
from ffn_edge.bundle.compose import S_OUT, Array, compose, composed_sha256, vector_name
from ffn_edge.bundle.known_answer import TOLERANCES, answer_name, fault, known_clips
from ffn_edge.bundle.weight_file import WeightFile, read_header
from ffn_edge.errors import BundleError, ExportError, reason_of
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.export.graph import GraphModule, StepModule, graph_from_folded, save_graph
from ffn_edge.files.atomic import atomic_folder
from ffn_edge.frames import check_frame_counts
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.cost import count_macs
from ffn_edge.network.ffn import Layout

_log = logging.getLogger(__name__)

WEIGHTS_DTYPES: Mapping[str, WeightsDtype] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
}


def export_bundle(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    path: str | os.PathLike[str],
    *,
    frame_counts: Sequence[int] | None = None,
    weights_dtype: str = "fp32",
    batch: int = 1,
    replace: bool = False,
) -> Bundle:
    """Write a network as a bundle in folder `path`, atomically.

        checkpoint = ffn_edge.load_checkpoint("demo/ffn/best.pt")
        bundle = ffn_edge.export_bundle(checkpoint.network, checkpoint.card, "my-bundle")

    Args:
        network: a trained network.
        card: its classes and input preparation.
        path: the folder to write; one that holds a bundle is replaced, another is refused. What
            was measured of that bundle (its profile, its calibration) stays if it is the same,
            and goes with it otherwise.
        frame_counts: which of the network's frame counts to export; left out, all.
        weights_dtype: "fp32"; or "fp16" or "int8" for the shared weights: half or a quarter of the
            bytes. The vectors of each frame count and all arithmetic stay float32.
        batch: N of the input contract.
        replace: also replace a bundle that serves frame counts which the new one does not.

    Raises:
        ExportError: the network cannot be folded, a frame count does not exist, the number of
            classes differs from the card's, the card's sizes contradict each other, a frame count
            of the bundle at `path` would be lost, or the disk is full. What stood there stays.
    """
    target = Path(path)
    counts = check_frame_counts(frame_counts or network.frame_counts)
    if weights_dtype not in WEIGHTS_DTYPES or batch < 1:
        raise ExportError(
            f"cannot export weights as {weights_dtype!r} for batches of {batch}",
            f"weights are {' or '.join(WEIGHTS_DTYPES)}, a batch has at least one clip.",
        )
    if len(card.classes) != network.num_classes:
        raise ExportError(
            f"the network has {network.num_classes} logits; {len(card.classes)} class names given",
            "give a class file with one name per line, in the order of the labels.",
        )
    if target.is_file() or (
        target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file()
    ):
        raise ExportError(f"{target} exists and is not a bundle", "name another folder.")
    before = None
    with suppress(BundleError):  # what cannot be read is replaced
        before = read_manifest(target)
    if before and not replace and (lost := sorted(set(before.frame_counts) - set(counts))):
        raise ExportError(
            f"the bundle in {target} serves {', '.join(map(str, lost))} frames too, which would be "
            "lost",
            "export a checkpoint that has them; or --replace, and add them again with --only and "
            "--into.",
        )
    contract = input_contract(card, batch)
    _log.info(f"folding {', '.join(map(str, counts))} frames")
    dtype = WEIGHTS_DTYPES[weights_dtype]
    folded = [fold(network, frames, dtype) for frames in counts]
    try:
        with atomic_folder(target) as folder:
            _log.info("writing the weight file")
            stored = stored_tensors(folded, dtype)
            for sub in folded:
                answer = known_answer(sub, contract, network.layout, stored)
                stored[answer_name(sub.frames)] = answer
                if network.causal:
                    check_steps(sub, contract, network.layout, stored)
            save_tensors(stored, folder / WEIGHTS)
            entries = read_header(folder / WEIGHTS)
            tensors = WeightFile(folder / WEIGHTS)
            sub_networks = {}
            for sub in folded:
                _log.info(f"writing the graph for {sub.frames} frames")
                graphs = [f"{kind}_{sub.frames}.onnx" for kind in kinds_of_graphs(network)]
                for name, step in zip(graphs, (False, True), strict=False):
                    model = graph_from_folded(sub, contract, network.layout, entries, step=step)
                    save_graph(model, folder / name)
                sub_networks[sub.frames] = sub_network_entry(network, card, sub, tensors, graphs)
            manifest = Manifest(
                producer=f"ffn-edge {ffn_edge.__version__}",
                architecture=network.architecture,
                classes=card.classes,
                frame_counts=counts,
                weights_dtype=dtype,
                input=contract,
                sub_networks=sub_networks,
                layers=tuple(folded[0].layers),
                unfolded=tuple(folded[0].unfolded),
                files={file.name: file_record(file) for file in sorted(folder.iterdir())},
            )
            (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            check_before_use(Bundle(folder, manifest, ""))
            if before and before.quantized:
                _log.warning("the INT8 of the bundle before goes: `ffn-edge quantize` it again")
            if others := _other_files(target, before):
                if manifest == before:
                    for file in filter(Path.is_file, others):
                        shutil.copy2(file, folder)
                else:
                    names = ", ".join(file.name for file in others)
                    _log.warning(f"removing what belonged to the bundle before: {names}")
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"could not write {target}: {reason_of(error)}",
            "free space on the disk or name another folder; an older bundle there is untouched.",
        ) from error
    return Bundle.load(target)


def _other_files(folder: Path, manifest: Manifest | None) -> list[Path]:
    """Return what is in a bundle's folder and not named by its manifest."""
    if manifest is None:
        return []
    own = {MANIFEST, *manifest.files}
    return [file for file in sorted(folder.iterdir()) if file.name not in own]


def check_before_use(bundle: Bundle) -> None:
    """Raise an ExportError if a graph is none that `Bundle.load` takes, before it is in place."""
    try:
        bundle.check()
    except BundleError as error:
        raise ExportError(
            f"a bundle cannot hold this network: {error.message}",
            "compute the same with other operations.",
        ) from error


def kinds_of_graphs(network: FrameFlexibleNetwork) -> tuple[str, ...]:
    """Return how the graphs of each frame count begin in name: one for clips, one for streams."""
    return ("graph", "step") if network.causal else ("graph",)


def input_contract(card: ModelCard, batch: int) -> InputContract:
    """Return what the graphs of a network take."""
    return InputContract(
        batch=batch,
        height=card.size,
        width=card.size,
        short_side=card.short_side,
        mean=card.mean,
        std=card.std,
        window_s=card.window_s,
    )


def stored_tensors(
    folded: Sequence[FoldedNetwork], weights_dtype: WeightsDtype
) -> dict[str, Tensor]:
    """Return the union of sub-networks' tensors as a weight file holds them, on the CPU.

    A shared tensor has one name, so it is there once. A weight in int8 has one scale for each
    output channel, which is in every frame count's s_out: what is composed of them is the weight.

    Args:
        folded: the sub-networks, for these types.
        weights_dtype: of the shared weights.

    Raises:
        ExportError: a weight is beyond the range of float16.
    """
    union: dict[str, Tensor] = {}
    for sub in folded:
        union.update({name: tensor.cpu() for name, tensor in sub.tensors.items()})
    # Only what `compose` casts back: any other tensor meets arithmetic in float32.
    for layer in folded[0].layers:
        name = f"{layer}.weight"
        match weights_dtype:
            case "float16":
                union[name] = _half(name, union[name])
            case "int8":
                union[name], scale = _int8(union[name])
                for s_out in (vector_name(sub.frames, layer, S_OUT) for sub in folded):
                    union[s_out] = (union[s_out] * scale).float()
    return union


def known_answer(
    sub: FoldedNetwork, contract: InputContract, layout: Layout, stored: Mapping[str, Tensor]
) -> Tensor:
    """Classify the known clips with the tensors as they are stored: float32 (2, N, classes).

    See `ffn_edge.bundle.known_answer`.
    """
    module = GraphModule(sub, contract, layout).eval()
    tensors = [stored[name] for name in sub.tensors]
    clips = torch.from_numpy(known_clips(contract, sub.frames))
    with torch.inference_mode():
        return torch.stack([module(clip, *tensors) for clip in clips])


def check_steps(
    sub: FoldedNetwork, contract: InputContract, layout: Layout, stored: Mapping[str, Tensor]
) -> None:
    """Raise an ExportError unless the known clips, frame by frame, give their known answer.

    A layer of a network's own may look along time, or be called twice in a frame.
    """
    module = StepModule(sub, contract, layout).eval()
    tensors = [stored[name] for name in sub.tensors]
    found = []
    with torch.inference_mode():
        for clip in torch.from_numpy(known_clips(contract, sub.frames)):
            states: Sequence[Tensor] = ()
            logits = []
            for frame in clip.split(1, dim=1):
                memory = dict(zip(module.shifts, states, strict=False))
                answer, *states = module.stepped(frame, memory, tensors)
                logits.append(answer)
            found.append(torch.stack(logits).mean(0))
    expected = stored[answer_name(sub.frames)].numpy()
    if fault(torch.stack(found).numpy(), expected, TOLERANCES["fp32"]):
        raise ExportError(
            f"frame by frame, the network does not say of {sub.frames} frames what it says of "
            "them as a clip",
            "a causal network has one temporal shift in each place, and no other layer along time.",
        )


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        ExportError: a weight or a known answer is not finite.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"{name} holds values that are no numbers",
                "the training diverged: export an earlier checkpoint, or train at a lower "
                "learning rate.",
            )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def sub_network_entry(
    network: FrameFlexibleNetwork,
    card: ModelCard,
    sub: FoldedNetwork,
    tensors: Mapping[str, Array],
    graphs: Sequence[str],
    vectors: str | None = None,
) -> SubNetwork:
    """Return what a manifest says of a sub-network.

    Args:
        network: whole.
        card: its accuracies.
        sub: the sub-network, folded.
        tensors: of the bundle, as they are stored.
        graphs: the names of its graphs, of `kinds_of_graphs`.
        vectors: the name of the file of its vectors; None for the weight file.
    """
    return SubNetwork(
        graph=graphs[0],
        step=graphs[1] if network.causal else None,
        composed_sha256=composed_sha256(compose(tensors, sub.layers, sub.frames)),
        macs=count_macs(network, sub.frames, card.size),
        accuracy=card.accuracy.get(sub.frames),
        vectors=vectors,
    )


def _half(name: str, tensor: Tensor) -> Tensor:
    if tensor.abs().max() > np.finfo(np.float16).max:
        raise ExportError(
            f"{name} has values beyond the range of float16", "export with --weights-dtype fp32."
        )
    return tensor.to(torch.float16)


def _int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight as int8 (O, ...) and its scales, float64 (O, 1, ...): about their product."""
    largest = weight.double().abs().amax(tuple(range(1, weight.dim())), keepdim=True)
    scale = torch.where(largest == 0, 1, largest / 127)  # of a channel of zeros
    return (weight / scale).round().to(torch.int8), scale
