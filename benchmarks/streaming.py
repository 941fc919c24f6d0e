"""What it takes to follow a stream frame by frame, against clips of the same network.

    python -m benchmarks.streaming demo DEMO [--bundle DEMO/stream-bundle] [--realtime]
    python -m benchmarks.streaming network [--architecture tsm_resnet50] [--threads 2]
    python -m benchmarks.streaming memory [--steps 100000]

DEMO is the folder that `ffn-edge demo` wrote. `demo` runs over its long stream in both modes, at 16
frames a window: CPU time of the process, accuracy, and the time from a frame's arrival to the
answer; with `--realtime` the stream comes at its own pace, as a camera's would. `network` times the
engines of a network with random weights for 224 pixels. `memory` watches a process over many steps
of a tiny one. Wants a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.example import example_bundle, example_network, quantized
from benchmarks.machine import describe_machine
from benchmarks.soak import sample
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.stream_state import STATE
from ffn_edge.demo.clips import Action
from ffn_edge.demo.modes import ModeRun, decoding_cpu_s, run_mode
from ffn_edge.demo.pipeline import MODES, STREAM_SECONDS, engine_options
from ffn_edge.media.video import Frame
from ffn_edge.runtime.engines.engine import Engine, EngineOptions, open_engines
from ffn_edge.runtime.run import RunOptions, open_session
from ffn_edge.runtime.stream.sources import Source
from ffn_edge.runtime.summary import Summary

FRAMES = 16
STEP = "frame by frame"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@click.group(help=__doc__)
def main() -> None:
    """Measure, and print tables."""
    Console(soft_wrap=True).print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f}\n")


def console() -> Console:
    """Return where to print; a file or a pipe has no width, and no table is to be folded."""
    return Console(width=120)


def table(title: str, *headings: str) -> Table:
    """Return an empty table, with figures behind its first column."""
    found = Table(title=title)
    for number, heading in enumerate(headings):
        found.add_column(heading, justify="right" if number else "left")
    return found


@main.command("demo")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), help="Default: FOLDER/stream-bundle.")
@click.option("--realtime", is_flag=True, help="At the stream's own pace.")
@click.option("--seconds", default=STREAM_SECONDS, show_default=True, help="Of the stream.")
@click.option("--repetitions", default=3, show_default=True, help="The least CPU time counts.")
def on_demo(
    folder: Path, bundle: Path | None, realtime: bool, seconds: float, repetitions: int
) -> None:
    """Run over the demo's long stream in both modes."""
    stream = folder / "stream.mp4"
    described = json.loads(stream.with_suffix(".json").read_text(encoding="utf-8"))
    actions = [Action(**each) for each in described["actions"] if each["end_s"] <= seconds]
    loaded = Bundle.load(bundle or folder / "stream-bundle")
    runs: dict[str, list[ModeRun]] = {name: [] for name in MODES}
    decoding_s = []
    for _ in range(repetitions):
        decoding_s.append(decoding_cpu_s(stream, actions[-1].end_s))
        for name, mode in MODES.items():
            options = RunOptions(engines=engine_options(), realtime=realtime, **mode)
            runs[name].append(run_mode(loaded, stream, actions, FRAMES, options))
    best = {name: min(each, key=lambda run: run.cpu_s) for name, each in runs.items()}
    engines_ms = {
        name: engine_cpu_ms(loaded, stream=bool(mode.get("stream"))) for name, mode in MODES.items()
    }
    console().print(
        cpu_table(best, engines_ms, min(decoding_s)), ratios(best, engines_ms, min(decoding_s))
    )
    console().print(answers_table(best))


def engine_cpu_ms(bundle: Bundle, *, stream: bool, runs: int = 300) -> float:
    """Return the CPU time of an inference of an engine, and nothing around it."""
    options = EngineOptions(threads=engine_options().threads, stream=stream)
    with open_engines(bundle, options, frame_counts=(FRAMES,)) as engines:
        clip = noise(bundle, 1 if stream else FRAMES)
        for _ in range(10):
            engines[FRAMES].infer(clip)
        begin_s = time.process_time()
        for _ in range(runs):
            engines[FRAMES].infer(clip)
        return (time.process_time() - begin_s) * 1e3 / runs


