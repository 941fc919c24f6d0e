"""From a bundle and clips to the same bundle in INT8, too: graphs and a manifest, no other byte.

    float32 graph ─ which tensors (`int8_graph`) ─ their ranges on clips ─ scales ─ INT8 graph
                                                                             │
              what disturbs most stays float32  <─ no  as good as float32? <─┘

Activations differ with the frame count, as its normalisation does, so each has scales of its own.
No PyTorch: this runs where the bundle is.

Legend: N clips, T frames, C classes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ffn_edge.bundle.bundle import (
    ENOUGH_CLIPS,
    MOST_LOSS,
    Accuracy,
    Bundle,
    Manifest,
    Quantized,
    standard_error,
)
from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.known_answer import deviation, known_clips, known_logits
from ffn_edge.errors import DataError, ExportError, counted
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.graph_session import Floats, GraphSession
from ffn_edge.export.int8_graph import place, quantized_graph, scales_of_step
from ffn_edge.export.ranges import Ranges
from ffn_edge.media.clips import centre_clips, read_checked_list, spread
from ffn_edge.media.images import Images
from ffn_edge.media.video_list import Video

_log = logging.getLogger(__name__)

# Fewer clips show no range; `ENOUGH_CLIPS` show it well (NVIDIA advises 500 images for one).
_LEAST_CLIPS = 8
# Where float32 is right so much less often than at export, the list may be of something else.
_FAR_LESS = 0.1
# The top class must be float32's for so many clips. With labels the accuracy counts as well.
LEAST_AGREEMENT = 0.98
# Layers are tried one by one on so many clips.
_TRIED_ON = 8

Labels = npt.NDArray[np.int64]
OnStep = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        clips: how many to take from the list, spread over it.
        labels: the list has labels: measure accuracy, too.
        root: what the list's paths are relative to; None is its folder.
        method: of `METHODS`.
    """

    clips: int = 256
    labels: bool = False
    root: Path | None = None
    method: str = "percentile"


_DEFAULTS = QuantizeOptions()


def quantize_bundle(
    path: Path,
    list_file: Path,
    options: QuantizeOptions = _DEFAULTS,
    *,
    on_step: OnStep = lambda what, done, total: None,
) -> Bundle:
    """Add INT8 graphs to the bundle in folder `path`, or replace them.

    Args:
        path: the bundle.
        list_file: clips of what it will see, best not those it was trained on: one `path` a line.
        options: how.
        on_step: is told how far it is.

    Returns:
        The bundle as it is then.

    Raises:
        BundleError: there is no whole bundle, or it changed meanwhile.
        DataError: the list is wrong, too few of its clips can be read, or they are all alike; or
            its labels are of other classes.
        ExportError: nothing in this network can be computed in INT8, or the disk is full.
    """
    bundle = Bundle.load(path)
    classes = bundle.manifest.classes if options.labels else None
    videos = read_checked_list(list_file, classes=classes, root=options.root)
    chosen = spread(videos, options.clips)
    tensors = dict(bundle.tensors())  # read once, for all frame counts
    graphs = {frames: bundle.read_graph(frames) for frames in bundle.manifest.frame_counts}
    best: dict[int, _Attempt] = {}
    written: dict[int, list[bytes]] = {}
    for frames in reversed(graphs):  # one by one: each takes much memory
        each = _FrameCount(bundle.manifest, tensors, frames, graphs[frames], options.method)
        found = []
        for video, clips in _clips(bundle, chosen, (frames,), "calibrating", on_step):
            found.append(video.label)
            each.watch(clips[frames])
        labels = np.asarray(found, np.int64) if options.labels else None
        if not best:
            _check_clips(each.reference, labels, bundle.manifest.sub_networks[frames].accuracy)
        while True:
            each.quantize()
            for _, clips in _clips(bundle, chosen, (frames,), "comparing", on_step):
                each.compare(clips[frames])
            if each.is_settled(labels, on_step):
                break
        best[frames] = each.best
        written[frames] = [each.best.graph]
        if bundle.manifest.causal:
            written[frames].append(each.step_graph(bundle.read_graph(frames, step=True)))
    return add_int8(bundle, {frames: each.found for frames, each in best.items()}, written)


