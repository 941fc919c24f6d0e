"""Verification: PyTorch = the bundle's graph = composed weights = engine, number by number.

Five ways to the same logits, per frame count T, on the same clips:

    PyTorch    the checkpoint's network in float32, normalising as its card says
    graph      the bundle's ONNX graph, whose Mul nodes modulate the shared weights
    composed   the same graph, whose weights `ffn_edge.bundle.compose` modulated in NumPy beforehand
    steps      of a causal network, the graph for the next frame of a stream: T of them, the mean
    engine     what the runtime opens on this machine, if it is not ONNX Runtime itself

Legend: clips are uint8 (clips, T, H, W, 3), RGB, prepared as the bundle's input contract says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import Array, compose, composed_sha256
from ffn_edge.errors import ExportError, counted
from ffn_edge.export.clips import Clips, ClipSet
from ffn_edge.export.composed_graph import plain_graph
from ffn_edge.export.graph_session import Floats as Logits
from ffn_edge.export.graph_session import GraphSession

if TYPE_CHECKING:
    from ffn_edge.network.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

# PyTorch against the graph, as max|Δlogit| / max|logit| of a clip, by the type of the shared
# weights. float32: the same sums in another order, 1e-7 each, through some fifty layers; measured
# 1e-6. float16: each weight is rounded by up to 2⁻¹¹ of itself (5e-4), and so are the logits,
# about: measured 1e-4 to 7e-4 on nine architectures; a deep network may add up to more. int8: by up
# to 1/254 of the largest of its output channel; measured 5e-3 to 4e-2 on nine architectures with
# random weights at 64 pixels, and 3e-2 to 5e-2 on trained networks of the demo. A TEA-ResNet-50
# with random weights enlarges any rounding a hundredfold and more: float16 is off by 4e-2 to 9e-2
# there, int8 by 0.2 to 0.6, and such a network needs a tolerance of its own.
NETWORK_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 0.2}
# The graph against composed: the same products in the same order, then the same kernels; measured
# 0. Only ONNX Runtime's choice of kernels could differ, and by rounding.
COMPOSED_TOLERANCE = 1e-5
# The graph against its steps. float32: the same sums, of kernels for one frame and not for T;
# measured 0 on five architectures, and in INT8 too.
STEPS_TOLERANCE = 1e-5
# INT8: a value that lies between two that INT8 has may be rounded to the other one.
INT8_STEPS_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two ways to the logits of one frame count.

    `max_difference` is the largest |Δlogit| of all clips, `relative` the largest of
    max|Δlogit| / max|logit| of a clip, `same_top1` the number of clips with the same first class.
    """

    pair: str
    max_difference: float
    relative: float
    tolerance: float
    same_top1: int

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance. Not-a-number is not."""
        return self.relative <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineToVerify:
    """The engines that the runtime has opened.

    `infer` classifies uint8 (N, T, H, W, 3), by frame count; `tolerances` are relative.
    """

    name: str
    tolerances: Mapping[int, float]
    infer: Mapping[int, Callable[[Clips], Logits]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found for one frame count."""

    frames: int
    clips: int
    composed_matches: bool
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all agree, and the composed weights have the manifest's hash."""
        return self.composed_matches and all(each.passed for each in self.comparisons)


def verify(
    bundle: Bundle,
    clip_set: ClipSet,
    *,
    checkpoint: Checkpoint | None = None,
    engine: EngineToVerify | None = None,
    tolerance: float | None = None,
) -> tuple[Verified, ...]:
    """Compare PyTorch, the graph and the composed graph, for each frame count of a bundle.

    Args:
        bundle: a bundle; its files were checked when it was loaded.
        clip_set: the clips to compare on.
        checkpoint: what the bundle was exported from; left out, only the graph and the composed
            graph are compared.
        engine: compared with the graph too.
        tolerance: for PyTorch against the graph; left out, `NETWORK_TOLERANCE`.

    Raises:
        ExportError: the checkpoint is of another network, or ONNX Runtime refuses a graph.
    """
    manifest = bundle.manifest
    if checkpoint is not None:
        _check_same_network(bundle, checkpoint)
    if tolerance is None:
        tolerance = NETWORK_TOLERANCE[manifest.weights_dtype]
    tensors = bundle.tensors()
    found = []
    for frames in manifest.frame_counts:
        clips = clip_set.clips[frames]
        _log.info(f"{frames} frames: ONNX Runtime on {counted(len(clips), 'clip')}")
        composed = dict(compose(tensors, manifest.layers, frames))
        graph = bundle.read_graph(frames)
        by_graph = _logits_of_graph(graph, tensors, clips, manifest.input.batch)
        model = plain_graph(onnx.load_model_from_string(graph), tensors, composed)
        by_composed = _logits_of_graph(model.SerializeToString(), {}, clips, manifest.input.batch)
        comparisons = [compare("graph = composed", by_graph, by_composed, COMPOSED_TOLERANCE)]
        if checkpoint is not None:
            _log.info(f"{frames} frames: PyTorch on {counted(len(clips), 'clip')}")
            by_network = _logits_of_network(checkpoint, clips, frames)
            comparisons.insert(0, compare("PyTorch = graph", by_network, by_graph, tolerance))
        if manifest.causal:
            _log.info(f"{frames} frames: step by step")
            comparisons += _compare_steps(bundle, clips, frames, by_graph, checkpoint, tolerance)
        if engine is not None:
            _log.info(f"{frames} frames: {engine.name} on {counted(len(clips), 'clip')}")
            by_engine = _in_batches(engine.infer[frames], clips, manifest.input.batch)
            comparisons.append(
                compare(f"graph = {engine.name}", by_graph, by_engine, engine.tolerances[frames])
            )
        expected = manifest.sub_networks[frames].composed_sha256
        found.append(
            Verified(
                frames=frames,
                clips=len(clips),
                composed_matches=composed_sha256(composed.items()) == expected,
                comparisons=tuple(comparisons),
            )
        )
    return tuple(found)


