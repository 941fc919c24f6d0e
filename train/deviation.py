"""Temporal Frequency Deviation: how what a network computes moves with the frame count.

The same videos pass as clips of two frame counts. Of what enters each norm, the mean μ and the
standard deviation σ are taken per channel, and compared between the frame counts and with the
running statistics that the norm normalises with. Source: Section 3 and Figure 3 of the paper.

Legend: C channels of a norm, R rows: everything that is not a channel (clips, frames, positions).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d  # type: ignore[import-untyped]

from ffn_edge.errors import DataError, FrameCountError, NetworkError, VideoError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.media.clips import at_window, open_video
from ffn_edge.media.video_list import Video
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.network.layers import NORM_TYPES, SpecializedNorm
from ffn_edge.network.threads import Measured
from ffn_edge.train.batches import VideoBatches, videos_for
from ffn_edge.train.evaluate import not_finite
from ffn_edge.train.loading import Batch, to_model_input
from ffn_edge.train.moments import Moments, rows_of_channels
from ffn_edge.train.processes import Processes, join_processes

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per channel: float64 (C,) each. `std` is √(σ² + ε), what a norm of that ε divides by.

    With ε, a channel that is constant has a place on the scale of the others.
    """

    mean: Vector
    std: Vector


@dataclass(frozen=True, slots=True)
class Shift:
    """How far statistics are from a reference.

    Attributes:
        mean: root of the mean over channels of ((μ − μ_ref)/σ_ref)².
        std: mean over channels of |ln(σ/σ_ref)|.
    """

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A norm as clips passed it.

    Attributes:
        entering: what it got.
        running: what it normalised with; None if it keeps no statistics, as a LayerNorm.
    """

    entering: Statistics
    running: Statistics | None


@dataclass(frozen=True, slots=True)
class Pass:
    """Clips of `frames` frames served by `sub_network`: accuracy, and each norm, in their order."""

    frames: int
    sub_network: int
    top1: float
    layers: dict[str, Layer]

    @property
    def name(self) -> str:
        """Such as "4 by 16"."""
        return f"{self.frames} by {self.sub_network}"

    def mismatches(self) -> dict[str, Shift | None]:
        """Return how far what entered each norm is from what it normalised with, by its name."""
        return {
            name: None if layer.running is None else shift(layer.entering, layer.running)
            for name, layer in self.layers.items()
        }


@dataclass(frozen=True, slots=True)
class OutputShift:
    """How far the logits of the lower frame count (a) are from those of the higher (b).

    Attributes:
        agreement: the share of clips with the same first class.
        kl: mean over clips of KL(p_b ‖ p_a), in nats.
        logit: mean over clips and classes of |z_a − z_b|.
    """

    agreement: float
    kl: float
    logit: float


@dataclass(frozen=True, slots=True)
class Pair:
    """The lower frame count's pass against the higher's, which is the reference."""

    low: Pass
    high: Pass
    output: OutputShift

    @property
    def name(self) -> str:
        """Such as "both by 16"."""
        same = self.low.sub_network == self.high.sub_network
        return f"both by {self.high.sub_network}" if same else "each by its own"

    def shifts(self) -> dict[str, Shift]:
        """Return how far each layer's statistics move, by its name."""
        return {
            name: shift(self.low.layers[name].entering, layer.entering)
            for name, layer in self.high.layers.items()
        }


@dataclass(frozen=True, slots=True)
class Deviation:
    """What `measure` finds.

    Attributes:
        clips: how many videos.
        comparisons: first both frame counts by one sub-network; then, where they have two, each
            by its own.
    """

    clips: int
    comparisons: tuple[Pair, ...]

    @property
    def frame_counts(self) -> tuple[int, int]:
        """The lower and the higher frame count."""
        return self.comparisons[0].low.frames, self.comparisons[0].high.frames

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The lower frame count's, then the higher's: the reference of every comparison."""
        return (*(comparison.low for comparison in self.comparisons), self.comparisons[0].high)

    @property
    def most_deviating(self) -> str:
        """The layer whose mean moves most where one sub-network serves both."""
        shifts = self.comparisons[0].shifts()
        return max(shifts, key=lambda name: shifts[name].mean)


def shift(statistics: Statistics, reference: Statistics) -> Shift:
    """Return how far `statistics` are from `reference`, in its standard deviations."""
    moved = (statistics.mean - reference.mean) / reference.std
    return Shift(
        mean=math.sqrt(np.mean(moved**2)),
        std=float(np.mean(np.abs(np.log(statistics.std / reference.std)))),
    )


def norm_layers(network: FrameFlexibleNetwork, sub_network: int) -> dict[str, nn.Module]:
    """Return the norms that serve `sub_network`, by their layer's name."""
    norms: dict[str, nn.Module] = {}
    for name, layer in network.serving(sub_network).body.named_modules():
        if isinstance(layer, SpecializedNorm):
            norms[name] = layer.norms[str(sub_network)]
        elif isinstance(layer, NORM_TYPES) and name.rsplit(".", 2)[0] not in norms:
            norms[name] = layer  # not one of a SpecializedNorm, NAME.norms.T
    return norms


