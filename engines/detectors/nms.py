"""Rank boxes and remove their duplicates: many pictures and classes at once, numpy alone.

A group is what competes: one class of one picture, or one level of a pyramid. Knows no network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Indices = NDArray[np.intp]

_FEW = 256
"""Boxes that are compared each with each, which costs less than sorting them into groups."""

_PAIRS_AT_ONCE = 1 << 20
"""Comparisons that are held in memory together, about 20 MB."""


def best_of(groups: NDArray[np.integer], scores: F32, count: int) -> Indices:
    """Find the best boxes of each group.

    Args:
        groups: (N,) numbers of the groups.
        scores: (N,) higher is better; ties go by position.
        count: boxes of one group that are kept at most.

    Returns:
        Indices of those boxes: group by group, best first.
    """
    order = np.lexsort((-scores, groups))
    return order if len(order) <= count else order[_ranks(groups[order]) < count]


def suppress(boxes_xyxy: F32, groups: NDArray[np.integer], iou: float) -> Indices:
    """Find the boxes that no better kept box of their group overlaps by more than iou.

    Args:
        boxes_xyxy: (N, 4), best first within each group.
        groups: (N,) boxes of different groups never suppress each other.
        iou: highest overlap, as intersection over union, that two kept boxes have.

    Returns:
        Indices of kept boxes, rising; exactly those of the usual one-by-one loop.
    """
    if len(boxes_xyxy) <= _FEW:
        places = np.arange(len(groups))
        beats = (groups[:, None] == groups) & (places[:, None] < places)
        beats &= box_iou(boxes_xyxy, boxes_xyxy) > iou
        return np.flatnonzero(_greedy(beats, np.ones(len(groups), bool)))
    order = np.argsort(groups, kind="stable")
    ranks = _ranks(groups[order])
    starts = np.flatnonzero(ranks == 0)
    sizes = np.diff(np.append(starts, len(order)))
    kept = np.ones(len(order), bool)
    by_size = np.argsort(sizes, kind="stable")  # groups of like size pad each other little
    by_size = by_size[sizes[by_size] > 1]
    while len(by_size):
        widest = np.maximum.accumulate(sizes[by_size])
        fits = np.arange(1, len(by_size) + 1) * widest**2 <= _PAIRS_AT_ONCE
        now = max(int(fits.sum()), 1)  # one group alone may be larger
        _suppress_padded(boxes_xyxy[order], starts[by_size[:now]], sizes[by_size[:now]], iou, kept)
        by_size = by_size[now:]
    return np.sort(order[kept])


def box_iou(a_xyxy: F32, b_xyxy: F32) -> F32:
    """Intersection over union of each box in a (..., N, 4) with each in b (..., M, 4)."""
    ax1, ay1, ax2, ay2 = (a_xyxy[..., :, None, side] for side in range(4))
    bx1, by1, bx2, by2 = (b_xyxy[..., None, :, side] for side in range(4))
    across = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    down = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    inter = across * down
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    result: F32 = inter / np.maximum(union, 1e-9)
    return result


def _ranks(groups: NDArray[np.integer]) -> Indices:
    """Position of each element in its group; groups lie together."""
    fresh = np.ones(len(groups), bool)
    fresh[1:] = groups[1:] != groups[:-1]
    starts = np.flatnonzero(fresh)
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))


def _suppress_padded(
    boxes: F32, starts: Indices, sizes: Indices, iou: float, kept: NDArray[np.bool_]
) -> None:
    """Settle some groups side by side, as rows of one padded array; writes into kept."""
    columns = np.arange(sizes.max())
    real = columns < sizes[:, None]
    places = np.where(real, starts[:, None] + columns, starts[:, None])
    side_by_side = boxes[places]  # (groups, most, 4)
    beats = box_iou(side_by_side, side_by_side) > iou
    beats &= (columns[:, None] < columns) & real[:, :, None]
    kept[places[real]] = _greedy(beats, real)[real]


def _greedy(beats: NDArray[np.bool_], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which boxes (..., n) are beaten by no box that stays; beats (..., n, n), better first."""
    alive = real
    # Each round settles at least one more box of each ranking, so this ends at the greedy answer.
    while True:
        again = real & ~(beats & alive[..., None]).any(axis=-2)
        if (again == alive).all():
            return alive
        alive = again
