"""Files of JSON lines that are only ever appended to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffn_edge.errors import WriteError
from ffn_edge.runtime.outputs.lines import Lines


def test_each_run_appends_its_lines(tmp_path: Path, new_event: Any, new_result: Any) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    for number in (1, 2):
        with Lines(path) as lines:
            lines.event(new_event(number))
            lines.result(new_result())
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [new_event(1).fields(), new_event(2).fields()]
    assert lines.status().sent == 1


def test_results_are_written_as_run_writes_them(
    tmp_path: Path, new_event: Any, new_result: Any
) -> None:
    with Lines(tmp_path / "results.jsonl", results=True) as lines:
        lines.result(new_result())
        lines.event(new_event())
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["top5"] == [{"class": "wave", "probability": 0.75}]


def test_a_line_is_there_while_the_run_goes_on(
    tmp_path: Path, new_event: Any, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    path = tmp_path / "events.jsonl"
    with Lines(path) as lines:
        lines.event(new_event())
        wait_until(lambda: path.is_file() and path.read_text().endswith("\n"))


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path, new_event: Any) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "ev')
    with Lines(path) as lines:
        lines.event(new_event())
    assert json.loads(path.read_text().splitlines()[1]) == new_event().fields()


def test_a_pipe_whose_reader_left_is_written_again_when_one_comes(
    tmp_path: Path, new_event: Any, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with Lines(path) as lines:
        lines.event(new_event(1))
        with open(path) as reader:
            assert json.loads(reader.readline())["id"] == "event-1"
        lines.event(new_event(2))
        wait_until(lambda: lines.status().fault)
        lines.event(new_event(3))
        with open(path) as reader:
            assert json.loads(reader.readline())["id"] == "event-3"
    assert (lines.status().sent, lines.status().dropped) == (2, 1)


def test_events_and_results_are_two_outputs(tmp_path: Path) -> None:
    both = [Lines(tmp_path / "a" / "x"), Lines(tmp_path / "b" / "x", results=True)]
    assert [each.status().name for each in both] == ["events", "results"]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        Lines(tmp_path / "file" / "events.jsonl").__enter__()


_PROGRAM = """
import logging, sys, time
from pathlib import Path
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.lines import Lines
logging.basicConfig(format="%(message)s")
with Lines(Path(sys.argv[1])) as lines:
    for number in range(100):
        lines.event(Event(id=f"e{number}", source="a", class_name="b", start_s=0, confidence=1,
                          peak=1, peak_s=0))
        while lines.status().waiting:
            time.sleep(0.001)
    status = lines.status()
print(status.sent, status.dropped, status.waiting, status.fault is not None)
"""


def test_on_a_full_disk_lines_are_dropped_and_counted(
    tmp_path: Path, on_a_full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = tmp_path / "events.jsonl"
    ran = on_a_full_disk(_PROGRAM, path, room=3000)
    sent, dropped, waiting, fault = ran.stdout.split()
    assert int(sent) + int(dropped) == 100, ran.stderr
    assert int(dropped) > 50
    assert (waiting, fault) == ("0", "True")
    assert ran.stderr.count("could not be written") == 1
    whole = path.read_text().splitlines()[: int(sent)]
    assert [json.loads(line)["id"] for line in whole] == [f"e{n}" for n in range(int(sent))]