def _compare_steps(
    bundle: Bundle,
    clips: Clips,
    frames: int,
    by_graph: Logits,
    checkpoint: Checkpoint | None,
    tolerance: float,
) -> Iterator[Comparison]:
    """Compare a frame count's steps with the graph for clips, and with the network's own steps."""
    tensors, batch = bundle.tensors(), bundle.manifest.input.batch
    session = GraphSession(bundle.read_graph(frames, step=True), tensors)
    by_steps = _in_batches(session.run_steps, clips, batch)
    yield compare("graph = steps", by_graph, by_steps, STEPS_TOLERANCE)
    if checkpoint is not None:
        by_network = _logits_of_network(checkpoint, clips, frames, step=True)
        yield compare("PyTorch steps = steps", by_network, by_steps, tolerance)
    if "int8" in bundle.manifest.sub_networks[frames].steps:
        graph, step = (bundle.read_graph(frames, "int8", step=step) for step in (False, True))
        by_int8 = _logits_of_graph(graph, tensors, clips, batch)
        by_int8_steps = _in_batches(GraphSession(step, tensors).run_steps, clips, batch)
        yield compare("INT8 graph = INT8 steps", by_int8, by_int8_steps, INT8_STEPS_TOLERANCE)


def compare(pair: str, reference: Logits, other: Logits, tolerance: float) -> Comparison:
    """Compare logits (clips, classes); differences are relative to `reference`."""
    difference = np.abs(reference - other).max(axis=1)  # (clips,)
    largest = np.maximum(np.abs(reference).max(axis=1), np.finfo(np.float32).tiny)
    return Comparison(
        pair=pair,
        max_difference=float(difference.max()),
        relative=float((difference / largest).max()),
        tolerance=tolerance,
        same_top1=int((reference.argmax(axis=1) == other.argmax(axis=1)).sum()),
    )


def _check_same_network(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest, network = bundle.manifest, checkpoint.network
    missing = set(manifest.frame_counts) - set(network.frame_counts)
    if manifest.architecture != network.architecture or (
        len(manifest.classes) != network.num_classes or missing
    ):
        raise ExportError(
            f"the bundle holds a {manifest.architecture} with {len(manifest.classes)} classes for "
            f"{manifest.frame_counts} frames; the checkpoint a {network.architecture} with "
            f"{network.num_classes} classes for {network.frame_counts} frames",
            "name the checkpoint that the bundle was exported from; of frame counts that are added "
            "one after the other, adapt each from the checkpoint that has the one before.",
        )


def _logits_of_graph(
    model: bytes, tensors: Mapping[str, Array], clips: Clips, batch: int
) -> Logits:
    """Run an ONNX model on clips in batches of its N: (clips, classes)."""
    session = GraphSession(model, tensors)
    return _in_batches(lambda part: session.run(part)[0], clips, batch)


def _in_batches(infer: Callable[[Clips], Logits], clips: Clips, batch: int) -> Logits:
    """Classify clips, `batch` at a time; the last batch is filled up by repeating its clips."""
    filled = np.resize(clips, (-(-len(clips) // batch) * batch, *clips.shape[1:]))
    parts = [infer(filled[i : i + batch]) for i in range(0, len(filled), batch)]
    return np.concatenate(parts)[: len(clips)]


def _logits_of_network(
    checkpoint: Checkpoint, clips: Clips, frames: int, *, step: bool = False
) -> Logits:
    """Run the checkpoint's network in float32, one clip at a time: (clips, classes)."""
    import torch  # a device that verifies its engines has none

    from ffn_edge.network.threads import thread_counts

    mean = torch.tensor(checkpoint.card.mean).reshape(3, 1, 1)
    std = torch.tensor(checkpoint.card.std).reshape(3, 1, 1)
    network = checkpoint.network.eval()
    logits = []
    with torch.inference_mode(), thread_counts() as measured_of_kind:
        measured = measured_of_kind()
        for clip in clips:
            rgb = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255  # (T, 3, H, W)
            clip = ((rgb - mean) / std)[None]
            with measured():
                if step:
                    of_each, _ = network.step(clip, None, sub_network=frames)
                    logits.append(of_each[0].mean(0).numpy())
                else:
                    logits.append(network(clip, frames=frames)[0].numpy())
    return np.stack(logits)
