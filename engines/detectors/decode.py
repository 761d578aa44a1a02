"""Turn a detector's raw output into boxes without duplicates; numpy alone, vectorised.

Knows no engine and no frame: boxes are in pixels of the network's input.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engines.detectors.signature import Signature

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]

CANDIDATES = 1000
"""Boxes of one picture that enter suppression, best first; it compares each pair."""

_LARGEST_LOG = 8.0  # exp(8) strides is wider than any input; keeps nonsense finite


def decode(
    output: F32, signature: Signature, *, score: float, wanted: NDArray[np.bool_]
) -> tuple[F32, F32, I16]:
    """Decode one picture.

    Args:
        output: the network's output for it, without the batch axis.
        signature: its layout.
        score: lowest score that is kept.
        wanted: (classes,) True for each class that is kept; others can't suppress anything.

    Returns:
        boxes_xyxy (N, 4), scores (N,) and classes (N,), best CANDIDATES first, ties by cell.
    """
    read = _fastestdet if signature.layout == "fastestdet" else _anchorfree
    boxes, scores, classes = read(output, signature, score, wanted)
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    return boxes[order], scores[order], classes[order]


def suppress(boxes_xyxy: F32, classes: I16, iou: float) -> NDArray[np.intp]:
    """Find the boxes that no better kept box of their class overlaps by more than iou.

    Args:
        boxes_xyxy: (N, 4), best first.
        classes: (N,) boxes of different classes never suppress each other.
        iou: highest overlap, as intersection over union, that two kept boxes have.

    Returns:
        Indices of kept boxes, rising; exactly those of the usual one-by-one loop.
    """
    overlaps = box_iou(boxes_xyxy, boxes_xyxy) > iou
    beats = np.triu(overlaps & (classes[:, None] == classes), 1)
    kept = np.ones(len(boxes_xyxy), bool)
    # Each round settles at least one more box of the ranking, so this ends at the greedy answer.
    while True:
        again = ~(beats[kept].any(axis=0))
        if np.array_equal(again, kept):
            return np.flatnonzero(kept)
        kept = again


def box_iou(a_xyxy: F32, b_xyxy: F32) -> F32:
    """Intersection over union of each box in a (N, 4) with each in b (M, 4)."""
    ax1, ay1, ax2, ay2 = a_xyxy.T[:, :, None]
    bx1, by1, bx2, by2 = b_xyxy.T[:, None, :]
    across = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    down = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    inter = across * down
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    result: F32 = inter / np.maximum(union, 1e-9)
    return result


def _anchorfree(
    output: F32, signature: Signature, score: float, wanted: NDArray[np.bool_]
) -> tuple[F32, F32, I16]:
    """Rows of (dx, dy, log w, log h in strides, [objectness], class scores), one for each cell."""
    first = 4 + signature.objectness
    if signature.objectness:  # score is at most objectness, so most rows go before any arithmetic
        rows = np.flatnonzero(output[:, 4] >= score)
        scores = output[rows, first:] * output[rows, 4:5]
    else:
        rows = np.flatnonzero((output[:, first:] >= score).any(axis=1))
        scores = output[rows, first:]
    scores = np.where(wanted, scores, 0)
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(rows)), classes]
    keep = best >= score
    rows, classes, best = rows[keep], classes[keep], best[keep]
    return cell_boxes(output, rows, signature), best, classes.astype(np.int16)


def cell_boxes(output: F32, rows: NDArray[np.intp], signature: Signature) -> F32:
    """Read the boxes (n, 4) of some rows of an anchor-free output."""
    grid = _grid(signature.width, signature.height, signature.strides)[rows]
    centre = (output[rows, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(np.minimum(output[rows, 2:4], _LARGEST_LOG)) * grid[:, 2:] / 2
    return np.hstack([centre - half, centre + half])


def _fastestdet(
    output: F32, signature: Signature, score: float, wanted: NDArray[np.bool_]
) -> tuple[F32, F32, I16]:
    """One map of (objectness, dx, dy, w, h, class probabilities); boxes as parts of the picture."""
    height, width = output.shape[1:]
    cells = output.reshape(output.shape[0], -1).T
    scores = np.where(wanted, cells[:, 5:], 0)
    classes = scores.argmax(axis=1)
    best = cells[:, 0] ** 0.6 * scores[np.arange(len(cells)), classes] ** 0.4
    rows = np.flatnonzero(best >= score)
    column, row = rows % width, rows // width
    centre = np.column_stack([column, row]) + np.tanh(cells[rows, 1:3])
    centre = centre / [width, height] * [signature.width, signature.height]
    half = 1 / (1 + np.exp(-cells[rows, 3:5])) * [signature.width, signature.height] / 2
    boxes = np.hstack([centre - half, centre + half]).astype(np.float32)
    return boxes, best[rows], classes[rows].astype(np.int16)


@lru_cache(maxsize=8)
def _grid(width: int, height: int, strides: tuple[int, ...]) -> F32:
    """Column, row and stride of each cell, in the order of the network's rows."""
    parts = []
    for stride in strides:
        row, column = np.mgrid[: height // stride, : width // stride]
        parts.append(np.column_stack([column.ravel(), row.ravel(), np.full(column.size, stride)]))
    return np.concatenate(parts).astype(np.float32)
