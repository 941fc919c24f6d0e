"""Who may import what: held for every file by its source, and in a fresh interpreter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ffn_edge.cli import _COMMANDS as COMMANDS

ROOT = Path(__file__).parents[1]
STAGES = ("train", "export", "runtime")
# From the ground up: a room imports from those before it.
ROOMS = (
    "",
    *("files", "bundle", "device", "media", "network", "train", "export"),
    *("runtime.machine", "runtime.stream", "runtime.policy", "runtime.power", "runtime.engines"),
    *("runtime.events", "runtime.cascade", "runtime.profile", "runtime"),
    *("runtime.outputs", "runtime.serve", "runtime.simulate", "runtime.doctor"),
    *("demo", "commands"),
)


def modules() -> dict[str, Path]:
    """Every module of the project by its import name."""
    files = [
        file
        for folder in ("ffn_edge", *STAGES)
        for file in (ROOT / folder).rglob("*.py")
        if not any((ROOT / "ffn_edge" / stage) in file.parents for stage in STAGES)
    ]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if parts[0] == "ffn_edge" else ("ffn_edge", *parts))
        found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imported_by(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant))
            if any(not isinstance(arg, ast.Constant) for arg in node.args):
                names.update(named_modules(file))
    return names


def named_modules(file: Path) -> set[str]:
    """The device libraries that a file imports by a name it computes: any string that is one."""
    strings = {
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return strings & {"tensorrt", "tensorrt_rtx", "pycuda", "pycuda.driver"}


def test_every_module_is_found() -> None:
    assert len(MODULES) > 30
    for name in ("ffn_edge.bundle.compose", "ffn_edge.network.ffn", "ffn_edge.train.objective"):
        assert name in MODULES


def room_of(module: str) -> str:
    """The room of a module: the longest of `ROOMS` that its name begins with."""
    name = module.partition(".")[2]
    inside = [room for room in ROOMS[1:] if f"{name}.".startswith(f"{room}.")]
    return max(inside, key=len, default="")


def test_no_room_imports_from_one_above_it() -> None:
    for name, file in MODULES.items():
        if name == "ffn_edge":  # the front door, for who stands outside
            continue
        room = ROOMS.index(room_of(name))
        above = [
            each for each in imported_by(file) & MODULES.keys() if ROOMS.index(room_of(each)) > room
        ]
        assert not above, f"{name} imports {above}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_never_imports_another(stage: str) -> None:
    others = tuple(f"ffn_edge.{other}" for other in STAGES if other != stage)
    for name, file in MODULES.items():
        if name.startswith(f"ffn_edge.{stage}"):
            wrong = [each for each in imported_by(file) if each.startswith(others)]
            assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        ("cv2", {"ffn_edge.media.opencv"}),
        ("av", {"ffn_edge.media.pyav"}),
        (
            "onnxruntime",
            {
                "ffn_edge.runtime.engines.onnxruntime",
                "ffn_edge.export.graph_session",
                "ffn_edge.export.ranges",
            },
        ),
        ("tensorrt", {"ffn_edge.device.tensorrt_api"}),
        ("tensorrt_rtx", {"ffn_edge.device.tensorrt_api"}),
        ("pycuda", {"ffn_edge.device.gpu"}),
        ("pynvml", {"ffn_edge.runtime.power.nvml"}),
        ("cryptography", {"ffn_edge.bundle.signature"}),
        ("tomli", {"ffn_edge.files.toml"}),
        ("paho", {"ffn_edge.runtime.outputs.paho"}),
        ("prometheus_client", {"ffn_edge.runtime.outputs.prometheus"}),
    ],
)
def test_a_device_library_is_imported_only_by_the_files_that_drive_it(
    library: str, importers: set[str]
) -> None:
    found = {
        name
        for name, file in MODULES.items()
        if any(each.partition(".")[0] == library for each in imported_by(file))
    }

    assert found == importers


def test_no_module_of_the_product_imports_a_benchmark() -> None:
    wrong = {name for name, file in MODULES.items() if "benchmarks" in str(imported_by(file))}
    assert not wrong


def test_only_training_export_and_the_network_name_torch() -> None:
    allowed = ("ffn_edge.network", "ffn_edge.train", "ffn_edge.export", "ffn_edge.demo")
    for name, file in MODULES.items():
        if not name.startswith(allowed):
            wrong = [each for each in imported_by(file) if each.startswith(("torch", "onnx."))]
            assert not wrong, f"{name} imports {wrong}"


def run_fresh(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter where no heavy or optional library can be imported."""
    blocker = (
        "import sys\n"
        "class Blocker:\n"
        "    blocked = {'torch', 'torchvision', 'onnx', 'onnxscript', 'onnxruntime', 'cv2', 'av',\n"
        "               'matplotlib', 'tensorboard', 'skimage', 'tensorrt', 'tensorrt_rtx',\n"
        "               'pycuda', 'pynvml', 'cryptography'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in self.blocked:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", blocker + program],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_of_the_device_imports_without_optional_libraries() -> None:
    workstation = ("network", "train", "export", "demo", "commands")
    names = [
        name for name in MODULES if room_of(name) not in workstation and name != "ffn_edge.__main__"
    ]
    assert {"ffn_edge.bundle.compose", "ffn_edge.media.video", "ffn_edge.runtime.policy"} <= set(
        names
    )

    process = run_fresh("".join(f"import {name}\n" for name in names))

    assert process.returncode == 0, process.stderr


def test_building_and_verifying_engines_on_a_device_needs_no_pytorch() -> None:
    program = (
        "import sys\nsys.modules['torch'] = None\n"
        "import ffn_edge.export.tensorrt_plan\n"
        "import ffn_edge.export.verify, ffn_edge.export.clips, ffn_edge.export.report\n"
        "import ffn_edge.export.quantize\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert process.returncode == 0, process.stderr


def test_the_processes_that_decode_import_no_pytorch() -> None:
    process = run_fresh("import ffn_edge.train.loader_process\n")

    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_optional_library(command: str) -> None:
    process = run_fresh(
        "from ffn_edge.cli import main\n"
        f"sys.argv = ['ffn-edge', *{command.split()}, '--help']\n"
        "main()\n"
    )

    assert process.returncode == 0, process.stderr
    assert "Usage: ffn-edge" in process.stdout


@pytest.mark.parametrize("arguments", [["export", __file__, "-o", "bundle"], ["verify", "bundle"]])
def test_a_missing_library_is_an_error_with_the_extra_that_brings_it(
    arguments: list[str],
) -> None:
    process = run_fresh(
        f"from ffn_edge.cli import main\nsys.argv = ['ffn-edge', *{arguments}]\nmain()\n"
    )

    assert process.returncode == 1
    assert "which is not installed" in process.stderr
    assert 'pip install "ffn-edge[' in process.stderr
    assert "Traceback" not in process.stderr


# To read JSON, to read files, to print tables and lines, to tell of names beside the results.
@pytest.mark.parametrize(
    ("owner", "pattern"),
    [
        ("schema.py", r"json\.load"),
        (
            "regular_file.py",
            r"\.read_(text|bytes)\(|fromfile\(|([^.\w]|os\.fd)open\([^)]*\"rb?\"",
        ),
        ("terminal.py", r"import Console"),
        ("cli.py", r"click\.echo\(f\"|, err=True"),
    ],
)
def test_one_module_alone_does_it(owner: str, pattern: str) -> None:
    found = {
        file.name
        for file in MODULES.values()
        if re.search(pattern, file.read_text(encoding="utf-8"))
    }
    assert found == {owner}
