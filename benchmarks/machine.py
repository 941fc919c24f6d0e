"""One line about this machine, for the head of every benchmark's output."""

from __future__ import annotations

import os
from importlib import metadata

from ffn_edge.runtime.machine.machine import this_machine

LIBRARIES = (
    "torch", "torchvision", "numpy", "onnx", "onnxruntime", "av", "opencv-python",
    "opencv-python-headless", "safetensors",
)  # fmt: skip


def describe_machine() -> str:
    """Return the processor, its cores, memory, system, Python and library versions."""
    machine = this_machine()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{machine.cpu}, {machine.cores} cores, {memory_gib:.0f} GiB; {machine.system}; "
        f"Python {machine.python}, " + ", ".join(_versions())
    )


def _versions() -> list[str]:
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    print(describe_machine())
