"""What `ffn-edge deviation` reports: tables, a picture of every layer, and JSON."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table

from ffn_edge.files.figure import COLOURS, MARKERS, drawn
from ffn_edge.train.deviation import Deviation, Pass, Shift, Statistics

_NAMES_ON_AXIS = 30


def tables_of(deviation: Deviation) -> list[Table]:
    """Return two tables for the terminal: of every layer, and of the output."""
    low, high = deviation.frame_counts
    layers = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title=f"What enters each norm, {deviation.clips} clips of {low} and of {high} frames",
        caption=f"Each cell: of μ, of σ. {low} to {high}: RMS over channels of "
        f"(μ{low} − μ{high})/σ{high}, mean of |ln σ{low}/σ{high}|. Mismatch: the same against the "
        "statistics that the norm holds. A by B: A frames, served by the sub-network of B frames.",
        caption_justify="left",
    )
    layers.add_column("layer", overflow="fold")
    columns: list[dict[str, Shift | None]] = []
    for comparison in deviation.comparisons:
        heading = f"{low} to {high}\n{textwrap.fill(comparison.name, 9)}"
        layers.add_column(heading, justify="right")
        columns.append({**comparison.shifts()})
    for one in deviation.passes:
        layers.add_column(f"mismatch\n{one.name}", justify="right")
        columns.append(one.mismatches())
    for name in columns[0]:
        layers.add_row(name, *(_cell(column[name]) for column in columns))
    layers.add_section()
    layers.add_row("mean", *(_cell(_mean(column.values())) for column in columns))

    outputs = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title="How far the output moves",
        caption=f"KL: of {low} from {high} frames, in nats, mean over clips.",
        caption_justify="left",
    )
    outputs.add_column("sub-network")
    for heading in ("same top-1", "KL", "|Δ logit|", f"top-1 at {low}", f"top-1 at {high}"):
        outputs.add_column(heading, justify="right")
    for comparison in deviation.comparisons:
        output = comparison.output
        outputs.add_row(
            comparison.name,
            f"{output.agreement:.1%}",
            f"{output.kl:.3g}",
            f"{output.logit:.3g}",
            f"{comparison.low.top1:.1%}",
            f"{comparison.high.top1:.1%}",
        )
    return [layers, outputs]


def plot_deviation(deviation: Deviation, path: str) -> None:
    """Draw how far μ and σ of every layer deviate.

    Args:
        deviation: what to draw.
        path: the file, as `ffn_edge.files.figure.check_figure` takes it.

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    low, high = deviation.frame_counts
    moves: dict[str, Mapping[str, Shift | None]] = {
        pair.name: {**pair.shifts()} for pair in deviation.comparisons
    }
    mismatches: dict[str, Mapping[str, Shift | None]] = {
        one.name: one.mismatches() for one in deviation.passes
    }
    rows = {f"between {low} and {high} frames": moves}
    if any(mismatches[deviation.passes[-1].name].values()):
        rows["against the statistics that the norm holds"] = mismatches
    names = list(deviation.passes[-1].layers)
    every = math.ceil(len(names) / _NAMES_ON_AXIS)
    with drawn(
        path, rows=len(rows), columns=2, size=(11, 1.5 + 2.4 * len(rows)), sharex=True, dpi=100
    ) as (figure, axes):
        for (title, curves), (means, stds) in zip(rows.items(), axes, strict=True):
            for place, (label, shifts) in enumerate(curves.items()):
                moved = [shifts[name] for name in names]
                style = {"color": COLOURS[place], "marker": MARKERS[place], "label": label}
                # NaN: a gap
                means.plot([each.mean if each else math.nan for each in moved], **style)
                stds.plot([each.std if each else math.nan for each in moved], **style)
            means.set(title=f"every layer's μ {title}", ylabel="RMS of Δμ/σ")
            stds.set(title=f"every layer's σ {title}", ylabel="mean of |Δ ln σ|")
            stds.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
        for axis in axes.flat:
            axis.set_ylim(bottom=0)
            axis.title.set_fontsize("medium")
            axis.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=7)
        figure.suptitle(
            f"Temporal Frequency Deviation between {low} and {high} frames, {deviation.clips} "
            "clips. A by B: A frames, served by the sub-network of B frames"
        )


def json_of(deviation: Deviation, layer: str | None = None) -> dict[str, Any]:
    """Return the deviation ready for JSON, with the channels of one layer.

    Args:
        deviation: what to write.
        layer: whose channels; left out, the most deviating one's.
    """
    shown = layer or deviation.most_deviating
    return {
        "clips": deviation.clips,
        "comparisons": [
            {
                "low": _pass_fields(comparison.low),
                "high": _pass_fields(comparison.high),
                "output": dataclasses.asdict(comparison.output),
                "layers": {
                    name: dataclasses.asdict(moved) for name, moved in comparison.shifts().items()
                },
            }
            for comparison in deviation.comparisons
        ],
        "passes": [
            _pass_fields(one)
            | {
                "top1": one.top1,
                "mismatch": {
                    name: off and dataclasses.asdict(off) for name, off in one.mismatches().items()
                },
                "entering": _channel_fields(one.layers[shown].entering),
                "running": _channel_fields(one.layers[shown].running),
            }
            for one in deviation.passes
        ],
        "layer": shown,
    }


def _cell(moved: Shift | None) -> str:
    return "–" if moved is None else f"{moved.mean:.2f} {moved.std:.2f}"


def _mean(column: Iterable[Shift | None]) -> Shift | None:
    known = [moved for moved in column if moved is not None]
    if not known:
        return None
    count = len(known)
    return Shift(sum(moved.mean for moved in known) / count, sum(m.std for m in known) / count)


def _pass_fields(one: Pass) -> dict[str, Any]:
    return {"frames": one.frames, "sub_network": one.sub_network}


def _channel_fields(statistics: Statistics | None) -> dict[str, list[float]] | None:
    if statistics is None:
        return None
    return {"mean": statistics.mean.tolist(), "std": statistics.std.tolist()}
