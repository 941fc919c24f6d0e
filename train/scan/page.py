"""The report as one page, with a sheet of small pictures for each class."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ffn_edge.files.markup import data_url, page, table, text
from ffn_edge.train.scan.found import Line
from ffn_edge.train.scan.report import Report

_MOST_ROWS = 50  # of tables of what is wrong
_STYLE = """
.sheet { display: flex; flex-wrap: wrap; gap: .4rem; margin: .3rem 0 1rem }
.sheet img { width: 9rem; max-width: 31vw; height: auto; display: block }
h3 { font-size: 1rem; margin: 1rem 0 .2rem }
li { overflow-wrap: anywhere }
"""


def page_of(report: Report, lines: Sequence[Line], pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        report: what it says.
        lines: of the lists.
        pictures: by video, a JPEG of its middle; of few videos of each class.
    """
    title = f"What is in {os.path.basename(report.source) or report.source}"
    rows = report.rows()
    parts = [
        f"<h1>{text(title)}</h1>",
        f"<p class=note>{text(report.source)}</p>",
        f"<ul>{''.join(f'<li>{text(line)}</li>' for line in report.summary())}</ul>",
        _findings(report),
        f"<h2>Train on them</h2><pre>{text(report.next_command)}</pre>" * bool(report.next_command),
        "<h2>Classes</h2>",
        table(["class", *report.facts.clips], rows, bold={len(rows) - 1}),
        _sheets(report, lines, pictures),
        _problems(report),
    ]
    return page(title, "\n".join(filter(None, parts)), _STYLE)


def _findings(report: Report) -> str:
    if not report.findings:
        return ""
    items = [
        f"<li>{text(each.text)}<br><span class=note>{text('; '.join(each.examples))}</span></li>"
        for each in report.findings
    ]
    return f"<h2>What to know</h2><ul>{''.join(items)}</ul>"


def _sheets(report: Report, lines: Sequence[Line], pictures: Mapping[str, bytes]) -> str:
    """Return the middle pictures of some videos, by class."""
    of_class: dict[str, dict[str, None]] = defaultdict(dict)
    for line in lines:
        if line.video in pictures:
            of_class[line.label][line.video] = None
    parts = ["<h2>Middle pictures</h2>"]
    shown: set[str] = set()
    for name in report.classes:
        # A long recording may be in several classes: once on the page, once in its bytes.
        videos = [video for video in of_class[name] if video not in shown]
        shown.update(videos)
        images = "".join(
            f"<img loading=lazy alt='{text(os.path.basename(video))}' "
            f"title='{text(os.path.basename(video))}' "
            f"src='{data_url('image/jpeg', pictures[video])}'>"
            for video in videos
        )
        if images:
            parts.append(f"<h3>{text(name)}</h3><div class=sheet>{images}</div>")
    return "\n".join(parts) if len(parts) > 1 else ""


def _problems(report: Report) -> str:
    parts = []
    if report.unreadable:
        rows = [[video, why] for video, why in report.unreadable.items()]
        parts += ["<h2>Unreadable</h2>", _limited(["video", "reason"], rows)]
    if report.copies:
        rows = [
            ["; ".join(each), ", ".join(sorted(set(each.values()) - {""}))]
            for each in report.copies
        ]
        parts += ["<h2>The same, twice or more</h2>", _limited(["videos", "in"], rows)]
    return "\n".join(parts)


def _limited(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    more = len(rows) - _MOST_ROWS
    note = f"The first {_MOST_ROWS}; {more} more are in report.json." if more > 0 else ""
    return table(headings, rows[:_MOST_ROWS], note, words=True)