def compare_int8(
    bundle: Bundle,
    infer: Mapping[int, Callable[[Images], Floats]],
    videos: Sequence[Video],
    *,
    labels: bool = False,
    on_step: OnStep = lambda what, done, total: None,
) -> dict[int, Quantized]:
    """Compare engines in INT8 with the float32 graph; return what a manifest should say of them.

    Args:
        bundle: that was quantised.
        infer: classifies uint8 (N, T, S, S, 3), by frame count.
        videos: to compare on.
        labels: whether they have labels that count.
        on_step: is told how far it is.

    Raises:
        DataError: too few videos can be read, they are all alike, or their labels are of other
            classes.
        ExportError: ONNX Runtime refuses a graph.
    """
    tensors = dict(bundle.tensors())
    sessions = {t: GraphSession(bundle.read_graph(t), tensors) for t in infer}
    reference: dict[int, list[Floats]] = {t: [] for t in infer}
    logits: dict[int, list[Floats]] = {t: [] for t in infer}
    answers = []
    for video, clips in _clips(bundle, videos, tuple(infer), "comparing", on_step):
        answers.append(video.label)
        for t, session in sessions.items():
            batch = _batch(bundle.manifest, clips[t])
            reference[t].append(session.run(batch)[0][0])
            logits[t].append(infer[t](batch)[0])
    known = np.asarray(answers, np.int64) if labels else None
    most = max(reference)
    _check_clips(np.stack(reference[most]), known, bundle.manifest.sub_networks[most].accuracy)
    found = {}
    for t in infer:
        before = bundle.manifest.sub_networks[t].int8
        assert before is not None  # or its engine could not have been opened
        measured = _measured(np.stack(reference[t]), np.stack(logits[t]), known)
        found[t] = dataclasses.replace(before, **measured)
    return found


def _clips(
    bundle: Bundle,
    videos: Sequence[Video],
    frame_counts: Sequence[int],
    what: str,
    on_step: OnStep,
) -> Iterable[tuple[Video, dict[int, Images]]]:
    return centre_clips(
        videos,
        frame_counts,
        short_side=bundle.manifest.input.short_side,
        size=bundle.manifest.input.height,
        window_s=bundle.manifest.input.window_s,
        on_video=lambda done, total: on_step(what, done, total),
    )


def _batch(manifest: Manifest, clip: Images) -> Images:
    """Repeat a clip, (T, S, S, 3), as often as the graphs take clips."""
    return np.broadcast_to(clip, (manifest.input.batch, *clip.shape)).copy()


def _measured(reference: Floats, logits: Floats, labels: Labels | None) -> dict[str, Any]:
    """Return fields of `Quantized`: how near logits (N, C) are to those of float32."""
    return {
        "agreement": float((reference.argmax(1) == logits.argmax(1)).mean()),
        "compared_on": len(reference),
        "accuracy": None if labels is None else _accuracy(logits, labels),
        "accuracy_float32": None if labels is None else _accuracy(reference, labels),
    }


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An INT8 graph, the layers that were left out of it, and what was found of it."""

    graph: bytes
    left: Mapping[str, str]
    found: Quantized


class _FrameCount:
    """One frame count, on its way to INT8."""

    def __init__(
        self,
        manifest: Manifest,
        tensors: Mapping[str, Array],
        frames: int,
        graph: bytes,
        method: str,
    ) -> None:
        self.frames = frames
        self._manifest = manifest
        self._tensors = tensors
        self._known = known_logits(tensors, frames)
        self._method = method
        self._model = onnx.load_model_from_string(graph)
        self._placement = place(self._model)
        if not self._placement.layers:
            raise ExportError(
                f"nothing in {manifest.architecture} can be computed in INT8: it has no "
                "convolution between its first layer and its last",
                "run it in fp16, which TensorRT does.",
            )
        self._watched: GraphSession | None = GraphSession(graph, tensors, self._placement.tensors)
        self._ranges = Ranges()
        self._reference: list[Floats] = []
        self._kept: list[Images] = []  # some clips, to try layers on
        self._left: dict[str, str] = {}
        self._order: list[tuple[str, float]] | None = None  # layers, what disturbs most first
        self._session: GraphSession | None = None
        self._logits: list[Floats] = []
        self._attempts: list[_Attempt] = []

    def watch(self, clip: Images) -> None:
        """Run the float32 graph, and note the values of what is to be quantised."""
        assert self._watched is not None
        logits, *values = self._watched.run(_batch(self._manifest, clip))
        self._reference.append(logits[0])
        self._ranges.add(dict(zip(self._placement.tensors, values, strict=True)))
        if len(self._kept) < _TRIED_ON:
            self._kept.append(clip)

    @property
    def reference(self) -> Floats:
        """The float32 graph's logits, (N, C)."""
        return np.stack(self._reference)

    def quantize(self) -> None:
        """Make the INT8 graph, without the layers that are to be left in float32.

        It is run as it is stored, and as TensorRT rounds. ONNX Runtime's own form of it, which
        runs in the end, rounds less.
        """
        self._watched = None
        self._graph = self._graph_without(self._left)
        self._session = GraphSession(self._graph, self._tensors)
        self._logits = []

    def compare(self, clip: Images) -> None:
        """Run the INT8 graph."""
        assert self._session is not None
        self._logits.append(self._session.run(_batch(self._manifest, clip))[0][0])

    def is_settled(self, labels: Labels | None, on_step: OnStep) -> bool:
        """Say whether the graph is as good as float32; if not, choose more layers to leave out."""
        reference, logits = self.reference, np.stack(self._logits)
        if len(reference) != len(logits):
            raise DataError(
                f"of {counted(len(reference), 'clip')}, {len(logits)} could be read once more",
                "quantise it again, with clips that stay where they are.",
            )
        found = Quantized(
            graph="",
            method=self._method,
            calibrated_on=len(reference),
            deviation=max(deviation(logits, reference), self._known_deviation()),
            in_float32=place(self._model, self._left).in_float32,
            **_measured(reference, logits, labels),
        )
        self._attempts.append(_Attempt(self._graph, self._left, found))
        if _is_good(found):
            return True
        if self._order is None:
            self._order = self._by_disturbance(on_step)
        more = max(1, 2 * len(self._left))
        if more > len(self._order) // 2:
            return True
        self._left = {
            name: f"alone in INT8, it moves the logits by {moved:.1%}"
            for name, moved in self._order[:more]
        }
        return False

    @property
    def best(self) -> _Attempt:
        """The attempt that is good enough, or else agrees most; of equals the first."""
        return max(self._attempts, key=lambda each: (_is_good(each.found), each.found.agreement))

    def step_graph(self, graph: bytes) -> bytes:
        """Return the graph of a step in INT8, as the best attempt has that of a clip."""
        model, left = onnx.load_model_from_string(graph), self.best.left
        placement, clip = place(model, left), place(self._model, left)
        scales = scales_of_step(placement, clip, self._ranges.scales(self._method))
        return _serialized(quantized_graph(model, placement, scales))

    def _graph_without(self, left: Mapping[str, str]) -> bytes:
        placement = place(self._model, left)
        scales = self._ranges.scales(self._method)
        return _serialized(quantized_graph(self._model, placement, scales))

    def _by_disturbance(self, on_step: OnStep) -> list[tuple[str, float]]:
        """Return the layers and by how much each alone in INT8 moves the logits, most first."""
        reference = self.reference[: len(self._kept)]
        layers = self._placement.layers
        moved = {}
        for number, layer in enumerate(layers, start=1):
            others = {each: "another is tried" for each in layers if each != layer}
            session = GraphSession(self._graph_without(others), self._tensors)
            logits = np.stack(
                [session.run(_batch(self._manifest, clip))[0][0] for clip in self._kept]
            )
            moved[layer] = deviation(logits, reference)
            on_step(f"trying the layers of {self.frames} frames", number, len(layers))
        return sorted(moved.items(), key=lambda item: -item[1])

    def _known_deviation(self) -> float:
        assert self._session is not None
        clips = known_clips(self._manifest.input, self.frames)
        logits = np.stack([self._session.run(clip)[0] for clip in clips])
        return deviation(logits, self._known)


