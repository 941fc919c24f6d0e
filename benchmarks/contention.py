"""How each policy keeps a deadline while other programs come and go: on this machine, for real.

    python -m benchmarks.contention --bundle bundle --list clips/test.txt [--miss-rate 0.01]

A bundle's engines run in ONNX Runtime on labelled clips that were decoded beforehand. As many
processes as there are cores work 0, 20, 40, 60, 40 and 20 % of the time, each for 200 frames at
30 frames a second, over and over: the protocol of ApproxDet (SenSys 2020), on a processor.

The policies take turns. In each hop of 0.1 s every one answers the same clip once, after a rest,
in an order that is drawn anew: the load, the clips and whatever else happens hit all alike. What
a policy learned it keeps, from one repetition of the pattern to the next.

Read the figures with two things in mind. The inferences of all the policies together take some
of the processor too, as several runs at once would. And a busy process slows an inference down
less evenly than a contended GPU does: most take no longer, and some wait for the scheduler, for
several times their own length. More threads an engine make that worse: the last one counts.

The deadline is a multiple of the 95 % latency of the most frames, profiled at the same pace
without the load. They should keep it there, and not at 60 %: the second table shows whether they
did. Wants a machine that does nothing else; takes seven minutes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.simulation import baselines
from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.frames import segment_centres
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import Video, read_list
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.policy.interface import Controller, Limits, Observation, Setting
from ffn_edge.runtime.profile.profile import Latency
from ffn_edge.runtime.profile.setting import setting_from_latencies
from ffn_edge.runtime.stream.clip_buffer import Frames

HOP_S = 0.1
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.4, 0.2)
WARM_UP, PROFILED = 3, 100

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Clip:
    """A video, prepared.

    Attributes:
        frames: those that any frame count asks for, uint8 (N, H, W, 3).
        rows: by frame count T, which T of them.
        label: the number of its class.
    """

    frames: Frames
    rows: Mapping[int, npt.NDArray[np.int64]]
    label: int


@dataclass(frozen=True)
class Outcomes:
    """What one policy did: arrays (repetitions, levels, inferences).

    Attributes:
        frames: how many were decided.
        latency_ms: from the decision to the logits.
        missed: that was more than the deadline.
        right: the top class was the label.
        minutes: that all of it took.
    """

    frames: Values
    latency_ms: Values
    missed: Flags
    right: Flags
    minutes: float


def read_clips(
    videos: Sequence[Video], contract: InputContract, counts: Sequence[int]
) -> list[Clip]:
    """Decode videos, once, into what every frame count needs."""
    clips = []
    for video in videos:
        with VideoReader(video.path, threads=1) as reader:
            wanted = {t: segment_centres(reader.num_frames, t) for t in counts}
            union = np.unique(np.concatenate(list(wanted.values())))
            images = reader.read(union)
        prepared = [prepare_frame(i, contract.short_side, contract.height) for i in images]
        rows = {t: np.searchsorted(union, each) for t, each in wanted.items()}
        clips.append(Clip(np.stack(prepared), rows, video.label))
    return clips


class Pace:
    """So many turns in each hop, at even distances."""

    def __init__(self, turns: int) -> None:
        self._turn_s = HOP_S / turns
        self._due_s = time.monotonic()

    def wait(self) -> None:
        """Wait for the next turn. One that is late begins at once, and is not made up for."""
        now = time.monotonic()
        time.sleep(max(0.0, self._due_s - now))
        self._due_s = max(self._due_s, now) + self._turn_s


def profile_at_pace(engines: OpenEngines, clips: Sequence[Clip], turns: int) -> dict[int, Latency]:
    """Measure each engine as it will run: after a rest."""
    pace = Pace(turns)
    samples: dict[int, list[float]] = {frames: [] for frames in engines}
    for number in range(-WARM_UP, PROFILED):
        clip = clips[number % len(clips)]
        for frames, taken in samples.items():
            pace.wait()
            start = time.monotonic()
            engines[frames].infer(clip.frames[clip.rows[frames]][None])
            if number >= 0:
                taken.append((time.monotonic() - start) * 1e3)
    return {frames: Latency(tuple(sorted(taken))) for frames, taken in samples.items()}


def run(
    engines: OpenEngines,
    clips: Sequence[Clip],
    setting: Setting,
    limits: Limits,
    names: Sequence[str],
    *,
    level_s: float,
    repetitions: int,
) -> dict[str, Outcomes]:
    """Let the policies take turns under the load."""
    controllers = {name: Controller(baselines.named(name), setting) for name in names}
    shape = (repetitions, len(LEVELS), max(1, round(level_s / HOP_S)))
    found = {name: np.zeros((4, *shape)) for name in names}
    draw = random.Random(0)
    order, playlist = list(names), list(range(len(clips)))
    with BackgroundLoad() as load:
        pace, begin = Pace(len(names)), time.monotonic()
        for number, where in enumerate(np.ndindex(shape)):
            load.set_level(LEVELS[where[1]])
            if number % len(clips) == 0:
                draw.shuffle(playlist)
            draw.shuffle(order)
            clip = clips[playlist[number % len(clips)]]
            for name in order:
                pace.wait()
                found[name][(slice(None), *where)] = infer(controllers[name], engines, clip, limits)
        minutes = (time.monotonic() - begin) / 60
    return {
        name: Outcomes(frames, latency_ms, missed > 0, right > 0, minutes)
        for name, (frames, latency_ms, missed, right) in found.items()
    }


def infer(
    controller: Controller, engines: OpenEngines, clip: Clip, limits: Limits
) -> tuple[int, float, bool, bool]:
    """Do what a session does; return frames, latency in ms, and whether it was late and right."""
    start = time.monotonic()
    frames = controller.decide(limits, start).frames
    logits = engines[frames].infer(clip.frames[clip.rows[frames]][None])
    end = time.monotonic()
    observation = Observation(frames=frames, latency_ms=(end - start) * 1e3, now=end, limits=limits)
    controller.observe(observation)
    right = bool(logits[0].argmax() == clip.label)
    return frames, observation.latency_ms, observation.missed, right


def longest_burst(missed: Flags) -> int:
    """Return the most misses in a row."""
    longest = current = 0
    for miss in missed.ravel():
        current = current + 1 if miss else 0
        longest = max(longest, current)
    return longest


def spread(values: Values | Flags, scale: float = 1.0) -> str:
    """Write the mean over the repetitions, and their standard deviation."""
    each = scale * values.reshape(len(values), -1).mean(axis=1)
    deviation = f" ± {each.std(ddof=1):.1f}" if len(each) > 1 else ""
    return f"{each.mean():.1f}{deviation}"


def policy_table(found: Mapping[str, Outcomes], limits: Limits) -> Table:
    """Show what each policy came to."""
    table = Table(
        title=f"deadline {limits.latency_ms:.2f} ms, miss rate asked {limits.miss_rate:.1%}",
        caption="± standard deviation of the repetitions; P(m|m): the chance that a miss is "
        "followed by another; in time: right, and not late",
    )
    table.add_column("policy")
    for heading in (
        "misses %", "longest burst", "P(m|m)", "mean T", "switches/min", "right %", "in time %"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, outcomes in found.items():
        missed = outcomes.missed
        in_a_row = missed.ravel()
        again = in_a_row[1:][in_a_row[:-1]]
        switches = np.count_nonzero(np.diff(outcomes.frames.ravel()))
        table.add_row(
            name,
            spread(missed, 100),
            str(longest_burst(missed)),
            f"{again.mean():.2f}" if again.size else "–",
            spread(outcomes.frames),
            f"{switches / outcomes.minutes:.0f}",
            spread(outcomes.right, 100),
            spread(outcomes.right & ~missed, 100),
        )
    return table


def level_table(found: Mapping[str, Outcomes]) -> Table:
    """Show the same by the level of the load: latency, misses and frames."""
    table = Table(
        title="by the load: median latency in ms / misses in % / mean T",
        caption="the levels of the way up and of the way down together",
    )
    table.add_column("policy")
    levels = sorted(set(LEVELS))
    for level in levels:
        table.add_column(f"{level:.0%}", justify="right")
    for name, outcomes in found.items():
        cells = []
        for level in levels:
            at = [number for number, each in enumerate(LEVELS) if each == level]
            latency_ms = np.median(outcomes.latency_ms[:, at])
            missed, frames = outcomes.missed[:, at].mean(), outcomes.frames[:, at].mean()
            cells.append(f"{latency_ms:5.2f} / {100 * missed:4.1f} / {frames:4.1f}")
        table.add_row(name, *cells)
    return table


@click.command(help=__doc__)
@click.option("--bundle", "folder", type=click.Path(path_type=Path), required=True)
@click.option(
    "--list", "list_file", type=click.Path(path_type=Path), required=True,
    help="`path label` a line.",
)  # fmt: skip
@click.option("--repetitions", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=200 / 30, show_default="6.67",
    help="Of each level of the load; there are six.",
)  # fmt: skip
@click.option(
    "--miss-rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
    show_default=True,
)  # fmt: skip
@click.option(
    "--deadline", "multiple", type=click.FloatRange(0, min_open=True), default=1.5,
    show_default=True, help="In 95 % latencies of the most frames.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="An engine's."
)
def main(
    folder: Path,
    list_file: Path,
    repetitions: int,
    seconds: float,
    miss_rate: float,
    multiple: float,
    threads: int,
) -> None:
    """Measure, and print two tables."""
    console = Console()
    console.print(f"{describe_machine()}; {threads} thread(s)")
    bundle = Bundle.load(folder)
    manifest = bundle.manifest
    counts = manifest.frame_counts
    clips = read_clips(read_list(list_file, classes=manifest.classes), manifest.input, counts)
    names = (*baselines.NAMES, *(f"static-{frames}" for frames in counts))
    options = EngineOptions(backend="onnxruntime", threads=threads)
    with open_engines(bundle, options) as engines:
        latencies = profile_at_pace(engines, clips, len(names))
        limits = Limits(
            latency_ms=multiple * latencies[max(counts)].quantile_ms(0.95), miss_rate=miss_rate
        )
        found = run(
            engines,
            clips,
            setting_from_latencies(bundle, latencies, period_s=HOP_S),
            limits,
            names,
            level_s=seconds,
            repetitions=repetitions,
        )
    profiled = ", ".join(
        f"{t} frames {latency.median_ms:.2f} / {latency.quantile_ms(0.95):.2f} ms"
        for t, latency in latencies.items()
    )
    first = next(iter(found.values()))
    console.print(
        f"{manifest.architecture}; profiled (median / 95 %): {profiled}\n"
        f"{len(clips)} clips; {repetitions} repetitions of {len(LEVELS)} levels, "
        f"{first.frames.size} inferences of each policy in {first.minutes:.1f} minutes"
    )
    # A file or a pipe has no width; a table that is folded to 80 columns cannot be read.
    wide = console if console.is_terminal else Console(width=130)
    wide.print(policy_table(found, limits))
    wide.print(level_table(found))


if __name__ == "__main__":
    main()
