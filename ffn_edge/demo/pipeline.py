"""The demo's stages in the order of the data, each with real files, each timed."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.demo.clips import Action, render_clips, render_stream
from ffn_edge.demo.gallery import CLIPS, ShownClip, shown_clips
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.demo.modes import ModeRun, decoding_cpu_s, is_correct, run_mode
from ffn_edge.device.cpu_threads import fixed_threads
from ffn_edge.errors import ExportError, FfnEdgeError
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.clips import clips_from_videos
from ffn_edge.export.quantize import compare_int8, quantize_bundle
from ffn_edge.export.verify import Verified, verify
from ffn_edge.files.atomic import write_text
from ffn_edge.media.video_list import find_videos, read_list
from ffn_edge.network import family_of
from ffn_edge.network.checkpoint import Checkpoint, load_checkpoint
from ffn_edge.progress import NowAndThen
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.profile.profile import Profile, profile_bundle
from ffn_edge.runtime.run import RunOptions, open_session, run_session
from ffn_edge.runtime.summary import Summary
from ffn_edge.train.evaluate import Row, evaluate_checkpoint
from ffn_edge.train.loop import BEST, LAST, train
from ffn_edge.train.methods import method_of
from ffn_edge.train.recipe import Recipe, load_recipe

# Where accuracy is measured; 4, 8 and 16 are trained.
EVALUATED = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)
STREAM_SECONDS = 240.0
EXCERPT_SECONDS = 20.0
# The background load works in the middle third of the stream.
LOAD_FROM, LOAD_UNTIL = 1 / 3, 2 / 3
MISS_RATE = 0.05
REHEARSAL_SECONDS = 30.0
# The deadline is at least so many times what the highest frame count takes on an idle machine.
LEAST_DEADLINE = 1.5
# Of the recipe's epochs, for the causal network, which starts from one that is trained.
CAUSAL_SHARE = 0.4
# The causal network's runs over the stream, by name: the default, as many answers as there are
# steps, and the steps.
MODES: dict[str, dict[str, Any]] = {
    "a clip every 0.25 s": {},
    "a clip every 0.125 s": {"hop_s": 0.125},
    "frame by frame": {"stream": True},
}


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
        return statistics.fmean(
            result.missed
            for result in self.results
            if under_load is None or self._is_loaded(result) is under_load
        )

    def in_time(self, *, under_load: bool | None = None) -> float:
        """Return the share of answers that were right, and not late; as for `missed`."""
        return statistics.fmean(
            correct and not result.missed
            for result, correct in zip(self.results, self.correct, strict=True)
            if under_load is None or self._is_loaded(result) is under_load
        )

    def _is_loaded(self, result: Result) -> bool:
        begin, end = self.load_s
        return begin <= result.elapsed_s < end

    def mean_frames(self) -> float:
        """Return the mean frame count of an inference."""
        return statistics.fmean(result.decision.frames for result in self.results)

    def moves(self, since_s: float, until_s: float = math.inf) -> list[tuple[int, Result]]:
        """Return where the frame count changed: what it was before, and the first result after."""
        return [
            (before.decision.frames, after)
            for before, after in pairwise(self.results)
            if since_s <= after.elapsed_s < until_s
            and before.decision.frames != after.decision.frames
        ]


@dataclass(frozen=True, slots=True)
class Streamed:
    """A causal network's run over the stream, clip by clip and frame by frame.

    Attributes:
        bundle: with steps.
        verified: of that bundle.
        profile: of its steps.
        decoding_s: the CPU time of reading the stream, which is a part of every run's.
        runs: by the names of `MODES`, at the most frames.
    """

    bundle: Bundle
    verified: tuple[Verified, ...]
    profile: Profile
    decoding_s: float
    runs: dict[str, ModeRun]


@dataclass(slots=True)
class DemoResult:
    """All that the page shows. Every figure was measured in this run of the demo."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    bundle: Bundle | None = None
    verified: tuple[Verified, ...] = ()
    profile: Profile | None = None
    shown: list[ShownClip] = field(default_factory=list)
    runs: list[TimelineRun] = field(default_factory=list)
    streamed: Streamed | None = None  # of an architecture that can be causal

    @property
    def annotated(self) -> Path:
        """The stream's beginning with the answers written into it."""
        return self.folder / "annotated.mp4"


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
    evaluated: dict[str, Sequence[int]] = {"ffn": EVALUATED, "naive": EVALUATED}
    if family_of(recipe.architecture).build_causal is not None:
        evaluated["causal"] = recipe.frame_counts
        with stage("train a causal network, which starts from the first"):
            _train(causal_recipe(recipe, folder / "ffn" / BEST), folder / "causal")

    with stage(f"evaluate them at up to {len(EVALUATED)} frame counts on clips of a fresh seed"):
        for name, counts in evaluated.items():
            demo.rows[name] = evaluate_checkpoint(
                str(folder / name / BEST),
                counts,
                list_file=str(clips / "test.txt"),
                workers=0,
                precision="auto",
            )

    with stage("export one bundle"):
        checkpoint = load_checkpoint(folder / "ffn" / BEST)
        demo.bundle = export_bundle(checkpoint.network, checkpoint.card, folder / "bundle")
    with stage("verify it on test clips"):
        demo.verified = _verified(demo.bundle, checkpoint, clips)
    with stage("quantise it to INT8, and compare on clips of a fresh seed"):
        demo.bundle = quantized_and_compared(demo.bundle, clips)
    with stage("profile its engines"):
        demo.profile = profile_bundle(demo.bundle, engine_options(), runs=100)
    with stage("run on the stream with a background load, adaptively and with fixed frames"):
        deadline_ms = rehearsed_deadline(demo.bundle, stream, demo.profile)
        runs = limits_of_runs(deadline_ms, demo.bundle.manifest.frame_counts)
        demo.runs = [
            run_on_stream(demo.bundle, stream, actions, name, limits)
            for name, limits in runs.items()
        ]
    if "causal" in evaluated:
        demo.streamed = _streamed(folder, actions, stage)
    with stage("show some clips with their answers"):
        options = RunOptions(engines=engine_options(), max_seconds=EXCERPT_SECONDS)
        classes = demo.bundle.manifest.classes
        listed = read_list(clips / "test.txt", classes=classes)[:CLIPS]
        named = [(video.path, classes[video.label]) for video in listed]
        demo.shown = shown_clips(demo.bundle, named, options)
        run_session(
            demo.bundle,
            str(stream),
            runs["adaptive"],
            options,
            summary=Summary(),
            annotate=demo.annotated,
        )
    write_text(folder / "demo.json", json.dumps(_figures(demo), indent=1) + "\n")
    return demo


