"""The demo's stages in the order of the data, each with real files, each timed."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ffn_edge.atomic import write_text
from ffn_edge.bundle import Bundle
from ffn_edge.cpu_threads import fixed_threads
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.errors import ExportError, FfnEdgeError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.clips import clips_from_videos
from ffn_edge.export.verify import Verified, verify
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.progress import NowAndThen
from ffn_edge.runtime.engine import EngineOptions, open_engines
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.profile import Latency, profile_engines, save_profile
from ffn_edge.runtime.run import RunOptions, open_session
from ffn_edge.runtime.session import Result
from ffn_edge.train.clips import Action, render_clips, render_stream
from ffn_edge.train.loop import BEST, LAST, train
from ffn_edge.train.methods import method_of
from ffn_edge.train.recipe import Recipe, load_recipe
from ffn_edge.train.report import Row, evaluate_checkpoint
from ffn_edge.video_list import videos_of

# Where accuracy is measured; 4, 8 and 16 are trained.
EVALUATED = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)
STREAM_SECONDS = 240.0
# The background load works in the middle third of the stream.
LOAD_FROM, LOAD_UNTIL = 1 / 3, 2 / 3
MISS_RATE = 0.05


@dataclass(frozen=True, slots=True)
class TimelineRun:
    """One run over the stream: its deadline, its results, and when the load was on."""

    name: str
    deadline_ms: float
    load_s: tuple[float, float]
    results: tuple[Result, ...]
    correct: tuple[bool, ...]
    """Per result, whether the top class was the action that filled most of the window."""

    def missed(self, *, under_load: bool | None = None) -> float:
        """Return the share of deadlines missed while the load was on, or off, or in all."""
        begin, end = self.load_s
        return statistics.fmean(
            result.missed
            for result in self.results
            if under_load is None or (begin <= result.elapsed_s < end) is under_load
        )

    def share_at(self, frames: int) -> float:
        """Return the share of inferences that ran with `frames`."""
        return statistics.fmean(result.decision.frames == frames for result in self.results)

    def moves(self, since_s: float, until_s: float = math.inf) -> list[tuple[int, Result]]:
        """Return where the frame count changed: what it was before, and the first result after."""
        return [
            (before.decision.frames, after)
            for before, after in pairwise(self.results)
            if since_s <= after.elapsed_s < until_s
            and before.decision.frames != after.decision.frames
        ]


@dataclass(slots=True)
class DemoResult:
    """All that the page shows. Every figure was measured in this run of the demo."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    bundle: Bundle | None = None
    verified: tuple[Verified, ...] = ()
    latencies: dict[int, Latency] = field(default_factory=dict)
    runs: list[TimelineRun] = field(default_factory=list)


