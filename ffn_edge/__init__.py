"""ffn-edge: one training run, one weight file, one small graph per frame count.

The front door, in the order of the work; each is imported when it is first used:

    build, specialize      a network of a name, or one of your own, as a Frame Flexible Network
    train, evaluate        on videos, with PyTorch
    load_checkpoint        what training wrote
    export_bundle, Bundle  what a device gets: one weight file, a small graph per frame count
    open_session, Limits   on the device: predictions, within a latency and a power
    FfnEdgeError           whatever goes wrong that a user can mend, with a hint
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffn_edge import train
    from ffn_edge.bundle import Bundle
    from ffn_edge.errors import FfnEdgeError
    from ffn_edge.export.bundle_writer import export_bundle
    from ffn_edge.network import build, specialize
    from ffn_edge.network.checkpoint import load_checkpoint
    from ffn_edge.runtime.policy.interface import Limits
    from ffn_edge.runtime.run import open_session
    from ffn_edge.train.evaluate import evaluate_checkpoint as evaluate

__version__ = "0.1.0"

_MODULES = {
    "build": "network",
    "specialize": "network",
    "train": "train",
    "evaluate": "train.evaluate",
    "load_checkpoint": "network.checkpoint",
    "export_bundle": "export.bundle_writer",
    "Bundle": "bundle",
    "open_session": "runtime.run",
    "Limits": "runtime.policy.interface",
    "FfnEdgeError": "errors",
}
_OTHER_NAMES = {"evaluate": "evaluate_checkpoint"}

__all__ = [
    "Bundle",
    "FfnEdgeError",
    "Limits",
    "build",
    "evaluate",
    "export_bundle",
    "load_checkpoint",
    "open_session",
    "specialize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return module if name == "train" else getattr(module, _OTHER_NAMES.get(name, name))


def __dir__() -> list[str]:
    return [*globals(), *__all__]
