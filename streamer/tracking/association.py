"""Compare boxes of tracks with boxes of detections and pair them at the least cost.

Knows no track and no time; arrays in, index pairs out.
Sources: Yang et al., "Hard to Track Objects with Irregular Motions and Similar Appearances?
Make It Easier by Buffering the Matching Space" (2023); Yang et al., "Hybrid-SORT" (2024).
"""

from __future__ import annotations

import lap
import numpy as np

from streamer.tracking.detections import F64, I64

REFUSED = 1e4
"""Cost of a pair that must not be; above every limit."""


def iou(a_xyxy: F64, b_xyxy: F64) -> F64:
    """Intersection over union of each box of a with each of b: (N, 4), (M, 4) -> (N, M)."""
    ax1, ay1, ax2, ay2 = a_xyxy.T[:, :, None]
    bx1, by1, bx2, by2 = b_xyxy.T[:, None, :]
    width = np.minimum(ax2, bx2)
    width -= np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2)
    height -= np.maximum(ay1, by1)
    np.maximum(width, 0.0, out=width)
    np.maximum(height, 0.0, out=height)
    width *= height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)
    union -= width
    width /= union
    return np.asarray(width)


def rows_shared(a_xyxy: F64, b_xyxy: F64) -> F64:
    """The same of their rows alone: persons who stand at other depths share few; (N, M)."""
    top_a, bottom_a = a_xyxy[:, 1, None], a_xyxy[:, 3, None]
    top_b, bottom_b = b_xyxy[:, 1], b_xyxy[:, 3]
    shared = np.minimum(bottom_a, bottom_b) - np.maximum(top_a, top_b)
    shared /= np.maximum(bottom_a, bottom_b) - np.minimum(top_a, top_b)
    return np.asarray(np.maximum(shared, 0.0))


def widened(boxes_xyxy: F64, part: float) -> F64:
    """Boxes larger by a part of their size on each side, so that near misses still overlap."""
    margin = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * part
    return np.concatenate([boxes_xyxy[:, :2] - margin, boxes_xyxy[:, 2:] + margin], axis=1)


def assign(cost: F64, limit: float) -> tuple[I64, I64]:
    """Pair rows with columns so that the sum of (cost - limit) is least.

    Args:
        cost: (N, M), finite.
        limit: a pair that costs as much or more is never made.

    Returns:
        Row and column of each pair, in no particular order.
    """
    possible = cost < limit
    by_row, by_column = possible.sum(axis=1), possible.sum(axis=0)
    # A pair that nobody else competes for needs no solver; most pairs of a sparse scene are such.
    rows, columns = np.nonzero(possible & (by_row == 1)[:, None] & (by_column == 1))
    by_row[rows] = 0
    by_column[columns] = 0
    open_rows, open_columns = np.flatnonzero(by_row), np.flatnonzero(by_column)
    if not len(open_rows):
        return rows, columns
    contested = np.minimum(cost[np.ix_(open_rows, open_columns)], REFUSED)
    _, column_of, _ = lap.lapjv(contested, extend_cost=True, cost_limit=limit)
    solved = np.flatnonzero(column_of >= 0)
    return (
        np.concatenate([rows, open_rows[solved]]),
        np.concatenate([columns, open_columns[column_of[solved]]]),
    )
