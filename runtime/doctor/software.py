"""What `ffn-edge doctor` says of Python, of libraries, of the GPU's software, of OpenCV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ffn_edge.device.sysfs import text_of
from ffn_edge.device.tensorrt_api import MODULES, PRODUCTS, Api
from ffn_edge.errors import EngineError
from ffn_edge.files import schema
from ffn_edge.files.regular_file import read_text
from ffn_edge.runtime.doctor.host import Host
from ffn_edge.runtime.doctor.report import Failure, Line, Status, attempt

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 10), (3, 12)
_DEVICE_FILES = (
    "nvidia[0-9]*",
    "nvidiactl",
    "nvidia-uvm",
    "nvmap",
    "nvhost-gpu",
    "nvhost-ctrl-gpu",
    "nvgpu/*/*",
)


def python_lines(host: Host) -> Iterator[Line]:
    """Report the interpreter and its environment."""
    python = host.python
    version = ".".join(map(str, python.version))
    if _OLDEST_PYTHON <= python.version[:2] <= _NEWEST_PYTHON:
        yield Line("version", version)
    else:
        yield Line(
            "version",
            f"{version}; ffn-edge is made for 3.10 to 3.12",
            "problem",
            "make a virtual environment with one of them: python3.12 -m venv .venv",
        )
    if python.prefix == python.base_prefix:
        yield Line("virtual environment", f"none; {python.prefix}")
        return
    settings = text_of(python.prefix / "pyvenv.cfg") or ""
    if re.search(r"(?im)^include-system-site-packages\s*=\s*true", settings):
        yield Line("virtual environment", f"{python.prefix}, with the system's packages")
        return
    hidden = [name for name in ("tensorrt", "cv2") if not host.has_module(name)]
    found = f"{python.prefix}, without the system's packages"
    if host.is_jetson and hidden:
        yield Line(
            "virtual environment",
            f"{found}: JetPack's {' and '.join(hidden)} cannot be seen",
            "problem",
            "make it anew: python3 -m venv --system-site-packages .venv",
        )
    else:
        yield Line("virtual environment", found)


class Package(NamedTuple):
    """A library.

    Attributes:
        module: its name in Python.
        distributions: those on PyPI that bring it.
        purpose: what it is for.
        extra: of ffn-edge, that brings it; "" is the base.
        is_needed: whether no bundle runs without it.
    """

    module: str
    distributions: str
    purpose: str
    extra: str = ""
    is_needed: bool = False


_OPENCV = Package(
    "cv2",
    "opencv-python opencv-python-headless opencv-contrib-python opencv-contrib-python-headless",
    "to read videos and cameras",
    "video",
    True,
)
PACKAGES = (
    Package("ffn_edge", "ffn-edge", "for everything", is_needed=True),
    Package("numpy", "numpy", "for everything", is_needed=True),
    Package("click", "click", "for everything", is_needed=True),
    Package("rich", "rich", "for everything", is_needed=True),
    Package("filelock", "filelock", "for everything", is_needed=True),
    Package("safetensors", "safetensors", "for export", "export"),
    Package("onnx", "onnx", "to load a bundle", "cpu", is_needed=True),
    Package("onnxruntime", "onnxruntime onnxruntime-gpu", "to run on the CPU", "cpu"),
    Package("torch", "torch", "to train and to export, on a workstation", "train,export"),
    _OPENCV,
    Package("av", "av", "to read video files", "video", is_needed=True),
    Package("pycuda", "pycuda", "to run TensorRT engines", "jetson"),
    Package("tensorrt", "tensorrt tensorrt-cu12 tensorrt-cu13", "to run on an NVIDIA GPU"),
    Package(
        "tensorrt_rtx",
        "tensorrt-rtx tensorrt-rtx-cu12 tensorrt-rtx-cu13",
        "to run on an RTX graphics card",
        "rtx",
    ),
)
_ON_A_JETSON = {
    "cv2": "; on a Jetson, use the OpenCV that comes with JetPack.",
    "onnx": ', on a Jetson "ffn-edge[jetson]"',
    "av": ', on a Jetson "ffn-edge[jetson]"',
}


def package_lines(host: Host) -> Iterator[Line]:
    """Report the version of each library, by its record: nothing is imported."""
    for package in PACKAGES:
        installed = _installed(host, package)
        first = package.distributions.split()[0]
        name = first.removesuffix("-python")
        if installed:
            named = ("" if each == first else f" ({each})" for each in installed)
            versions = map("{}{}".format, installed.values(), named)
            yield Line(name, ", ".join(versions))
        elif host.has_module(package.module):
            yield Line(name, "there, but not from pip: no record of its version")
        elif package.is_needed or (package.module == "onnxruntime" and not host.ready):
            source = f'"ffn-edge[{package.extra}]"' if package.extra else "ffn-edge"
            remedy = f"pip install {source}{_ON_A_JETSON.get(package.module, '')}"
            yield Line(name, f"not installed; {package.purpose}", "problem", remedy)
        else:
            yield Line(name, f"not installed; {package.purpose}", "note")


def _installed(host: Host, package: Package) -> dict[str, str]:
    """Return the version of each of a package's distributions that is installed."""
    found = {name: host.version_of(name) for name in package.distributions.split()}
    return {name: version for name, version in found.items() if version is not None}


