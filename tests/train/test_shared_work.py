"""What several processes of `torchrun` find together equals what one finds alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click import Command
from click.testing import CliRunner

from ffn_edge.commands.deviation import deviation
from ffn_edge.commands.evaluate import evaluate
from ffn_edge.network import build
from ffn_edge.network.checkpoint import ModelCard, save_checkpoint

COMMANDS = {"evaluate": evaluate, "deviation": deviation}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose answers differ from clip to clip."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    card = ModelCard(classes=("dark", "bright"), size=32, short_side=32)
    save_checkpoint(path, build("tsm_tiny", 2, (2, 4)).eval(), card)
    return path


def listed(folder: Path, data: Path, videos: int, broken: range) -> Path:
    """A list of so many videos; the `broken` lines lead to files that are none."""
    lines = []
    for i in range(videos):
        path = data / f"{i % 12}.mp4"
        if i in broken:
            path = folder / f"broken-{i}.mp4"
            path.write_bytes(b"no video")
        lines.append(f"{path} {i % 3 // 2}\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def by_two(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "ffn_edge", command, *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def same(found: Any, expected: Any) -> bool:
    """Whether two JSON values are the same but for the rounding of sums in another order."""
    match expected:
        case dict():
            return found.keys() == expected.keys() and all(
                same(found[key], value) for key, value in expected.items()
            )
        case list():
            return len(found) == len(expected) and all(map(same, found, expected))
        case float():
            return bool(found == pytest.approx(expected, rel=1e-4, abs=1e-6))
    return bool(found == expected)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("videos", "broken"),
    [(41, range(6, 7)), (1, range(0))],
    ids=["an odd number", "fewer than processes"],
)
def test_two_processes_find_what_one_finds_and_print_it_once(
    command: str, videos: int, broken: range, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    file = listed(tmp_path, data, videos, broken)
    arguments = [str(checkpoint), "--list", str(file), "--device", "cpu", "--workers", "0"]

    done = by_two(command, *arguments, "--json", "--batch-size", "4")

    alone: Command = COMMANDS[command]
    expected = CliRunner().invoke(alone, [*arguments, "--json"], catch_exceptions=False)
    assert done.returncode == 0, done.stderr
    assert same(json.loads(done.stdout), json.loads(expected.stdout))
    assert done.stderr.count("skipped") == len(broken)


def test_the_page_of_two_processes_is_that_of_one(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    file = listed(tmp_path, data, 41, range(6, 7))
    arguments = [str(checkpoint), "--list", str(file), "--device", "cpu", "--workers", "0"]
    together, alone = tmp_path / "two.html", tmp_path / "one.html"

    done = by_two("evaluate", *arguments, "--report", str(together))

    CliRunner().invoke(evaluate, [*arguments, "--report", str(alone)], catch_exceptions=False)
    assert done.returncode == 0, done.stderr
    # Without the drawings, whose parts have random names, and the time.
    pages = [
        re.sub(r"<svg.*?</svg>|[-\d]+ [:\d]+ UTC", "", page.read_text(), flags=re.DOTALL)
        for page in (together, alone)
    ]
    assert pages[0] == pages[1] and "broken-6.mp4" in pages[0]


def test_an_error_of_one_process_ends_all(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    file = listed(tmp_path, data, 80, range(21, 80, 2))  # all of them the second process's

    done = by_two("evaluate", str(checkpoint), "--list", str(file), "--workers", "0")

    assert done.returncode == 1
    assert "cannot be read" in done.stderr and not done.stdout
