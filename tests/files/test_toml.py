"""Each value of a TOML file has its line."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from ffn_edge.files.toml import Toml, TomlError, load

TRICKY = r"""# [no] table = 1
bundle = "a # b = [c]"  # a comment = "x
"quoted key" = 'it""" + r'''s'

[limits]   # one
power_w = 12
a.b . "c.d" = 1
text = """
[camera]
power_w = 3  \"""
"""""
raw = \'\'\'
[[camera]] # "
\'\'\'
after = 2 ; [[camera]]
name = "door"  ; roi = [0.1, # first
  0.2,

  0.5, ]
inline = { a = 1, b = { c = "}" }, d = [ {e = 1}, {e = 2} ] }
when = 1979-05-27 07:32:00 # a date
next = 1
[camera.sub]
x = 1
[[camera]]
[camera.sub]
x = 2
[[camera.more]]
y = 1
[[camera.more]]
y = 2
'''.replace(" ; ", "\n").replace("\\'", "'").replace("'it's'", "'its'")


def test_strings_comments_arrays_and_dates_do_not_confuse_it() -> None:
    found = load(TRICKY)
    text = TRICKY.splitlines()

    def line(name: str) -> str:
        return text[found.lines[name] - 1].strip()

    assert line("bundle").startswith("bundle") and line("quoted key").startswith('"quoted')
    assert line("limits").startswith("[limits]")
    assert line("limits.power_w") == "power_w = 12" and line("limits.after") == "after = 2"
    assert line("limits.a") == line("limits.a.b.c.d") == 'a.b . "c.d" = 1'
    assert line("camera") == line("camera[0]") == "[[camera]]"
    assert line("camera[0].roi[0]").startswith("roi") and line("camera[0].roi[2]") == "0.5, ]"
    assert line("camera[0].inline.b.c") == line("camera[0].inline.d[1].e")
    assert line("camera[0].next") == "next = 1"
    assert line("camera[0].sub.x") == "x = 1" and line("camera[1].sub.x") == "x = 2"
    assert line("camera[1].more[1].y") == "y = 2"


def test_what_is_missing_would_stand_in_its_table() -> None:
    found = load("a = 1\n[limits]\n[[camera]]\nroi = [\n1]\n[[camera]]\nsource = ''")
    for name, line in (
        ("limits.power_w", 2),
        ("camera[0].name", 3),
        ("camera[0].roi[3]", 4),
        ("camera[0].roi[0]", 5),
        ("camera[1].source[0]", 7),
        ("camera[1].name", 6),
        ("camera[2].name", 3),
        ("mqtt.host", 1),
        ("limits.a[", 2),
        ("limits.[0", 2),
        ("camera[0]..\n", 3),
        ("", 1),
    ):
        assert found.line_of(name) == line, name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \nc = 3", 2),
        ("a = 1\n\nb = 'x", 3),
        ("a = 1\nb = [1,\n\n", 2),
        ("a = 1\na = 2\n\n", 2),
        ("[a]\n\n[a]\n", 3),
        ("a = 1 2\n", 1),
        ("\n\na = " + "[" * 5000, 1),
        ("a = 1\r[b]", 1),
    ],
)
def test_what_is_no_toml_has_a_line_too(text: str, line: int) -> None:
    with pytest.raises(TomlError) as caught:
        load(text)
    assert caught.value.line == line
    assert "(at " not in str(caught.value)


class _Writer:
    """Writes a random text of TOML, in which each number stands for itself alone."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.number = 100_000

    def choose(self, *choices: str) -> str:
        return self.random.choice(choices)

    def key(self) -> str:
        self.number += 1
        return self.choose(f"k{self.number}", f'"k {self.number}"', f"'k#{self.number}'")

    def blank(self) -> str:
        return self.choose("", "", " ", "\t", "\n", ' # "]= [\n', "  # it's '''\n\n")

    def space(self) -> str:
        return self.choose("", " ", "\t ")

    def value(self, depth: int = 0) -> str:
        self.number += 1
        kind = self.random.randrange(9 if depth < 3 else 6)
        if kind == 6:
            return "[" + self.items(lambda: self.value(depth + 1), self.blank) + "]"
        if kind >= 7:
            return "{" + self.items(lambda: self.pair(depth + 1), self.space) + "}"
        return (
            str(self.number),
            f'"{self.number} \\" # = ] }} [x]"',
            f"'{self.number} \\ # [[a]]'",
            f'"""{self.number}\n[a]\n a = "1" \\""" # \\\\{self.choose("", chr(34))}"""',
            f"'''{self.number}\n# 'x' = {{ \"{self.choose('', chr(39))}'''",
            f"1979-05-27 07:32:00.{self.number}",
        )[kind]

    def items(self, item: Any, blank: Any) -> str:
        """Items with commas; the comma after the last is no TOML 1.0 in an inline table."""
        items = [blank() + item() + blank() for _ in range(self.random.randrange(4))]
        return ",".join(items) if items else blank()

    def pair(self, depth: int = 0) -> str:
        key = f"{self.space()}.{self.space()}".join(
            self.key() for _ in range(self.choose("1", "1", "2").count("2") + 1)
        )
        return f"{key}{self.space()}={self.space()}{self.value(depth)}"

    def text(self) -> str:
        lines = [*(self.pair() for _ in range(3)), "[[b]]"]
        for _ in range(6):
            table = self.key()
            lines.append(self.choose(f"[{table}]", f"[ a . {table} ]", "[[b]]", "[[ b. c ]]"))
            lines += [self.space() + self.pair() for _ in range(self.random.randrange(4))]
            lines.append(self.choose("", "# x = 1", " "))
        return self.choose("\n", "\r\n").join(lines)


def leaves(value: Any, name: str = "", *, any_text: bool = False) -> list[tuple[str, str]]:
    """The name of each value that holds none, and the number by which it is known.

    With `any_text`, those without a number are left out.
    """
    if isinstance(value, dict):
        items = [(f"{name}.{key}" if name else key, each) for key, each in value.items()]
    elif isinstance(value, list):
        items = [(f"{name}[{place}]", each) for place, each in enumerate(value)]
    else:
        found = re.search(r"\d{6}", str(value))
        assert any_text or found is not None
        return [] if found is None else [(name, found[0])]
    return [leaf for each in items for leaf in leaves(each[1], each[0], any_text=any_text)]


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_in_random_texts_every_value_is_found_in_its_line(start: int) -> None:
    total = 0
    for seed in range(start, start + 100):
        text = _Writer(seed).text()
        found: Toml = load(text)
        for name, number in leaves(found.values):
            total += 1
            # A value begins in the line of its key, or, in an array, where it stands.
            assert number in text.split("\n")[found.lines[name] - 1], (seed, name)
    assert total > 500


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_a_text_that_was_spoilt_is_read_or_refused_with_a_line(start: int) -> None:
    for seed in range(start, start + 100):
        text = _Writer(seed).text()
        chance = random.Random(seed)
        for _ in range(5):
            place = chance.randrange(len(text))
            spoilt = text[:place] + chance.choice("\"'[]{}=,.#\n\\ x") + text[place + 1 :]
            try:
                found = load(spoilt)
            except TomlError as error:
                assert 1 <= error.line <= spoilt.count("\n") + 1
                continue
            names = {name for name, _ in leaves(found.values, any_text=True)}
            assert names <= found.lines.keys(), (seed, place)
