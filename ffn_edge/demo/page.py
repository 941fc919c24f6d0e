"""The demo's report: one HTML page with its plots inside, readable without a network."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

import ffn_edge
from ffn_edge.bundle.bundle import Accuracy, Precision, standard_error
from ffn_edge.demo.pipeline import (
    LEAST_DEADLINE,
    MISS_RATE,
    REHEARSAL_SECONDS,
    DemoResult,
    Streamed,
    TimelineRun,
)
from ffn_edge.errors import counted
from ffn_edge.files.atomic import write_text
from ffn_edge.files.markup import data_url, page, svg, table, text
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.media.opencv import opencv
from ffn_edge.runtime.machine.machine import this_machine
from ffn_edge.train.evaluate import Row

_SIZE = (6.0, 3.4)  # inches: on a phone the text of a drawing shrinks with it
_COLOURS = {"ffn": "#0b7285", "naive": "#c92a2a", "causal": "#5f3dc4"}
_FIXED = ("#495057", "#868e96", "#ced4da")  # of the runs with a fixed frame count
_NAMES = {
    "ffn": "Frame Flexible Network",
    "naive": "naive: trained at 16 frames alone",
    "causal": "causal: takes from the past alone",
}

_MOST_VIDEO_BYTES = 32 << 20
# How many changes of the frame count are explained, from the load's begin on and from its end on.
_EXPLAINED = 4

_GLOSSARY = """<details open><summary>The terms</summary><dl>
<dt>frames</dt><dd>how many pictures of a clip the network looks at, spread evenly over it</dd>
<dt>top-1</dt><dd>the share of clips whose most probable class is the right one</dd>
<dt>FFN</dt><dd>Frame Flexible Network: shared weights, and for each frame count a normalisation and
a small weight alteration of its own</dd>
<dt>naive</dt><dd>the same network, trained at one frame count as people do today</dd>
<dt>causal</dt><dd>taking from past frames alone, so that each new frame is computed once</dd>
<dt>GMAC</dt><dd>a thousand million multiply-adds: the arithmetic of one clip</dd>
<dt>deadline, late</dt><dd>the time an answer may take; it is late if it takes longer</dd>
<dt>in time</dt><dd>right, and not late</dd>
</dl></details>"""


def write_page(demo: DemoResult, path: Path) -> Path:
    """Write the report of a demo to `path`, atomically, and return `path`."""
    matplotlib.use("Agg")
    assert demo.bundle is not None
    machine = this_machine()
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    sections = [
        "<p class=lead>ffn-edge trains one video network for any number of frames, and lets the "
        "device choose, inference by inference, how many it can afford.</p>",
        f"<h1>{_headline(demo.rows['ffn'], demo.rows['naive'])}</h1>",
        _gallery(demo),
        _GLOSSARY,
        "<h2>One network, any frame count</h2>",
        _accuracy_plot(demo),
        _accuracy_table(demo.rows["ffn"], demo.rows["naive"]),
        _plateau_note(demo.rows["ffn"], demo.rows["naive"]),
        "<h2>Adapting to what the machine can afford</h2>",
        _scene(demo),
        _verdict(demo.runs),
        _timeline_plot(demo.runs),
        _runs_table(demo),
        *(_moves_table(run) for run in demo.runs if run.moves(run.load_s[0])),
        "" if demo.streamed is None else _frame_by_frame(demo.rows, demo.streamed),
        "<h2>One weight file, and engines that equal the network</h2>",
        _bundle_table(demo),
        _verify_table(demo),
        "<h2>INT8: the same weight file, with other graphs</h2>",
        _precision_table(demo),
        "<h2>How long it took</h2>",
        table(
            ("stage", "seconds"),
            [(name, f"{seconds:.0f}") for name, seconds in demo.seconds.items()]
            + [("in all", f"{sum(demo.seconds.values()):.0f}")],
            "Of this call: where an interrupted demo went on, only what was left to do.",
        ),
        _next_steps(),
        f"<p class=note>ffn-edge {ffn_edge.__version__}, {text(machine.cpu)}, "
        f"{counted(machine.cores, 'core')}, {text(machine.system)}, Python "
        f"{text(machine.python)}; {now}. Every figure on this page was measured by this demo.</p>",
    ]
    write_text(path, page("ffn-edge demo", "\n".join(sections)))
    return path


def _headline(ffn: Sequence[Row], naive: Sequence[Row]) -> str:
    """Say in a sentence what the accuracies show."""
    trained = [row for row in ffn if row.frames == row.sub_network]
    fewest, most = trained[0], trained[-1]
    own = max(row.sub_network for row in naive)
    others = [next(row for row in naive if row.frames == frames) for frames in (fewest.frames, own)]
    return (
        f"One network is right for {fewest.top1:.0%} of the clips with {fewest.frames} frames and "
        f"{most.top1:.0%} with {most.frames}. Trained at {own} frames alone, it is right for "
        f"{' and '.join(f'{row.top1:.0%}' for row in others)}."
    )


def _gallery(demo: DemoResult) -> str:
    """Show clips with their answers, and a video that plays."""
    figures = []
    for clip in demo.shown:
        strip = np.concatenate(list(clip.frames), axis=1)
        scaled = opencv().resize(
            strip[..., ::-1], None, fx=2, fy=2, interpolation=opencv().INTER_NEAREST
        )
        _, encoded = opencv().imencode(".png", scaled)
        answers = " · ".join(
            f"<span>{frames} frames: {text(best.class_name)} {best.probability:.2f} "
            f"{'✓' if best.class_name == clip.action else '✗'}</span>"
            for frames, best in clip.answers.items()
        )
        figures.append(
            f"<figure><img alt='four frames of a clip' src='{data_url('image/png', encoded)}'>"
            f"<figcaption><b>{text(clip.action)}</b><br>{answers}</figcaption></figure>"
        )
    video = data_url("video/mp4", read_bytes(demo.annotated, _MOST_VIDEO_BYTES))
    return (
        "<h2>What it sees</h2><p>The first test clips, four frames of each, with the answers of "
        "the one network at each of its frame counts. They are synthetic: motion rendered over "
        "photographs, twelve classes in time-reversed pairs, so that only the order of the frames "
        f"tells them apart.</p><div class=gallery>{''.join(figures)}</div>"
        "<p>The beginning of the long stream of the adaptive run, with each answer, the frames it "
        f"took and its latency:</p><video controls muted playsinline src='{video}'></video>"
    )


def _next_steps() -> str:
    """Say what to do with one's own clips."""
    return (
        "<h2>With clips of your own</h2><p>This network knows twelve rendered motions. For yours, "
        "write three text files: training and validation clips with a label a line, and the names "
        "of the classes. Then</p><pre>"
        "ffn-edge train custom --train-list train.txt --val-list val.txt \\\n"
        "    --classes classes.txt -o runs/mine\n"
        "ffn-edge export runs/mine/best.pt -o bundle\n"
        "ffn-edge run bundle --source clip.mp4 --annotate answer.mp4</pre>"
        "<p>Beside this page, the lists in <code>clips/</code> are examples, and "
        "<code>ffn-edge run</code> takes the <code>bundle</code>.</p>"
    )


