"""The host's memory: what Linux says of it, and keeping it. On a Jetson, the GPU's is the same."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from ffn_edge.device.sysfs import text_of

# Of malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def memory_sizes(root: Path = Path("/")) -> dict[str, int]:
    """Return the entries of /proc/meminfo in bytes, such as MemAvailable; none elsewhere."""
    text = text_of(root / "proc/meminfo") or ""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"(?m)^(\w+):\s+(\d{1,18}) kB", text)}


def keep_freed_memory() -> None:
    """Have the C library keep what a step or a sample frees for the next one. CPU, glibc only.

    By default it returns large blocks and the top of the heap to the kernel at once, and the next
    one takes them back page by page, a page fault each.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 256 << 20)
