"""Videos that show the same: encoded again, scaled, cropped, or played backwards.

Candidates are videos of nearly one length of which one's middle picture has nearly the hash of the
other's, or of a crop of it: the middle is the same in both directions. Each is then verified by a
few more pictures: these must agree, and so must what moves in them. Two clips of one tripod have
one background, and differ in what moves.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.files.regular_file import open_regular
from ffn_edge.media.opencv import opencv
from ffn_edge.train.scan.hashes import INTERVALS, SIDE, SMALL
from ffn_edge.train.scan.look import Looked

SHARES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # of the length, where pictures are compared
Signature = npt.NDArray[np.uint8]  # (len(SHARES), SIDE, SIDE)
Pictures = npt.NDArray[np.float32]  # (len(SHARES), SMALL, SMALL)

_CROPS = len(INTERVALS) ** 2
_BANDS, _BAND_BITS = 4, 16
_NEAR_BITS = 14  # two pictures that have nothing in common differ in 32 of 64, give or take 4
_LENGTH_SHARE, _LENGTH_S, _LENGTH_FRAMES = 0.02, 0.15, 2
_MOST_LOOKUPS = 40_000_000  # of hashes in all, and ...
_FEWEST = 64  # ... of one hash at least
_MOST_CANDIDATES = 16  # of a video, that are verified
_BLOCK = 4  # pixels of a small picture, across
_MOST_OF_BLOCK = 18.0  # levels of 255 by which the mean of a block may differ
# Of pictures that are scaled to a deviation of 1: the root mean square of what they differ in, and
# the change of a block that is motion and not noise of a codec, which stays below 0.015.
_MOST_APART, _LEAST_MOTION = 0.35, 0.02
# Of the motion; of two motions that have nothing in common it is 1, and of copies 0.1.
_MOST_MOTION_APART = 0.42
_LEAST_MATCH = 0.7  # the correlation of a crop and its place
_AROUND = 2  # half pixels, to look for a better place
_BYTES = 1 << 20


class Union:
    """Numbers that belong together, joined by pairs."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def join(self, a: int, b: int) -> None:
        """Put two in one group, and all that belongs with either."""
        self._above[max(self.of(a), self.of(b))] = min(self.of(a), self.of(b))

    def of(self, number: int) -> int:
        """Return the lowest number of the group that one is in."""
        while self._above[number] != number:
            self._above[number] = self._above[self._above[number]]
            number = self._above[number]
        return number


