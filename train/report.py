"""What `ffn-edge evaluate` and `compare` report: tables for the terminal, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from ffn_edge.files.figure import COLOURS, MARKERS, drawn
from ffn_edge.train.compare import Score, mean_top1
from ffn_edge.train.evaluate import Row


def table_of(rows: Sequence[Row]) -> Table:
    """Return the rows of an evaluation as a table for the terminal."""
    table = Table()
    for heading in ("frames", "sub-network", "GMACs", "top-1", "top-5", "clips"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.frames),
            str(row.sub_network),
            f"{row.gmacs:.3g}",
            f"{row.top1:.1%}",
            f"{row.top5:.1%}",
            str(row.clips),
            style="bold" if row.frames == row.sub_network else None,
        )
    return table


def comparison_table(scores: Sequence[Score]) -> Table:
    """Return accuracy by method and frame count, with what each method costs.

    Costs: millions of parameters, their megabytes as files, minutes of training in all the
    method's runs (the mean over the seeds). A cell is top-1 in % ± one standard error: over the
    seeds, or with one seed over its clips.
    """
    frame_counts = sorted(scores[0].accuracy)
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{_what_is_shown(scores)}; CPU time without that of loader processes",
    )
    table.add_column("method", no_wrap=True)
    for heading in ("M", "MB", "min", "CPU min"):
        table.add_column(heading, justify="right")
    for frames in frame_counts:
        table.add_column(f"{frames} frames", justify="right", no_wrap=True)
    costs: dict[tuple[float, ...], list[str]] = {}  # methods by what a clip of each length costs
    for method, mine in _by_method(scores).items():
        cells = [mean_top1(scores, method, frames) for frames in frame_counts]
        table.add_row(
            method,
            f"{mine[0].parameters / 1e6:.3g}",
            f"{mine[0].bytes / 1e6:.2f}",
            f"{sum(score.seconds for score in mine) / len(mine) / 60:.1f}",
            f"{sum(score.cpu_seconds for score in mine) / len(mine) / 60:.1f}",
            *(f"{100 * cell.value:.1f}±{100 * cell.error:.1f}" for cell in cells),
        )
        costs.setdefault(tuple(mine[0].gmacs[t] for t in frame_counts), []).append(method)
    table.add_section()
    for gmacs, names in costs.items():
        label = "GMACs" if len(costs) == 1 else f"GMACs, {names[0]}" + ", …" * (len(names) > 1)
        table.add_row(label, "", "", "", "", *(f"{value:.3g}" for value in gmacs))
    return table


@dataclass(frozen=True, slots=True)
class _Point:
    """Of a curve: the frames and cost of a clip, top-1 with its error, and whether to mark it."""

    frames: int
    gmacs: float
    top1: float
    error: float | None = None
    marked: bool = True


def plot_accuracy(curves: Mapping[str, Sequence[Row]], path: str) -> None:
    """Draw top-1 against frames and against GMACs, a line per checkpoint.

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    points = {
        name: [
            _Point(row.frames, row.gmacs, row.top1, marked=row.frames == row.sub_network)
            for row in rows
        ]
        for name, rows in curves.items()
    }
    _plot(points, path, "marked: trained frame counts")


def plot_comparison(scores: Sequence[Score], path: str) -> None:
    """Draw accuracy against frames and against GMACs, a line per method (the paper's Figure 1).

    Raises:
        FfnEdgeError: the file cannot be written.
    """
    points = {}
    for method, mine in _by_method(scores).items():
        means = {t: mean_top1(scores, method, t) for t in sorted(mine[0].accuracy)}
        points[method] = [
            _Point(t, mine[0].gmacs[t], mean.value, mean.error) for t, mean in means.items()
        ]
    _plot(points, path, _what_is_shown(scores))


def _plot(curves: Mapping[str, Sequence[_Point]], path: str, title: str) -> None:
    """Draw curves against frames and against GMACs."""
    with drawn(path, columns=2, size=(11, 4.5), sharey=True) as (figure, axes):
        by_frames, by_cost = axes.flat
        for place, (name, points) in enumerate(curves.items()):
            for axis, x in (
                (by_frames, [point.frames for point in points]),
                (by_cost, [point.gmacs for point in points]),
            ):
                axis.errorbar(
                    x,
                    [100 * point.top1 for point in points],
                    yerr=[100 * (point.error or 0) for point in points],
                    label=name,
                    color=COLOURS[place % len(COLOURS)],
                    marker=MARKERS[place % len(MARKERS)],
                    markevery=[i for i, point in enumerate(points) if point.marked],
                    linestyle="-" if place < len(COLOURS) else "--",
                    markersize=5,
                    capsize=2 if points[0].error else 0,
                )
        by_frames.set(xlabel="frames", ylabel="top-1, %")
        by_frames.xaxis.get_major_locator().set_params(integer=True)
        by_cost.set(xlabel="GMACs per clip", xscale="log")
        by_cost.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
        by_cost.xaxis.set_major_formatter("{x:g}")
        by_cost.minorticks_off()
        figure.legend(*by_frames.get_legend_handles_labels(), loc="outside right upper")
        figure.suptitle(title, fontsize=9)


def _what_is_shown(scores: Sequence[Score]) -> str:
    seeds = len({score.seed for score in scores})
    clips = next(iter(scores[0].accuracy.values())).clips
    if seeds > 1:
        return f"top-1 in % of {clips} clips for each seed, ± one standard error over {seeds} seeds"
    return f"top-1 in % of {clips} clips, ± one standard error over them"


def _by_method(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Return each method's scores, in the order in which they were asked for."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.method, []).append(score)
    return found
