"""Say what recorded traces show, in Markdown.

    python -m benchmarks.trace_figures [FILE.jsonl.gz ...]    (those that are stored)

Of what `benchmarks/interference.py` and `benchmarks/gpu/traces.py` recorded: how much slower each
engine is by the level of the load; whether its mean latency rises by a factor of its own, the same
for all engines, or by a wait, the same milliseconds for all (each fitted to every level by least
squares in ms: which share of the squared rises it explains); how the engines go together; how often
the fewest frames were the fastest; clocks, and the power that the card shows, so much later as it
goes with the load best. Of `gpu-power-step.jsonl.gz`: how the card's
power follows a load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.simulation.interference import (
    TRACES,
    Interference,
    Values,
    read_interference,
    read_lines,
)
from ffn_edge.errors import FfnEdgeError
from ffn_edge.files import schema
from ffn_edge.files.schema import NotNegative, Share

_SHARES = (0.63, 0.95)
_HEADINGS = (
    "trace",
    "frames: ms without load",
    "load %: times as long, mean (95 %)",
    "explained by a factor / a wait %",
    "correlation, all / within a level",
    "fewest fastest %",
    "card, load %: W, SM MHz at least",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """What a card's meter says at one time, beside a load.

    Attributes:
        time_s: from the first row.
        level: of the load, in 0..1: 0, then 1, then 0.
        power_w: the average that NVML tells; None if it tells none.
        energy_j: by its counter, likewise.
        instant_w: not averaged, likewise.
    """

    time_s: NotNegative
    level: Share
    power_w: NotNegative | None = None
    energy_j: NotNegative | None = None
    instant_w: NotNegative | None = None


def read_step(path: Path) -> list[MeterRow]:
    """Read what `benchmarks/gpu/traces.py` wrote of the meter. Raises an `FfnEdgeError`."""
    try:
        return [schema.parse(MeterRow, schema.load(line)) for line in read_lines(path)[1:]]
    except ValueError as error:
        raise FfnEdgeError(f"{path} is damaged: {error}", "record it again.") from error


def step_figures(rows: Sequence[MeterRow]) -> str:
    """Say how the meter follows a load that begins and ends, and how often it has news."""
    time_s = np.array([row.time_s for row in rows])
    level = np.array([row.level for row in rows])
    said = []
    for name, found in (
        ("average", [row.power_w for row in rows]),
        ("instant", [row.instant_w for row in rows]),
    ):
        watts = [each for each in found if each is not None]
        if len(watts) == len(rows):
            said.append(f"{name}: {_followed(time_s, level, np.array(watts))}")
    energies_j = [row.energy_j for row in rows if row.energy_j is not None]
    if len(energies_j) == len(rows):
        said.append(f"counter: {_cadence(time_s, np.array(energies_j))}")
    return "; ".join(said) or "the card tells neither power nor energy"


def _followed(time_s: Values, level: Values, watts: Values) -> str:
    begin, end = np.flatnonzero(np.diff(level)) + 1
    # Each part's second half, when the average has settled.
    before_w, loaded_w, after_w = (
        float(np.median(part[len(part) // 2 :])) for part in np.split(watts, (begin, end))
    )
    text = f"{before_w:.0f} → {loaded_w:.0f} → {after_w:.0f} W"
    if loaded_w - max(before_w, after_w) < 1:
        return text
    up = _reached(time_s[begin:end], (watts[begin:end] - before_w) / (loaded_w - before_w))
    down = _reached(time_s[end:], (watts[end:] - loaded_w) / (after_w - loaded_w))
    return f"{text}, 63 / 95 % after {up} s up, {down} s down, {_cadence(time_s, watts)}"


def _reached(time_s: Values, done: Values) -> str:
    return " / ".join(f"{time_s[np.argmax(done >= share)] - time_s[0]:.2f}" for share in _SHARES)


def _cadence(time_s: Values, shown: Values) -> str:
    changed_s = time_s[1:][np.diff(shown) != 0]
    if len(changed_s) < 2:
        return "no news"
    return f"news each {1e3 * np.median(np.diff(changed_s)):.0f} ms"


def explained(mean_ms: Values) -> tuple[float, float]:
    """Return which shares of the squared rises a factor and a wait for each level explain.

    Args:
        mean_ms: (L, E), of each engine at each level; the first is the one without load.
    """
    base_ms, rises_ms = mean_ms[0], mean_ms[1:] - mean_ms[0]
    factors = rises_ms @ base_ms / (base_ms @ base_ms)
    waits_ms = rises_ms.mean(axis=1)
    all_ms2 = np.square(rises_ms).sum()
    by_factor, by_wait = (
        1 - float(np.square(rises_ms - fitted).sum() / all_ms2)
        for fitted in (np.outer(factors, base_ms), waits_ms[:, None])
    )
    return by_factor, by_wait


def trace_row(recorded: Interference) -> list[str]:
    """Return the cells of a trace, for `_HEADINGS`."""
    levels = np.unique(recorded.level)
    latency_ms = [recorded.latency_ms[recorded.level == level] for level in levels]
    mean_ms = np.array([each.mean(axis=0) for each in latency_ms])
    late_ms = np.array([np.quantile(each, 0.95, axis=0) for each in latency_ms])
    shares = [f"{100 * share:.0f}" for share in explained(mean_ms)] if len(levels) > 1 else []
    logarithms = np.log(recorded.latency_ms)
    within = logarithms.copy()
    for level in levels:
        within[recorded.level == level] -= logarithms[recorded.level == level].mean(axis=0)
    frames = [engine.frames for engine in recorded.conditions.engines]
    slower = [
        f"{100 * level:.0f}: {_slashed(mean / mean_ms[0], 2)} ({_slashed(late / late_ms[0], 1)})"
        for level, mean, late in zip(levels[1:], mean_ms[1:], late_ms[1:], strict=True)
    ]
    return [
        recorded.name,
        f"{'/'.join(map(str, frames))}: {'/'.join(f'{each:.3g}' for each in mean_ms[0])}",
        "; ".join(slower) or "–",
        " / ".join(shares) or "–",
        f"{_correlation(logarithms)} / {_correlation(within)}",
        f"{100 * np.mean(recorded.latency_ms.argmin(axis=1) == 0):.0f}",
        "; ".join(_sensed(recorded, levels)) or "–",
    ]


def _slashed(values: Values, digits: int) -> str:
    return "/".join(f"{value:.{digits}f}" for value in values)


def _correlation(logarithms: Values) -> str:
    """Return the least and the greatest between two engines."""
    pairs = np.asarray(np.corrcoef(logarithms.T))[np.triu_indices(logarithms.shape[1], 1)]
    least, most = (round(float(each), 2) + 0.0 for each in (pairs.min(), pairs.max()))  # no -0
    return f"{least:.2f} to {most:.2f}"


def _sensed(recorded: Interference, levels: Values) -> Iterator[str]:
    if recorded.power_w is None:
        return
    late = _late(recorded.level, recorded.power_w)
    for level in levels:
        chosen = recorded.level == level
        clocks_mhz = recorded.clocks_mhz[chosen, :1]
        shown = f", {clocks_mhz.min():.0f}" if clocks_mhz.size else ""
        watts = recorded.power_w[late:][chosen[: len(chosen) - late]]
        yield f"{100 * level:.0f}: {watts.mean():.0f}{shown}"
    yield f"W {late * recorded.conditions.period_s:.2f} s late"
    yield f"W {_cadence(recorded.time_s, recorded.power_w)}"


def _late(level: Values, watts: Values) -> int:
    """Return by how many rounds the power that is shown follows the load."""
    if level.std() == 0 or watts.std() == 0:
        return 0
    count = len(level)
    together = [
        np.corrcoef(level[: count - late], watts[late:])[0, 1] for late in range(count // 8)
    ]
    return int(np.argmax(together))


def is_step(path: Path) -> bool:
    """Tell whether a file is of the meter, not of engines. Raises an `FfnEdgeError`."""
    return '"engines"' not in read_lines(path)[0]


@click.command(help=__doc__)
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
def main(files: tuple[Path, ...]) -> None:
    """Print."""
    paths = files or sorted(TRACES.glob("*.gz"))
    steps = [path for path in paths if is_step(path)]
    traces = [read_interference(path) for path in paths if path not in steps]
    for cells in [_HEADINGS, ("---",) * len(_HEADINGS), *map(trace_row, traces)] if traces else []:
        click.echo("| " + " | ".join(cells) + " |")
    for path in steps:
        click.echo(f"{path.name}: {step_figures(read_step(path))}")


if __name__ == "__main__":
    try:
        main()
    except FfnEdgeError as error:
        raise SystemExit(str(error)) from error
