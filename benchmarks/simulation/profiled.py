"""A simulated board whose engines are those of a bundle, as they were profiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.simulation.board import SYNTHETIC, BoardSpec
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.profile.profile import load_profile


def board_from_bundle(path: Path) -> tuple[BoardSpec, str | None]:
    """Return a board with a bundle's engines, and what of it is made up nevertheless, or None.

    Latency, its noise, and accuracy are the bundle's; power too, where the profile has it. Heat,
    contention, spikes and the sensor are the synthetic board's.

    Raises:
        FfnEdgeError: the bundle cannot be used, was not profiled, or has no accuracies.
    """
    bundle = Bundle.load(path)
    profile = load_profile(path)
    if profile is None:
        raise FfnEdgeError(
            f"{path} has no profile to simulate",
            f"measure its engines first, on the device: `ffn-edge profile {path}`.",
        )
    latencies = profile.latencies.get("fp32", {})
    counts = sorted(latencies)
    above_idle_w = profile.power.above_idle_w.get("fp32", {})
    measured = profile.power.idle_w is not None and all(
        above_idle_w.get(frames) is not None for frames in counts
    )
    known = [point.power_w or 0.0 for point in SYNTHETIC.points]
    made_up = np.linspace(known[0], known[-1], len(counts))
    points = []
    ratios: list[float] = []
    for frames, power_w in zip(counts, made_up, strict=True):
        latency = latencies[frames]
        sub_network = bundle.manifest.sub_networks.get(frames)
        if sub_network is None or sub_network.accuracy is None:
            raise FfnEdgeError(
                f"{path} does not say how accurate {frames} frames are",
                "export it from a checkpoint that was trained with a validation list, and profile "
                "it again.",
            )
        points.append(
            OperatingPoint(
                frames=frames,
                base_ms=latency.median_ms,
                accuracy=sub_network.accuracy.top1,
                clips=sub_network.accuracy.clips,
                power_w=above_idle_w[frames] if measured else float(power_w),
            )
        )
        ratios += [sample_ms / latency.median_ms for sample_ms in latency.samples_ms]
    spec = BoardSpec(
        points=tuple(points),
        ratios=tuple(sorted(ratios)),
        idle_w=profile.power.idle_w if measured and profile.power.idle_w else SYNTHETIC.idle_w,
    )
    note = None if measured else "the profile has no power; a synthetic board's is used"
    return spec, note
