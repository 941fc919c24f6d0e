"""What is printed of a name is the name, whatever is in it."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from ffn_edge.terminal import Terminal

NAMES = ["[/b]", "[hd]", "[bold]x", ":bee:", "a\\[b", "12 of 'x' http://a/b"]


def printed(thing: object) -> str:
    file = io.StringIO()
    Terminal(file=file, width=200, color_system="standard", force_terminal=True).print(thing)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is_in_lines_and_tables(name: str) -> None:
    assert printed(name).strip() == name
    table = Table(title=name, caption=name, title_style="", caption_style="")
    table.add_column(name, header_style="")
    table.add_row(name)
    assert printed(table).count(name) == 4


def test_what_acts_on_a_terminal_is_shown() -> None:
    table = Table("\x1b[2J", title="\x1b[2J", box=None, show_header=False)
    table.add_row("\x1b[2J")
    for thing in ("\x1b[2J", table):
        assert "\x1b[2J" not in printed(thing)
        assert r"\x1b[2J" in printed(thing)


def test_styles_are_left_to_texts() -> None:
    assert "\x1b[31m" in printed(Text("red", style="red"))


def test_a_line_is_never_broken() -> None:
    file = io.StringIO()
    Terminal(file=file, width=20).say("a/" * 100)
    assert file.getvalue() == "a/" * 100 + "\n"
