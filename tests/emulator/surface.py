"""What each version of TensorRT, and PyCUDA, has: classes, enums, functions and their signatures.

Read from `tests/data/device_api/`, where the recorded surfaces lie.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx-1.7.1.116")
PYCUDA = "pycuda-2026.1"

_FOLDER = Path(__file__).parent.parent / "data" / "device_api"

# What a class has under a name: "property"; "member", something of which only the name is known,
# such as a constructor that nobody may call; or a method's signatures, one for each overload.
Member = str | tuple[str, ...]


@dataclass(frozen=True)
class Surface:
    """The public names of one module."""

    version: str
    classes: Mapping[str, Mapping[str, Member]]
    enums: Mapping[str, tuple[str, ...]]
    functions: Mapping[str, tuple[str, ...]]


def module_name(version: str) -> str:
    """Return the name under which Python imports this version of TensorRT."""
    return "tensorrt_rtx" if version.startswith("rtx-") else "tensorrt"


def tensorrt_surface(version: str) -> Surface:
    """Return the surface of one of `VERSIONS`."""
    if version not in VERSIONS:
        raise ValueError(f"no surface of TensorRT {version} was recorded, only of {VERSIONS}")
    return read_surface(f"{module_name(version)}-{version.removeprefix('rtx-')}")


@functools.cache
def read_surface(name: str) -> Surface:
    """Read a recorded surface: the name of its file, without `.json`."""
    recorded = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    functions = recorded["functions"]
    if isinstance(functions, list):  # TensorRT's are plain Python, without recorded signatures
        functions = {function: [] for function in functions}
    return Surface(
        version=recorded["version"],
        classes={
            name: {
                member: value if isinstance(value, str) else tuple(value)
                for member, value in members.items()
            }
            for name, members in recorded["classes"].items()
        },
        enums={name: tuple(members) for name, members in recorded["enums"].items()},
        functions={name: tuple(lines) for name, lines in functions.items()},
    )


@functools.cache
def onnx_operators() -> frozenset[str]:
    """Return the operators that the ONNX parser knows."""
    return frozenset(json.loads((_FOLDER / "onnx_operators.json").read_text(encoding="utf-8")))
