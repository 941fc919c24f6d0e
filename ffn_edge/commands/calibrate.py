"""`ffn-edge calibrate`: parse, call the library, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.commands.engine_options import engine_options, take_engine_options
from ffn_edge.commands.option_types import UserPath
from ffn_edge.errors import counted
from ffn_edge.files.atomic import check_writable
from ffn_edge.progress import progress
from ffn_edge.runtime.cascade.calibrate import calibrate_bundle
from ffn_edge.runtime.cascade.calibration import CALIBRATION, Calibration
from ffn_edge.runtime.profile.setting import PrecisionChooser
from ffn_edge.terminal import Terminal

# An accuracy of 0.9 that 200 clips say is known to two points.
_FEW_CLIPS = 200
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
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as JSON.")
def calibrate(
    bundle: Path, list_file: Path, root: Path | None, as_json: bool, **options: Any
) -> None:
    """Learn from labelled clips how sure each answer is.

    Every engine classifies every clip. That gives each frame count the temperature that makes its
    probabilities hold, and each two of them the margins below which a clip is worth more frames.
    All goes to BUNDLE/calibration.json, where `ffn-edge run --escalate` finds it.

    \b
    Example:
      ffn-edge calibrate bundle --list val.txt --root videos
    """
    loaded = Bundle.load(bundle)
    check_writable(bundle / CALIBRATION)
    engines = take_engine_options(options)
    console = Terminal(stderr=True)
    say = console.say
    with progress(console, "calibrating") as show:
        chooser = PrecisionChooser(loaded, engines)
        learnt = calibrate_bundle(
            loaded, list_file, engines, precisions=chooser, root=root, on_video=show
        )
    if learnt.clips < _FEW_CLIPS:
        say(f"{learnt.clips} clips are few: take {_FEW_CLIPS} or more for thresholds that hold.")
    say(f"wrote {bundle / CALIBRATION}")
    if as_json:
        click.echo(learnt.to_json(), nl=False)
        return
    gmacs = {frames: sub.macs / 1e9 for frames, sub in loaded.manifest.sub_networks.items()}
    Terminal().print(_confidence_table(learnt, gmacs))
    if learnt.cascades:
        Terminal().print(_cascade_table(learnt, gmacs))


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
