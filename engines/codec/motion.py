"""Find the motion between two pictures and move one by it: a vector for each 16x16 block; runtime.

Knows no network and no bytes. Moving is whole-number arithmetic; finding need not be, because its
result is transmitted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.base import U8, Picture, Planes420

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
ScalarT = TypeVar("ScalarT", bound=np.generic)

BLOCK = 16
UNITS = 4
"""Of a vector in one luma sample."""
FARTHEST = 128 * UNITS
"""Either way; a decoder clamps to it what damage made larger."""
SAMPLED = 4
"""Each fourth row and column of the dense flow votes for the vector of its block."""
ROW_STEP = 2
"""Each second row of a block is compared."""
SEARCHED = 1 << 19
"""Samples; larger pictures are searched at a half or a quarter of their size."""
COARSEST = 4
PRICE = 12.0
"""Sums of absolute differences that one bit of a vector must save."""
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def find_motion(now: U8, before: U8) -> I32:
    """Vectors from each block of a picture to where it was in the picture before.

    Args:
        now, before: luma (H, W), both sides multiples of 16 and at least 64.

    Returns:
        (H / 16, W / 16, 2) x and y in quarters of a sample. All zero where nothing moves.
    """
    scale = 1
    while now.size > SEARCHED * scale**2 and scale < COARSEST:
        scale *= 2
    if scale > 1:
        size = now.shape[1] // scale, now.shape[0] // scale
        now, before = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (now, before))
    search = _Search(now, before, BLOCK // scale)
    search.offer(np.zeros_like(search.vectors))
    for _ in range(2):
        for down, right in NEIGHBOURS:
            search.offer(search.neighbours(down, right))
        for down, right in NEIGHBOURS:
            search.offer(search.vectors + np.array((right, down), np.int32) * scale)
    return search.vectors


def dense_flow(now: U8, before: U8) -> F32:
    """Where each sample of a picture (H, W) was in the one before: (H, W, 2) x and y in samples."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    pictures = np.ascontiguousarray(now), np.ascontiguousarray(before)
    return np.asarray(flow.calc(*pictures, None), np.float32)


class _Search:
    """The best vectors so far, by the differences that they leave and the bits that they take."""

    def __init__(self, now: U8, before: U8, block: int) -> None:
        self._now, self._before, self._block = now[::ROW_STEP], before, block
        height, width = now.shape
        blocks = dense_flow(now, before).reshape(height // block, block, width // block, block, 2)
        votes = blocks[:, SAMPLED // 2 :: SAMPLED, :, SAMPLED // 2 :: SAMPLED]
        middle = np.median(votes, axis=(1, 3)) * (UNITS * BLOCK // block)
        self._take(np.rint(middle).clip(-FARTHEST, FARTHEST).astype(np.int32))
        self._differences = self._left_by(self.vectors)

    def offer(self, vectors: I32) -> None:
        """Take each of these vectors that is better than the one there."""
        vectors = vectors.clip(-FARTHEST, FARTHEST)
        differences = self._left_by(vectors)
        price = PRICE * (self._bits(vectors) - self._bits(self.vectors))
        better = self._differences - differences > price
        self._take(np.where(better[..., None], vectors, self.vectors))
        self._differences = np.where(better, differences, self._differences)

    def neighbours(self, down: int, right: int) -> I32:
        """The vector beside each block; at the border that of the block itself."""
        rows, columns = self.vectors.shape[:2]
        return self._wide[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

    def _take(self, vectors: I32) -> None:
        self.vectors = vectors
        self._wide = np.pad(vectors, ((1, 1), (1, 1), (0, 0)), mode="edge")

    def _left_by(self, vectors: I32) -> F32:
        """Sum of absolute differences in each block, by some of its rows."""
        rows, columns = vectors.shape[:2]
        left = cv2.absdiff(self._now, displaced(self._before, vectors, self._block, ROW_STEP))
        means = cv2.resize(left.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(means * BLOCK**2, np.float32)

    def _bits(self, vectors: I32) -> F32:
        """About what each vector takes between its left and its right neighbour."""
        left = np.abs(vectors - self.neighbours(0, -1))
        right = np.abs(vectors - self.neighbours(0, 1))
        return np.asarray(np.log2((1 + 2 * left) * (1.0 + 2 * right)).sum(-1), np.float32)


def move(picture: Planes420, vectors: I32) -> Picture:
    """A picture with each block taken from where its vector points.

    Args:
        picture: planes whose luma sides are multiples of 16.
        vectors: (H / 16, W / 16, 2), as find_motion gives them.
    """
    half = BLOCK // 2
    return Picture(
        displaced(picture.y, vectors, BLOCK),
        displaced(picture.u, vectors, half),
        displaced(picture.v, vectors, half),
    )


def displaced(plane: U8, vectors: I32, block: int, step: int = 1) -> U8:
    """A plane with each block of this side moved; bilinear, its edges repeated.

    Args:
        plane: (H, W).
        vectors: (H / block, W / block, 2) in quarters of a luma sample.
        block: 16 for luma, 8 for chroma, and as much less as the plane is smaller.
        step: 2 gives each second row alone.
    """
    units = UNITS * BLOCK // block
    whole, part = np.divmod(vectors, units)
    steps = part * (cv2.INTER_TAB_SIZE // units)
    fractions = (steps[..., 1] * cv2.INTER_TAB_SIZE + steps[..., 0]).astype(np.uint16)
    shape = block // step, block
    places = _spread(whole.astype(np.int16), *shape) + _grid(*plane.shape)[::step]
    moved = cv2.remap(
        plane,
        places,
        _spread(fractions, *shape),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, np.uint8)


def _spread(values: NDArray[ScalarT], rows: int, columns: int) -> NDArray[ScalarT]:
    return values.repeat(rows, 0).repeat(columns, 1)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> NDArray[np.int16]:
    """x and y of each sample: (H, W, 2)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.int16)