def causal_recipe(recipe: Recipe, start: Path) -> Recipe:
    """Return how a causal network is trained that starts from one that looks both ways."""
    epochs = math.ceil(CAUSAL_SHARE * recipe.epochs)
    return recipe.replace(causal=True, start_from=str(start), epochs=epochs)


def _verified(bundle: Bundle, checkpoint: Checkpoint, clips: Path) -> tuple[Verified, ...]:
    contract, counts = bundle.manifest.input, bundle.manifest.frame_counts
    videos = clips_from_videos(find_videos(clips / "test.txt"), contract, counts, 16)
    verified = verify(bundle, videos, checkpoint=checkpoint)
    if not all(found.passed for found in verified):
        raise ExportError("the bundle is not the network", "see `ffn-edge verify` on it.")
    return verified


def _streamed(
    folder: Path,
    actions: Sequence[Action],
    stage: Callable[[str], AbstractContextManager[None]],
) -> Streamed:
    """Export the causal network, and run it over the stream in each mode."""
    stream = folder / "stream.mp4"
    with stage("export and verify the causal network, and profile its steps"):
        checkpoint = load_checkpoint(folder / "causal" / BEST)
        bundle = export_bundle(checkpoint.network, checkpoint.card, folder / "stream-bundle")
        verified = _verified(bundle, checkpoint, folder / "clips")
        steps = dataclasses.replace(engine_options(), stream=True)
        profile = profile_bundle(bundle, steps, runs=100)
    with stage("run it on the stream, clip by clip and frame by frame"):
        highest = bundle.manifest.frame_counts[-1]
        runs = {
            name: run_mode(
                bundle, stream, actions, highest, RunOptions(engines=engine_options(), **mode)
            )
            for name, mode in MODES.items()
        }
        decoding_s = decoding_cpu_s(stream, actions[-1].end_s)
    return Streamed(bundle, verified, profile, decoding_s, runs)


def quantized_and_compared(bundle: Bundle, clips: Path) -> Bundle:
    """Quantise on unlabelled validation clips, and measure the accuracy on the test clips."""
    bundle = quantize_bundle(bundle.path, clips / "val.txt")
    labelled = read_list(clips / "test.txt", classes=bundle.manifest.classes)
    options = dataclasses.replace(engine_options(), backend="onnxruntime", precision="int8")
    with open_engines(bundle, options) as engines:
        infer = {frames: engine.infer for frames, engine in engines.items()}
        return add_int8(bundle, compare_int8(bundle, infer, labelled, labels=True))


def _train(recipe: Recipe, output: Path) -> None:
    result = train(recipe, output, resume=(output / LAST).is_file(), workers=0)
    if not result.finished:
        raise KeyboardInterrupt


def engine_options() -> EngineOptions:
    """Return with how many threads engines run: as `--threads` says, or one.

    Where other programs take the processor, two threads of an engine wait for each other as well.
    """
    return EngineOptions(threads=fixed_threads() or 1)


