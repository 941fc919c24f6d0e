"""`ffn-edge calibrate`: parse, call the library, print."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.commands.engine_options import engine_options, take_engine_options
from ffn_edge.commands.option_types import Number, UserPath
from ffn_edge.errors import FfnEdgeError, counted, printable
from ffn_edge.files.atomic import check_writable
from ffn_edge.progress import progress
from ffn_edge.runtime.cascade.calibrate import calibrate_bundle
from ffn_edge.runtime.cascade.calibration import (
    CALIBRATION,
    Calibration,
    load_calibration,
    save_calibration,
)
from ffn_edge.runtime.engines.engine import open_engines
from ffn_edge.runtime.event_calibration import calibrate_events, read_streams
from ffn_edge.runtime.events.rules import NOTHING, of_class
from ffn_edge.runtime.events.scoring import Score
from ffn_edge.runtime.events.thresholds import LearntEvents
from ffn_edge.runtime.profile.setting import PrecisionChooser
from ffn_edge.terminal import Terminal

# An accuracy of 0.9 that 200 clips say is known to two points.
_FEW_CLIPS = 200
# Where none was seen in three hours, the rate is less than one an hour with 95 % confidence.
_FEW_HOURS = 3
_EVENT_FIELDS = {"events": "events", "step_events": "events, frame by frame"}
_SHOWN_ROWS = 4  # of a cascade: every so many


@click.command(short_help="Learn from labelled clips how sure each answer is.")
@click.argument("bundle", type=UserPath(path_type=Path))
@click.option(
    "--list",
    "list_file",
    type=UserPath(dir_okay=False, path_type=Path),
    required=True,
    help="A list of labelled clips that were not trained on.",
)
@click.option(
    "--root",
    type=UserPath(file_okay=False, path_type=Path),
    help="What the list's paths are relative to.  [default: its folder]",
)
@click.option(
    "--stream",
    "stream_file",
    type=UserPath(dir_okay=False, path_type=Path),
    help="A table of what happens when in long videos, `video,start_s,end_s,label`: learn when an "
    "action counts as an event, for `ffn-edge run --events`.",
)
@click.option(
    "--false-alarms",
    type=Number(),
    default=1.0,
    show_default=True,
    help="How many events an hour may be none.",
)
@click.option(
    "--nothing", default=NOTHING, show_default=True, help="The class that means no action."
)
@click.option(
    "--frame-by-frame",
    is_flag=True,
    help="Learn from --stream for `ffn-edge run --stream` too, which follows a causal network.",
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as JSON.")
def calibrate(
    bundle: Path,
    list_file: Path,
    root: Path | None,
    stream_file: Path | None,
    false_alarms: float,
    nothing: str,
    frame_by_frame: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn from labelled clips how sure each answer is.

    Every engine classifies every clip. That gives each frame count the temperature that makes its
    probabilities hold, and each two of them the margins below which a clip is worth more frames.
    All goes to BUNDLE/calibration.json, where `ffn-edge run --escalate` finds it.

    With --stream it also gets the thresholds of events. A video in which nothing happens has one
    line without times and label.

    \b
    Examples:
      ffn-edge calibrate bundle --list val.txt --root videos
      ffn-edge calibrate bundle --list val.txt --stream labelled.csv --false-alarms 0.5
    """
    if frame_by_frame and stream_file is None:
        raise click.UsageError("--frame-by-frame is for --stream.")
    loaded = Bundle.load(bundle)
    check_writable(bundle / CALIBRATION)
    if stream_file is not None:
        read_streams(stream_file, loaded, nothing=nothing)  # before long work
    engines = take_engine_options(options)
    console = Terminal(stderr=True)
    say = console.say
    with progress(console, "calibrating") as show:
        chooser = PrecisionChooser(loaded, engines)
        learnt = calibrate_bundle(
            loaded, list_file, engines, precisions=chooser, root=root, on_video=show
        )
    events: dict[str, LearntEvents] = {}
    if stream_file is not None:
        for field in [*_EVENT_FIELDS][: 1 + frame_by_frame]:
            stepped = field == "step_events"
            of_steps = dataclasses.replace(engines, stream=stepped)
            chooser = PrecisionChooser(loaded, of_steps)
            with (
                progress(console, "watching") as watching,
                progress(console, "learning") as learning,
                open_engines(loaded, of_steps, precisions=chooser) as opened,
            ):
                events[field] = calibrate_events(
                    loaded,
                    opened,
                    stream_file,
                    learnt.temperatures,
                    false_alarms_per_hour=false_alarms,
                    nothing=nothing,
                    stream=stepped,
                    on_video=watching,
                    on_step=learning,
                )
        rules = {field: each.rules for field, each in events.items()}
        learnt = dataclasses.replace(
            learnt,
            events=rules.get("events"),
            step_events=rules.get("step_events"),
            still=_still(events.values()),
        )
    lost = _lost_events(loaded, learnt)
    save_calibration(loaded, learnt)
    if learnt.clips < _FEW_CLIPS:
        say(f"{learnt.clips} clips are few: take {_FEW_CLIPS} or more for thresholds that hold.")
    say(f"wrote {bundle / CALIBRATION}")
    if lost:
        say(
            f"the thresholds of {' and '.join(lost)} that it had are gone: they belong to the "
            "temperatures that it had. Learn them anew with --stream."
        )
    if as_json:
        click.echo(learnt.to_json(), nl=False)
        return
    gmacs = {frames: sub.macs / 1e9 for frames, sub in loaded.manifest.sub_networks.items()}
    Terminal().print(_confidence_table(learnt, gmacs))
    if learnt.cascades:
        Terminal().print(_cascade_table(learnt, gmacs))
    for field, each in events.items():
        Terminal().print(_event_table(each, _EVENT_FIELDS[field]))
        if each.left_out is not None:
            say(f"where nothing moves, {each.left_out:.0%} of these inferences would be left out.")
        for warning in _event_warnings(each):
            say(warning)


