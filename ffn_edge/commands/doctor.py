"""`ffn-edge doctor`: parse, call the library, print."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from ffn_edge.commands.option_types import UserPath
from ffn_edge.errors import printable
from ffn_edge.runtime.doctor.examine import examine
from ffn_edge.runtime.doctor.report import Report
from ffn_edge.terminal import Terminal

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(short_help="Report what this machine can do.")
@click.argument("bundle", type=UserPath(path_type=Path), required=False)
@click.option(
    "--cache",
    type=UserPath(file_okay=False, path_type=Path),
    envvar="FFN_EDGE_CACHE",
    help="Where TensorRT's engines are kept.  [default: ~/.cache/ffn-edge]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def doctor(context: click.Context, bundle: Path | None, cache: Path | None, as_json: bool) -> None:
    """Report what this machine can do.

    Every problem comes with its remedy, and the last line says whether `ffn-edge run` would work:
    with BUNDLE, whose engines are opened and tried, or without one, with any. The exit code is 0
    if it would, and else 1. A "note" is good to know, or would make more possible.

    \b
    Examples:
      ffn-edge doctor
      ffn-edge doctor bundle --json
    """
    with Terminal(stderr=True).status("looking at this machine"):
        report = examine(bundle, cache=cache)
    if as_json:
        click.echo(json.dumps(report.fields(), indent=1))
    else:
        Terminal().print(_table(report))
        click.echo(report.verdict)
    context.exit(0 if report.works else 1)


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for group in report.groups:
        table.add_section()
        table.add_row(Text(group.name, style="bold"))
        for line in group.lines:
            found = Text(printable(line.found))
            if line.remedy:
                found.append(printable(f"\nRemedy: {line.remedy}"), style="bold")
            table.add_row(
                f"  {line.name}",
                Text(line.status, style=_STYLES[line.status]),
                found,
            )
    return table