def rehearsed_deadline(bundle: Bundle, stream: Path, profile: Profile) -> float:
    """Return a deadline in ms that the load makes a difference for.

    With it, the share of answers in time of the second highest frame count exceeds that of the
    highest the most, in a rehearsal under load at the start of the stream; of the deadlines as
    good, the middle. But it leaves the highest room on an idle machine. A low quantile is that
    machine's, whatever else ran while it was profiled.
    """
    counts = bundle.manifest.frame_counts[-2:]
    fewer, highest = counts[0], counts[-1]
    rehearsed = {}
    for frames in counts:
        results = _results(
            bundle, stream, Limits(frames=frames), REHEARSAL_SECONDS, (0.0, REHEARSAL_SECONDS)
        )
        rehearsed[frames] = sorted(result.latency_ms for result in results)
    precision = profile.choose(highest, bundle.manifest.sub_networks[highest]).precision
    least_ms = LEAST_DEADLINE * profile.latencies[precision][highest].quantile_ms(0.1)

    def difference(deadline_ms: float) -> float:
        kept = {t: bisect_right(taken, deadline_ms) / len(taken) for t, taken in rehearsed.items()}
        return kept[fewer] - kept[highest]

    later = {ms for taken in rehearsed.values() for ms in taken if ms > least_ms}
    steps = [least_ms, *sorted(later)]
    most = max(map(difference, steps))
    if most < 0.1:  # the load does no harm here
        return least_ms
    good = [number for number, ms in enumerate(steps) if difference(ms) >= most - 0.02]
    end = min(good[-1] + 1, len(steps) - 1)  # the difference holds up to the next step
    return (steps[good[0]] + steps[end]) / 2


def limits_of_runs(deadline_ms: float, frame_counts: Iterable[int]) -> dict[str, Limits]:
    """Return the limits of the runs over the stream, by name: adaptive, and each frame count."""
    adaptive = Limits(latency_ms=deadline_ms, miss_rate=MISS_RATE)
    fixed = {f"always {t}": dataclasses.replace(adaptive, frames=t) for t in frame_counts}
    return {"adaptive": adaptive, **fixed}


def run_on_stream(
    bundle: Bundle, stream: Path, actions: Sequence[Action], name: str, limits: Limits
) -> TimelineRun:
    """Run over the stream as far as the actions go, with the load in the middle third."""
    length_s = actions[-1].end_s
    load_s = (LOAD_FROM * length_s, LOAD_UNTIL * length_s)
    results = _results(bundle, stream, limits, length_s, load_s)
    correct = tuple(is_correct(result, actions) for result in results)
    return TimelineRun(name, limits.latency_ms or math.inf, load_s, results, correct)


def _results(
    bundle: Bundle, stream: Path, limits: Limits, length_s: float, load_s: tuple[float, float]
) -> tuple[Result, ...]:
    results = []
    options = RunOptions(max_seconds=length_s, engines=engine_options())
    with (
        BackgroundLoad(per_core=2) as load,
        open_session(bundle, stream, limits=limits, options=options) as session,
    ):
        load.set_level(1.0 if load_s[0] <= 0 else 0.0)
        for result in session:
            results.append(result)
            load.set_level(1.0 if load_s[0] <= result.elapsed_s < load_s[1] else 0.0)
    if not results:
        raise FfnEdgeError("the run gave no result", "look at the stream in the demo's folder.")
    return tuple(results)


def _figures(demo: DemoResult) -> dict[str, object]:
    """Return the figures as plain values, for demo.json."""
    return {
        "seconds": demo.seconds,
        "accuracy": {
            name: [dataclasses.asdict(r) for r in rows] for name, rows in demo.rows.items()
        },
        "latency_ms": {}
        if demo.profile is None
        else {
            precision: {t: latency.summary() for t, latency in latencies.items()}
            for precision, latencies in demo.profile.latencies.items()
        },
        "runs": [
            {
                "name": run.name,
                "deadline_ms": run.deadline_ms,
                "missed_under_load": run.missed(under_load=True),
                "missed_otherwise": run.missed(under_load=False),
                "missed": run.missed(),
                "correct": statistics.fmean(run.correct),
                "in_time": run.in_time(),
                "in_time_under_load": run.in_time(under_load=True),
                "in_time_otherwise": run.in_time(under_load=False),
                "mean_frames": run.mean_frames(),
            }
            for run in demo.runs
        ],
        "modes": {}
        if demo.streamed is None
        else {
            name: {
                "answers_per_s": run.answers_per_s,
                "correct": statistics.fmean(run.correct),
                "cpu_ms_per_s": run.cpu_ms_per_s(),
                "cpu_ms_per_answer": run.cpu_ms_per_answer(),
                "decoding_cpu_s": demo.streamed.decoding_s,
                "answered_ms": statistics.median(run.answered_ms),
            }
            for name, run in demo.streamed.runs.items()
        },
    }


def _listed(frame_counts: Sequence[int]) -> str:
    *others, last = map(str, frame_counts)
    return f"{', '.join(others)} and {last}" if others else last
