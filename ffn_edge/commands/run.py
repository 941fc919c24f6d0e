"""`ffn-edge run`."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.commands.engine_options import (
    engine_options,
    root_option,
    seconds_until,
    take_engine_options,
)
from ffn_edge.commands.option_types import Number, UserPath, Whole, signature_option
from ffn_edge.media.video import UNSTATED_FPS
from ffn_edge.runtime.answers import Answers, AnswersCsv
from ffn_edge.runtime.event_sink import EventSink
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.run import RunOptions, run_session, source_for
from ffn_edge.runtime.sinks import JsonLines, LiveView, ProgressLines, Sink
from ffn_edge.runtime.stream.sources import FolderStream, VideoStream
from ffn_edge.runtime.summary import Summary
from ffn_edge.terminal import Terminal


@click.command(short_help="Recognise actions, adapting the frame count.")
@click.argument("bundle", type=UserPath(path_type=Path))
@click.option(
    "--source",
    "sources",
    required=True,
    multiple=True,
    help="A video; a folder of videos, or of one video's images; a pattern in quotes, such as "
    "'day/*.mp4'; a .txt file with a video or a folder a line; a camera's number, csi://0, or a "
    "stream such as rtsp://camera/1. May be repeated: videos are watched in turn, cameras at once.",
)
@click.option(
    "--latency-ms",
    type=Number(),
    help="The deadline of one inference.  [default: none]",
)
@click.option("--frames", type=Whole(), help="Always this frame count, whatever the deadline.")
@click.option(
    "--miss-rate",
    type=Number(1, max_open=True),
    default=0.05,
    show_default=True,
    help="The share of inferences that may miss the deadline.",
)
@click.option(
    "--power-w",
    type=Number(),
    help="The most that the machine may draw, on average over ten seconds.  [default: no limit]",
)
@click.option(
    "--battery-wh",
    type=Number(),
    help="The energy that must last until --until.",
)
@click.option(
    "--until",
    "until_s",
    callback=seconds_until,
    metavar="TIME",
    help="Such as 18:00, or 90m or 2.5h from now.",
)
@click.option(
    "--escalate",
    is_flag=True,
    help="Look again, with more frames, where few are not sure. Needs `ffn-edge calibrate`.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Follow the source frame by frame, at a rate of so many frames a window, instead of "
    "looking at clips. For bundles of causal networks.",
)
@click.option(
    "--limits",
    "limits_file",
    type=UserPath(dir_okay=False, path_type=Path),
    help="A JSON file with latency_ms, miss_rate or power_w, read again whenever it changes.",
)
@click.option(
    "--window",
    "window_s",
    type=Number(3600),
    help="The seconds that a clip spans.  [default: as in training, or else 2]",
)
@click.option(
    "--hop",
    "hop_s",
    type=Number(3600),
    default=0.25,
    show_default=True,
    help="The seconds from one inference to the next; with --stream each rate has its own.",
)
@click.option(
    "--fps",
    type=Number(1000),
    default=UNSTATED_FPS,
    show_default=True,
    help="The frames a second of a folder of images.",
)
@click.option("--realtime", is_flag=True, help="Play a file at its own pace, as a camera would.")
@click.option(
    "--max-seconds", type=Number(math.inf), default=math.inf, help="End after so much video."
)
@click.option(
    "--output",
    type=UserPath(path_type=Path),
    help="Where the JSON lines go.  [default: stdout, unless it is a terminal]",
)
@click.option(
    "--csv",
    "csv_file",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Write what each video showed, and when: a row for each span, or with --events for each "
    "event.",
)
@click.option(
    "--events",
    is_flag=True,
    help="Tell of each action once, when it begins and when it has ended: in the JSON lines and "
    "the CSV. See `ffn-edge calibrate --stream`.",
)
@click.option(
    "--subtitles",
    type=UserPath(file_okay=False, path_type=Path),
    help="With --events: write a WebVTT file for each video into this folder.",
)
@click.option(
    "--annotate",
    type=UserPath(written=True, path_type=Path),
    help="Write the video with the results, as MP4.",
)
@click.option(
    "--record",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Write what the policy saw, for `ffn-edge simulate --trace`.",
)
@signature_option
@root_option
@engine_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="JSON lines even to a terminal, and the summary as a last one.",
)
def run(
    bundle: Path,
    sources: tuple[str, ...],
    latency_ms: float | None,
    miss_rate: float,
    frames: int | None,
    power_w: float | None,
    battery_wh: float | None,
    until_s: float | None,
    output: Path | None,
    csv_file: Path | None,
    events: bool,
    subtitles: Path | None,
    annotate: Path | None,
    record: Path | None,
    signed_by: PublicKey | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Recognise actions, adapting the frame count.

    Each inference runs the most accurate frame count that is predicted to keep the deadline and
    the power budget; the choice is explained in each JSON line. Ctrl-C ends the run with a
    summary (exit code 0).

    A video's answer is the class with the highest mean probability over all its windows. Its spans
    are runs of windows with the same most probable class, and a window stands for its middle.

    \b
    Examples:
      ffn-edge run bundle --source recordings --latency-ms 80 --csv answers.csv
      ffn-edge run bundle --source 0 --latency-ms 50 --miss-rate 0.01 --power-w 10
      ffn-edge run bundle --source csi://0 --battery-wh 20 --until 18:00
      ffn-edge run bundle --source 0 --stream --power-w 8
      ffn-edge run bundle --source day.mp4 --events --subtitles .
      ffn-edge run bundle --source clip.mp4 --frames 8 --annotate out.mp4
    """
    loaded = Bundle.load(bundle, signed_by)
    run_options = RunOptions(engines=take_engine_options(options), **options)
    source = source_for(loaded.manifest.input, sources, run_options, whole=annotate is not None)
    videos = [each.path for each in source.streams if isinstance(each, VideoStream | FolderStream)]
    cameras = {each.name for each in source.streams if each.comes_back}
    recordings = {each.name for each in source.streams if not each.comes_back}
    if subtitles is not None and not (events and videos):
        raise click.UsageError("--subtitles is for the --events of videos.")
    if csv_file is not None and not videos and not events:
        raise click.UsageError("--csv is for answers to videos, and a camera has no end.")
    _check_files(
        {"--output": output, "--csv": csv_file, "--annotate": annotate, "--record": record},
        {"--limits": run_options.limits_file},
        {"--source": videos, "BUNDLE": [bundle]},
    )
    hop_from = click.get_current_context().get_parameter_source("hop_s")
    if run_options.stream and hop_from is not ParameterSource.DEFAULT:
        raise click.UsageError("--hop is of clips; with --stream each due frame is a step.")
    if frames is not None and run_options.escalate:
        raise click.UsageError("--escalate chooses frame counts, and --frames fixes one.")
    console = Terminal(stderr=True)
    say = console.say
    summary = Summary()
    limits = Limits(
        latency_ms=latency_ms,
        miss_rate=miss_rate,
        frames=frames,
        power_w=power_w,
        battery_j=None if battery_wh is None else battery_wh * 3600,
        until_s=None if until_s is None else time.monotonic() + until_s,
    )
    to_stdout = output is None and (as_json or not sys.stdout.isatty())
    answers = Answers(loaded.manifest.classes)
    try:
        with ExitStack() as stack:
            sinks: list[Sink] = []
            video_sinks: list[Sink] = [answers]
            sink = None
            lines = output or (sys.stdout if to_stdout else None)
            if events:
                sink = EventSink(
                    loaded,
                    stream=run_options.stream,
                    recordings=recordings,
                    lines=lines,
                    csv=csv_file,
                    subtitles=subtitles,
                )
                sinks.append(stack.enter_context(sink))
                run_options = dataclasses.replace(run_options, still=sink.setting.still)
            elif lines is not None:
                sinks.append(stack.enter_context(JsonLines(lines)))
            if csv_file is not None and not events:
                answers.on_answer = stack.enter_context(AnswersCsv(csv_file)).write
            note = (lambda source: "") if sink is None else sink.shown
            if console.is_terminal and not (to_stdout and sys.stdout.isatty()):
                sinks.append(stack.enter_context(LiveView(console, note, cameras)))
            if not console.is_terminal:
                video_sinks.append(ProgressLines())
            stack.callback(answers.end_video)
            run_session(
                loaded,
                source,
                limits,
                run_options,
                summary=summary,
                sinks=sinks,
                video_sinks=video_sinks,
                events=sink,
                annotate=annotate,
                record=record,
            )
    finally:  # a run that fails has inferences to tell of, too
        if summary.inferences:
            console.print(summary.table())
        for answer in answers.all:
            say(answer.line() if csv_file is None or events else answer.line(str(csv_file)))
    if not summary.inferences:
        say("no inference: the source ended before the first window was full")
    if as_json:
        click.echo(
            json.dumps(
                {"summary": {**summary.fields(), "answers": [a.fields() for a in answers.all]}}
            )
        )


def _check_files(
    written: dict[str, Path | None],
    read: dict[str, Path | None],
    sources: dict[str, Sequence[Path]],
) -> None:
    """Refuse to write over what is read, or twice to one file.

    Args:
        written: files, by option.
        read: the same.
        sources: files and folders of files that are read, by option.

    Raises:
        click.UsageError: two options name the same file.
    """
    seen = {
        file.absolute().resolve(): option
        for option, paths in sources.items()
        for path in paths
        for file in (path, *(path.iterdir() if path.is_dir() else ()))
    }
    for option, path in {**read, **written}.items():
        if path is not None and (path.is_file() or not path.exists()):  # not /dev/null
            other = seen.setdefault(path.absolute().resolve(), option)
            if other != option:
                raise click.UsageError(f"{option} and {other} name the same file, {path}.")