def identical_files(paths: Sequence[str], looked: Sequence[Looked]) -> Iterator[tuple[int, int]]:
    """Yield pairs of videos whose files are equal, byte for byte."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, each in enumerate(looked):
        if each.size_bytes:
            by_size[each.size_bytes].append(number)
    for numbers in by_size.values():
        if len(numbers) > 1:
            first: dict[bytes, int] = {}
            for number in numbers:
                other = first.setdefault(_digest(paths[number]), number)
                if other != number:
                    yield other, number


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BYTES):
            digest.update(block)
    return digest.digest()


def candidates(looked: Sequence[Looked]) -> list[tuple[int, int, int]]:
    """Return what may show the same: (A, B, crop), the whole of A being that crop of B.

    Crop 0 is all of B; `crop_hashes` numbers the others. Of a video at most 16 pairs are returned,
    those with the nearest hashes.
    """
    numbers = np.array([i for i, each in enumerate(looked) if each.hashes is not None], np.int64)
    if len(numbers) < 2:
        return []
    hashes = np.stack([looked[i].hashes for i in numbers])  # (N, C)
    pictures = np.stack([looked[i].picture for i in numbers])  # (N, 32, 32)
    lengths, tolerances = _lengths([looked[i] for i in numbers])
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b, crop, bits in _near_hashes(hashes, lengths, tolerances):
        whole = crop == 0
        keep = np.ones(len(a), bool)
        keep[whole] = _alike(pictures[a[whole]], pictures[b[whole]])
        for i, j, c, distance in zip(a[keep], b[keep], crop[keep], bits[keep], strict=True):
            # A whole that agrees says more than a crop does.
            rank = (int(distance) + (0 if c == 0 else 4), int(c))
            key = (int(i), int(j))
            if key not in found or rank < found[key]:
                found[key] = rank
    best: list[tuple[int, int, int]] = []
    used: dict[int, int] = defaultdict(int)
    seen: set[tuple[int, int]] = set()
    for (i, j), (_, c) in sorted(found.items(), key=lambda item: (item[1], item[0])):
        pair = (min(i, j), max(i, j))
        if c == 0 and pair in seen:
            continue
        if max(used[i], used[j]) < _MOST_CANDIDATES:
            used[i] += 1
            used[j] += 1
            seen.add(pair)
            best.append((int(numbers[i]), int(numbers[j]), c))
    return best


def _lengths(looked: Sequence[Looked]) -> tuple[Any, Any]:
    """Return each length in thousandths, and by how much another's may differ.

    Folders of images have frames for a length, and are far from all files.
    """
    lengths, tolerances = [], []
    for each in looked:
        if each.length_s:
            lengths.append(each.length_s)
            tolerances.append(_LENGTH_S + _LENGTH_SHARE * each.length_s)
        else:
            lengths.append(1e6 + each.frames)
            tolerances.append(_LENGTH_FRAMES + _LENGTH_SHARE * each.frames)
    return (
        (np.array(lengths) * 1000).astype(np.int64),
        (np.array(tolerances) * 1000).astype(np.int64),
    )


def _near_hashes(hashes: Any, lengths: Any, tolerances: Any) -> Iterator[tuple[Any, ...]]:
    """Yield arrays (A, B, crop, bits that differ) of near hashes, a band of bits at a time.

    Near hashes are met where they agree in one of four bands, but for at most one bit of it.
    """
    count = len(hashes)
    flips = np.array([0, *(1 << bit for bit in range(_BAND_BITS))], np.int64)
    most = max(_FEWEST, _MOST_LOOKUPS // (count * _BANDS * len(flips)))
    flat = hashes.ravel()
    for band in range(_BANDS):
        shift = np.uint64(band * _BAND_BITS)
        keys = ((flat >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        # Sorted by the band's bits and then by length, what may match is in one piece.
        sortable = (keys << 40) | np.repeat(lengths, _CROPS)
        order = np.argsort(sortable, kind="stable")
        sortable = sortable[order]
        queries = keys[::_CROPS]
        for flip in flips:
            base = (queries ^ flip) << 40
            low = np.searchsorted(sortable, base | np.maximum(lengths - tolerances, 0), "left")
            high = np.searchsorted(sortable, base | (lengths + tolerances), "right")
            middle = np.searchsorted(sortable, base | lengths, "left")
            low = np.maximum(low, middle - most // 2)
            high = np.minimum(high, np.maximum(low, middle) + most)
            yield from _compared(hashes, flat, order, low, high)


def _compared(hashes: Any, flat: Any, order: Any, low: Any, high: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the near ones among each video and the places low..high of the sorted hashes."""
    sizes = high - low
    ends = np.cumsum(sizes)
    step = 4_000_000
    start = 0
    while start < len(sizes):
        stop = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + step, "right"))
        stop = max(stop, start + 1)
        part = sizes[start:stop]
        a = np.repeat(np.arange(start, stop), part)
        offset = np.arange(len(a)) - np.repeat(np.cumsum(part) - part, part)
        places = order[np.repeat(low[start:stop], part) + offset]
        b, crop = places // _CROPS, places % _CROPS
        bits = _ones(hashes[a, 0] ^ flat[places])
        near = (bits <= _NEAR_BITS) & (a != b)
        if near.any():
            yield a[near], b[near], crop[near], bits[near]
        start = stop


