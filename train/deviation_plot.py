"""A picture of the deviation: of every layer of the network, and of the channels of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ffn_edge.files.figure import save_figure
from ffn_edge.train.deviation import Deviation, Pass, Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour and marker. Okabe and Ito's colours, which the colour-blind can tell apart, and markers say
# the same again. The lower frame count: by the sub-network that serves both, then by its own.
_REFERENCE = ("black", ".")
_LOW = (("#d55e00", "o"), ("#0072b2", "x"))
_NAMES_ON_AXIS = 30
_FEW_CHANNELS = 128

# What is drawn of every layer: its label, colour and marker, and the layers' shifts by name.
_Curve = tuple[str, tuple[str, str], Mapping[str, Shift | None]]


def plot_deviation(deviation: Deviation, path: str, layer: str | None = None) -> None:
    """Draw how far every layer deviates, and μ and σ of one layer's channels.

    Args:
        deviation: what to draw.
        path: the file, as `ffn_edge.files.figure.check_figure` takes it.
        layer: whose channels; left out, the most deviating one's.

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    low, high = deviation.frame_counts
    layer = layer or deviation.most_deviating
    *lows, reference = deviation.passes
    passes = [*zip(lows, _LOW, strict=False), (reference, _REFERENCE)]
    moves: list[_Curve] = [
        (comparison.name, style, comparison.shifts())
        for comparison, style in zip(deviation.comparisons, _LOW, strict=False)
    ]
    mismatches: list[_Curve] = [(one.name, style, one.mismatches()) for one, style in passes]
    rows = [(f"between {low} and {high} frames", moves)]
    if any(reference.mismatches().values()):
        rows.append(("against the statistics that the norm holds", mismatches))
    figure, axes = pyplot.subplots(
        len(rows) + 1, 2, figsize=(11, 1.5 + 2.4 * (len(rows) + 1)), layout="constrained"
    )
    names = list(reference.layers)
    for (title, curves), (means, stds) in zip(rows, axes, strict=False):
        _draw_layers(means, stds, curves, names)
        means.set_title(f"every layer's μ {title}")
        stds.set_title(f"every layer's σ {title}")
        for axis in (means, stds):
            axis.axvline(names.index(layer), color="#999999", ls=":", label="shown below")
            axis.tick_params(labelbottom=(title == rows[-1][0]))
    means, stds = axes[-1]
    _draw_channels(means, stds, passes, layer)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.title.set_fontsize("medium")
    for _, right in axes:
        right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
    figure.suptitle(
        f"Temporal Frequency Deviation between {low} and {high} frames, {deviation.clips} clips. "
        "A by B: A frames, served by the sub-network of B frames"
    )
    save_figure(figure, path, dpi=100)


def _draw_layers(means: Axes, stds: Axes, curves: Sequence[_Curve], names: Sequence[str]) -> None:
    for label, (colour, marker), shifts in curves:
        moves = [shifts[name] for name in names]
        for axis, y in (
            (means, [moved.mean if moved else math.nan for moved in moves]),  # NaN: a gap
            (stds, [moved.std if moved else math.nan for moved in moves]),
        ):
            axis.plot(y, color=colour, marker=marker, ms=4, linewidth=1, label=label)
    means.set_ylabel("RMS of Δμ/σ")
    stds.set_ylabel("mean of |Δ ln σ|")
    every = math.ceil(len(names) / _NAMES_ON_AXIS)
    for axis in (means, stds):
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=7)


def _draw_channels(
    means: Axes, stds: Axes, passes: Sequence[tuple[Pass, tuple[str, str]]], layer: str
) -> None:
    entering = [one.layers[layer].entering for one, _ in passes]
    for axis, symbol, columns in (
        (means, "μ", [statistics.mean for statistics in entering]),
        (stds, "σ", [statistics.std for statistics in entering]),
    ):
        order = np.argsort(columns[-1])
        size = 4 if len(order) <= _FEW_CHANNELS else 2
        for (one, (colour, marker)), values in zip(passes[:-1], columns, strict=False):
            axis.plot(values[order], marker, color=colour, ms=size, label=one.name)
        # The others scatter about the line of the reference.
        axis.plot(columns[-1][order], color=_REFERENCE[0], label=passes[-1][0].name)
        axis.set(title=f"{symbol} of each channel of {layer}", ylabel=symbol)
        axis.set_xlabel(f"channels, in the order of {symbol} of {passes[-1][0].name}")
