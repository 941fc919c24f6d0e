"""`ffn-edge serve` reads its file before anything else, and shows no secret of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ffn_edge.bundle import Bundle


@pytest.fixture
def config(exported: Bundle, tmp_path: Path) -> Path:
    """A configuration with secrets of every kind."""
    path = tmp_path / "serve.toml"
    path.write_text(
        f"""
bundle = "{exported.path}"
[[camera]]
name = "door"
source = "rtsp://me:hunter1@host/1?token=hunter2"
[[camera]]
name = "yard"
source = "env:YARD"
[events]
nothing = "none"
onset.up = 0.7
[http]
token = "hunter3"
[mqtt]
host = "broker"
user = "me"
password = "env:PASSWORD"
"""
    )
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ffn_edge", "serve", *arguments],
        env={"YARD": "rtsp://me:hunter4@host/2", "PASSWORD": "hunter5", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_check_prints_what_was_read_without_secrets(config: Path) -> None:
    done = run(str(config), "--check")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    assert said["camera[0].source"] == "rtsp://host/1"
    assert said["camera[1].source"] == "env:YARD"
    assert said["http.token"] == "***" and said["mqtt.password"] == "env:PASSWORD"
    assert said["http.port"] == "8090" and said["events.onset"] == "{'up': 0.7}"
    assert "hunter" not in done.stdout + done.stderr


def test_a_mistake_is_told_to_people_by_check_and_to_programs_as_json(config: Path) -> None:
    config.write_text(config.read_text().replace('nothing = "none"', 'nothing = "idle"'))
    config.chmod(0o640)
    done = run(str(config), "--check")
    assert done.returncode == 1 and done.stderr.startswith("Error: ")
    assert "line 10" in done.stderr and "idle" in done.stderr
    done = run(str(config))
    assert done.returncode == 2 and not done.stdout  # what the unit does not start again
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "error" and "line 10" in json.loads(line)["message"]


def test_a_file_with_secrets_that_everybody_may_read_is_warned_of(config: Path) -> None:
    config.chmod(0o644)
    assert "chmod" in run(str(config), "--check").stderr
    config.chmod(0o640)
    assert "chmod" not in run(str(config), "--check").stderr


def test_check_refuses_a_bundle_that_is_not_signed(config: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "ffn_edge", "sign", "--new-key", str(tmp_path / "edge.key")],
        check=True,
        capture_output=True,
    )
    done = run(str(config), "--check", "--require-signature", str(tmp_path / "edge.pub"))
    assert done.returncode == 1 and "signed" in done.stderr


def test_check_refuses_a_state_folder_that_cannot_be(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = config.read_text()
    config.write_text(f'state = "{tmp_path / "file" / "state"}"\n{text}')
    done = run(str(config), "--check")
    assert done.returncode == 1 and "state" in done.stderr
