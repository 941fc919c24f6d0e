"""Events that a run which was killed left open."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.open_events import OpenEvents

BEGUN = Event(
    id="1", source="a \"b\"", class_name="<wave>\n", start_s=1.0, confidence=0.9, peak=0.95,
    peak_s=2.5, began_at=1.7e9,
)  # fmt: skip


def test_what_was_open_when_it_was_killed_is_ended_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "open.json"
    with OpenEvents(path) as kept:
        assert kept.left == []
        kept.event(BEGUN)
        other = dataclasses.replace(BEGUN, id="2")
        kept.event(other)
        kept.event(dataclasses.replace(other, end_s=3.0))
    with OpenEvents(path) as kept:
        (left,) = kept.left
        assert left == dataclasses.replace(BEGUN, end_s=2.5)
        kept.event(left)
    with OpenEvents(path) as kept:
        assert kept.left == []


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "open.json"
    path.write_text('{"schema_version": 1, "events": {"1": 3}}', encoding="utf-8")
    with OpenEvents(path) as kept:
        assert kept.left == []
        kept.event(BEGUN)
    with OpenEvents(path) as kept:
        assert [each.id for each in kept.left] == ["1"]


def test_a_folder_that_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    with OpenEvents(tmp_path / "none" / "open.json") as kept:
        begin = time.monotonic()
        for _ in range(100):
            kept.event(BEGUN)
        assert time.monotonic() - begin < 5