def _accuracy_plot(demo: DemoResult) -> str:
    figure, axis = pyplot.subplots(figsize=_SIZE, layout="constrained")
    for name, rows in demo.rows.items():
        axis.errorbar(
            [row.frames for row in rows],
            [100 * row.top1 for row in rows],
            [100 * standard_error(row.top1, row.clips) for row in rows],
            label=_NAMES[name],
            color=_COLOURS[name],
            capsize=3,
        )
        trained = [row for row in rows if row.frames == row.sub_network]
        axis.plot(
            [row.frames for row in trained],
            [100 * row.top1 for row in trained],
            "o",
            color=_COLOURS[name],
        )
    axis.set(
        xlabel="frames (dots: trained)",
        ylabel="top-1, %",
        ylim=(0, 100),
        xticks=[row.frames for row in demo.rows["ffn"]],
    )
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return svg(figure)


def _plateau_note(ffn: Sequence[Row], naive: Sequence[Row]) -> str:
    """Say where the comparison is unfair: at its own frame count, naive training is as good."""
    trained = next(row for row in naive if row.frames == row.sub_network)
    ours = next(row for row in ffn if row.frames == trained.frames)
    if ours.top1 - trained.top1 < 0.1:
        return ""
    return (
        f"<p><b>The naive network has not learnt {trained.frames} frames in this run.</b> Training "
        "at one frame count stays on a plateau for half of its epochs, and now and then for all of "
        "them: rounding decides, and that depends on the number of threads. Given more epochs it "
        "is as good at its own frame count, so this run overstates the difference.</p>"
    )


