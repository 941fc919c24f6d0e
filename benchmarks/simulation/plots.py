"""Pictures of simulated runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.simulation.baselines import named
from benchmarks.simulation.board import BoardSpec
from benchmarks.simulation.run import Run, Workload, simulate
from benchmarks.simulation.timeline import Timeline
from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.figure import save_figure
from ffn_edge.runtime.simulate.figures import WINDOW_S

# What is drawn, and how. The oracle comes first, so that it lies below.
_LINES = {
    "oracle": ("#adb5bd", "oracle"),
    "alert": ("#c92a2a", "ALERT"),
    "adaptive": ("#0b7285", "adaptive (ours)"),
}
_TALLEST = 2.5  # deadlines: a spike beyond is cut off


def plot_workload(workload: Workload, path: Path, *, spec: BoardSpec, miss_rate: float) -> None:
    """Draw what three policies do on a workload: frames, latency, power and temperature over time.

    Raises:
        FfnEdgeError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise FfnEdgeError(
            f"plots need matplotlib, which cannot be imported here ({error})",
            'pip install "ffn-edge[plot]"',
        ) from error
    runs = {
        name: simulate(workload, None if name == "oracle" else named(name), 0, miss_rate, spec=spec)
        for name in _LINES
    }
    figure, (frames, latency, power, heat) = pyplot.subplots(
        4, 1, figsize=(11, 9), sharex=True, layout="constrained", height_ratios=(2, 3, 3, 2)
    )
    counts = [point.frames for point in runs["oracle"].setting.points]
    for offset, (name, run) in enumerate(runs.items()):
        colour, label = _LINES[name]
        timeline = _timeline(run)
        time_s = np.asarray(timeline.time_s)
        # A little apart, so that equal choices do not hide each other.
        chosen = np.asarray(timeline.index) + 0.09 * (offset - 1)
        frames.step(time_s, chosen, where="post", color=colour, label=label, linewidth=1)
        if name != "oracle":
            latency.plot(time_s, timeline.latency_ms, ".", color=colour, markersize=2, label=label)
        power.plot(time_s, _smooth(timeline), color=colour, label=label, linewidth=1)
        heat.plot(time_s, timeline.temperature_c, color=colour, label=label, linewidth=1)
    limits = _timeline(runs["adaptive"])
    for axis, limit in ((latency, limits.deadline_ms), (power, limits.budget_w)):
        if not np.isnan(limit).all():
            axis.step(limits.time_s, limit, where="post", color="black", label="limit", linewidth=1)
    if not np.isnan(limits.deadline_ms).all():
        latency.set_ylim(0, _TALLEST * float(np.nanmax(limits.deadline_ms)))
    frames.set(
        ylabel="frames (lines\nshifted apart)",
        yticks=range(len(counts)),
        yticklabels=counts,
        ylim=(-0.5, len(counts) - 0.5),
    )
    latency.set(ylabel="latency, ms")
    power.set(ylabel=f"power, W (mean of\nthe last {WINDOW_S:g} s)")
    heat.set(ylabel="temperature, °C", xlabel="time, s")
    for axis in (frames, latency, power, heat):
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"{workload.name}: at most {100 * miss_rate:g} % missed deadlines, simulated",
        x=0.01,
        ha="left",
    )
    legend = dict(zip(*reversed(latency.get_legend_handles_labels()), strict=True))
    legend |= dict(zip(*reversed(power.get_legend_handles_labels()), strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside upper right", ncols=len(legend))
    save_figure(figure, path, dpi=110)


def _timeline(run: Run) -> Timeline:
    assert run.timeline is not None, "the runs of a plot are kept"
    return run.timeline


def _smooth(timeline: Timeline) -> list[float]:
    """Return the mean power of the last 10 s, as the budget means it."""
    time_s, power_w = np.asarray(timeline.time_s), np.asarray(timeline.power_w)
    first = np.searchsorted(time_s, time_s - WINDOW_S, side="right")
    total = np.concatenate(([0.0], np.cumsum(power_w)))
    upto = np.arange(1, len(time_s) + 1)
    means: list[float] = ((total[upto] - total[first]) / (upto - first)).tolist()
    return means
