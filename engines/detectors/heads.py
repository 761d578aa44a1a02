"""Read the boxes of detectors that give one row for each cell of a grid: YOLO and its relatives.

All functions take the outputs of a batch and give its candidates; see decode.py. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engines.detectors.candidates import Candidates, best_class
from engines.detectors.nms import F32, Indices
from engines.detectors.signature import Signature

_LARGEST_LOG = 8.0  # exp(8) strides is wider than any input; keeps nonsense finite


def anchorfree(
    outputs: Sequence[F32],
    signature: Signature,
    _extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Rows of (dx, dy, log w, log h in strides, [objectness], class scores), one for each cell."""
    output = outputs[0]
    pictures, rows, best, classes = _scored(
        output, 4 + signature.objectness, signature.objectness, score, wanted
    )
    boxes = _from_cells(output[pictures, rows], rows, signature)
    return Candidates(pictures, rows, boxes, best, classes)


def yolov5(
    outputs: Sequence[F32],
    _signature: Signature,
    _extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Rows of (cx, cy, w, h in pixels, objectness, class scores)."""
    pictures, rows, best, classes = _scored(outputs[0], 5, True, score, wanted)
    boxes = centred(outputs[0][pictures, rows, :4])
    return Candidates(pictures, rows, boxes, best, classes)


def yolov8(
    outputs: Sequence[F32],
    _signature: Signature,
    _extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Columns of (cx, cy, w, h in pixels, class scores)."""
    output = outputs[0].transpose(0, 2, 1)
    pictures, rows, best, classes = _scored(output, 4, False, score, wanted)
    return Candidates(pictures, rows, centred(output[pictures, rows, :4]), best, classes)


def fastestdet(
    outputs: Sequence[F32],
    signature: Signature,
    _extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """One map of (objectness, dx, dy, w, h, class probabilities); boxes as parts of the picture."""
    count, depth, height, width = outputs[0].shape
    cells = outputs[0].reshape(count, depth, -1).transpose(0, 2, 1).reshape(-1, depth)
    scores = cells[:, :1] ** 0.6 * cells[:, 5:] ** 0.4
    kept, best, classes = best_class(scores, score, wanted)
    pictures, rows = np.divmod(kept, height * width)
    column, row = rows % width, rows // width
    size = np.array([signature.width, signature.height], np.float32)
    centre = np.column_stack([column, row]) + np.tanh(cells[kept, 1:3])
    centre = centre / [width, height] * size
    half = 1 / (1 + np.exp(-cells[kept, 3:5])) * size / 2
    boxes = np.hstack([centre - half, centre + half]).astype(np.float32)
    return Candidates(pictures, rows, boxes, best, classes.astype(np.int16))


def cell_boxes(output: F32, rows: Indices, signature: Signature) -> F32:
    """Read the boxes (n, 4) of some rows of one picture's anchor-free output."""
    return _from_cells(output[rows], rows, signature)


def centred(boxes: F32) -> F32:
    """Turn boxes of centre, width and height into corners."""
    half = boxes[:, 2:] / 2
    return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])


def _scored(
    output: F32, first: int, objectness: bool, score: float, wanted: NDArray[np.bool_]
) -> tuple[Indices, Indices, F32, NDArray[np.int16]]:
    """Picture, row, score and class of each row whose best class reaches the score."""
    if objectness:  # score is at most objectness, so most rows go before any arithmetic
        pictures, rows = np.nonzero(output[:, :, first - 1] >= score)
        scores = output[pictures, rows, first:] * output[pictures, rows, first - 1, None]
    else:
        by_class = output.transpose(2, 0, 1)[first:]  # in this order "any" runs along whole rows
        reached = np.greater_equal(by_class, score, order="C").any(axis=0)
        pictures, rows = np.nonzero(reached)
        scores = output[pictures, rows, first:]
    kept, best, classes = best_class(scores, score, wanted)
    return pictures[kept], rows[kept], best, classes.astype(np.int16)


def _from_cells(values: F32, rows: Indices, signature: Signature) -> F32:
    grid = _grid(signature.width, signature.height, signature.strides)[rows]
    centre = (values[:, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(np.minimum(values[:, 2:4], _LARGEST_LOG)) * grid[:, 2:] / 2
    return np.hstack([centre - half, centre + half])


@lru_cache(maxsize=8)
def _grid(width: int, height: int, strides: tuple[int, ...]) -> F32:
    """Column, row and stride of each cell, in the order of the network's rows."""
    parts = []
    for stride in strides:
        row, column = np.mgrid[: height // stride, : width // stride]
        parts.append(np.column_stack([column.ravel(), row.ravel(), np.full(column.size, stride)]))
    return np.concatenate(parts).astype(np.float32)
