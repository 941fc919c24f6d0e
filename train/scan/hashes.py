"""Hashes of a picture and of its crops, by which copies of a video are looked up.

A hash has 64 bits: whether each of the lowest 8 x 8 coefficients of the picture's cosine transform
is above their median. Such a hash stays nearly as it is when a picture is scaled or encoded again
(Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

SIDE = 64  # of the grey pictures that are hashed
SMALL = 32  # of those that are kept
# What a crop may keep of each side, in sixteenths: first and last. The first is all of it.
INTERVALS = (
    *((0, 16), (0, 14), (1, 15), (2, 16)),
    *((0, 12), (1, 13), (2, 14), (3, 15), (4, 16)),
)
_BITS = 8  # along each side
_POWERS = np.uint64(1) << np.arange(_BITS * _BITS, dtype=np.uint64)


def crop_hashes(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return a hash of a picture and of each of its crops.

    Args:
        picture: float32 (SIDE, SIDE), grey.

    Returns:
        uint64 (len(INTERVALS) ** 2,): of rows INTERVALS[i] and columns INTERVALS[j] at
        i * len(INTERVALS) + j. The first is of the whole.
    """
    transform = _transform()
    count = len(INTERVALS)
    values = transform @ picture @ transform.T  # (9 * 8, 9 * 8)
    values = values.reshape(count, _BITS, count, _BITS).swapaxes(1, 2).reshape(count**2, -1)
    # The first is the mean, which says how bright the picture is and not what it shows.
    median = np.median(values[:, 1:], axis=1, keepdims=True)
    bits = values > median
    bits[:, 0] = False
    hashes: npt.NDArray[np.uint64] = (bits * _POWERS).sum(axis=1, dtype=np.uint64)
    return hashes


def small(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the picture at half its size: uint8 (SMALL, SMALL)."""
    halved = picture.reshape(SMALL, 2, SMALL, 2).mean(axis=(1, 3))
    made: npt.NDArray[np.uint8] = halved.round().astype(np.uint8)
    return made


@cache
def _transform() -> npt.NDArray[np.float32]:
    """Return what takes a side of the picture to the transforms of its intervals: (9 * 8, SIDE)."""
    rows = []
    for first, last in INTERVALS:
        start, end = first * SIDE // 16, last * SIDE // 16
        place = (np.arange(end - start) + 0.5) / (end - start)
        row = np.zeros((_BITS, SIDE), np.float32)
        row[:, start:end] = np.cos(np.pi * np.outer(np.arange(_BITS), place)) / (end - start)
        rows.append(row)
    return np.concatenate(rows)
