"""A safetensors file whose tensors are read when they are asked for, and never mapped.

A file that is mapped and then cut short ends the process (SIGBUS). One that is read is an error.
NumPy only: this runs on the device.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.compose import Array, FreshTensors, blocks
from ffn_edge.errors import BundleError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.regular_file import MOST_TEXT_BYTES, open_regular
from ffn_edge.files.schema import Count

EXPORT_AGAIN = "export the bundle again with `ffn-edge export`, or copy it again."
RENAME = "copy a new bundle beside the one in use, and rename it into place."
_DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "<i1"}.items()
}
_BLOCK = 1 << 18  # values that are converted at once
Check = Callable[[Path, BinaryIO], None]


class WeightFile(FreshTensors):
    """The tensors of a bundle by name, each read when it is asked for.

    The files stay open: who renames others into their place does not change what is read here.

    Attributes:
        entries: where each tensor lies.
    """

    def __init__(
        self,
        path: Path,
        vectors: Mapping[int, Path] | None = None,
        check: Check | None = None,
    ) -> None:
        """Open the files.

        Args:
            path: the weight file.
            vectors: by frame count, the file that holds its tensors in place of the weight file.
            check: is given each file that was opened, before anything else is read of it: so what
                it looked at is what is read.

        Raises:
            BundleError: a file is not a whole safetensors file, or one of `vectors` holds more
                than its frame count's; or as `check`.
        """
        opened = _OpenFile(path, check)
        self.entries = _read_entries(opened)
        self._files = dict.fromkeys(self.entries, opened)
        for frames, file in (vectors or {}).items():
            own = f"frames/{frames}/"
            opened = _OpenFile(file, check)
            entries = _read_entries(opened)
            for name in entries:
                if not name.startswith(own):  # it would change what other frame counts compute
                    raise BundleError(
                        f"{file} holds {name}, which is not of {frames} frames", EXPORT_AGAIN
                    )
            for name in [name for name in self.entries if name.startswith(own)]:
                del self.entries[name]
            self.entries.update(entries)
            self._files.update(dict.fromkeys(entries, opened))

    def __getitem__(self, name: str) -> Array:
        """Read a tensor; the array is the caller's own.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        entry = self.entries[name]
        tensor = np.empty(entry.shape, self._dtype(name))
        self._files[name].read_into(tensor, entry.offset)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self.entries[name].shape

    def float32(self, name: str) -> Array:
        """Read a tensor as float32. One of another type is never whole in memory besides.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        dtype = self._dtype(name)
        if dtype == np.float32:
            return self[name]
        entry = self.entries[name]
        tensor = np.empty(entry.shape, np.float32)
        buffer = np.empty(min(tensor.size, _BLOCK), dtype)
        offset = entry.offset
        for block in blocks(tensor, _BLOCK):
            stored = buffer[: block.size]
            self._files[name].read_into(stored, offset)
            block[...] = stored
            offset += stored.nbytes
        return tensor

    def _dtype(self, name: str) -> npt.DTypeLike:
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise BundleError(
                f"{name} in {entry.file} is {entry.dtype}, which a bundle does not hold",
                EXPORT_AGAIN,
            )
        return _DTYPES[entry.dtype]


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a bundle's file is read into a BundleError."""
    try:
        yield
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing", EXPORT_AGAIN) from error
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {reason_of(error)}", "make it readable for this user."
        ) from error


class _OpenFile:
    """A file that is read at places of its own; it closes with the last reference."""

    def __init__(self, path: Path, check: Check | None = None) -> None:
        self.path = path
        with opening(path):
            file = open_regular(path)
            self._descriptor = file.fileno()
            weakref.finalize(self, file.close)
            self._opened = self._state()
            if check is not None:
                check(path, file)

    def size(self) -> int:
        """Return how many bytes it has now."""
        return self._state()[0]

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def read_into(self, array: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from `offset` on.

        Raises:
            BundleError: the file was written to since it was opened.
        """
        rest = memoryview(array.reshape(-1).view(np.uint8).data)
        while rest:
            try:
                count = os.preadv(self._descriptor, [rest], offset)
            except OSError as error:
                raise BundleError(
                    f"{self.path} cannot be read: {error.strerror}", EXPORT_AGAIN
                ) from error
            if count == 0:
                break
            rest = rest[count:]
            offset += count
        if rest or self._state() != self._opened:
            raise BundleError(f"{self.path} was altered while in use", RENAME)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: the safetensors file's name, dtype code, shape, bytes from the start."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def place(self) -> tuple[int, int]:
        """Its offset and length; what is empty lies before what begins at the same place."""
        return self.offset, self.length


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read where each tensor lies in a safetensors file.

    The safetensors library gives values but no offsets, and ONNX external data needs offsets:
    eight bytes of header length (little-endian), a JSON header, then the tensors.

    Raises:
        BundleError: the file is not a whole safetensors file.
    """
    return _read_entries(_OpenFile(path))


def _read_entries(file: _OpenFile) -> dict[str, TensorEntry]:
    size = file.size()
    try:
        if size < 8:
            raise ValueError("it has no header")
        start = np.empty(1, "<u8")
        file.read_into(start, 0)
        length = int(start[0])
        if length > min(size - 8, MOST_TEXT_BYTES):
            raise ValueError(f"its header would have {length} bytes")
        text = np.empty(length, np.uint8)
        file.read_into(text, 8)
        header = schema.parse(dict[str, Any], schema.load(text.tobytes()))
        header.pop("__metadata__", None)
        entries = {
            name: _entry(file.path.name, schema.parse(_HeaderItem, item, name), 8 + length)
            for name, item in header.items()
        }
        end = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: item[1].place):
            if not end <= entry.offset <= entry.offset + entry.length <= size:
                raise ValueError(f"{name} does not lie within the file, or in another tensor")
            end = entry.offset + entry.length
    except ValueError as error:
        raise BundleError(
            f"{file.path} is not a whole safetensors file: {error}", EXPORT_AGAIN
        ) from error
    return entries


@dataclass(frozen=True, slots=True)
class _HeaderItem:
    """What the header says of one tensor; its offsets count from the header's end."""

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]


def _entry(file: str, item: _HeaderItem, start: int) -> TensorEntry:
    first, last = item.data_offsets
    size = last - first
    if item.dtype in _DTYPES and size != math.prod(item.shape) * _DTYPES[item.dtype].itemsize:
        raise ValueError(f"{size} bytes are no {item.dtype} of {item.shape}")
    return TensorEntry(file, item.dtype, item.shape, start + first, size)
