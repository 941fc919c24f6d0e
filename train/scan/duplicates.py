"""Videos that show the same: encoded again, scaled, cropped, or played backwards.

Candidates are videos of nearly one length of which one's middle picture has nearly the hash of the
other's, or of a crop of it: the middle is the same in both directions. Each is then verified by a
few more pictures: these must agree, and so must what moves in them. Two clips of one tripod have
one background, and differ in what moves.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
_PLACES = 1_000_000  # of hashes that are looked up at a time
_MOST_COMPARED = 64  # of a video at a time, whose pictures are compared
_MOST_CANDIDATES = 16  # of a video, that are verified
_AT_ONCE = 4096  # pictures, or pairs of them, in floats
_BLOCK = 4  # pixels of a small picture, across
_MOST_OF_BLOCK = 18.0  # levels of 255 by which the mean of a block may differ
# Of pictures that are scaled to a deviation of 1: the root mean square of what they differ in, and
# the change of a block that is motion and not noise of a codec, which stays below 0.015.
_MOST_APART, _LEAST_MOTION = 0.35, 0.02
# Of the motion; of two motions that have nothing in common it is 1, and of copies 0.1.
_MOST_MOTION_APART = 0.42
_LEAST_CORRELATION = 0.75  # of a picture and a crop that may lie beside its place
_LEAST_MATCH = 0.7  # the correlation of a crop and its place
_AROUND = 3  # pixels, to look for a better place
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
    levels, deviations = _levels(pictures)
    lengths, tolerances = _lengths([looked[i] for i in numbers])
    found = np.empty((0, 4), np.int64)  # A, B, crop, and how far apart
    for near in _near_hashes(hashes, lengths, tolerances):
        near = _nearest(near, _MOST_COMPARED)
        a, b, crop, _ = near.T
        keep = np.zeros(len(near), bool)
        here = np.flatnonzero(crop == 0)
        # Encoding again may change brightness and contrast.
        gain = (deviations[a[here]] / deviations[b[here]])[:, None]
        apart = np.abs(levels[a[here]] - gain * levels[b[here]])
        keep[here] = apart.max(axis=1, initial=0) < _MOST_OF_BLOCK
        for each in np.unique(crop[crop > 0]):
            here = np.flatnonzero(crop == each)
            for part in np.array_split(here, 1 + len(here) // _AT_ONCE):
                keep[part] = _correlated(pictures[a[part]], pictures[b[part]], int(each))
        found = _nearest(np.concatenate((found, near[keep])), _MOST_CANDIDATES)
    best: list[tuple[int, int, int]] = []
    used = np.zeros(len(numbers), np.int64)
    seen: set[tuple[int, int]] = set()
    for i, j, crop, _ in found[np.lexsort(found.T)].tolist():
        pair = (min(i, j), max(i, j))
        if crop == 0 and pair in seen:
            continue
        if max(used[i], used[j]) < _MOST_CANDIDATES:
            used[[i, j]] += 1
            seen.add(pair)
            best.append((int(numbers[i]), int(numbers[j]), crop))
    return best


def _nearest(found: Any, most: int) -> Any:
    """Keep of (A, B, crop, how far apart) a pair's best crop, and of each A so many nearest."""
    a, b, crop, apart = found.T
    found = found[np.lexsort((crop, apart, b, a))]
    first = np.ones(len(found), bool)
    first[1:] = (found[1:, :2] != found[:-1, :2]).any(axis=1)
    found = found[first]
    found = found[np.lexsort((found[:, 1], found[:, 2], found[:, 3], found[:, 0]))]
    place = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])
    return found[place < most]


