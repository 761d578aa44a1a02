"""Find the motion between two pictures and move one by it: a vector for each 16x16 block; runtime.

Knows no network and no bytes. Moving is whole-number arithmetic; finding need not be, because its
result is transmitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.base import U8, Picture, Planes420

I32 = NDArray[np.int32]
Indices = NDArray[np.intp]
F32 = NDArray[np.float32]
Part = tuple[slice, slice]

BLOCK = 16
UNITS = 4
"""Of a vector in one luma sample."""
FARTHEST = 128 * UNITS
"""Either way; a decoder clamps to it what damage made larger."""
SAMPLED = 4
"""Each fourth row and column of the dense flow votes for the vector of its block."""
SEARCHED = 1 << 19
"""Samples; larger pictures are searched at a half or a quarter of their size."""
COARSEST = 4
RADII = (2, 1)
"""Quarters of a sample that vectors are tried beside those of the neighbours."""
PRICE = 20.0
"""Sums of absolute differences that one bit of a vector must save."""
BITS = np.log2(1 + 2 * np.arange(2 * FARTHEST + 1, dtype=np.float32))
"""About what a difference between two vectors takes."""
FILTERS = np.array(
    [
        (0, 0, 0, 64, 0, 0, 0, 0),
        (-1, 4, -10, 58, 17, -5, 1, 0),
        (-1, 4, -11, 40, 40, -11, 4, -1),
        (0, 1, -5, 17, 58, -10, 4, -1),
    ],
    np.float32,
)
FILTERS /= 64
"""Of HEVC: a sample and its quarters, from BEFORE samples before it on. Their sums are exact."""
TAPS, BEFORE = 8, 3
TILES_AT_ONCE = 256
"""Few enough to stay in the cache."""
BLEND = (10, 9, 8, 6, 5, 4, 2, 1)
"""In 1/32, from a border to the middle: what the vector of the block beyond it says."""
BLEND_UNIT = 32
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def find_motion(now: U8, before: U8) -> I32:
    """Vectors from each block of a picture to where it was in the picture before.

    Args:
        now, before: luma (H, W), both sides multiples of 16 and at least 64.

    Returns:
        (H / 16, W / 16, 2) x and y in quarters of a sample. All zero where nothing moves.
    """
    if np.array_equal(now, before):
        return np.zeros((now.shape[0] // BLOCK, now.shape[1] // BLOCK, 2), np.int32)
    scale = 1
    while now.size > SEARCHED * scale**2 and scale < COARSEST:
        scale *= 2
    if scale > 1:
        size = now.shape[1] // scale, now.shape[0] // scale
        now, before = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (now, before))
    search = _Search(now, before, BLOCK // scale)
    search.offer(np.zeros_like(search.vectors))
    for radius in RADII:
        for down, right in NEIGHBOURS:
            search.offer(search.neighbours(down, right))
        for down, right in NEIGHBOURS:
            search.offer(search.vectors + np.array((right, down), np.int32) * scale * radius)
    return search.vectors


def dense_flow(now: U8, before: U8) -> F32:
    """Where each sample of a picture (H, W) was in the one before: (H, W, 2) x and y in samples."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    pictures = np.ascontiguousarray(now), np.ascontiguousarray(before)
    return np.asarray(flow.calc(*pictures, None), np.float32)


