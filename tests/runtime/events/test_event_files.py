"""Files of events, read back as a player or a spreadsheet would."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import pytest

from ffn_edge.errors import WriteError
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.event_files import COLUMNS, Subtitles, csv_row, csv_text, vtt_text

ODD = ['say "hi"', "<b>bold</b>", "a --> b", "two\nlines\n\n00:01", "R&D", "a,b;c", "naïve 手"]
TIME = re.compile(r"(?:(\d{2,}):)?(\d{2}):(\d{2})\.(\d{3})")


def event(name: str = "wave", start_s: float = 1.0, end_s: float = 2.5, source: str = "a") -> Event:
    return Event(
        id="1", source=source, class_name=name, start_s=start_s, end_s=end_s,
        confidence=0.93, peak=0.99, peak_s=1.5,
    )  # fmt: skip


def cues(text: str) -> list[tuple[float, float, str]]:
    """What a player reads: https://www.w3.org/TR/webvtt1/#file-parsing, without settings."""
    head, *blocks = re.split(r"\n\n+", text.strip())
    assert head == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.split("\n")
        start, end = times.split(" --> ")
        assert "-->" not in "".join(lines)
        assert "<" not in "".join(lines)
        found.append((*map(seconds, (start, end)), html.unescape("\n".join(lines))))
    return found


def seconds(text: str) -> float:
    match = TIME.fullmatch(text)
    assert match
    hours, minutes, whole, milli = (int(each or 0) for each in match.groups())
    assert minutes < 60
    assert whole < 60
    return hours * 3600 + minutes * 60 + whole + milli / 1000


def test_subtitles_are_in_order_and_take_time() -> None:
    text = vtt_text([event(start_s=3599.9996, end_s=3725.5), event(start_s=5.0, end_s=5.0)])
    assert cues(text) == [(5.0, 5.001, "wave 0.93"), (3600.0, 3725.5, "wave 0.93")]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_one_cue_each(name: str) -> None:
    ((_, _, shown),) = cues(vtt_text([event(name)]))
    assert shown == " ".join(name.split()) + " 0.93"


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_one_row_each(name: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([COLUMNS, csv_row(event(name))]))))
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[1][COLUMNS.index("class")] == name


def test_each_source_has_its_file(tmp_path: Path) -> None:
    subtitles = Subtitles(tmp_path / "new")
    for source in ("day/1.mp4", "night/1.mp4"):
        subtitles.write(event(source=source))
        subtitles.end(source)
    subtitles.end("idle.mkv")
    files = {path.name: cues(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert {name: len(found) for name, found in files.items()} == {
        "1.vtt": 1,
        "1-2.vtt": 1,
        "idle.vtt": 0,
    }


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        Subtitles(tmp_path / "file" / "folder")