def gpu_lines(host: Host) -> Iterator[Line]:
    """Report each piece between an engine and the GPU, and what to do where one is missing."""
    yield from _tensorrt_lines(host)
    if host.driver:
        yield Line("NVIDIA driver", host.driver)
    elif host.is_jetson:
        yield Line("NVIDIA driver", "part of Jetson Linux")
    elif not isinstance(host.gpu, Failure):  # as in WSL
        yield Line("NVIDIA driver", "there, but does not say its version")
    else:
        yield Line("NVIDIA driver", "none: engines run on the CPU", "note")
    yield from _device_lines(host)
    yield from _device_file_lines(host)
    yield from _toolkit_lines(host)


def _has_driver(host: Host) -> bool:
    return host.driver is not None or host.is_jetson


def _tensorrt_lines(host: Host) -> Iterator[Line]:
    for target, api in host.tensorrt.items():
        name = PRODUCTS[target]
        if isinstance(api, Api):
            yield Line(name, api.version)
        elif host.has_module(MODULES[target]):
            yield Line(name, api.message, host.without_tensorrt, api.remedy or "install it anew.")
        elif not _has_driver(host):
            yield Line(name, "not installed; it is for NVIDIA GPUs", "note")
        elif target == "tensorrt":
            yield Line(name, "not installed", host.without_tensorrt, api.remedy)
        else:
            yield Line(name, "not installed; instead of TensorRT, on RTX graphics cards", "note")


def _device_lines(host: Host) -> Iterator[Line]:
    gpu = host.gpu
    if not isinstance(gpu, Failure):
        version = host.version_of("pycuda") or "there"
        yield Line("PyCUDA", version)
        yield Line("GPU", f"{gpu.name}, SM {gpu.sm}, {gpu.memory_bytes / 2**30:.1f} GiB")
        return
    unknown = Line("GPU", "unknown without PyCUDA", "note")
    if not host.has_module("pycuda"):
        wanted = _has_driver(host)
        status: Status = host.without_tensorrt if wanted else "note"
        yield Line("PyCUDA", "not installed", status, gpu.remedy if wanted else "")
        yield unknown
    elif isinstance(gpu.error.__cause__, ImportError) or not isinstance(gpu.error, EngineError):
        remedy = gpu.remedy
        if not _has_driver(host):
            remedy = (
                "PyCUDA needs NVIDIA's driver: install it (on Ubuntu: sudo ubuntu-drivers install) "
                "and restart. Without an NVIDIA GPU: pip uninstall pycuda."
            )
        yield Line("PyCUDA", gpu.message, host.without_tensorrt, remedy)
        yield unknown
    else:
        yield Line("PyCUDA", host.version_of("pycuda") or "there")
        yield Line(
            "GPU",
            gpu.message,
            host.without_tensorrt,
            "see whether nvidia-smi lists it; unset CUDA_VISIBLE_DEVICES; start a container with "
            "--gpus all, on a Jetson with --runtime nvidia; mind the device files below.",
        )


