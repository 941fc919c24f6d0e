"""How `ffn-edge doctor` asks a machine and its libraries, and what all its checks want to know."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.device.gpu import Gpu, find_gpu
from ffn_edge.device.jetson import board_model, l4t_release, output_of, power_mode_in
from ffn_edge.device.sysfs import text_of
from ffn_edge.device.tensorrt_api import Api, Target, has_module, load
from ffn_edge.media.opencv import build_information
from ffn_edge.runtime.doctor.report import Failure, Status, attempt
from ffn_edge.runtime.engines.engine import OpenEngines, open_engines
from ffn_edge.runtime.engines.onnxruntime import installed_version

_TARGETS: tuple[Target, ...] = ("tensorrt", "rtx")  # the one that is preferred first


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter: its version, its environment, and the installation that this stems from."""

    version: tuple[int, int, int]
    prefix: Path
    base_prefix: Path


def _this_python() -> Python:
    return Python(sys.version_info[:3], Path(sys.prefix), Path(sys.base_prefix))


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Everything that is asked other than by reading files. Tests put other machines here.

    Attributes:
        python: describes the interpreter.
        version_of: the version of a distribution by its record, without importing it, or None.
        has_module: whether a top-level module could be imported.
        path_of: where the program is that the PATH leads to, or None.
        output_of: what a program prints; None if there is no such program.
        may: whether this user may open a path with a mode such as `os.R_OK`.
        free_bytes: of the file system that a folder is on.
        opencv, onnxruntime, tensorrt, gpu: import a library and ask it; raise if it is missing.
        open_engines: opens a bundle's engines, as `ffn-edge run` does.
    """

    python: Callable[[], Python] = _this_python
    version_of: Callable[[str], str | None] = _version_of
    has_module: Callable[[str], bool] = has_module
    path_of: Callable[[str], str | None] = shutil.which
    output_of: Callable[[Sequence[str]], str | None] = output_of
    may: Callable[[Path, int], bool] = os.access
    free_bytes: Callable[[Path], int] = _free_bytes
    opencv: Callable[[], str] = build_information
    onnxruntime: Callable[[], str] = installed_version
    tensorrt: Callable[[Target], Api] = load
    gpu: Callable[[], Gpu] = find_gpu
    open_engines: Callable[..., AbstractContextManager[OpenEngines]] = open_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What several checks want to know, asked once.

    Attributes:
        root: where the machine's file system begins.
        probes: how to ask for more.
        board: the board's name, if it has one.
        l4t: the release of Jetson Linux, or None.
        driver: the version of NVIDIA's driver, or None.
        onnxruntime: its version.
        opencv: what it says of how it was built.
        tensorrt: each of the two products.
        gpu: the first CUDA device.
    """

    root: Path
    probes: Probes
    board: str | None
    l4t: str | None
    driver: str | None
    onnxruntime: str | Failure
    opencv: str | Failure
    tensorrt: Mapping[str, Api | Failure]
    gpu: Gpu | Failure

    @property
    def is_jetson(self) -> bool:
        """Whether the board is one of NVIDIA's; a container may hide its L4T release."""
        return self.l4t is not None or "Jetson" in (self.board or "")

    @property
    def power_mode(self) -> str | None:
        """A Jetson's power mode; None where it is not known."""
        printed = attempt(lambda: self.probes.output_of(["nvpmodel", "-q"]))
        return power_mode_in(printed) if isinstance(printed, str) else None

    @property
    def ready(self) -> dict[str, Api]:
        """What could run engines on the GPU, by target, the one that is preferred first."""
        if isinstance(self.gpu, Failure):
            return {}
        return {target: api for target, api in self.tensorrt.items() if isinstance(api, Api)}

    @property
    def without_tensorrt(self) -> Status:
        """How bad it is that TensorRT does not work: a Jetson is there for it."""
        alone = isinstance(self.onnxruntime, Failure)
        return "problem" if self.is_jetson or alone else "note"


def gather(root: Path, probes: Probes) -> Facts:
    """Ask for what several checks want to know."""
    return Facts(
        root=root,
        probes=probes,
        board=board_model(root),
        l4t=l4t_release(root),
        driver=_driver_version(root),
        onnxruntime=attempt(probes.onnxruntime),
        opencv=attempt(probes.opencv),
        tensorrt={target: _tensorrt(probes, target) for target in _TARGETS},
        gpu=attempt(probes.gpu),
    )


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))


def _tensorrt(probes: Probes, target: Target) -> Api | Failure:
    return attempt(lambda: probes.tensorrt(target))


def _driver_version(root: Path) -> str | None:
    # "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (…)"
    text = text_of(root / "proc/driver/nvidia/version") or ""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", text)
    return match[1] if match else None
