"""Whether frames are worth more where a camera is in doubt: shared by `allot`, or in equal parts.

    python -m benchmarks.sharing BUNDLE [--minutes 10] [--cache FOLDER]

BUNDLE is as `benchmarks.events` wants it, with thresholds of events. Four cameras show rendered
(synthetic) streams; every window was answered at every frame count beforehand, so that the ways to
share are compared on the same answers. There is processor time for half of the cameras to have the
second frame count and for the others to have the fewest: they have it in turn, a second each, or by
doubt. Right is a window whose most probable class is what happens at its middle.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.events import record, rendered_stream
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.idle import NOTHING
from ffn_edge.runtime.cascade.calibration import load_calibration
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.event_calibration import RecordedStream
from ffn_edge.runtime.events.scoring import Score, score
from ffn_edge.runtime.events.thresholds import WindowAnswer, find_events
from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.policy.sharing import TIME, Claim, allot

CAMERAS = 4
HOP_S = 0.25
_LATELY_S = 3.0
_SEED = 2000

Way = Callable[[Mapping[str, float]], dict[str, int]]


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(1), default=10, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), help="Keep the streams here.")
def main(bundle: Path, minutes: float, cache: Path | None) -> None:
    """Record, share in several ways, and score."""
    console = Console(width=120)
    console.print(describe_machine())
    loaded = Bundle.load(bundle)
    calibration = load_calibration(loaded)
    assert calibration.events is not None, "calibrate it with --stream"
    with tempfile.TemporaryDirectory() as folder, open_engines(loaded, EngineOptions()) as engines:
        paths = [
            rendered_stream(cache or Path(folder), minutes, _SEED + number)
            for number in range(CAMERAS)
        ]
        cameras = {
            f"camera {number}": record(loaded, engines, path, calibration.temperatures)
            for number, path in enumerate(paths)
        }
    fewest, second = sorted(loaded.manifest.frame_counts)[:2]
    there_is = CAMERAS * (fewest + second) / 2  # frames in the time of a hop
    points = [
        OperatingPoint(
            frames=frames,
            base_ms=frames / there_is * TIME * HOP_S * 1e3,
            accuracy=None if found.accuracy is None else found.accuracy.top1,
            clips=None if found.accuracy is None else found.accuracy.clips,
        )
        for frames, found in loaded.manifest.sub_networks.items()
    ]
    ways: dict[str, Way] = {
        f"each {frames} frames": lambda doubts, frames=frames: dict.fromkeys(doubts, frames)
        for frames in loaded.manifest.frame_counts
    }
    turns = itertools.count()

    def in_turn(doubts: Mapping[str, float]) -> dict[str, int]:
        turn = next(turns)
        return {name: (fewest, second)[(number + turn) % 2] for number, name in enumerate(doubts)}

    ways["in turn"] = in_turn
    ways["by doubt"] = lambda doubts: allot(
        points, {name: Claim(hop_s=HOP_S, doubt=doubt) for name, doubt in doubts.items()}
    )
    table = Table()
    for heading in ("", "mean frames", "windows right", "of those with an action", "event F1"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, way in ways.items():
        answers = shared(cameras, way)
        total = Score()
        right, acting, used = [], [], []
        for camera, found in cameras.items():
            told = find_events(answers[camera], loaded.manifest.classes, calibration.events)
            total += score(told, found.segments, found.seconds)
            for answer in answers[camera]:
                truth = happening(found, answer.time_s - answer.covers_s / 2)
                best = loaded.manifest.classes[int(answer.probabilities.argmax())]
                right.append(best == truth)
                used.append(answer.frames)
                if truth != NOTHING:
                    acting.append(best == truth)
        table.add_row(
            name,
            f"{statistics.fmean(used):.2f}",
            f"{statistics.fmean(right):.2%}",
            f"{statistics.fmean(acting):.2%}",
            f"{total.f1:.3f}",
        )
    console.print(table)


def shared(cameras: Mapping[str, RecordedStream], way: Way) -> dict[str, list[WindowAnswer]]:
    """Return what each camera is answered where frames are given out anew each second."""
    doubts = dict.fromkeys(cameras, 1.0)
    found: dict[str, list[WindowAnswer]] = {name: [] for name in cameras}
    shares = way(doubts)
    windows = min(len(each) for camera in cameras.values() for each in camera.answers.values())
    for number in range(windows):
        if number % round(1 / HOP_S) == 0:
            shares = way(doubts)
        for name, camera in cameras.items():
            answer = camera.answers[shares[name]][number]
            found[name].append(answer)
            doubt = 1 - float(answer.probabilities.max())
            doubts[name] += (doubt - doubts[name]) * HOP_S / (HOP_S + _LATELY_S)
    return found


def happening(found: RecordedStream, time_s: float) -> str:
    """Return what happens at a time."""
    for segment in found.segments:
        if segment.start_s <= time_s < segment.end_s:
            return segment.class_name
    return NOTHING


if __name__ == "__main__":
    main()