def _lost_events(bundle: Bundle, learnt: Calibration) -> list[str]:
    """Return for what the bundle's calibration has thresholds of events, and this one has none."""
    try:
        before = load_calibration(bundle)
    except FfnEdgeError:  # there is none that can be used
        return []
    return [
        text
        for field, text in _EVENT_FIELDS.items()
        if getattr(before, field) is not None and getattr(learnt, field) is None
    ]


def _still(events: Collection[LearntEvents]) -> float | None:
    """Return the threshold that costs no event in any way to follow a stream."""
    thresholds = [each.still for each in events if each.still is not None]
    return min(thresholds) if len(thresholds) == len(events) else None


def _confidence_table(learnt: Calibration, gmacs: dict[int, float]) -> Table:
    table = Table(
        title="each frame count alone",
        caption=f"{counted(learnt.clips, 'clip')}; before, and after logits are divided by the "
        "temperature. ECE: expected calibration error, the points that a stated probability is "
        "off by.",
    )
    for heading in (
        "frames",
        "GMAC",
        "accuracy",
        "temperature",
        "log loss",
        "after",
        "ECE",
        "after",
    ):
        table.add_column(heading, justify="right")
    for frames, found in learnt.confidences.items():
        table.add_row(
            str(frames),
            f"{gmacs[frames]:.3g}",
            f"{found.accuracy:.1%}",
            f"{found.temperature:.3f}",
            f"{found.log_loss_before:.3f}",
            f"{found.log_loss_after:.3f}",
            f"{100 * found.error_before:.1f}",
            f"{100 * found.error_after:.1f}",
        )
    return table


def _cascade_table(learnt: Calibration, gmacs: dict[int, float]) -> Table:
    table = Table(
        title="few frames, and more where the margin is smaller",
        caption="weights: of the logits of both, where both were computed. GMAC: the mean of a "
        "clip.",
    )
    for heading in ("frames", "weights", "margin", "escalated", "accuracy", "GMAC"):
        table.add_column(heading, justify="right")
    for cascade in learnt.cascades:
        rows = zip(cascade.thresholds, cascade.shares, cascade.accuracies, strict=True)
        shown = list(rows)[:0:-_SHOWN_ROWS][::-1]  # the last one too, but not the first
        first, second = cascade.first, cascade.second
        for threshold, share, accuracy in shown:
            table.add_row(
                f"{first}, {second}",
                f"{cascade.weights[0]:.2f}, {cascade.weights[1]:.2f}",
                f"{threshold:.3f}",
                f"{share:.1%}",
                f"{accuracy:.1%}",
                f"{gmacs[first] + share * gmacs[second]:.3g}",
            )
        table.add_section()
    return table


def _event_table(learnt: LearntEvents, title: str) -> Table:
    rules = learnt.rules
    extra = [
        f"{text} {seconds:g} s"
        for text, seconds in (("at least", rules.least_s), ("merged within", rules.merge_s))
        if seconds
    ]
    table = Table(
        title=", ".join([title, *extra]),
        caption="of each class over all frame counts, and of each frame count over all classes, on "
        "the streams that this was learnt from. F1: at an overlap of half. start: the median of "
        "how far it is off; told: and of how long after it the event is known.",
    )
    for heading in ("", "onset", "events", "F1", "false alarms an hour", "start s", "told s"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, found in learnt.classes.items():
        onset = of_class(rules.onset, name, math.inf)
        table.add_row(
            printable(name), "–" if onset == math.inf else f"{onset:g}", *_score_cells(found)
        )
    table.add_section()
    for frames, found in learnt.frames.items():
        table.add_row(f"{frames} frames", "", *_score_cells(found))
    return table


def _score_cells(found: Score) -> tuple[str, ...]:
    return (
        str(found.segments),
        f"{found.f1:.2f}",
        f"{found.false_alarms_per_hour:.2f}",
        *("–" if s is None else f"{s:.2f}" for s in (found.start_error_s, found.delay_s)),
    )


def _event_warnings(learnt: LearntEvents) -> Iterator[str]:
    """Yield what one should know of the streams, or of classes without events."""
    hours = max(found.seconds for found in learnt.frames.values()) / 3600
    if hours < _FEW_HOURS:
        yield (
            f"{hours:.1f} hours of streams are few: take {_FEW_HOURS} or more, most of them idle, "
            "for a rate of false alarms that holds."
        )
    silent = [
        name for name in learnt.classes if of_class(learnt.rules.onset, name, math.inf) == math.inf
    ]
    if silent:
        yield (
            f"no threshold finds {', '.join(map(printable, silent))} and keeps the rate: no events."
        )
