"""Find the motion between two pictures and move one by it: a vector for each 16x16 block; runtime.

Knows no network and no bytes. Moving is whole-number arithmetic; finding need not be, because its
result is transmitted.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.base import U8, Picture, Planes420

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]

BLOCK = 16
UNITS = 4
"""Of a vector in one luma sample."""
FARTHEST = 128 * UNITS
"""Either way; a decoder clamps to it what damage made larger."""
SAMPLED = 4
"""Each fourth row and column of the dense flow votes for the vector of its block."""
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
    search = _Search(now, before)
    search.offer(np.zeros_like(search.vectors))
    for down, right in NEIGHBOURS:
        search.offer(_shifted(search.vectors, down, right))
    for down, right in NEIGHBOURS:
        search.offer(search.vectors + np.array((right, down), np.int32))
    return search.vectors


class _Search:
    """The best vectors so far, by the differences that they leave and the bits that they take."""

    def __init__(self, now: U8, before: U8) -> None:
        self._now, self._before = np.ascontiguousarray(now), np.ascontiguousarray(before)
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        dense = np.asarray(flow.calc(self._now, self._before, None))
        height, width = now.shape
        blocks = dense.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 2)
        votes = blocks[:, SAMPLED // 2 :: SAMPLED, :, SAMPLED // 2 :: SAMPLED]
        middle = np.median(votes, axis=(1, 3)) * UNITS
        self.vectors: I32 = np.rint(middle).clip(-FARTHEST, FARTHEST).astype(np.int32)
        self._differences = self._left_by(self.vectors)

    def offer(self, vectors: I32) -> None:
        """Take each of these vectors that is better than the one there."""
        vectors = vectors.clip(-FARTHEST, FARTHEST)
        differences = self._left_by(vectors)
        saved = self._differences - differences
        price = PRICE * (_bits(vectors, self.vectors) - _bits(self.vectors, self.vectors))
        better = saved > price
        self.vectors = np.where(better[..., None], vectors, self.vectors)
        self._differences = np.where(better, differences, self._differences)

    def _left_by(self, vectors: I32) -> F32:
        """Sum of absolute differences in each block."""
        rows, columns = vectors.shape[:2]
        left = cv2.absdiff(self._now, displaced(self._before, vectors, BLOCK))
        means = cv2.resize(left.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(means * BLOCK**2, np.float32)


def _bits(vectors: I32, among: I32) -> F32:
    """About what each vector takes between its left and right neighbours in a field of others."""
    left = np.abs(vectors - _shifted(among, 0, -1))
    right = np.abs(vectors - _shifted(among, 0, 1))
    return np.asarray((np.log2(1 + 2 * left) + np.log2(1 + 2 * right)).sum(-1), np.float32)


def _shifted(vectors: I32, down: int, right: int) -> I32:
    """The neighbour of each block; at the border the block itself."""
    rows, columns = vectors.shape[:2]
    wide = np.pad(vectors, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return wide[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]


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


def displaced(plane: U8, vectors: I32, block: int) -> U8:
    """A plane with each block of this side moved; bilinear, its edges repeated."""
    height, width = plane.shape
    units = UNITS * BLOCK // block
    whole, part = np.divmod(vectors, units)
    steps = part * (cv2.INTER_TAB_SIZE // units)
    fractions = (steps[..., 1] * cv2.INTER_TAB_SIZE + steps[..., 0]).astype(np.uint16)
    places = np.empty((height, width, 2), np.int16)
    np.add(_spread(whole[..., 0], block), np.arange(width), out=places[..., 0], casting="unsafe")
    np.add(
        _spread(whole[..., 1], block),
        np.arange(height)[:, None],
        out=places[..., 1],
        casting="unsafe",
    )
    moved = cv2.remap(
        plane,
        places,
        _spread(fractions, block),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, np.uint8)


def _spread(values: NDArray[np.generic], block: int) -> NDArray[np.generic]:
    return values.repeat(block, 0).repeat(block, 1)