class _Search:
    """The best vectors so far, by the differences that they leave and the bits that they take."""

    def __init__(self, now: U8, before: U8, block: int) -> None:
        self._block, self._units = block, UNITS * BLOCK // block
        self._before = _Source(before, block)
        height, width = now.shape
        shape = height // block, block, width // block, block
        self._now = np.ascontiguousarray(now.reshape(shape).transpose(0, 2, 1, 3))
        flow = dense_flow(now, before).reshape(*shape, 2)
        votes = flow[:, SAMPLED // 2 :: SAMPLED, :, SAMPLED // 2 :: SAMPLED]
        middle = np.median(votes, axis=(1, 3)) * self._units
        self._rim = _rim(*middle.shape[:2])
        self._take(np.rint(middle).clip(-FARTHEST, FARTHEST).astype(np.int32))
        everywhere = np.indices(self.vectors.shape[:2]).reshape(2, -1)
        differences = self._left_by(self.vectors, *everywhere)
        self._differences = differences.reshape(self.vectors.shape[:2])

    def offer(self, vectors: I32) -> None:
        """Take each of these vectors that is better than the one there."""
        vectors = vectors.clip(-FARTHEST, FARTHEST)
        y, x = np.nonzero((vectors != self.vectors).any(-1))
        if not len(y):
            return
        differences = self._left_by(vectors, y, x)
        price = PRICE * (self._bits(vectors) - self._taken_bits)[y, x]
        better = self._differences[y, x] - differences > price
        if not better.any():
            return
        y, x = y[better], x[better]
        self._differences[y, x] = differences[better]
        taken = self.vectors.copy()
        taken[y, x] = vectors[y, x]
        self._take(taken)

    def neighbours(self, down: int, right: int) -> I32:
        """The vector beside each block; at the border that of the block itself."""
        rows, columns = self.vectors.shape[:2]
        return self._wide[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

    def _take(self, vectors: I32) -> None:
        self.vectors = vectors
        self._wide = vectors[self._rim]
        self._taken_bits = self._bits(vectors)

    def _left_by(self, vectors: I32, y: Indices, x: Indices) -> F32:
        """Sum of absolute differences in each of these blocks."""
        moved = self._before.tiles(vectors[y, x] * UNITS // self._units, y, x)
        left = cv2.absdiff(self._now[y, x], moved).reshape(len(y), -1)
        sums = cv2.reduce(left, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[:, 0]
        return np.asarray(sums * (BLOCK // self._block) ** 2, np.float32)

    def _bits(self, vectors: I32) -> F32:
        """About what each vector takes between its left and its right neighbour."""
        left = np.abs(vectors - self.neighbours(0, -1))
        right = np.abs(vectors - self.neighbours(0, 1))
        return np.asarray((BITS[left] + BITS[right]).sum(-1), np.float32)


def move(picture: Planes420, vectors: I32) -> Picture:
    """A picture with each block taken from where its vector points; luma goes over into the next.

    Args:
        picture: planes whose luma sides are multiples of 16.
        vectors: (H / 16, W / 16, 2), as find_motion gives them.
    """
    return Picture(
        _moved(picture.y, vectors, BLOCK, NEIGHBOURS),
        _moved(picture.u, vectors >> 1, BLOCK // 2, ()),
        _moved(picture.v, vectors >> 1, BLOCK // 2, ()),
    )


def _moved(plane: U8, vectors: I32, block: int, blended: Sequence[tuple[int, int]]) -> U8:
    """A plane with its blocks moved.

    Args:
        plane: (H, W).
        vectors: (H / block, W / block, 2) in quarters of a sample of this plane.
        block: side of a block.
        blended: rows and columns to the neighbours whose vectors have a say near them.
    """
    moved: U8 = plane.copy()
    if not vectors.any():
        return moved
    rows, columns = vectors.shape[:2]
    wide = vectors[_rim(rows, columns)]
    beside = [wide[1 + d : 1 + d + rows, 1 + r : 1 + r + columns] for d, r in blended]
    tiles = moved.reshape(rows, block, columns, block).transpose(0, 2, 1, 3)
    source = _Source(plane, block)
    y, x = np.nonzero(vectors.any(-1))
    tiles[y, x] = source.tiles(vectors[y, x], y, x)
    if blended:
        own = np.ascontiguousarray(tiles)
        change = np.zeros(own.shape, np.int16)
        for direction, theirs in zip(blended, beside, strict=True):
            y, x = np.nonzero((theirs != vectors).any(-1))
            half, weights = _blend(*direction)
            other, near = source.tiles(theirs[y, x], y, x, half), (y, x, *half)
            change[near] += weights * np.subtract(other, own[near], dtype=np.int16)
        tiles += ((change + BLEND_UNIT // 2) // BLEND_UNIT).astype(np.uint8)  # modulo 256
    return moved


@lru_cache(maxsize=4)
def _blend(down: int, right: int) -> tuple[Part, NDArray[np.int16]]:
    """The half of a block towards the one that far down or right, and what that one says there."""
    near, weights = slice(0, BLOCK // 2), np.array(BLEND, np.int16)
    if down + right > 0:
        near, weights = slice(BLOCK // 2, BLOCK), weights[::-1]
    if down:
        return (near, slice(0, BLOCK)), weights[:, None]
    return (slice(0, BLOCK), near), weights


@lru_cache(maxsize=8)
def _rim(rows: int, columns: int) -> tuple[Indices, Indices]:
    """Indices of all places and of those one beyond, which are their nearest ones."""
    down, right = (np.arange(-1, count + 1).clip(0, count - 1) for count in (rows, columns))
    return down[:, None], right


class _Source:
    """A plane that blocks are taken from, between its samples and beyond its edges too."""

    def __init__(self, plane: U8, block: int) -> None:
        self._edge = edge = block + 2 * TAPS
        self._wide = cv2.copyMakeBorder(plane, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        self._block, (self._height, self._width) = block, plane.shape
        self._whole = slice(0, block), slice(0, block)

    def tiles(self, vectors: I32, rows: Indices, columns: Indices, part: Part | None = None) -> U8:
        """N blocks, or a part of each, moved by vectors (N, 2): (N, height, width)."""
        part = part or self._whole
        height, width = (axis.stop - axis.start for axis in part)
        whole, quarters = np.divmod(vectors, UNITS)
        shift = self._edge - BEFORE
        y = (rows * self._block + whole[:, 1]).clip(TAPS - self._edge, self._height + TAPS)
        x = (columns * self._block + whole[:, 0]).clip(TAPS - self._edge, self._width + TAPS)
        y, x = y + (shift + part[0].start), x + (shift + part[1].start)
        windows = np.lib.stride_tricks.sliding_window_view(
            self._wide, (height + TAPS - 1, width + TAPS - 1)
        )
        down, across = _bands(height), _bands(width, turned=True)
        tiles = np.empty((len(y), height, width), np.uint8)
        for first in range(0, len(y), TILES_AT_ONCE):
            now = slice(first, first + TILES_AT_ONCE)
            window = windows[y[now], x[now]].astype(np.float32)
            exact = down[quarters[now, 1]] @ (window @ across[quarters[now, 0]])
            tiles[now] = np.rint(exact, out=exact).clip(0, 255, out=exact)
        return tiles


@lru_cache(maxsize=8)
def _bands(count: int, *, turned: bool = False) -> F32:
    """FILTERS as matrices that make `count` samples of TAPS - 1 more: (4, count, count + 7)."""
    bands = np.zeros((UNITS, count, count + TAPS - 1), np.float32)
    for sample in range(count):
        bands[:, sample, sample : sample + TAPS] = FILTERS
    return np.ascontiguousarray(bands.transpose(0, 2, 1)) if turned else bands
