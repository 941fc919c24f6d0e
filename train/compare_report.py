"""What `ffn-edge compare` reports: one table and one figure."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from ffn_edge.files.figure import save_figure
from ffn_edge.train.compare import Score, mean_top1

# Told apart without colour too (Okabe and Ito's palette, and a marker each).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*"


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
    for method in _methods(scores):
        mine = [score for score in scores if score.method == method]
        cells = [mean_top1(scores, method, frames) for frames in frame_counts]
        table.add_row(
            method,
            f"{mine[0].parameters / 1e6:.3g}",
            f"{mine[0].bytes / 1e6:.2f}",
            f"{sum(score.seconds for score in mine) / len(mine) / 60:.1f}",
            f"{sum(score.cpu_seconds for score in mine) / len(mine) / 60:.1f}",
            *(f"{100 * cell.value:.1f}±{100 * cell.error:.1f}" for cell in cells),
        )
    table.add_section()
    costs: dict[tuple[float, ...], list[str]] = {}  # methods by what a clip of each length costs
    for score in scores:
        names = costs.setdefault(tuple(score.gmacs[t] for t in frame_counts), [])
        if score.method not in names:
            names.append(score.method)
    for gmacs, names in costs.items():
        label = "GMACs" if len(costs) == 1 else f"GMACs, {names[0]}" + ", …" * (len(names) > 1)
        table.add_row(label, "", "", "", "", *(f"{value:.3g}" for value in gmacs))
    return table


def plot_comparison(scores: Sequence[Score], path: str) -> None:
    """Draw accuracy against frames and against GMACs, a line per method (the paper's Figure 1)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for place, method in enumerate(_methods(scores)):
        mine = next(score for score in scores if score.method == method)
        frame_counts = sorted(mine.accuracy)
        cells = [mean_top1(scores, method, frames) for frames in frame_counts]
        for axis, x in (
            (axes[0], frame_counts),
            (axes[1], [mine.gmacs[frames] for frames in frame_counts]),
        ):
            axis.errorbar(
                x,
                [100 * cell.value for cell in cells],
                yerr=[100 * cell.error for cell in cells],
                label=method,
                color=_COLOURS[place % len(_COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                linestyle="-" if place < len(_COLOURS) else "--",
                markersize=5,
                capsize=2,
            )
    axes[0].set(xlabel="frames", ylabel="top-1, %")
    axes[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes[1].set(xlabel="GMACs per clip", xscale="log")
    axes[1].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].minorticks_off()
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    figure.suptitle(_what_is_shown(scores), fontsize=9)
    save_figure(figure, path, dpi=120)


def _what_is_shown(scores: Sequence[Score]) -> str:
    seeds = len({score.seed for score in scores})
    clips = next(iter(scores[0].accuracy.values())).clips
    if seeds > 1:
        return f"top-1 in % of {clips} clips for each seed, ± one standard error over {seeds} seeds"
    return f"top-1 in % of {clips} clips, ± one standard error over them"


def _methods(scores: Sequence[Score]) -> list[str]:
    """Return the methods in the order in which they were asked for."""
    return list(dict.fromkeys(score.method for score in scores))
