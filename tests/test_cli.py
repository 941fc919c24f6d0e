"""The command line as a whole: it is quick to answer, complete, and turns errors into hints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ffn_edge import cli
from ffn_edge.errors import FfnEdgeError

ROOT = Path(__file__).parent.parent
COMMANDS = list(cli._COMMANDS)
HEAVY = ("torch", "onnx", "onnxruntime", "cv2", "numpy", "matplotlib", "tensorboard")


def command(name: str) -> click.Command:
    found = cli.cli.get_command(click.Context(cli.cli), name)
    assert found is not None
    return found


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, ffn_edge.cli\n"
        "try: ffn_edge.cli.cli(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_lines, imported = done.stdout.splitlines()
    assert imported == "[]"
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in help_lines), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_an_example_and_needs_no_training_library(name: str) -> None:
    code = (
        "import sys, ffn_edge.cli\n"
        f"try: ffn_edge.cli.cli([{name!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"ffn-edge {name} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_group_tells_of_a_command_what_the_command_tells(name: str) -> None:
    assert cli._COMMANDS[name][-1] == command(name).get_short_help_str(200)


@pytest.mark.parametrize(
    "name",
    [
        *("train", "evaluate", "export", "verify", "build", "doctor", "power", "profile"),
        *("calibrate", "run", "simulate", "adapt", "compare", "deviation"),
    ],
)
def test_every_command_that_reports_has_json(name: str) -> None:
    assert "--json" in {option for p in command(name).params for option in p.opts}


def test_an_error_that_a_user_can_mend_is_a_message_with_a_hint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ffn_edge", "run", str(tmp_path), "--source", "x.mp4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(r"^Error: .*is not a bundle.*\nHint: ", done.stderr)
    assert "Traceback" not in done.stderr


def test_wrong_usage_exits_with_two() -> None:
    assert CliRunner().invoke(cli.cli, ["run"]).exit_code == 2
    assert CliRunner().invoke(cli.cli, ["fly"]).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        "train nosuch -o run",
        "train demo -o run",
        "train demo -o run --train-list absent.txt",
        "train demo -o run --set nosuch=1",
        "compare nosuch -o run",
        "evaluate absent.pt --list absent.txt",
        "deviation absent.pt --list absent.txt",
        "adapt absent.pt --data absent.txt --recalibrate",
        "import absent.pt --arch tsm_tiny -o model.pt",
        "export absent.pt -o bundle",
    ],
)
def test_what_is_quickly_found_wrong_is_said_before_pytorch_is_imported(command: str) -> None:
    code = (
        f"import sys; sys.argv[1:] = {command.split()!r}\n"
        "import ffn_edge.cli\n"
        "try: ffn_edge.cli.main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    code_of_end, has_torch = done.stdout.split()
    assert code_of_end in ("1", "2") and has_torch == "False", done.stderr


def test_an_interrupted_command_exits_with_130() -> None:
    code = (
        "import ffn_edge.cli, click\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "command = click.Command('x', callback=interrupted)\n"
        "ffn_edge.cli.cli.get_command = lambda ctx, name: command\n"
        "import sys; sys.argv = ['ffn-edge', 'x']\n"
        "ffn_edge.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "Interrupted.")


@pytest.mark.parametrize(
    ("arguments", "library", "extra"),
    [
        (["evaluate", __file__, "--list", __file__], "torch", "train"),
        (["export", __file__, "-o", "bundle"], "torch", "export"),
        (["verify", "x"], "onnx", "export"),
        (["build", "x"], "onnx", "jetson"),
    ],
)
def test_a_missing_library_names_the_extra_that_brings_it(
    arguments: list[str], library: str, extra: str
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        f"sys.argv = ['ffn-edge', *{arguments!r}]\n"
        "import ffn_edge.cli; ffn_edge.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f'pip install "ffn-edge[{extra}]"' in done.stderr


def test_an_error_keeps_its_hint_on_the_way_from_a_worker_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(FfnEdgeError("what", "do")))
    assert (error.message, error.hint) == ("what", "do")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_one_that_nobody_reads(closed: str, tmp_path: Path) -> None:
    # What is opened next would get the number of what is closed, and what is printed.
    arguments = ["deviation", str(tmp_path / "none.pt"), "--list", str(tmp_path / "none.txt")]
    for wanted, given in ((0, ["--version"]), (0, ["power", "--seconds", "0.1"]), (2, arguments)):
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "ffn_edge"]
        done = subprocess.run([*shell, *given], capture_output=True, text=True)
        assert done.returncode == wanted, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
