"""What deploy/ holds fits the code and the tools that read it, as far as no board is needed."""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from ffn_edge.runtime.serve.config import Tables, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
UNIT = DEPLOY / "ffn-edge.service"


def keys() -> Iterator[tuple[str, str]]:
    """Every table of a configuration, with each of its keys."""
    for table, kind in get_type_hints(Tables).items():
        for each in (kind, *get_args(kind)):
            if dataclasses.is_dataclass(each):
                yield from ((table, field.name) for field in dataclasses.fields(each))


def commands(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its arguments in one line."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in lines]


def test_the_example_is_read_as_it_is_and_with_all_that_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DEPLOY / "serve.toml").read_text()
    (tmp_path / "serve.toml").write_text(text)
    assert [camera.name for camera in load_config(tmp_path / "serve.toml").camera]

    monkeypatch.setenv("WEBHOOK_SECRET", "secret")
    full = re.sub(r"^# (\[?\w+(?:\]| = ))", r"\1", text, flags=re.M)
    full = full.replace("/run/credentials/ffn-edge.service", str(tmp_path))
    for name in ("token", "mqtt", "cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "serve.toml").write_text(full)
    config = load_config(tmp_path / "serve.toml")
    left_out = {
        f"{table}.{key}"
        for table, key in keys()
        if table != "camera" and getattr(getattr(config, table), key) is None
    }
    assert not left_out


def test_the_values_behind_a_hash_are_the_defaults() -> None:
    text = (DEPLOY / "serve.toml").read_text()
    kinds = get_type_hints(Tables)
    table, compared = "", 0
    for line in text.splitlines():
        if found := re.match(r"(# )?\[\[?(\w+)\]", line):
            table = "" if found[1] else found[2]
        elif table and (found := re.match(r"# (\w+) = (\S+)", line)):
            kind = next(
                k for k in (kinds[table], *get_args(kinds[table])) if hasattr(k, "__slots__")
            )
            default = {each.name: each.default for each in dataclasses.fields(kind)}[found[1]]
            if default is not None and default is not dataclasses.MISSING:
                assert json.loads(found[2]) == default, line
                compared += 1
    assert compared >= 10


def test_every_key_is_documented() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("serve*.md"))
    missing = [f"{table}.{key}" for table, key in keys() if f"| `{table}.{key}` |" not in text]
    assert not missing


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "ffn-edge.service"
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.M)
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    # Of units that this machine lacks, such as those that come with JetPack, it says nothing.
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_restarts_the_service_and_leaves_it_the_gpu_and_the_cameras() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["Type"], service["Restart"], service["RestartSec"]) == (
        "notify",
        "always",
        "1s",
    )
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    # Each of them hides devices, a camera's socket, or memory that CUDA needs; ProtectClock does so
    # up to systemd 252.
    for key in ("PrivateDevices", "DeviceAllow", "DevicePolicy", "ProtectClock", "PrivateTmp",
                "MemoryDenyWriteExecute", "DynamicUser"):  # fmt: skip
        assert key not in service


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_and_installs_exists(path: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    kept = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M)
    found = commands(path)
    assert found[0][0] == "FROM" or found[0][0] == "ARG"
    copied = [each for name, text in found if name == "COPY" for each in text.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists() and source in kept, source
    # All that `pip install .` needs.
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "ffn_edge", "train", "export",
            "runtime"} <= set(copied)  # fmt: skip
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', path.read_text())
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
    assert "serve" in extras
    # Not as root, and with what the service is started by.
    assert [text for name, text in found if name == "USER"] == ["ffn-edge"]
    assert dict(found)["ENTRYPOINT"] == '["ffn-edge"]'
    known = {"FROM", "ARG", "ADD", "RUN", "COPY", "ENV", "WORKDIR", "USER", "VOLUME", "ENTRYPOINT",
             "CMD", "HEALTHCHECK"}  # fmt: skip
    assert {name for name, _ in found} <= known


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_runs_is_a_shell_s(path: Path) -> None:
    for name, text in commands(path):
        if name == "RUN":
            done = subprocess.run(["sh", "-n", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        elif text.startswith("["):
            assert all(isinstance(each, str) for each in json.loads(text))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_that_nobody_has_built_says_so(path: Path) -> None:
    head = path.read_text().partition("\nFROM ")[0]
    assert "Not built yet" in head and f"-f deploy/{path.name}" in head
