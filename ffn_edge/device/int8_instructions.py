"""Which of a processor's instructions multiply bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ffn_edge.device.sysfs import text_of

# By how /proc/cpuinfo names its list: x86, and ARM.
_WANTED = {"flags": ("avx512_vnni", "avx_vnni"), "Features": ("asimddp", "i8mm")}


@dataclass(frozen=True, slots=True)
class Int8Instructions:
    """What would be of use, and what of it is there.

    Attributes:
        wanted: names; empty where the kernel does not tell.
        found: the same.
    """

    wanted: tuple[str, ...] = ()
    found: tuple[str, ...] = ()

    @property
    def overflow(self) -> bool:
        """Whether products of bytes are added in 16 bits, which overflow: x86 without VNNI."""
        return self.wanted == _WANTED["flags"] and not self.found


def int8_instructions(root: Path = Path("/")) -> Int8Instructions:
    """Read them. For `root` see `ffn_edge.device`."""
    told = re.search(r"(?m)^(flags|Features)\s*:(.*)", text_of(root / "proc/cpuinfo") or "")
    if told is None:
        return Int8Instructions()
    wanted, has = _WANTED[told[1]], set(told[2].split())
    return Int8Instructions(wanted, tuple(name for name in wanted if name in has))
