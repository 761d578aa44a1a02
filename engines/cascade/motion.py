"""Move a map of labels along with the picture it was found in; one thread, numpy and OpenCV.

Knows no network. What moves is found by dense optical flow between two pictures, which is a small
part of the work of labelling the second one.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.cascade.picture import U8, Mask

F32 = NDArray[np.float32]
_MARGIN_BLOCKS = 1


class Mover:
    """Finds motion; keeps no picture."""

    def __init__(self, block_px: int) -> None:
        self._block_px = block_px
        # Half the picture's resolution and patches of 8 that lie close: labels' borders need it.
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(1)
        self._flow.setPatchStride(5)
        self._flow.setGradientDescentIterations(8)

    def moved(self, labels: U8, stride: int, before: U8, now: U8, blocks: Mask) -> U8:
        """Take the labels of some blocks from where their pixels came from.

        Args:
            labels: of the earlier picture, one for each `stride` pixels in each direction.
            stride: 1, 2 or 4.
            before: (H, W) luma of the earlier picture, no smaller than the map.
            now: luma of this one.
            blocks: (H / block_px, W / block_px), at least one: what may have moved. The others keep
                their labels.

        Returns:
            A new map.
        """
        out: U8 = labels.copy()
        side = self._block_px
        rows, columns = _reach(blocks, 0), _reach(blocks, 1)
        box = (
            slice(rows.start * side, rows.stop * side),
            slice(columns.start * side, columns.stop * side),
        )
        flow = self._flow.calc(
            np.ascontiguousarray(now[box]), np.ascontiguousarray(before[box]), None
        )
        part = tuple(slice(edge.start // stride, edge.stop // stride) for edge in box)
        source = labels[part]
        height, width = source.shape
        if stride > 1:
            flow = cv2.resize(flow, None, fx=1 / stride, fy=1 / stride) / stride
        flow = flow[:height, :width]
        found = cv2.remap(
            source,
            flow[..., 0] + np.arange(width, dtype=np.float32),
            flow[..., 1] + np.arange(height, dtype=np.float32)[:, None],
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cells = side // stride
        changed = blocks[rows, columns].repeat(cells, axis=0).repeat(cells, axis=1)
        np.copyto(out[part], found, where=changed[:height, :width])
        return out


def _reach(blocks: Mask, axis: int) -> slice:
    """First to last of the rows or columns that hold a block, and one more on either side."""
    held = np.flatnonzero(blocks.any(axis=1 - axis))
    first, last = int(held[0]), int(held[-1])
    return slice(max(first - _MARGIN_BLOCKS, 0), min(last + 1 + _MARGIN_BLOCKS, blocks.shape[axis]))
