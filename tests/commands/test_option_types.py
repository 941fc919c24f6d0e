"""Paths and numbers on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ffn_edge import cli
from ffn_edge.commands.option_types import Number, UserPath, Whole
from ffn_edge.errors import FfnEdgeError, WriteError


def options() -> list[tuple[str, click.Parameter]]:
    found = []
    for name in cli._COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        found += [(name, parameter) for parameter in command.params]
    return found


def test_every_path_of_every_command_is_a_users_path() -> None:
    for name, parameter in options():
        if isinstance(parameter.type, click.Path):
            assert isinstance(parameter.type, UserPath), f"{name} {parameter.name}"


def test_every_number_of_every_command_has_bounds() -> None:
    for name, parameter in options():
        if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
            assert isinstance(parameter.type, Number | Whole), f"{name} {parameter.name}"


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (Whole(), ["0", "-1", "1000001", "9" * 5000, "1.5", "x", ""]),
        (Whole(0, 4), ["-1", "5"]),
        (Number(), ["0", "-1", "1e10", "inf", "nan", "-nan", "x", "", "9" * 5000]),
        (Number(1, max_open=True), ["1", "nan"]),
    ],
)
def test_numbers_out_of_bounds_are_wrong_usage(kind: click.ParamType, refused: list[str]) -> None:
    for text in refused:
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)
    assert kind.convert("0.5" if isinstance(kind, Number) else "1", None, None) in (0.5, 1)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, taken in (("~/a", f"{tmp_path}/a"), ("b/~", "b/~"), ("~no-such-user", None)):
        assert UserPath().convert(given, None, None) == (taken or given)
    assert UserPath(path_type=Path).convert("~", None, None) == tmp_path


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="could not be written"):
        UserPath(written=True).convert(str(tmp_path / "file" / "out.mp4"), None, None)
    assert UserPath(written=True).convert(str(tmp_path / "new" / "out.mp4"), None, None)


WRITTEN = [
    ("train", "demo", "-o"),
    ("evaluate", __file__, "--list", __file__, "--plot"),
    ("compare", "demo", "-o"),
    ("deviation", __file__, "--list", __file__, "--plot"),
    ("import", __file__, "--arch", "tsm_tiny", "-o"),
    ("adapt", __file__, "--data", __file__, "--frames", "3", "-o"),
    ("export", __file__, "-o"),
    ("run", "bundle", "--source", "x.mp4", "--annotate"),
    ("demo", "-o"),
]


@pytest.mark.parametrize("arguments", WRITTEN, ids=lambda arguments: arguments[0])
def test_an_output_that_cannot_be_written_is_an_error_with_a_hint(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli.cli, [*arguments, str(tmp_path / "file" / "sub" / "out.png")])
    assert isinstance(result.exception, FfnEdgeError)
    assert result.exception.hint


def test_an_error_of_the_system_is_no_traceback() -> None:
    code = (
        "import errno, os, sys, click, ffn_edge.cli\n"
        "def fail(): raise OSError(errno.EIO, os.strerror(errno.EIO), 'rtsp:/me:secret@host')\n"
        "ffn_edge.cli.cli.get_command = lambda ctx, name: click.Command('x', callback=fail)\n"
        "sys.argv = ['ffn-edge', 'x']\n"
        "ffn_edge.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Input/output error\nHint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
