"""Every policy by its name."""

from __future__ import annotations

from typing import Any

from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.alert import Alert
from ffn_edge.runtime.policy.by_hand import Hysteresis, Pid, Static
from ffn_edge.runtime.policy.interface import Policy

# Beside these there is static-T, for each frame count T.
NAMES = ("adaptive", "alert", "alert-fitted", "pid", "hysteresis")


def named(name: str) -> Policy[Any]:
    """Return the policy that people call `name`.

    Raises:
        FfnEdgeError: there is none.
    """
    match name:
        case "adaptive":
            return Adaptive()
        case "alert":
            return Alert()
        case "alert-fitted":
            return Alert(fitted=True)
        case "pid":
            return Pid()
        case "hysteresis":
            return Hysteresis()
    kind, _, frames = name.partition("-")
    if kind == "static" and frames.isdecimal():
        return Static(int(frames))
    raise FfnEdgeError(
        f"there is no policy {name!r}", f"choose one of {', '.join(NAMES)} or static-8."
    )
