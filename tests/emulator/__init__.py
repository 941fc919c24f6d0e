"""TensorRT and PyCUDA without a GPU, for tests: the surface of a chosen version, and strict.

    with Emulator("10.3.0") as device:
        import tensorrt

What would fail on a real device fails here; what would go wrong there without a word shows here
as wrong data. Networks run in ONNX Runtime, on the bytes at the addresses that were set.
"""

from __future__ import annotations

from .emulator import Emulator
from .surface import VERSIONS

__all__ = ["VERSIONS", "Emulator"]
