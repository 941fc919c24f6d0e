"""What people read of a command: names as they are, whatever is in them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ffn_edge.errors import printable


class Terminal(Console):
    """A console to which a name is a text.

    Neither "[/b]" in it nor ":bee:" is markup, its numbers have no colours, and an escape sequence
    is shown; what is to have a style is a rich `Text`.
    """

    def __init__(self, *, stderr: bool = False, **settings: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return what is printed of a text, be it a line or a cell of a table."""
        return super().render_str(printable(text), **settings)

    def say(self, text: str) -> None:
        """Print a line, unbroken however long it is: paths in it can be copied."""
        self.print(text.replace("\n", r"\n"), soft_wrap=True)
