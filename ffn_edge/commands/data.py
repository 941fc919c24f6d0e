"""`ffn-edge data`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ffn_edge.commands.option_types import UserPath, Whole


@click.group(short_help="Look at videos, and make lists of them to train on.")
def data() -> None:
    """Look at videos, and make lists of them to train on.

    \b
    Example:
      ffn-edge data scan videos -o data
    """


@data.command()
@click.argument("source", type=UserPath(exists=True, path_type=Path))
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, path_type=Path),
    help="Folder for lists, classes and the report.",
)
@click.option(
    "--lists",
    type=UserPath(exists=True, path_type=Path),
    help="A list, or a folder of a data set's lists; else those in SOURCE.",
)
@click.option(
    "--fold", type=Whole(), default=1, show_default=True, help="Of UCF101's and HMDB51's lists."
)
@click.option(
    "--val-share",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Of the clips, to validate on, where SOURCE has no such half.",
)
@click.option(
    "--seed", type=Whole(0), default=0, show_default=True, help="Another one splits otherwise."
)
@click.option(
    "--workers", type=Whole(1, 1024), help="Processes that look.  [default: one a processor]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def scan(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Look at videos, report, split; change nothing in SOURCE.

    SOURCE is a folder with a folder of videos for each class, or with train, val and test folders
    of such; or a table of parts of recordings, `video,start_s,end_s,label`; or the videos of
    UCF101, HMDB51, Kinetics, Something-Something or Jester with the lists of the set. A video is a
    file, or a folder with one image a frame.

    What belongs together stays on one side of the split: parts of one recording, and videos that
    show the same, also if encoded again, scaled, cropped or played backwards.

    \b
    Examples:
      ffn-edge data scan videos -o data
      ffn-edge data scan UCF-101 --lists ucfTrainTestlist --fold 2 -o data
    """
    from contextlib import ExitStack

    from ffn_edge.progress import OnProgress, progress
    from ffn_edge.terminal import Terminal
    from ffn_edge.train.scan.scan import scan as scan_videos

    with ExitStack() as stack:

        def starts(what: str) -> OnProgress:
            stack.pop_all().close()
            return stack.enter_context(progress(Terminal(stderr=True), what))

        report = scan_videos(source, output, starts=starts, **options)
    if as_json:
        click.echo(json.dumps(report.fields()))
        return
    terminal = Terminal()
    terminal.print(report.table())
    for line in report.summary():
        terminal.say(line)
    for line in report.finding_texts():
        terminal.say(f"· {line}")
    terminal.say(f"wrote {output / 'report.html'}")
    if report.next_command:
        terminal.say(f"next: {report.next_command}")


@data.command()
@click.argument("list_file", metavar="LIST", type=UserPath(exists=True, path_type=Path))
@click.option(
    "--output",
    "-o",
    required=True,
    type=UserPath(written=True, path_type=Path),
    help="Folder for the shards.",
)
@click.option(
    "--size-mb",
    type=click.FloatRange(1),
    default=500,
    show_default=True,
    help="From which a shard is full.",
)
def pack(list_file: Path, output: Path, size_mb: float) -> None:
    """Copy the videos of a list, with their labels, into shards: tar files, in webdataset's layout.

    A network's file system reads a few large files faster than many small ones. Shards take the
    place of a list: a pattern in quotes names them all.

    \b
    Examples:
      ffn-edge data pack data/train.csv -o shards
      ffn-edge train demo --train-list "shards/train-*.tar" --val-list "shards/val-*.tar" -o run
    """
    from ffn_edge.progress import progress
    from ffn_edge.terminal import Terminal
    from ffn_edge.train.shards import pack as pack_videos

    with progress(Terminal(stderr=True), "packing") as on_video:
        shards = pack_videos(list_file, output, size_mb=size_mb, on_video=on_video)
    Terminal().say(f"wrote {len(shards)} shards: {shards[0]} to {shards[-1].name}")