def measure(
    network: FrameFlexibleNetwork,
    batches: Iterable[Batch],
    low: int,
    high: int,
    card: ModelCard,
    *,
    processes: Processes,
    sub_network: int | None = None,
    measured: Measured = nullcontext,
) -> Deviation:
    """Compare two frame counts on the same videos. The memory needed is that of one batch.

    Args:
        network: the network, on the device of `processes`, in evaluation mode.
        batches: this process's share of the test batches, which hold both frame counts.
        low: a frame count, trained or not.
        high: a higher one, the reference.
        card: the normalisation.
        processes: that share the clips; each returns what all of them give.
        sub_network: let this one serve both. Left out, the nearest to `high` serves both, and
            beside it, each frame count is served by its own nearest.
        measured: the context of each batch; see `ffn_edge.network.threads.thread_counts`.

    Raises:
        FrameCountError: there is no such sub-network.
        NetworkError: the network has no norm, or its logits are not finite.
        DataError: not one clip could be read.
    """
    counts = network.frame_counts
    if sub_network is not None and sub_network not in counts:
        raise FrameCountError(
            f"the network has no sub-network for {sub_network} frames",
            f"choose from {', '.join(map(str, counts))}.",
        )
    own = nearest_frame_count(low, counts)
    one = sub_network or nearest_frame_count(high, counts)
    reference = _Recorder(network, high, one)
    lows = [_Recorder(network, low, one)]
    # Networks that share no weight have no channels in common that could be compared.
    if sub_network is None and own != one and network.serving(own) is network:
        lows.append(_Recorder(network, low, own))
    outputs = torch.zeros(len(lows), 3, dtype=torch.float64)
    clips = 0
    with torch.inference_mode():
        for batch in batches:
            inputs = {
                frames: to_model_input(
                    batch.clips[frames].to(processes.device), card.mean, card.std
                )
                for frames in (low, high)
            }
            labels = batch.labels.to(processes.device)
            clips += len(labels)
            with measured():
                expected = reference.run(inputs[high], labels)
                for sums, recorder in zip(outputs, lows, strict=True):
                    sums += _output_shifts(recorder.run(inputs[low], labels), expected).cpu()
    everywhere = processes.gather((clips, outputs))
    clips = sum(share for share, _ in everywhere)
    outputs = torch.stack([sums for _, sums in everywhere]).sum(0)
    for recorder in (reference, *lows):
        recorder.gather(processes)
    if not clips:
        raise DataError("not one clip could be read", "check the list file and its videos.")
    passed = reference.result(clips)
    return Deviation(
        clips,
        tuple(
            Pair(recorder.result(clips), passed, OutputShift(*(sums / clips).tolist()))
            for recorder, sums in zip(lows, outputs, strict=True)
        ),
    )


def deviation_of_checkpoint(
    checkpoint: str,
    frame_counts: Sequence[int] | None = None,
    *,
    list_file: str,
    layer: str | None = None,
    sub_network: int | None = None,
    root: str | None = None,
    clips: int | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
) -> Deviation:
    """Measure a checkpoint on a list of videos.

    Args:
        checkpoint: a file of `ffn-edge train` or `import`.
        frame_counts: two; left out, the network's lowest and highest.
        list_file: see `read_list`.
        layer: a layer that must exist, since it is to be shown.
        sub_network: see `measure`.
        root: the folder that the list's paths are relative to; the list's own if None.
        clips: use this many of the videos, chosen once at random; None for all. Videos shorter
            than the higher frame count are left out: their clips would repeat frames.
        batch_size: videos at a time.
        workers: processes that decode; 0 decodes in this one.
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        FrameCountError: not two frame counts, or no such sub-network.
        NetworkError: no norm, or no such layer.
        DataError: the list cannot be used, its videos are too short, or too many are broken.
    """
    loaded = load_checkpoint(checkpoint)
    network, card = loaded.network, loaded.card
    chosen = set(frame_counts or (network.frame_counts[0], network.frame_counts[-1]))
    if len(chosen) != 2:
        raise FrameCountError(
            f"two different frame counts are compared; got {', '.join(map(str, sorted(chosen)))}",
            "name two, such as --frames 4,16.",
        )
    low, high = sorted(chosen)
    if layer is not None:
        _check_layer(layer, list(norm_layers(network, network.frame_counts[-1])))
    videos = videos_for(card, list_file, (low, high), root=root)
    videos.videos = _choose(videos.videos, high, clips, card.window_s)
    with join_processes(device) as processes:
        batches = VideoBatches(videos, batch_size=batch_size, workers=workers, processes=processes)
        return measure(
            network.to(processes.device),
            batches.epoch("measuring"),
            low,
            high,
            card,
            processes=processes,
            sub_network=sub_network,
            measured=processes.measured(),
        )


