"""What pages are made of: text, tables and drawings, with nothing outside the file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ffn_edge.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #212529; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #dee2e6;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.trained { font-weight: 600 }
table.words th, table.words td { text-align: left; vertical-align: top; white-space: normal;
                                 min-width: 5rem }
svg { width: 100%; height: auto } .note { color: #555 } .lead { color: #0b7285 }
h1 { line-height: 1.25 } video { width: 100%; max-width: 40rem; background: #000 }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100%; image-rendering: pixelated }
figcaption { font-size: .85rem } figcaption span { white-space: nowrap }
dt { font-weight: 600 } dd { margin: 0 0 .4rem 1rem }
pre { background: #f1f3f5; padding: .8rem; overflow-x: auto }
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page, with rules of its own after `STYLE`."""
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{text(title)}</title>"
        '<meta name=viewport content="width=device-width">'
        f"<style>{STYLE}{style}</style>\n<body>\n{body}\n</body></html>\n"
    )


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    bold: set[int] | frozenset[int] = frozenset(),
    *,
    words: bool = False,
) -> str:
    """Return a table with a line of notes above; rows by their numbers are `bold`.

    With `words`, its cells are sentences, and wrap.
    """
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "\n".join(
        f"<tr{' class=trained' if i in bold else ''}>"
        + "".join(f"<td>{text(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    kind = " class=words" if words else ""
    # Not a <caption>: on a phone the table scrolls sideways, and its words should not.
    note = f"<p class=note>{text(caption)}</p>" if caption else ""
    return f"{note}<table{kind}><tr>{head}</tr>\n{body}</table>"


def text(value: Any) -> str:
    """Return what reads as `value` on the page."""
    return html.escape(printable(str(value)))


def svg(figure: Figure) -> str:
    """Return a figure as an inline drawing."""
    from matplotlib import pyplot  # which a page without drawings does not need

    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    pyplot.close(figure)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def data_url(kind: str, content: Any) -> str:
    """Return the address of bytes that stand in the page itself, of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