def run_demo(
    folder: Path, *, say: Callable[[str], None], settings: dict[str, str] | None = None
) -> DemoResult:
    """Render, train, evaluate, export, verify, profile, run adaptively.

    A demo that was interrupted goes on where it was: rendered clips and checkpoints are kept.

    Args:
        folder: where everything is written.
        say: called with a line per stage.
        settings: fields of the recipe to change, as in `ffn-edge train --set`.
    """
    demo = DemoResult(folder)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        say(f"· {name}")
        start = time.perf_counter()
        yield
        demo.seconds[name] = time.perf_counter() - start
        say(f"  {demo.seconds[name]:.0f} s")

    clips = folder / "clips"
    stream = folder / "stream.mp4"
    recipe = (
        load_recipe("demo")
        .with_settings(settings or {})
        .replace(
            train_list=str(clips / "train.txt"),
            val_list=str(clips / "val.txt"),
            classes=str(clips / "classes.txt"),
        )
    )
    with stage("render the clips and a long stream"):
        now_and_then = NowAndThen(say)
        render_clips(
            clips,
            progress=lambda done, total: now_and_then(lambda: f"  {done} of {total} clips"),
        )
        # Another seed than the clips': nothing in the stream was trained or validated on.
        actions = render_stream(
            stream,
            seconds=STREAM_SECONDS,
            seed=1,
            progress=lambda done, total: now_and_then(
                lambda: f"  {done} of {total} actions of the stream"
            ),
        )

    highest = max(recipe.frame_counts)
    with stage(f"train the Frame Flexible Network at {_listed(recipe.frame_counts)} frames"):
        _train(recipe, folder / "ffn")
    with stage(f"train the naive network at {highest} frames alone"):
        _train(method_of("naive", recipe).runs[0].recipe, folder / "naive")

    with stage(f"evaluate both at {len(EVALUATED)} frame counts on clips of a fresh seed"):
        for name in ("ffn", "naive"):
            demo.rows[name] = evaluate_checkpoint(
                str(folder / name / BEST),
                EVALUATED,
                list_file=str(clips / "test.txt"),
                workers=0,
                precision="auto",
            )

    with stage("export one bundle"):
        checkpoint = load_checkpoint(folder / "ffn" / BEST)
        demo.bundle = export_bundle(checkpoint.network, checkpoint.card, folder / "bundle")
    with stage("verify it on test clips"):
        contract, counts = demo.bundle.manifest.input, demo.bundle.manifest.frame_counts
        videos = clips_from_videos(videos_of(clips / "test.txt"), contract, counts, 16)
        demo.verified = verify(
            demo.bundle, videos, checkpoint=checkpoint, progress=lambda line: say(f"  {line}")
        )
        if not all(found.passed for found in demo.verified):
            raise ExportError("the bundle is not the network", "see `ffn-edge verify` on it.")
    with stage("profile its engines"):
        with open_engines(demo.bundle, _engine_options()) as engines:
            demo.latencies = profile_engines(engines, demo.bundle.manifest.input, runs=100)
        save_profile(demo.bundle, engines.backend, demo.latencies)

    # Room for the highest frame count on an idle machine, and not for a machine that is shared.
    deadline_ms = 1.5 * demo.latencies[highest].quantile_ms(0.95)
    with stage("run on the stream with a background load, adaptively and with fixed frames"):
        for name, frames in (("adaptive", None), (f"fixed at {highest} frames", highest)):
            demo.runs.append(
                _run_on_stream(
                    demo.bundle,
                    stream,
                    actions,
                    name,
                    Limits(latency_ms=deadline_ms, miss_rate=MISS_RATE, frames=frames),
                )
            )
    write_text(folder / "demo.json", json.dumps(_figures(demo), indent=1) + "\n")
    return demo


def _train(recipe: Recipe, output: Path) -> None:
    result = train(recipe, output, resume=(output / LAST).is_file(), workers=0)
    if not result.finished:
        raise KeyboardInterrupt


def _engine_options() -> EngineOptions:
    return EngineOptions(threads=fixed_threads())


def _run_on_stream(
    bundle: Bundle, stream: Path, actions: Sequence[Action], name: str, limits: Limits
) -> TimelineRun:
    length_s = actions[-1].end_s
    load_s = (LOAD_FROM * length_s, LOAD_UNTIL * length_s)
    results = []
    options = RunOptions(engines=_engine_options())
    with BackgroundLoad() as load, open_session(bundle, str(stream), limits, options) as session:
        for result in session:
            results.append(result)
            load.set_level(1.0 if load_s[0] <= result.elapsed_s < load_s[1] else 0.0)
    if limits.latency_ms is None or not results:
        raise FfnEdgeError("the run gave no result", "look at the stream in the demo's folder.")
    return TimelineRun(
        name,
        limits.latency_ms,
        load_s,
        tuple(results),
        tuple(_is_correct(result, actions) for result in results),
    )


def _is_correct(result: Result, actions: Sequence[Action], window_s: float = 2.0) -> bool:
    """Whether the top class is the action that filled most of the window before the result."""
    begin = result.elapsed_s - window_s

    def overlap(action: Action) -> float:
        return min(action.end_s, result.elapsed_s) - max(action.start_s, begin)

    return result.top[0].class_name == max(actions, key=overlap).label


def _figures(demo: DemoResult) -> dict[str, object]:
    """Return the figures as plain values, for demo.json."""
    return {
        "seconds": demo.seconds,
        "accuracy": {
            name: [dataclasses.asdict(r) for r in rows] for name, rows in demo.rows.items()
        },
        "latency_ms": {frames: latency.summary() for frames, latency in demo.latencies.items()},
        "runs": [
            {
                "name": run.name,
                "deadline_ms": run.deadline_ms,
                "missed_under_load": run.missed(under_load=True),
                "missed_otherwise": run.missed(under_load=False),
                "missed": run.missed(),
                "correct": statistics.fmean(run.correct),
            }
            for run in demo.runs
        ],
    }


def _listed(frame_counts: Sequence[int]) -> str:
    *others, last = map(str, frame_counts)
    return f"{', '.join(others)} and {last}" if others else last
