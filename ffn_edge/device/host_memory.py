"""What Linux says of the host's memory. On a Jetson, the GPU's is the same."""

from __future__ import annotations

import re
from pathlib import Path

from ffn_edge.device.sysfs import text_of


def memory_sizes(root: Path = Path("/")) -> dict[str, int]:
    """Return the entries of /proc/meminfo in bytes, such as MemAvailable; none elsewhere."""
    text = text_of(root / "proc/meminfo") or ""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"(?m)^(\w+):\s+(\d{1,18}) kB", text)}