def _levels(pictures: Any) -> tuple[Any, Any]:
    """Return the blocks of each picture, float32 (N, 64) with a mean of 0, and its deviation."""
    blocks, deviations = [], []
    for part in np.array_split(pictures, 1 + len(pictures) // _AT_ONCE):
        means = _blocks(part.astype(np.float32)).reshape(len(part), -1)
        blocks.append(means - means.mean(axis=1, keepdims=True))
        deviations.append(part.std(axis=(1, 2), dtype=np.float32) + 1)
    return np.concatenate(blocks), np.concatenate(deviations)


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


def _near_hashes(hashes: Any, lengths: Any, tolerances: Any) -> Iterator[Any]:
    """Yield near hashes, int64 (P, 4): A, B, crop, how far apart; of some of the videos at a time.

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
        base = (keys[::_CROPS, None] ^ flips) << 40  # (N, 17)
        own, room = lengths[:, None], tolerances[:, None]
        low = np.searchsorted(sortable, base | np.maximum(own - room, 0), "left")
        high = np.searchsorted(sortable, base | (own + room), "right")
        middle = np.searchsorted(sortable, base | own, "left")
        low = np.maximum(low, middle - most // 2)
        high = np.minimum(high, np.maximum(low, middle) + most)
        ends = np.cumsum((high - low).sum(axis=1))
        # A video's places are in one part, so that of each the nearest can be told.
        cuts = np.searchsorted(ends, np.arange(_PLACES, ends[-1], _PLACES), "right")
        for videos in np.split(np.arange(count), np.unique(cuts)):
            sizes = (high - low)[videos].ravel()
            a = np.repeat(np.repeat(videos, len(flips)), sizes)
            offset = np.arange(len(a)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            places = order[np.repeat(low[videos].ravel(), sizes) + offset]
            b, crop = places // _CROPS, places % _CROPS
            bits = _ones(hashes[a, 0] ^ flat[places])
            near = (bits <= _NEAR_BITS) & (a != b)
            # A whole that agrees says more than a crop does.
            apart = bits + np.where(crop == 0, 0, 4)
            yield np.stack((a, b, crop, apart), axis=1)[near]


_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def _ones(values: Any) -> Any:
    parts = values[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
    return _ONES[parts].sum(axis=1, dtype=np.int64)


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
    # At half the size first, and then near by: twice as fine, and twice again.
    box: Sequence[int] = [0, 0] + [
        (last - first) * SMALL // 16
        for first, last in (INTERVALS[i] for i in divmod(crop, len(INTERVALS)))
    ]
    for side in (SMALL, SIDE, 2 * SIDE):
        method = cv2.INTER_AREA if side < SIDE else cv2.INTER_LINEAR
        within = cv2.resize(centre, (side, side), interpolation=method)
        around = side if side == SMALL else _AROUND
        if side > SMALL:
            box = [2 * each for each in box]
        up, before = (max(0, place - around) for place in box[:2])
        near = within[up : box[0] + box[2] + around, before : box[1] + box[3] + around]
        sizes = [
            sorted({min(most, size + more) for more in (-2, 0, 2)})
            for most, size in zip(near.shape, box[2:], strict=True)
        ]
        value, (top, left, height, width) = _best_match(middle, near, *sizes)
        if value < _LEAST_MATCH:
            return None
        box = [top + up, left + before, height, width]
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    return np.stack(
        [
            cv2.resize(
                cv2.resize(each, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_LINEAR)[
                    rows, columns
                ],
                (SIDE, SIDE),
                interpolation=cv2.INTER_AREA,
            )
            for each in other
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
            template = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
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


def _correlated(first: Any, second: Any, crop: int) -> Any:
    """Tell of pairs of small pictures, uint8 (P, 32, 32), whether one is a crop of the other."""
    rows, columns = (
        _resampling(*(place * SMALL // 16 for place in INTERVALS[i]))
        for i in divmod(crop, len(INTERVALS))
    )
    a = first.reshape(-1, SMALL // 2, 2, SMALL // 2, 2).mean(axis=(2, 4), dtype=np.float32)
    b = rows @ second.astype(np.float32) @ columns.T
    a, b = (each - each.mean(axis=(1, 2), keepdims=True) for each in (a, b))
    energy = (a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2))
    return (a * b).sum(axis=(1, 2)) > _LEAST_CORRELATION * np.sqrt(energy)


def _resampling(start: int, end: int) -> npt.NDArray[np.float32]:
    """Return what scales the pixels start..end of a small picture to half its side."""
    side = SMALL // 2
    edges = start + (end - start) * np.arange(side + 1) / side
    pixels = np.arange(SMALL)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    made: npt.NDArray[np.float32] = (weights * side / (end - start)).astype(np.float32)
    return made


def _blocks(pictures: Pictures) -> Pictures:
    """Return the means of blocks of small pictures: in them noise averages out, and motion not."""
    sides = (SMALL // _BLOCK, _BLOCK, SMALL // _BLOCK, _BLOCK)
    means: Pictures = pictures.reshape(len(pictures), *sides).mean(axis=(2, 4))
    return means
