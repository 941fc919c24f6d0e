"""What is on the disk is what is installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("train", "export", "runtime")


def packages_on_disk() -> set[str]:
    """Every folder with an __init__.py, by the name it is imported under."""
    names = set()
    for top in ("ffn_edge", *LINKED):
        for file in (ROOT / top).rglob("__init__.py"):
            if not any(part in LINKED for part in file.relative_to(ROOT).parts[1:]):
                name = ".".join(file.parent.relative_to(ROOT).parts)
                names.add(name if top == "ffn_edge" else f"ffn_edge.{name}")
    return names


def test_setup_cfg_lists_every_package_on_disk() -> None:
    # A forgotten one works in an editable install and is missing from the wheel.
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")

    listed = config["options"]["packages"].split()

    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk()


@pytest.mark.parametrize("name", LINKED)
def test_the_code_folders_are_linked_into_the_package(name: str) -> None:
    link = ROOT / "ffn_edge" / name

    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a wheel that is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves a build/ folder, and a stale one resurrects deleted modules.
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("ffn_edge", *LINKED):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", *options, "-w", str(folder), str(source)],
        check=True,
    )
    (path,) = folder.glob("ffn_edge-*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_holds_every_module_under_one_package(wheel: dict[str, bytes]) -> None:
    expected = {
        "/".join((*package.split("."), file.name))
        for package in packages_on_disk()
        for file in (ROOT / package.replace(".", "/")).glob("*.py")
    }

    assert {name for name in wheel if name.endswith(".py")} == expected
    assert "ffn_edge/train/recipes/__init__.py" in wheel
    assert "ffn_edge/py.typed" in wheel
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ffn_edge"}


def test_a_wheel_makes_the_command(wheel: dict[str, bytes]) -> None:
    (entry_points,) = (text for name, text in wheel.items() if name.endswith("entry_points.txt"))

    assert b"ffn-edge = ffn_edge.cli:main" in entry_points


def test_the_base_installation_needs_neither_torch_nor_opencv() -> None:
    # On a Jetson, pip's OpenCV would shadow JetPack's, which alone can open its cameras.
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")

    needed = {line.split(">")[0] for line in config["options"]["install_requires"].split()}

    assert needed == {"click", "filelock", "numpy", "rich", "safetensors"}