def noise(bundle: Bundle, frames: int) -> npt.NDArray[np.uint8]:
    """Return a clip (1, T, H, W, 3)."""
    contract = bundle.manifest.input
    shape = (1, frames, contract.height, contract.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def cpu_table(runs: dict[str, ModeRun], engines_ms: dict[str, float], decoding_s: float) -> Table:
    """Show of what the CPU time of an answer consists."""
    found = table(
        f"CPU time, {FRAMES} frames a window",
        *("mode", "answers a second", "engine, ms an answer", "loop", "decoding", "all"),
        "all, ms a second",
    )
    for name, run in runs.items():
        engine_ms, rest_ms = engines_ms[name], run.cpu_ms_per_answer(decoding_s)
        found.add_row(
            name,
            f"{run.answers_per_s:.2f}",
            *(f"{engine_ms:.2f}", f"{rest_ms - engine_ms:.2f}"),
            f"{run.cpu_ms_per_answer() - rest_ms:.2f}",
            *(f"{run.cpu_ms_per_answer():.2f}", f"{run.cpu_ms_per_s():.1f}"),
        )
    return found


def ratios(runs: dict[str, ModeRun], engines_ms: dict[str, float], decoding_s: float) -> Table:
    """Hold the CPU time of the steps against that of the clips."""
    by_default, as_many, steps = runs.values()
    found = table(f"CPU time, {STEP}, of that of clips", "", "engine alone", "no decoding", "all")
    default_ms, many_ms, step_ms = engines_ms.values()
    found.add_row(
        "an answer, of one every spacing (target <= 0.083)",
        f"{step_ms / many_ms:.3f}",
        f"{steps.cpu_ms_per_answer(decoding_s) / as_many.cpu_ms_per_answer(decoding_s):.3f}",
        f"{steps.cpu_ms_per_answer() / as_many.cpu_ms_per_answer():.3f}",
    )
    found.add_row(
        "a second, of one every 0.25 s (target <= 0.25)",
        f"{step_ms * steps.answers_per_s / (default_ms * by_default.answers_per_s):.3f}",
        f"{steps.cpu_ms_per_s(decoding_s) / by_default.cpu_ms_per_s(decoding_s):.3f}",
        f"{steps.cpu_ms_per_s() / by_default.cpu_ms_per_s():.3f}",
    )
    return found


def answers_table(runs: dict[str, ModeRun]) -> Table:
    """Show how often the answers are right, and how soon they come."""
    found = table(
        "answers to whole windows, and the time from a frame's arrival to its answer",
        *("mode", "windows", "right %", "p50, ms", "p95, ms", "around the engine: p50, ms"),
        "p95, ms",
    )
    found.caption = "targets, frame by frame: right within 2 points; around the engine <= 1 ms"
    for name, run in runs.items():
        around = [
            all_ms - engine_ms
            for all_ms, engine_ms in zip(run.answered_ms, run.engine_ms, strict=True)
        ]
        found.add_row(
            name,
            str(len(run.correct)),
            f"{100 * statistics.fmean(run.correct):.1f}",
            *quantiles(run.answered_ms),
            *quantiles(around),
        )
    return found


def quantiles(milliseconds: Iterable[float]) -> tuple[str, str]:
    """Write the median and the 95 % quantile."""
    median, high = np.quantile(list(milliseconds), (0.5, 0.95))
    return f"{median:.2f}", f"{high:.2f}"


@main.command("network")
@click.option("--architecture", default="tsm_resnet50", show_default=True)
@click.option("--size", default=224, show_default=True, help="Of the frames, in pixels.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=20, show_default=True)
def of_network(architecture: str, size: int, threads: int, rounds: int) -> None:
    """Time the steps of a network with random weights."""
    with tempfile.TemporaryDirectory() as name:
        model = example_network(architecture, causal=True)
        bundle = example_bundle(model, size, Path(name) / "fp32")
        bundle = quantized(bundle, Path(name) / "int8")
        console().print(sizes(bundle))
        steps = table(
            f"{architecture}, {size} pixels, {threads} threads: a step of {FRAMES} frames a window",
            *("precision", "clip, ms", "a frame of it, ms", "step, ms"),
            "ratio (target <= 1.2)",
        )
        changes = table(
            "the first step after a change of rate",
            *("precision", "rate", "usual, ms", "first, ms", "ratio (target <= 1.5)"),
        )
        for precision in PRECISIONS:
            if bundle.manifest.sub_networks[FRAMES].steps.get(precision):
                steps.add_row(precision, *step_of_clip(bundle, precision, threads, rounds))
                for row in after_changes(bundle, precision, threads, rounds):
                    changes.add_row(precision, *row)
        console().print(steps)
        console().print(changes)


def sizes(bundle: Bundle) -> Table:
    """Show what states and step graphs take."""
    found = table(
        "sizes", "precision", "states, MB (target <= 4 in fp32)",
        "step graphs in all, kB (target <= 200)",
    )  # fmt: skip
    manifest = bundle.manifest
    for precision in PRECISIONS:
        names = [sub.steps.get(precision) for sub in manifest.sub_networks.values()]
        if not all(names):
            continue
        kilobytes = sum(manifest.files[name].bytes for name in names if name) / 1e3
        megabytes = state_bytes(bundle.read_graph(FRAMES, precision, step=True)) / 1e6
        found.add_row(precision, f"{megabytes:.2f}", f"{kilobytes:.1f}")
    return found


def state_bytes(graph: bytes) -> int:
    """Return what the states of a step graph take."""
    total = 0
    for port in onnx.load_model_from_string(graph).graph.input:
        if port.name.startswith(STATE):
            tensor = port.type.tensor_type
            item = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            total += item * int(np.prod([dim.dim_value for dim in tensor.shape.dim]))
    return total


def step_of_clip(
    bundle: Bundle, precision: Precision, threads: int, rounds: int
) -> tuple[str, str, str, str]:
    """Time a clip and its steps by turns."""
    clip, step = noise(bundle, FRAMES), noise(bundle, 1)
    with ExitStack() as stack:
        by_clip, by_step = (
            stack.enter_context(
                open_engines(
                    bundle,
                    EngineOptions(threads=threads, precision=precision, stream=stream),
                    frame_counts=(FRAMES,),
                )
            )[FRAMES]
            for stream in (False, True)
        )
        clips_ms, steps_ms = [], []
        for number in range(-1, rounds):  # the first warms up
            clip_ms = infer_ms(by_clip, clip)
            taken_ms = [infer_ms(by_step, step) for _ in range(FRAMES)]
            if number >= 0:
                clips_ms.append(clip_ms)
                steps_ms += taken_ms
    clip_ms, step_ms = statistics.median(clips_ms), statistics.median(steps_ms)
    frame_ms = clip_ms / FRAMES
    return f"{clip_ms:.1f}", f"{frame_ms:.2f}", f"{step_ms:.2f}", f"{step_ms / frame_ms:.2f}"


def after_changes(
    bundle: Bundle, precision: Precision, threads: int, rounds: int
) -> Iterator[tuple[str, str, str, str]]:
    """Time the first step of an engine that takes over, and those that follow it."""
    options = EngineOptions(threads=threads, precision=precision, stream=True)
    step = noise(bundle, 1)
    with open_engines(bundle, options) as engines:
        first: dict[int, list[float]] = {frames: [] for frames in engines}
        usual: dict[int, list[float]] = {frames: [] for frames in engines}
        last = next(reversed(engines.values()))
        for number in range(-1, rounds):
            for frames in (*engines, *reversed(engines)):
                before, last = last, engines[frames]
                taken_ms = [infer_ms(last, step, before if k == 0 else None) for k in range(6)]
                if number >= 0:
                    first[frames].append(taken_ms[0])
                    usual[frames] += taken_ms[1:]
    for frames in first:
        usual_ms, first_ms = statistics.median(usual[frames]), statistics.median(first[frames])
        yield str(frames), f"{usual_ms:.2f}", f"{first_ms:.2f}", f"{first_ms / usual_ms:.2f}"


def infer_ms(engine: Engine, clip: npt.NDArray[np.uint8], before: Engine | None = None) -> float:
    """Return the milliseconds of an inference, and of taking over the state of an engine before."""
    start = time.perf_counter()
    if before is not None:
        engine.restart(before.state())
    engine.infer(clip)
    return (time.perf_counter() - start) * 1e3


class Noise:
    """A stream of one picture, of which every frame is due at 16 frames in two seconds."""

    name = "noise"
    live = comes_back = False
    fps = 8.0

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def __enter__(self) -> Noise:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        for number in range(self._frames):
            yield Frame(picture, number / self.fps)


@main.command("memory")
@click.option("--steps", type=click.IntRange(1000), default=100_000, show_default=True)
def of_many_steps(steps: int) -> None:
    """Watch the memory of a run over many steps of a tiny network."""
    with tempfile.TemporaryDirectory() as name:
        model = example_network("tsm_tiny", causal=True)
        bundle = example_bundle(model, 64, Path(name) / "bundle")
        found, summary = [], Summary()
        source = Source(streams=(Noise(steps),))
        with open_session(
            bundle, source, engines=engine_options(), stream=True, frames=FRAMES
        ) as session:
            for number, result in enumerate(session, 1):
                summary.write(result)
                if number % (steps // 10) == 0:
                    found.append(sample(os.getpid(), number))
    growth = table("memory of the process", "steps", "resident, kB", "threads", "files")
    for each in found:
        growth.add_row(f"{each.time_s:.0f}", str(each.rss_kb), str(each.threads), str(each.files))
    growth.caption = (
        f"{summary.inferences} steps; since the first tenth {found[-1].rss_kb - found[0].rss_kb:+d}"
        " kB (target: none; half a megabyte is what an allocator may take in one step)"
    )
    console().print(growth)


if __name__ == "__main__":
    main()
