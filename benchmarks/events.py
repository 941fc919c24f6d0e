"""Events on long rendered streams, mostly idle: learnt thresholds against raw windows.

    python -m benchmarks.events bundle --clips clips     # renders them, and ends
    ffn-edge train demo --train-list clips/train.txt --val-list clips/val.txt \\
        --classes clips/classes.txt --epochs 24 --set cache_gib=3 -o runs/events
    ffn-edge export runs/events/best.pt -o bundle
    ffn-edge calibrate bundle --list clips/val.txt
    python -m benchmarks.events bundle [--minutes 30] [--seeds 3] [--cache FOLDER]

The network tells the demo's twelve actions, and "nothing". Thresholds are learnt on streams of
other seeds than those that are scored. "raw" is what one has without events: a run of
windows whose most probable class is the same action, at one threshold, the one of the best F1 on
the same learning streams. The adaptive run has a deadline that changes every 20 s, so that it
switches between all frame counts. Not real time: files run as fast as they go.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import CLIP, TEST_SHARE, render_clips
from ffn_edge.demo.idle import NOTHING, render_idle_stream
from ffn_edge.files.atomic import write_text
from ffn_edge.runtime.cascade.calibration import load_calibration
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.event_calibration import RecordedStream, read_streams, record_streams
from ffn_edge.runtime.event_stage import EventStage
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.events.scoring import Score, Told, score
from ffn_edge.runtime.events.thresholds import WindowAnswer, find_events, learn_rules
from ffn_edge.runtime.profile.profile import profile_bundle
from ffn_edge.runtime.profile.setting import PrecisionChooser
from ffn_edge.runtime.run import open_session

_LEARNING_SEED = 1000
_NOTHING_CLIPS = 900  # beside 1800 of actions
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_CHANGES_S = 20.0


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--clips", type=click.Path(path_type=Path), help="Render clips here, and end.")
@click.option("--minutes", type=click.FloatRange(1), default=30, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--false-alarms", type=float, default=1.0, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), help="Keep the streams here.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def main(
    bundle: Path,
    clips: Path | None,
    minutes: float,
    seeds: int,
    false_alarms: float,
    cache: Path | None,
    threads: int,
) -> None:
    """Render, learn, run and score."""
    if clips is not None:
        render_clips(clips, nothing=_NOTHING_CLIPS)
        return
    console = Console(width=140)
    console.print(describe_machine())
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) if cache is None else cache
        loaded = Bundle.load(bundle)
        options = EngineOptions(threads=threads)
        temperatures = load_calibration(loaded).temperatures
        learning = [rendered_stream(cache, minutes, _LEARNING_SEED + seed) for seed in range(seeds)]
        scored = [rendered_stream(cache, minutes, seed) for seed in range(seeds)]
        console.print(f"{2 * seeds} streams of {minutes:g} minutes: {_since(begin)}")
        with open_engines(loaded, options, precisions=PrecisionChooser(loaded, options)) as engines:
            known, tested = (
                [record(loaded, engines, each, temperatures) for each in streams]
                for streams in (learning, scored)
            )
        profile = profile_bundle(loaded, options, runs=50)
        latencies = {t: each.median_ms for t, each in profile.latencies["fp32"].items()}
        console.print(f"every window at every frame count: {_since(begin)}")
        learnt = learn_rules(
            [each for found in known for each in found.labelled()],
            loaded.manifest.classes,
            false_alarms_per_hour=false_alarms,
        )
        threshold = _best_threshold(known, loaded.manifest.classes)
        console.print(f"thresholds: {_since(begin)}\n{learnt.rules}\nraw: {threshold}")
        table = _table()
        for frames in loaded.manifest.frame_counts:
            raw, events = Score(), Score()
            for found in tested:
                answers = found.answers[frames]
                told = raw_windows(answers, loaded.manifest.classes, threshold)
                raw += score(told, found.segments, found.seconds)
                told = find_events(answers, loaded.manifest.classes, learnt.rules)
                events += score(told, found.segments, found.seconds)
            _row(table, f"{frames} frames, raw windows", raw)
            _row(table, f"{frames} frames, events", events)
        adaptive, ran = Score(), Counter[int]()
        for path, found in zip(scored, tested, strict=True):
            told = _adaptive(loaded, path, learnt.rules, temperatures, latencies, threads, ran)
            adaptive += score(told, found.segments, found.seconds)
        _row(table, "adaptive, events", adaptive)
        console.print(table)
        shares = ", ".join(f"{t}: {n / ran.total():.0%}" for t, n in sorted(ran.items()))
        console.print(f"frame counts of the adaptive run: {shares}; all in {_since(begin)}")


def raw_windows(
    answers: Sequence[WindowAnswer], classes: Sequence[str], threshold: float
) -> list[Told]:
    """Return runs of windows whose most probable class is one action and above a threshold."""
    told = []
    groups = itertools.groupby(
        answers,
        key=lambda each: (
            int(each.probabilities.argmax()),
            float(each.probabilities.max()) >= threshold,
        ),
    )
    for (number, sure), group in groups:
        run = list(group)
        if not sure or classes[number] == NOTHING:
            continue
        confidences = [float(each.probabilities[number]) for each in run]
        event = Event(
            id="", source="", class_name=classes[number],
            start_s=run[0].time_s - run[0].covers_s / 2,
            end_s=run[-1].time_s - run[-1].covers_s / 2,
            confidence=sum(confidences) / len(run), peak=max(confidences), peak_s=run[0].time_s,
        )  # fmt: skip
        told.append(Told(event, run[0].time_s))
    return told


def _best_threshold(known: Sequence[RecordedStream], classes: Sequence[str]) -> float:
    def f1(threshold: float) -> float:
        scores = (
            score(raw_windows(answers, classes, threshold), found.segments, found.seconds)
            for found in known
            for answers in found.answers.values()
        )
        return sum(scores, Score()).f1

    return max(_THRESHOLDS, key=f1)


def rendered_stream(cache: Path, minutes: float, seed: int) -> Path:
    """Return a stream that is rendered unless it lies in the folder."""
    path = cache / f"{minutes:g}-{seed}.mp4"
    if not path.with_suffix(".csv").exists():
        cache.mkdir(parents=True, exist_ok=True)
        render_idle_stream(path, seconds=60 * minutes, share=TEST_SHARE, canvas=CLIP, seed=seed)
    return path


def record(
    bundle: Bundle, engines: OpenEngines, path: Path, temperatures: dict[int, float]
) -> RecordedStream:
    """Return what is said of every window of a stream, at every frame count."""
    streams = read_streams(path.with_suffix(".csv"), bundle)
    (found,) = record_streams(bundle, engines, streams, temperatures)
    return found


def _adaptive(
    bundle: Bundle,
    path: Path,
    rules: EventRules,
    temperatures: dict[int, float],
    latencies: dict[int, float],
    threads: int,
    ran: Counter[int],
) -> list[Told]:
    """Run as a user would, under deadlines that let now the one, now the other frame count fit."""
    told_s: dict[str, float] = {}
    told: list[Told] = []
    now_s = 0.0

    def take(event: Event) -> None:
        told_s.setdefault(event.id, now_s)
        if event.end_s is not None:
            told.append(Told(event, told_s[event.id]))

    stage = EventStage(
        lambda source: rules, bundle.manifest.classes, temperatures, take, recordings=(str(path),)
    )
    deadlines = itertools.cycle(2.0 * latencies[t] for t in sorted(latencies))
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder) / "limits.json"
        write_text(limits, json.dumps({"latency_ms": next(deadlines)}))
        changed_s = 0.0
        options = EngineOptions(threads=threads)
        with open_session(bundle, path, limits_file=limits, engines=options) as session:
            for result in session:
                now_s = result.time_s
                ran[result.frames] += 1
                stage.result(result)
                if now_s - changed_s > _CHANGES_S:
                    changed_s = now_s
                    write_text(limits, json.dumps({"latency_ms": next(deadlines)}))
    stage.end_all()
    return told


def _table() -> Table:
    table = Table(
        caption="F1 at an overlap of half; start: the median of how far it is off; told: and of "
        "the newest frame's time after it when the event was told"
    )
    table.add_column("")
    for heading in ("actions", "events", "F1", "false alarms an hour", "start s", "told s"):
        table.add_column(heading, justify="right")
    return table


def _row(table: Table, name: str, found: Score) -> None:
    table.add_row(
        name,
        str(found.segments),
        str(found.events),
        f"{found.f1:.3f}",
        f"{found.false_alarms_per_hour:.2f}",
        *("–" if s is None else f"{s:.2f}" for s in (found.start_error_s, found.delay_s)),
    )


def _since(begin: float) -> str:
    return f"{(time.monotonic() - begin) / 60:.1f} minutes"


if __name__ == "__main__":
    main()