_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def _ones(values: Any) -> Any:
    parts = values[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
    return _ONES[parts].sum(axis=1, dtype=np.int64)


def _alike(first: Any, second: Any) -> Any:
    """Tell of pairs of small pictures, uint8 (P, 32, 32), whether no block of them differs."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    # Encoding again may change brightness and contrast.
    gain = (a.std(axis=(1, 2)) + 1) / (b.std(axis=(1, 2)) + 1)
    b = (b - b.mean(axis=(1, 2), keepdims=True)) * gain[:, None, None]
    apart = a - a.mean(axis=(1, 2), keepdims=True) - b
    return np.abs(_blocks(apart)).max(axis=(1, 2)) < _MOST_OF_BLOCK


def join_same(
    pairs: Sequence[tuple[int, int, int]], pictures: Mapping[int, Signature], union: Union
) -> None:
    """Join the candidates that do show the same.

    Args:
        pairs: of `candidates`.
        pictures: of the videos with these numbers, at `SHARES`; without those that have none.
        union: of the videos.
    """
    for a, b, crop in pairs:
        if union.of(a) == union.of(b) or a not in pictures or b not in pictures:
            continue
        if same_content(pictures[a], pictures[b], crop):
            union.join(a, b)


def same_content(whole: Signature, other: Signature, crop: int) -> bool:
    """Tell whether a video is a crop of another, forwards or backwards.

    Args:
        whole: pictures of the one, uint8 (K, SIDE, SIDE).
        other: of the other.
        crop: which crop of the other the middle of the one looks like; 0 is all of it.
    """
    cut = other if crop == 0 else _aligned(whole[len(whole) // 2], other, crop)
    if cut is None:
        return False
    a, b = _scaled(whole), _scaled(cut)
    return _agree(a, b) or _agree(a, b[::-1])


def _aligned(middle: Any, other: Signature, crop: int) -> Signature | None:
    """Cut out of each picture what looks most like `middle`, near a crop; None if nothing does."""
    cv2 = opencv()
    centre = other[len(other) // 2]
    spans = [last - first for first, last in (INTERVALS[i] for i in divmod(crop, len(INTERVALS)))]
    sizes = [
        sorted({min(SIDE, round(span * SIDE / 16) + more) for more in (-3, 0, 3)}) for span in spans
    ]
    value, box = _best_match(middle, centre, *sizes)
    if value < _LEAST_MATCH:
        return None
    # Once more, in half pixels, near by.
    doubled = [cv2.resize(each, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) for each in other]
    up, before = (max(0, 2 * place - _AROUND) for place in box[:2])
    near = doubled[len(other) // 2][up:, before:][
        : 2 * box[2] + 2 * _AROUND, : 2 * box[3] + 2 * _AROUND
    ]
    sizes = [
        sorted({min(side, 2 * size + more) for more in (-2, 0, 2)})
        for side, size in zip(near.shape, box[2:], strict=True)
    ]
    _, (top, left, height, width) = _best_match(middle, near, *sizes)
    top, left = top + up, left + before
    return np.stack(
        [
            cv2.resize(
                each[top : top + height, left : left + width],
                (SIDE, SIDE),
                interpolation=cv2.INTER_AREA,
            )
            for each in doubled
        ]
    )


def _best_match(
    picture: Any, within: Any, heights: Sequence[int], widths: Sequence[int]
) -> tuple[float, tuple[int, int, int, int]]:
    """Return the best correlation of a picture, at any of some sizes, and its box: top, left, ...

    The box goes on with height and width.
    """
    cv2 = opencv()
    best_value, box = -1.0, (0, 0, heights[0], widths[0])
    for height in heights:
        for width in widths:
            template = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
            match = cv2.matchTemplate(within, template, cv2.TM_CCOEFF_NORMED)
            _, value, _, (left, top) = cv2.minMaxLoc(match)
            if value > best_value:
                best_value, box = value, (top, left, height, width)
    return best_value, box


def _scaled(pictures: Signature) -> Pictures:
    """Return small pictures with a mean of 0 and a deviation of 1, all together."""
    halved = pictures.reshape(len(pictures), SMALL, 2, SMALL, 2).mean(axis=(2, 4))
    made: Pictures = ((halved - halved.mean()) / (halved.std() + 1)).astype(np.float32)
    return made


def _agree(a: Pictures, b: Pictures) -> bool:
    if np.sqrt(np.mean((a - b) ** 2)) > _MOST_APART:
        return False
    middle = len(a) // 2
    motion_a, motion_b = _blocks(a - a[middle]), _blocks(b - b[middle])
    if max(np.abs(motion_a).max(), np.abs(motion_b).max()) < _LEAST_MOTION:
        return True
    motion = np.sqrt(np.mean(motion_a**2) + np.mean(motion_b**2))
    return bool(np.sqrt(np.mean((motion_a - motion_b) ** 2)) < _MOST_MOTION_APART * motion)


def _blocks(pictures: Pictures) -> Pictures:
    """Return the means of blocks of small pictures: in them noise averages out, and motion not."""
    sides = (SMALL // _BLOCK, _BLOCK, SMALL // _BLOCK, _BLOCK)
    means: Pictures = pictures.reshape(len(pictures), *sides).mean(axis=(2, 4))
    return means