class _Recorder:
    """Runs clips of one frame count through one sub-network, and watches its norms."""

    def __init__(self, network: FrameFlexibleNetwork, frames: int, sub_network: int) -> None:
        self._network = network
        self._frames = frames
        self._sub_network = sub_network
        self._norms = norm_layers(network, sub_network)
        if not self._norms:
            raise NetworkError(
                f"{network.architecture} has no norm layer",
                "the deviation is that of what enters BatchNorm or LayerNorm.",
            )
        self._moments: dict[str, Moments] = {}  # of the norms that clips reach, in their order
        self._correct = 0

    def run(self, clip: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of (B, T, 3, H, W): float64 (B, classes)."""
        hooks = [
            norm.register_forward_pre_hook(partial(self._record, name))
            for name, norm in self._norms.items()
        ]
        try:
            logits: Tensor = self._network(clip, self._sub_network)
        finally:
            for hook in hooks:
                hook.remove()
        if not logits.isfinite().all():
            raise not_finite(self._frames)
        self._correct += int((logits.argmax(1) == labels).sum())
        return logits.double()

    def gather(self, processes: Processes) -> None:
        """Add what every other process has recorded."""
        mine = {
            name: Moments(found.rows, found.mean.cpu(), found.squares.cpu())
            for name, found in self._moments.items()
        }
        recorded = processes.gather((self._correct, mine))
        self._correct, self._moments = 0, {}
        for correct, moments in recorded:
            self._correct += correct
            for name, found in moments.items():
                self._moments.setdefault(name, Moments()).merge(found)

    def result(self, clips: int) -> Pass:
        layers = {
            name: Layer(_statistics(moments, _eps(self._norms[name])), _running(self._norms[name]))
            for name, moments in self._moments.items()
        }
        return Pass(self._frames, self._sub_network, self._correct / clips, layers)

    def _record(self, name: str, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Add what enters a norm: the hook of its forward pass."""
        (x,) = inputs
        if isinstance(norm, nn.LayerNorm) and not isinstance(norm, LayerNorm2d):
            rows = x.reshape(-1, math.prod(norm.normalized_shape))
        else:
            rows = rows_of_channels(x)
        self._moments.setdefault(name, Moments()).add(rows)


def _output_shifts(low: Tensor, high: Tensor) -> Tensor:
    """Return the sums over clips of what an `OutputShift` has the means of: float64 (3,)."""
    agree = (low.argmax(1) == high.argmax(1)).sum()
    kl = F.kl_div(low.log_softmax(1), high.log_softmax(1), reduction="sum", log_target=True)
    return torch.stack([agree.double(), kl, (low - high).abs().mean(1).sum()])


def _statistics(moments: Moments, eps: float) -> Statistics:
    """Return mean and √(σ² + ε); σ² is over the rows, not an estimate from them."""
    std = (moments.squares / moments.rows + eps).sqrt()
    return Statistics(moments.mean.cpu().numpy(), std.cpu().numpy())


def _eps(norm: nn.Module) -> float:
    assert isinstance(norm, NORM_TYPES)
    return float(norm.eps)


def _running(norm: nn.Module) -> Statistics | None:
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        return None
    std = (variance.double() + _eps(norm)).sqrt()
    return Statistics(mean.double().cpu().numpy(), std.cpu().numpy())


def _check_layer(layer: str, names: Sequence[str]) -> None:
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise NetworkError(
            f"the network has no norm layer {layer!r}", f"did you mean {' or '.join(near)}?"
        )


def _choose(
    videos: Sequence[Video], frames: int, clips: int | None, window_s: float | None = None
) -> tuple[Video, ...]:
    """Return up to `clips` of the videos with as many frames in a window, in the list's order."""
    chosen: list[int] = []
    # Lists are often in the order of the classes; the first lines, or every n-th, would be few.
    for index in np.random.default_rng(0).permutation(len(videos)).tolist():
        if len(chosen) == clips:
            break
        if _has_frames(videos[index], frames, window_s):
            chosen.append(index)
    if not chosen:
        raise DataError(
            f"no video of the list has {frames} frames",
            "compare lower frame counts; a shorter video would only repeat its frames.",
        )
    return tuple(videos[index] for index in sorted(chosen))


def _has_frames(video: Video, frames: int, window_s: float | None) -> bool:
    """Tell whether a video is long enough; one that cannot be opened is the loader's to report."""
    if video.num_frames is not None:
        return video.num_frames >= frames
    try:
        with open_video(video) as reader:
            return at_window(reader, window_s, 0.5).num_frames >= frames
    except (VideoError, OSError):
        return True
