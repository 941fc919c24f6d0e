"""The machine that `ffn-edge doctor` looks at, and all that its checks ask of it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.gpu import Gpu, find_gpu
from ffn_edge.device.jetson import board_model, l4t_release, output_of, power_mode_in
from ffn_edge.device.sysfs import text_of
from ffn_edge.device.tensorrt_api import Api, Target, has_module, load
from ffn_edge.media.opencv import build_information
from ffn_edge.runtime.doctor.report import Failure, Status, attempt
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.engines.onnxruntime import installed_version
from ffn_edge.runtime.profile.setting import PrecisionChooser

_TARGETS: tuple[Target, ...] = ("tensorrt", "rtx")  # the one that is preferred first


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter: its version, its environment, and the installation that this stems from."""

    version: tuple[int, int, int]
    prefix: Path
    base_prefix: Path


class Host:
    """A machine. Tests put others in its place.

    Attributes:
        root: where its file system begins.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def python(self) -> Python:
        """The interpreter."""
        return Python(sys.version_info[:3], Path(sys.prefix), Path(sys.base_prefix))

    @cached_property
    def board(self) -> str | None:
        """The board's name, if it has one."""
        return board_model(self.root)

    @cached_property
    def l4t(self) -> str | None:
        """The release of Jetson Linux."""
        return l4t_release(self.root)

    @property
    def is_jetson(self) -> bool:
        """Whether the board is one of NVIDIA's; a container may hide its L4T release."""
        return self.l4t is not None or "Jetson" in (self.board or "")

    @cached_property
    def driver(self) -> str | None:
        """The version of NVIDIA's driver."""
        # "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (…)"
        text = text_of(self.root / "proc/driver/nvidia/version") or ""
        match = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", text)
        return match[1] if match else None

    @cached_property
    def onnxruntime(self) -> str | Failure:
        """The version of ONNX Runtime."""
        return attempt(installed_version)

    @cached_property
    def opencv(self) -> str | Failure:
        """What OpenCV says of how it was built."""
        return attempt(build_information)

    @cached_property
    def tensorrt(self) -> Mapping[str, Api | Failure]:
        """Each of the two products, the one that is preferred first."""
        return {target: attempt(functools.partial(load, target)) for target in _TARGETS}

    @cached_property
    def gpu(self) -> Gpu | Failure:
        """The first CUDA device."""
        return attempt(find_gpu)

    @property
    def ready(self) -> dict[str, Api]:
        """What could run engines on the GPU, the one that is preferred first."""
        if isinstance(self.gpu, Failure):
            return {}
        return {target: api for target, api in self.tensorrt.items() if isinstance(api, Api)}

    @property
    def without_tensorrt(self) -> Status:
        """How bad it is that TensorRT does not work: a Jetson is there for it."""
        alone = isinstance(self.onnxruntime, Failure)
        return "problem" if self.is_jetson or alone else "note"

    @cached_property
    def nvpmodel(self) -> str | Failure | None:
        """What the program prints that tells a Jetson's power mode; None if there is none."""
        return attempt(lambda: self.output_of(["nvpmodel", "-q"]))

    @property
    def power_mode(self) -> str | None:
        """A Jetson's power mode; None where it is not known."""
        return power_mode_in(self.nvpmodel) if isinstance(self.nvpmodel, str) else None

    def output_of(self, command: Sequence[str]) -> str | None:
        """Return what a program prints; None if there is no such program."""
        return output_of(command)

    def path_of(self, program: str) -> str | None:
        """Return where the program is that the PATH leads to."""
        return shutil.which(program)

    def version_of(self, distribution: str) -> str | None:
        """Return the version of a distribution by its record, without importing it."""
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def has_module(self, name: str) -> bool:
        """Return whether a top-level module could be imported."""
        return has_module(name)

    def may(self, path: Path, mode: int) -> bool:
        """Return whether this user may open a path with a mode such as `os.R_OK`."""
        return os.access(path, mode)

    def closed(self, paths: Iterable[Path], mode: int = os.R_OK) -> list[Path]:
        """Return those of some paths that this user may not open."""
        return [path for path in paths if not self.may(path, mode)]

    def free_bytes(self, folder: Path) -> int:
        """Return how much is free of the file system that a folder is on."""
        return shutil.disk_usage(folder).free

    def open_engines(
        self, bundle: Bundle, options: EngineOptions
    ) -> AbstractContextManager[OpenEngines]:
        """Open a bundle's engines, as `ffn-edge run` does."""
        chooser = PrecisionChooser(bundle, options, self.root)
        return open_engines(bundle, options, precisions=chooser)


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
