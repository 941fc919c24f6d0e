"""What is on the disk is what is installed."""

from __future__ import annotations

import configparser
import json
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


# What the README installs on a Jetson. PyCUDA is left out: it is compiled there. So is tomli, for
# Python 3.10 alone: see below.
ON_A_JETSON = {
    "to build and run engines": (["jetson"], []),
    "to serve": (["serve"], []),
    "to test": (["cpu"], ["pytest"]),
}


@pytest.mark.network
@pytest.mark.parametrize(("python", "glibc"), [("3.10", 35), ("3.12", 39)], ids=["6", "7"])
@pytest.mark.parametrize("purpose", ON_A_JETSON)
def test_pip_finds_wheels_of_everything_for_each_jetpack(
    purpose: str, python: str, glibc: int, tmp_path: Path
) -> None:
    # For Ubuntu 22.04 and 24.04, which they are. Of what a package needs under an older Python
    # alone, pip asks the one that it runs in.
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras, others = ON_A_JETSON[purpose]
    needed = config["options"]["install_requires"].split()
    for extra in extras:
        needed += config["options.extras_require"][extra].strip().splitlines()
    needed = [each for each in needed if not each.startswith(("pycuda", "tomli"))]
    machines = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, glibc + 1))]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"),
        *("--ignore-installed", "--target", str(tmp_path), "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", python),
        *(f"--platform={machine}_aarch64" for machine in machines),
        *(*needed, *others, "numpy<2"),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    versions = {each["name"].lower().replace("_", "-"): each["version"] for each in found}
    assert versions.keys() >= {each.partition(">")[0] for each in (*needed, *others)}
    assert versions["numpy"].startswith("1.")
