"""Boxes that the outputs of torchvision's one-stage detectors are relative to; numpy alone.

They follow from the size of the network's input. Order: pyramid levels from fine to coarse, cells
in reading order, shapes within a cell.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from engines.detectors.nms import F32

_SSD_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_SSD_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
_SSD_STEPS = (8, 16, 32, 64, 100, 300)
_SSD_GRIDS = (38, 19, 10, 5, 3, 1)
_SSDLITE_RATIOS = ((2, 3),) * 6
_SSDLITE_SCALES = (*(0.2 + 0.75 * k / 5 for k in range(6)), 1.0)
_SSDLITE_GRIDS = (20, 10, 5, 3, 2, 1)
_PYRAMID_STRIDES = (8, 16, 32, 64, 128)
_RETINA_SIZES = (32, 64, 128, 256, 512)
_RETINA_RATIOS = (0.5, 1.0, 2.0)
_FCOS_SIZES = (8, 16, 32, 64, 128)

SSD_SIZE, SSDLITE_SIZE = 300, 320
RETINA_SHAPES = 9
"""Anchors in one cell."""


@lru_cache(maxsize=8)
def ssd_anchors(size: int) -> F32:
    """Default boxes of SSD300 (size 300) and SSDLite320 (size 320), (n, 4) corners in pixels."""
    lite = size == SSDLITE_SIZE
    grids = _SSDLITE_GRIDS if lite else _SSD_GRIDS
    scales = _SSDLITE_SCALES if lite else _SSD_SCALES
    every = _SSDLITE_RATIOS if lite else _SSD_RATIOS
    parts = []
    for level, (grid, ratios) in enumerate(zip(grids, every, strict=True)):
        scale, between = scales[level], float(np.sqrt(scales[level] * scales[level + 1]))
        shapes = [(scale, scale), (between, between)]
        for ratio in ratios:
            long, short = scale * float(np.sqrt(ratio)), scale / float(np.sqrt(ratio))
            shapes += [(long, short), (short, long)]
        across = grid if lite else size / _SSD_STEPS[level]
        centre = (np.arange(grid) + 0.5) / across
        row, column = np.meshgrid(centre, centre, indexing="ij")
        centres = np.stack([column, row], axis=-1).reshape(-1, 1, 2)
        half = np.clip(np.array(shapes), 0, 1) / 2
        parts.append(np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4))
    return (np.concatenate(parts) * size).astype(np.float32)


@lru_cache(maxsize=8)
def retina_anchors(width: int, height: int) -> F32:
    """Anchors of RetinaNet, (n, 4) corners in pixels."""
    parts = []
    for base, (columns, rows) in zip(_RETINA_SIZES, pyramid(width, height), strict=True):
        sizes = np.array([base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))])
        tall = np.sqrt(np.array(_RETINA_RATIOS))[:, None]
        wide, high = (1 / tall * sizes).ravel(), (tall * sizes).ravel()
        shapes = np.round(np.stack([-wide, -high, wide, high], axis=1) / 2)
        parts.append(_shifted(shapes, columns, rows, width, height))
    return np.concatenate(parts).astype(np.float32)


@lru_cache(maxsize=8)
def fcos_anchors(width: int, height: int) -> F32:
    """Squares that FCOS measures distances in, (n, 4) corners in pixels."""
    parts = []
    for side, (columns, rows) in zip(_FCOS_SIZES, pyramid(width, height), strict=True):
        shape = np.round(np.array([[-side, -side, side, side]]) / 2)
        parts.append(_shifted(shape, columns, rows, width, height))
    return np.concatenate(parts).astype(np.float32)


def pyramid(width: int, height: int) -> tuple[tuple[int, int], ...]:
    """Columns and rows of the five levels of a feature pyramid."""
    return tuple((-(-width // s), -(-height // s)) for s in _PYRAMID_STRIDES)


@lru_cache(maxsize=8)
def levels(width: int, height: int, shapes: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Number of the pyramid level of each anchor, with so many shapes in a cell."""
    counts = [columns * rows * shapes for columns, rows in pyramid(width, height)]
    return np.repeat(np.arange(len(counts)), counts)


def _shifted(
    shapes: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    columns: int,
    rows: int,
    width: int,
    height: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Put shapes around the upper left corner of each cell; strides are whole pixels."""
    y, x = np.meshgrid(
        np.arange(rows) * (height // rows), np.arange(columns) * (width // columns), indexing="ij"
    )
    corners = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (corners + shapes).reshape(-1, 4)
