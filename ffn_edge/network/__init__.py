"""The Frame Flexible Network in PyTorch: architectures, specialised layers, checkpoints.

Each name is loaded when it is first used: a recipe is checked without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffn_edge.network.ablations import ABLATIONS
    from ffn_edge.network.building import build, import_published
    from ffn_edge.network.families import ARCHITECTURES, family_of
    from ffn_edge.network.ffn import FrameFlexibleNetwork
    from ffn_edge.network.specializing import specialize

__all__ = [
    "ABLATIONS",
    "ARCHITECTURES",
    "FrameFlexibleNetwork",
    "build",
    "family_of",
    "import_published",
    "specialize",
]
# No module has the name of what it gives: importing it would put it in the place of that.
_HOMES = {
    "ABLATIONS": "ablations",
    "ARCHITECTURES": "families",
    "FrameFlexibleNetwork": "ffn",
    "build": "building",
    "family_of": "families",
    "import_published": "building",
    "specialize": "specializing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
