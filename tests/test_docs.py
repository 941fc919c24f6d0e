"""The README and docs/: what they show exists, and works."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import ffn_edge
from ffn_edge import cli
from ffn_edge.bundle import Bundle
from ffn_edge.demo.clips import render_clips
from ffn_edge.demo.scenes import ACTIONS
from ffn_edge.network.checkpoint import ModelCard, save_checkpoint

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(text: str) -> Iterator[str]:
    """Every code block: fenced, or indented after an empty line."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
    yield from fence.findall(text)
    rest = fence.sub("", text)
    for block in re.findall(r"(?:(?<=\n\n)|^)((?: {4,}.*\n|\n(?= {4}))+)", rest, re.M):
        block = block.strip("\n") + "\n"
        indent = len(block) - len(block.lstrip(" "))
        yield re.sub(rf"^ {{{indent}}}", "", block, flags=re.M)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `ffn-edge` command of a page's code blocks."""
    for block in blocks(text):
        if block.startswith("Usage:"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["ffn-edge"]:
                    yield words[1:]


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_page_of_commands_is_what_help_says() -> None:
    # In a process of its own: click remembers of a command with which options it was called.
    command = [sys.executable, "-m", "tests.commands_page"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs/commands.md").read_text() == done.stdout


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_is_shown_exists_with_its_options(path: Path) -> None:
    context = click.Context(cli.cli)
    for name, *rest in commands(path.read_text()):
        if name.startswith("-"):
            continue
        command = cli.cli.get_command(context, name)
        assert command is not None, name
        inner = click.Context(command, parent=context)
        command.make_parser(inner).parse_args(list(rest))  # an unknown option is refused


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        found = path.parent / file if file else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, target


def test_every_benchmark_is_documented() -> None:
    text = "".join(path.read_text() for path in PAGES)
    for script in (ROOT / "benchmarks").glob("*.py"):
        if '__name__ == "__main__"' in script.read_text() and script.name != "machine.py":
            assert script.name in text or f"benchmarks.{script.stem}" in text, script.name


def test_no_measured_figure_stands_in_two_places() -> None:
    places = defaultdict(set)
    for path in PAGES:
        for figure in re.findall(r"\d+\.\d+ ± \d+\.\d+", path.read_text()):
            places[figure].add(path.name)
    assert places
    assert not {figure: where for figure, where in places.items() if len(where) > 1}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's clips, though few of them."""
    folder = tmp_path_factory.mktemp("clips")
    render_clips(folder, train=32, val=12, test=12)
    return folder


@pytest.fixture
def after_the_demo(
    tmp_path: Path, clips: Path, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder like that in which `make demo` has run."""
    (tmp_path / "demo/ffn").mkdir(parents=True)
    (tmp_path / "demo/clips").symlink_to(clips)
    shutil.copytree(exported.path, tmp_path / "demo/bundle")
    network = ffn_edge.build("tsm_tiny", len(ACTIONS))
    card = ModelCard(classes=ACTIONS, size=64, short_side=64, dataset="demo")
    save_checkpoint(tmp_path / "demo/ffn/best.pt", network, card)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_of_python_runs(path: Path, after_the_demo: Path) -> None:
    names = {f"clip{t}": torch.rand(2, t, 3, 224, 224) for t in (4, 8, 16)}
    names["labels"] = torch.tensor([0, 1])
    for block in blocks(path.read_text()):
        if re.search(r"^(import|from) ", block, re.M):
            exec(compile(block, str(path), "exec"), dict(names))


def test_the_front_door_has_ten_names() -> None:
    assert len(ffn_edge.__all__) == 10
    assert set(ffn_edge.__all__) <= set(dir(ffn_edge))
    with pytest.raises(AttributeError, match="nosuch"):
        ffn_edge.nosuch  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("name", ffn_edge.__all__)
def test_the_example_in_its_docstring_runs(name: str, after_the_demo: Path) -> None:
    found: Any = getattr(ffn_edge, name)
    said = inspect.getdoc(type(found).__call__ if name == "train" else found) or ""
    examples = [each for each in blocks(said + "\n") if "ffn_edge." in each and "`" not in each]

    assert examples
    for example in examples:
        exec(compile(example, name, "exec"), {"ffn_edge": ffn_edge, "torch": torch})


def test_the_front_door_opens_without_what_is_behind_it() -> None:
    program = "import sys, ffn_edge; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
