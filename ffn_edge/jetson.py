"""What a Jetson says of itself in files. On any other machine: nothing."""

from __future__ import annotations

import re
from pathlib import Path


def l4t_release(root: Path = Path("/")) -> str | None:
    """Return the release of Jetson Linux (L4T), such as "36.4.0"; None on another machine.

    TensorRT plans are bound to it: the same TensorRT version has come with several releases.

    Args:
        root: where the file system begins.
    """
    try:
        text = (root / "etc/nv_tegra_release").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def board_model(root: Path = Path("/")) -> str | None:
    """Return the board's name, such as "NVIDIA Jetson Orin Nano Developer Kit"."""
    try:
        text = (root / "proc/device-tree/model").read_text(errors="replace")
    except OSError:
        return None
    return text.strip("\0 \n") or None
