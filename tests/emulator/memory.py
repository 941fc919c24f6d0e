"""Memory of the emulated device, and page-locked memory of the host.

Device memory lies in anonymous shared mappings: it counts neither as the process's own memory nor
for tracemalloc. Its addresses are no addresses of this process, so host code that takes one for
its own crashes at once, and none is ever used twice.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ILLEGAL_ADDRESS, DeviceFailure

# As float32 and float16 this is NaN: what was never written, or is freed, shows in every result.
POISON = 0xFF

_FIRST_ADDRESS = 0x00D0_0000_0000_0000  # user space ends at 0x0000_8000_0000_0000
_ALIGNMENT = 512
_GAP = 1 << 20  # between allocations: an index that runs over the end hits nothing


class DeviceMemory:
    """Allocations by address."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.live_bytes = 0
        self.peak_bytes = 0
        self._next = _FIRST_ADDRESS
        self._starts: list[int] = []  # ascending, as addresses only grow
        self._blocks: dict[int, tuple[int, mmap.mmap]] = {}
        self._owners: dict[int, object] = {}

    @property
    def allocations(self) -> list[tuple[int, int]]:
        """Address and bytes of what is allocated now, in order of allocation."""
        return [(start, self._blocks[start][0]) for start in self._starts]

    def allocate(self, nbytes: int, owner: object) -> int | None:
        """Return the address of new, poisoned memory; None if there is not enough left.

        Args:
            nbytes: how much.
            owner: the CUDA context that it goes with.
        """
        if self.live_bytes + nbytes > self.capacity:
            return None
        address = self._next
        block = mmap.mmap(-1, max(nbytes, 1))
        self._blocks[address] = nbytes, block
        self._owners[address] = owner
        self._starts.append(address)
        self._next += -(-(nbytes + _GAP) // _ALIGNMENT) * _ALIGNMENT
        self.live_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.poison(address, nbytes)
        return address

    def free(self, address: int) -> bool:
        """Free an allocation; False if there is none at the address."""
        if address not in self._blocks:
            return False
        nbytes, block = self._blocks[address]
        self.poison(address, nbytes)
        del self._blocks[address], self._owners[address]
        self._starts.remove(address)
        self.live_bytes -= nbytes
        # An array of the emulator's own may still look at it; it goes with the array then.
        with contextlib.suppress(BufferError):
            block.close()
        return True

    def free_all_of(self, owner: object) -> None:
        """Free what a CUDA context has."""
        for address in [a for a, other in self._owners.items() if other is owner]:
            self.free(address)

    def block_of(self, address: int) -> tuple[int, int] | None:
        """Return start and size of the allocation that an address lies in."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        start = self._starts[at]
        nbytes = self._blocks[start][0]
        return (start, nbytes) if address < start + max(nbytes, 1) else None

    def array(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return the bytes at an address, to read and write.

        Raises:
            DeviceFailure: they do not all lie in one live allocation.
        """
        block = self.block_of(address)
        if block is None or address + nbytes > sum(block):
            raise DeviceFailure(ILLEGAL_ADDRESS)
        if nbytes == 0:
            return np.empty(0, np.uint8)
        start = block[0]
        return np.frombuffer(self._blocks[start][1], np.uint8, nbytes, address - start)

    def poison(self, address: int, nbytes: int) -> None:
        """Overwrite memory with what no result survives."""
        if nbytes:
            self.array(address, nbytes).fill(POISON)


def unseen(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return memory for the emulator's own use that no measurement of the process counts."""
    return np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), np.uint8, nbytes)


class PageLocked:
    """Host memory that the device can copy from and to while the host goes on."""

    def __init__(self) -> None:
        self._blocks: dict[int, npt.NDArray[np.uint8]] = {}

    def allocate(self, nbytes: int) -> int:
        """Return the address of new, poisoned memory, aligned to a page."""
        memory = np.full(nbytes + mmap.PAGESIZE, POISON, np.uint8)
        offset = -memory.ctypes.data % mmap.PAGESIZE
        block = memory[offset : offset + nbytes]
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> npt.NDArray[np.uint8]:
        """Take an allocation off the list; its caller holds the memory while arrays see it."""
        block = self._blocks.pop(address)
        block.fill(POISON)
        return block

    def covers(self, address: int, nbytes: int) -> bool:
        """Whether all these bytes lie in one allocation."""
        return any(
            start <= address and address + nbytes <= start + block.nbytes
            for start, block in self._blocks.items()
        )


def host_span(buffer: Any) -> tuple[int, int]:
    """Return the address and size of a host buffer.

    Raises:
        ValueError: it is not contiguous.
    """
    if isinstance(buffer, np.ndarray):
        if not (buffer.flags.c_contiguous or buffer.flags.f_contiguous):
            raise ValueError("ndarray is not contiguous")
        return int(buffer.ctypes.data), buffer.nbytes
    view = np.frombuffer(buffer, np.uint8)
    return int(view.ctypes.data), view.nbytes


def host_array(address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    """Return the bytes at a host address, to read and write."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def is_mapped(address: int, nbytes: int) -> bool:
    """Whether the process can read these host addresses at all (Linux)."""
    if address == 0 or address >= _FIRST_ADDRESS:
        return False
    first = address - address % mmap.PAGESIZE
    pages = -(-(address + nbytes - first) // mmap.PAGESIZE)
    status = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return int(libc.mincore(first, pages * mmap.PAGESIZE, status)) == 0
