"""What `ffn-edge doctor` says of Python, of libraries, of the GPU's software, of OpenCV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.device.sysfs import text_of
from ffn_edge.device.tensorrt_api import MODULES, PRODUCTS, Api
from ffn_edge.errors import EngineError
from ffn_edge.files import schema
from ffn_edge.files.regular_file import read_text
from ffn_edge.runtime.doctor.probes import Facts
from ffn_edge.runtime.doctor.report import Failure, Line, Status, attempt

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 10), (3, 12)
_DEVICE_FILES = (
    "nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvmap", "nvhost-gpu", "nvhost-ctrl-gpu",
    "nvgpu/*/*",
)  # fmt: skip


def python_lines(facts: Facts) -> Iterator[Line]:
    """Report the interpreter and its environment."""
    python = facts.probes.python()
    version = ".".join(map(str, python.version))
    if _OLDEST_PYTHON <= python.version[:2] <= _NEWEST_PYTHON:
        yield Line("version", version)
    else:
        yield Line(
            "version", f"{version}; ffn-edge is made for 3.10 to 3.12", "problem",
            "make a virtual environment with one of them: python3.12 -m venv .venv",
        )  # fmt: skip
    if python.prefix == python.base_prefix:
        yield Line("virtual environment", f"none; {python.prefix}")
        return
    settings = text_of(python.prefix / "pyvenv.cfg") or ""
    if re.search(r"(?im)^include-system-site-packages\s*=\s*true", settings):
        yield Line("virtual environment", f"{python.prefix}, with the system's packages")
        return
    hidden = [name for name in ("tensorrt", "cv2") if not facts.probes.has_module(name)]
    found = f"{python.prefix}, without the system's packages"
    if facts.is_jetson and hidden:
        yield Line(
            "virtual environment", f"{found}: JetPack's {' and '.join(hidden)} cannot be seen",
            "problem", "make it anew: python3 -m venv --system-site-packages .venv",
        )  # fmt: skip
    else:
        yield Line("virtual environment", found)


@dataclass(frozen=True, slots=True)
class _Package:
    """A library: its names on PyPI, its module, and what it is for."""

    distributions: tuple[str, ...]
    module: str
    purpose: str
    remedy: str


_BASE = ("for everything", "pip install ffn-edge")
_PACKAGES = (
    _Package(("ffn-edge",), "ffn_edge", *_BASE),
    _Package(("numpy",), "numpy", *_BASE),
    _Package(("click",), "click", *_BASE),
    _Package(("rich",), "rich", *_BASE),
    _Package(("filelock",), "filelock", *_BASE),
    _Package(("safetensors",), "safetensors", "for export", 'pip install "ffn-edge[export]"'),
    _Package(
        ("onnx",), "onnx", "to load a bundle",
        'pip install "ffn-edge[cpu]", on a Jetson "ffn-edge[jetson]"',
    ),
    _Package(
        ("onnxruntime", "onnxruntime-gpu"), "onnxruntime", "to run on the CPU",
        'pip install "ffn-edge[cpu]"',
    ),
    _Package(
        ("torch",), "torch", "to train and to export, on a workstation",
        'pip install "ffn-edge[train,export]"',
    ),
    _Package(
        (
            "opencv-python", "opencv-python-headless", "opencv-contrib-python",
            "opencv-contrib-python-headless",
        ),
        "cv2", "to read videos and cameras",
        'pip install "ffn-edge[video]"; on a Jetson, use the OpenCV that comes with JetPack.',
    ),
    _Package(
        ("pycuda",), "pycuda", "to run TensorRT engines", 'pip install "ffn-edge[jetson]"'
    ),
    _Package(
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), "tensorrt", "to run on an NVIDIA GPU", ""
    ),
    _Package(
        ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"), "tensorrt_rtx",
        "to run on an RTX graphics card", "",
    ),
)  # fmt: skip


def package_lines(facts: Facts) -> Iterator[Line]:
    """Report the version of each library, by its record: nothing is imported."""
    needed = {"ffn_edge", "numpy", "click", "rich", "filelock", "onnx", "cv2"}
    if not facts.ready:
        needed.add("onnxruntime")
    for package in _PACKAGES:
        installed = _installed(facts, package)
        name = package.distributions[0].removesuffix("-python")
        if installed:
            yield Line(name, ", ".join(f"{version}{note}" for _, version, note in installed))
        elif facts.probes.has_module(package.module):
            yield Line(name, "there, but not from pip: no record of its version")
        else:
            status: Status = "problem" if package.module in needed else "note"
            remedy = package.remedy if package.module in needed else ""
            yield Line(name, f"not installed; {package.purpose}", status, remedy)


def _installed(facts: Facts, package: _Package) -> list[tuple[str, str, str]]:
    """Return distribution, version, and the distribution in brackets where it is not the first."""
    return [
        (name, version, "" if name == package.distributions[0] else f" ({name})")
        for name in package.distributions
        if (version := facts.probes.version_of(name)) is not None
    ]


def gpu_lines(facts: Facts) -> Iterator[Line]:
    """Report each piece between an engine and the GPU, and what to do where one is missing."""
    yield from _tensorrt_lines(facts)
    if facts.driver:
        yield Line("NVIDIA driver", facts.driver)
    elif facts.is_jetson:
        yield Line("NVIDIA driver", "part of Jetson Linux")
    elif not isinstance(facts.gpu, Failure):  # as in WSL
        yield Line("NVIDIA driver", "there, but does not say its version")
    else:
        yield Line("NVIDIA driver", "none: engines run on the CPU", "note")
    yield from _device_lines(facts)
    yield from _device_file_lines(facts)
    yield from _toolkit_lines(facts)


def _has_driver(facts: Facts) -> bool:
    return facts.driver is not None or facts.is_jetson


def _tensorrt_lines(facts: Facts) -> Iterator[Line]:
    for target, api in facts.tensorrt.items():
        name = PRODUCTS[target]
        if isinstance(api, Api):
            yield Line(name, api.version)
        elif facts.probes.has_module(MODULES[target]):
            yield Line(name, api.message, facts.without_tensorrt, api.remedy or "install it anew.")
        elif not _has_driver(facts):
            yield Line(name, "not installed; it is for NVIDIA GPUs", "note")
        elif target == "tensorrt":
            yield Line(name, "not installed", facts.without_tensorrt, api.remedy)
        else:
            yield Line(name, "not installed; instead of TensorRT, on RTX graphics cards", "note")


def _device_lines(facts: Facts) -> Iterator[Line]:
    gpu = facts.gpu
    if not isinstance(gpu, Failure):
        version = facts.probes.version_of("pycuda") or "there"
        yield Line("PyCUDA", version)
        yield Line("GPU", f"{gpu.name}, SM {gpu.sm}, {gpu.memory_bytes / 2**30:.1f} GiB")
        return
    unknown = Line("GPU", "unknown without PyCUDA", "note")
    if not facts.probes.has_module("pycuda"):
        wanted = _has_driver(facts)
        status: Status = facts.without_tensorrt if wanted else "note"
        yield Line("PyCUDA", "not installed", status, gpu.remedy if wanted else "")
        yield unknown
    elif isinstance(gpu.error.__cause__, ImportError) or not isinstance(gpu.error, EngineError):
        remedy = gpu.remedy
        if not _has_driver(facts):
            remedy = (
                "PyCUDA needs NVIDIA's driver: install it (on Ubuntu: sudo ubuntu-drivers install) "
                "and restart. Without an NVIDIA GPU: pip uninstall pycuda."
            )
        yield Line("PyCUDA", gpu.message, facts.without_tensorrt, remedy)
        yield unknown
    else:
        yield Line("PyCUDA", facts.probes.version_of("pycuda") or "there")
        yield Line(
            "GPU", gpu.message, facts.without_tensorrt,
            "see whether nvidia-smi lists it; unset CUDA_VISIBLE_DEVICES; start a container with "
            "--gpus all, on a Jetson with --runtime nvidia; mind the device files below.",
        )  # fmt: skip


def _device_file_lines(facts: Facts) -> Iterator[Line]:
    files = [path for each in _DEVICE_FILES for path in sorted(facts.root.glob(f"dev/{each}"))]
    closed = [path for path in files if not facts.probes.may(path, os.R_OK | os.W_OK)]
    if closed:
        yield Line(
            "GPU device files", f"not for this user: {', '.join(map(str, closed))}",
            facts.without_tensorrt,
            "sudo usermod -aG video,render $USER, then log in again.",
        )  # fmt: skip
    elif files:
        yield Line("GPU device files", f"{len(files)}, all open to this user")


def _toolkit_lines(facts: Facts) -> Iterator[Line]:
    has_pycuda = facts.probes.has_module("pycuda")
    printed = attempt(lambda: facts.probes.output_of(["nvcc", "--version"]))
    if isinstance(printed, str):
        match = re.search(r"release ([\d.]+)", printed)
        version = match[1] if match else "unknown version"
        yield Line("CUDA toolkit", f"{version}, nvcc on the PATH")
        if not has_pycuda:
            yield from _curand_lines(facts, match[1] if match else "")
        return
    toolkit = attempt(lambda: _toolkit_version(facts.root / "usr/local/cuda/version.json"))
    if isinstance(toolkit, Failure):
        yield Line("CUDA toolkit", "none; only to compile PyCUDA", "note")
    elif has_pycuda:
        yield Line("CUDA toolkit", f"{toolkit}, nvcc not on the PATH")
    else:
        yield Line(
            "CUDA toolkit", f"{toolkit}, nvcc not on the PATH, where compiling PyCUDA needs it",
            "note", "export PATH=/usr/local/cuda/bin:$PATH; PyCUDA does not read CUDA_ROOT.",
        )  # fmt: skip


def _curand_lines(facts: Facts, release: str) -> Iterator[Line]:
    """Report where compiling PyCUDA would end for want of a header of the toolkit.

    PyCUDA 2026.1 looks beside the nvcc that is first on the PATH, whatever CUDA_ROOT says.
    """
    nvcc = facts.probes.path_of("nvcc")
    if nvcc is None:
        return
    toolkit = Path(nvcc).parent.parent
    folders = (toolkit / "include", *toolkit.glob("targets/*/include"))
    if not any((folder / "curand.h").exists() for folder in folders):
        package = "-".join(("libcurand-dev", *filter(None, release.split("."))))
        yield Line(
            "curand.h", f"not in {folders[0]}, where compiling PyCUDA needs it", "note",
            f"sudo apt install {package}, or write CUDA_ENABLE_CURAND = False into "
            "~/.aksetup-defaults.py. PyCUDA does not read CUDA_ROOT: the nvcc that is first on the "
            "PATH counts.",
        )  # fmt: skip


def _toolkit_version(path: Path) -> str:
    return str(schema.load(read_text(path))["cuda"]["version"])


def opencv_lines(facts: Facts) -> Iterator[Line]:
    """Report OpenCV, and what it can read videos with."""
    if isinstance(facts.opencv, Failure):
        remedy = facts.opencv.remedy or 'install it anew: pip install "ffn-edge[video]"'
        yield Line("OpenCV", facts.opencv.message, "problem", remedy)
        return
    match = re.search(r"OpenCV (\d\S*)", facts.opencv)
    yield Line("OpenCV", match[1] if match else "unknown version")
    ffmpeg, gstreamer = _built_with(facts.opencv, "FFMPEG"), _built_with(facts.opencv, "GStreamer")
    if ffmpeg is None and gstreamer is None:
        yield Line(
            "FFmpeg", "OpenCV was built without it and without GStreamer: it reads no video files",
            "problem", "use pip's OpenCV, or the one that comes with JetPack.",
        )  # fmt: skip
    else:
        yield Line("FFmpeg", ffmpeg or "no; GStreamer reads the files")
    if gstreamer is not None:
        yield Line("GStreamer", gstreamer)
    elif not facts.is_jetson:
        yield Line("GStreamer", "no; only a Jetson's CSI cameras need it")
    else:
        package = next(package for package in _PACKAGES if package.module == "cv2")
        names = [name for name, *_ in _installed(facts, package)]
        remedy = "use the OpenCV that comes with JetPack; an OpenCV of your own needs GStreamer."
        if names:
            remedy = f"pip's OpenCV hides JetPack's: pip uninstall {' '.join(names)}"
        yield Line("GStreamer", "no: CSI cameras cannot be opened", "problem", remedy)


def _built_with(information: str, library: str) -> str | None:
    """Return what OpenCV's build information says of a library; None if it was left out."""
    match = re.search(rf"(?m)^\s*{library}:\s+(\w+)\s*(\(.+\))?", information)
    if match is None or match[1] != "YES":
        return None
    return f"yes {match[2]}" if match[2] else "yes"