def _accuracy_table(ffn: Sequence[Row], naive: Sequence[Row]) -> str:
    rows = [
        (
            str(ours.frames),
            f"{ours.gmacs:.3f}",
            f"{100 * ours.top1:.1f} ± {100 * standard_error(ours.top1, ours.clips):.1f}",
            f"{100 * theirs.top1:.1f} ± {100 * standard_error(theirs.top1, theirs.clips):.1f}",
            f"{100 * (ours.top1 - theirs.top1):+.1f}",
        )
        for ours, theirs in zip(ffn, naive, strict=True)
    ]
    bold = {i for i, row in enumerate(ffn) if row.frames == row.sub_network}
    return table(
        ("frames", "GMACs", "FFN, top-1 %", "naive, top-1 %", "difference"),
        rows,
        f"{ffn[0].clips} test clips of a fresh seed; ± one standard error. Bold: trained in the "
        "FFN; the nearest trained sub-network serves the others.",
        bold,
    )


def _bundle_table(demo: DemoResult) -> str:
    assert demo.bundle is not None
    files = demo.bundle.manifest.files
    return table(
        ("file of the bundle", "kB"),
        [(name, f"{record.bytes / 1000:.1f}") for name, record in files.items()]
        + [("in all", f"{sum(record.bytes for record in files.values()) / 1000:.1f}")],
    )


def _verify_table(demo: DemoResult) -> str:
    rows = [
        (
            str(found.frames),
            str(found.clips),
            each.pair,
            f"{each.relative:.1e}",
            f"{each.tolerance:.0e}",
            "yes" if each.passed else "NO",
        )
        for found in demo.verified
        for each in found.comparisons
    ]
    return table(
        ("frames", "clips", "compared", "largest difference", "allowed", "passed"),
        rows,
        "Differences of logits, relative to a clip's largest, on test clips.",
    )


def _precision_table(demo: DemoResult) -> str:
    """Show each frame count in float32 and in INT8: accuracy, bytes, latency, and what runs."""
    assert demo.profile is not None and demo.bundle is not None
    manifest, profile = demo.bundle.manifest, demo.profile
    rows = []
    for frames, int8 in manifest.quantized.items():
        assert int8.accuracy is not None and int8.accuracy_float32 is not None
        sub_network = manifest.sub_networks[frames]
        chosen = profile.choose(frames, sub_network).precision
        compared: tuple[tuple[Precision, Accuracy, float], ...] = (
            ("fp32", int8.accuracy_float32, 1.0),
            ("int8", int8.accuracy, int8.agreement),
        )
        for precision, accuracy, same in compared:
            latency = profile.latencies[precision][frames]
            rows.append(
                (
                    f"{frames} in {precision}",
                    "✓" if precision == chosen else "",
                    f"{accuracy.top1:.1%}",
                    f"{latency.median_ms:.2f}",
                    f"{same:.1%}",
                    f"{manifest.files[sub_network.graphs[precision]].bytes / 1000:.0f}",
                    f"{latency.quantile_ms(0.95):.2f}",
                )
            )
    return table(
        ("frames", "runs", "top-1", "p50, ms", "same class", "graph, kB", "p95, ms"),
        rows,
        f"Accuracy on {counted(int8.compared_on, 'test clip')}; the scales of INT8 come from "
        f"{counted(int8.calibrated_on, 'validation clip')} without their labels. Milliseconds per "
        "clip in ONNX Runtime on one thread of the processor, "
        + (
            f"but not of an idle machine: {profile.disturbance}. "
            if profile.disturbance
            else "idle. "
        )
        + "What runs is the fastest that loses at most half a point.",
    )