def _serialized(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _is_good(found: Quantized) -> bool:
    """Whether no layer need be left out: what chance may have done is none's fault."""
    seen = 0.0 if found.loss is None else found.loss - found.loss_error
    return found.agreement >= LEAST_AGREEMENT and seen <= MOST_LOSS


def _accuracy(logits: Floats, labels: Labels) -> Accuracy:
    """Return the accuracy of logits (N, C) for labels (N,)."""
    ranked = np.argsort(-logits, axis=1, kind="stable")
    right = ranked == labels[:, None]
    return Accuracy(
        top1=float(right[:, 0].mean()),
        top5=float(right[:, :5].any(axis=1).mean()),
        clips=len(labels),
    )


def _check_clips(logits: Floats, labels: Labels | None, at_export: Accuracy | None) -> None:
    """Raise a DataError where clips tell nothing: too few, all alike, of other classes.

    Args:
        logits: float32's, (N, C), with the most frames.
        labels: (N,), if there are any.
        at_export: its accuracy on the validation clips, if that is known.
    """
    if len(logits) < _LEAST_CLIPS:
        raise DataError(
            f"too few clips: {len(logits)}",
            f"list {ENOUGH_CLIPS} or more of what the network will see.",
        )
    if len(logits) < ENOUGH_CLIPS:
        _log.warning("%d clips are few: take %d or more.", len(logits), ENOUGH_CLIPS)
    if np.ptp(logits, axis=0).max() <= 1e-3 * np.abs(logits).max():
        raise DataError(
            "the clips are all alike to the network",
            "list clips of what it will see: of every class, and of every light.",
        )
    if labels is None:
        return
    chance = 1 / logits.shape[1]
    top1 = _accuracy(logits, labels).top1
    if top1 <= chance + 2 * standard_error(chance, len(labels)):
        raise DataError(
            f"float32 answers {top1:.0%} of the clips right, no more than by chance",
            "is this the list of another data set, or are its labels in another order?",
        )
    if at_export is not None and top1 < at_export.top1 - _FAR_LESS:
        _log.warning(
            "float32 is right for %.0f%% of these clips, and was for %.0f%% at export: is this the "
            "right list?",
            100 * top1,
            100 * at_export.top1,
        )
