"""What Linux says of the host's memory. On a Jetson, the GPU's is the same."""

from __future__ import annotations

import re
from pathlib import Path


def memory_sizes(root: Path = Path("/")) -> dict[str, int]:
    """Return the entries of /proc/meminfo in bytes, such as MemAvailable; none elsewhere.

    Args:
        root: where the file system begins.
    """
    try:
        text = (root / "proc/meminfo").read_text(errors="replace")
    except OSError:
        return {}
    return {name: int(kib) * 1024 for name, kib in re.findall(r"(?m)^(\w+):\s+(\d+) kB", text)}