def _device_file_lines(host: Host) -> Iterator[Line]:
    files = [path for each in _DEVICE_FILES for path in sorted(host.root.glob(f"dev/{each}"))]
    closed = host.closed(files, os.R_OK | os.W_OK)
    if closed:
        yield Line(
            "GPU device files",
            f"not for this user: {', '.join(map(str, closed))}",
            host.without_tensorrt,
            "sudo usermod -aG video,render $USER, then log in again.",
        )
    elif files:
        yield Line("GPU device files", f"{len(files)}, all open to this user")


def _toolkit_lines(host: Host) -> Iterator[Line]:
    has_pycuda = host.has_module("pycuda")
    printed = attempt(lambda: host.output_of(["nvcc", "--version"]))
    if isinstance(printed, str):
        match = re.search(r"release ([\d.]+)", printed)
        version = match[1] if match else "unknown version"
        yield Line("CUDA toolkit", f"{version}, nvcc on the PATH")
        if not has_pycuda:
            yield from _curand_lines(host, match[1] if match else "")
        return
    toolkit = attempt(lambda: _toolkit_version(host.root / "usr/local/cuda/version.json"))
    if isinstance(toolkit, Failure):
        yield Line("CUDA toolkit", "none; only to compile PyCUDA", "note")
    elif has_pycuda:
        yield Line("CUDA toolkit", f"{toolkit}, nvcc not on the PATH")
    else:
        yield Line(
            "CUDA toolkit",
            f"{toolkit}, nvcc not on the PATH, where compiling PyCUDA needs it",
            "note",
            "export PATH=/usr/local/cuda/bin:$PATH; PyCUDA does not read CUDA_ROOT.",
        )


def _curand_lines(host: Host, release: str) -> Iterator[Line]:
    """Report where compiling PyCUDA would end for want of a header of the toolkit.

    PyCUDA 2026.1 looks beside the nvcc that is first on the PATH, whatever CUDA_ROOT says.
    """
    nvcc = host.path_of("nvcc")
    if nvcc is None:
        return
    toolkit = Path(nvcc).parent.parent
    folders = (toolkit / "include", *toolkit.glob("targets/*/include"))
    if not any((folder / "curand.h").exists() for folder in folders):
        package = "-".join(("libcurand-dev", *filter(None, release.split("."))))
        yield Line(
            "curand.h",
            f"not in {folders[0]}, where compiling PyCUDA needs it",
            "note",
            f"sudo apt install {package}, or write CUDA_ENABLE_CURAND = False into "
            "~/.aksetup-defaults.py. PyCUDA does not read CUDA_ROOT: the nvcc that is first on the "
            "PATH counts.",
        )


def _toolkit_version(path: Path) -> str:
    return str(schema.load(read_text(path))["cuda"]["version"])


def opencv_lines(host: Host) -> Iterator[Line]:
    """Report OpenCV, and what it can read videos with."""
    if isinstance(host.opencv, Failure):
        remedy = host.opencv.remedy or 'install it anew: pip install "ffn-edge[video]"'
        yield Line("OpenCV", host.opencv.message, "problem", remedy)
        return
    match = re.search(r"OpenCV (\d\S*)", host.opencv)
    yield Line("OpenCV", match[1] if match else "unknown version")
    ffmpeg, gstreamer = _built_with(host.opencv, "FFMPEG"), _built_with(host.opencv, "GStreamer")
    if ffmpeg is None and gstreamer is None:
        yield Line(
            "FFmpeg",
            "OpenCV was built without it and without GStreamer: it reads no video files",
            "problem",
            "use pip's OpenCV, or the one that comes with JetPack.",
        )
    else:
        yield Line("FFmpeg", ffmpeg or "no; GStreamer reads the files")
    if gstreamer is not None:
        yield Line("GStreamer", gstreamer)
    elif not host.is_jetson:
        yield Line("GStreamer", "no; only a Jetson's CSI cameras need it")
    else:
        names = list(_installed(host, _OPENCV))
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