def _timeline_plot(runs: Sequence[TimelineRun]) -> str:
    figure, axes = pyplot.subplots(
        len(runs) + 1,
        1,
        figsize=(_SIZE[0], 2.0 * (len(runs) + 1)),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    every = [result.latency_ms for run in runs for result in run.results]
    scale = (min(every) / 1.3, 1.3 * max(every))  # one for all runs
    frames_axis, *latency_axes = axes[:, 0]
    colours = [_COLOURS["ffn"], *itertools.islice(itertools.cycle(_FIXED), len(runs) - 1)]
    for run, axis, colour in zip(runs, latency_axes, colours, strict=True):
        times = [result.elapsed_s for result in run.results]
        frames = [result.decision.frames for result in run.results]
        frames_axis.step(times, frames, where="post", label=run.name, color=colour)
        frames_axis.set_yticks(sorted({*frames, *frames_axis.get_yticks()} & {2, 4, 8, 16, 32}))
        latencies = [result.latency_ms for result in run.results]
        axis.plot(times, latencies, ".", markersize=3, color=colour)
        axis.axhline(run.deadline_ms, color="black", linewidth=1, linestyle="--")
        axis.set(ylabel="latency, ms", title=run.name, yscale="log", ylim=scale)
    for axis in axes[:, 0]:
        axis.axvspan(*runs[0].load_s, color="#ced4da", alpha=0.5)
        axis.grid(alpha=0.3)
    frames_axis.set(ylabel="frames", title="frames per inference (shaded: background load)")
    frames_axis.legend(loc="lower left")
    axes[-1, 0].set_xlabel("seconds of the stream (dashed: the deadline)")
    return svg(figure)


def _runs_table(demo: DemoResult) -> str:
    rows = [
        (
            run.name,
            f"{run.mean_frames():.1f}",
            *(
                f"{share(under_load=when):.1%}"
                for share in (run.in_time, run.missed)
                for when in (None, False, True)
            ),
            f"{statistics.fmean(run.correct):.1%}",
        )
        for run in demo.runs
    ]
    headings = (
        "run",
        "mean frames",
        "in time",
        "in time, idle",
        "in time, under load",
        "late",
        "late, idle",
        "late, under load",
        "right, late or not",
    )
    return table(
        headings,
        rows,
        f"Shares of the {len(demo.runs[0].results)} answers of each run. In time: right, and not "
        "late. Late: after the deadline. Right: the top class is the action that filled most of "
        "the two-second window. A window that spans two actions is harder than a test clip.",
    )


def _frame_by_frame(rows: dict[str, list[Row]], streamed: Streamed) -> str:
    """Hold the two modes of the causal network against each other."""
    accuracies = {
        row.frames: (row.top1, theirs.top1)
        for row in rows["causal"]
        for theirs in rows["ffn"]
        if theirs.frames == row.frames
    }
    most = max(accuracies)
    off = max(
        each.relative
        for found in streamed.verified
        for each in found.comparisons
        if each.pair == "graph = steps"
    )
    causal, both_ways = (
        " / ".join(f"{100 * top1:.1f}" for top1 in each)
        for each in zip(*accuracies.values(), strict=True)
    )
    decoding_s = streamed.decoding_s
    modes = [
        (
            name,
            f"{run.answers_per_s:.1f}",
            f"{statistics.fmean(run.correct):.1%}",
            f"{run.cpu_ms_per_s(decoding_s):.1f}",
            f"{run.cpu_ms_per_answer(decoding_s):.2f}",
            f"{statistics.median(run.answered_ms):.2f}",
            f"{statistics.quantiles(run.answered_ms, n=20)[-1]:.2f}",
        )
        for name, run in streamed.runs.items()
    ]
    decoding_ms = 1e3 * decoding_s / next(iter(streamed.runs.values())).seconds
    return (
        f"<h2>Frame by frame</h2><p>A clip of {most} frames that moves on by two computes "
        f"{most - 2} of them anew. A causal network takes from the past alone, so it can keep "
        "what it has computed: each new frame is one step, and the answer is the mean over the "
        "last two seconds. This one started from the network above. At "
        f"{' / '.join(map(str, accuracies))} frames it is right for {causal} % of the test clips; "
        f"the network that looks both ways, for {both_ways} %. On test clips, the mean over its "
        f"steps differs from the answer to the whole clip by {off:.1g} of the largest logit.</p>"
        + table(
            (
                "mode",
                "answers / s",
                "right",
                "CPU, ms / s",
                "CPU, ms / answer",
                "latency p50, ms",
                "p95, ms",
            ),
            modes,
            f"The causal network at {most} frames a window, in both modes over the same stream, on "
            "one thread of the processor, without a background load. Right: the top class is the "
            "action that filled most of the window. CPU: the time of this process, for a second of "
            "the stream and for an answer, without the decoding of the video, which takes "
            f"{decoding_ms:.1f} ms a second in each mode. Latency: from the arrival of an answer's "
            "newest frame to the answer. A step of the engine alone takes "
            f"{streamed.profile.latencies['fp32'][most].median_ms:.2f} ms (p50).",
        )
    )


def _scene(demo: DemoResult) -> str:
    """Say what was run, and how the deadline was chosen."""
    assert demo.profile is not None
    *_, fewer, highest = sorted(demo.profile.latencies["fp32"])
    return (
        f"<p>The same stream, once adaptively and once with each frame count, and always the same "
        f"deadline, {demo.runs[0].deadline_ms:.1f} ms, which {MISS_RATE:.0%} of the answers may "
        "miss. In the shaded part twice as many busy processes as there are cores compete for the "
        "processor. The policy knows only the latencies that it measures.</p>"
        "<p>The deadline is one that the load makes a difference for. In a rehearsal of "
        f"{REHEARSAL_SECONDS:.0f} s under load, the share of answers that kept it with {fewer} "
        f"frames exceeded that with {highest} the most; but it is at least {LEAST_DEADLINE:g} "
        f"times what {highest} frames take at their fastest (10 % quantile).</p>"
    )


def _verdict(runs: Sequence[TimelineRun]) -> str:
    """Say whether adapting paid, and where not."""
    adaptive, *fixed = runs
    best = max(fixed, key=TimelineRun.in_time)
    ahead = 100 * (adaptive.in_time() - best.in_time())
    words = (
        f"The adaptive run was right in time for {adaptive.in_time():.1%} of the answers; the best "
        f"of the others, “{best.name}”, for {best.in_time():.1%}. "
    )
    if ahead > 0:
        words += (
            f"Adapting gained {ahead:.1f} points on a frame count that nobody knows beforehand."
        )
    else:
        words += f"Here adapting did not pay: it lost {abs(ahead):.1f} points."
    for run in fixed:
        for when, under_load in (("while the machine was idle", False), ("under load", True)):
            lost = 100 * (
                run.in_time(under_load=under_load) - adaptive.in_time(under_load=under_load)
            )
            if lost > 0:
                words += f" “{run.name}” was {lost:.1f} points better {when}."
    return f"<p><b>{text(words)}</b> One run each: a point or two are chance.</p>"


def _moves_table(run: TimelineRun) -> str:
    begin, end = run.load_s
    moves = [*run.moves(begin, end)[:_EXPLAINED], *run.moves(end)[:_EXPLAINED]]
    return table(
        ("second", "frames", "why", "why not as before"),
        [
            (
                f"{result.elapsed_s:.2f}",
                f"{before} → {result.decision.frames}",
                result.decision.reason,
                result.decision.rejected.get(before, ""),
            )
            for before, result in moves
        ],
        f"{run.name}: why the frame count moved, in the policy's own words. The first "
        f"{_EXPLAINED} changes from {begin:.0f} s on, when the load began, and from {end:.0f} s "
        "on, when it ended.",
        words=True,
    )
