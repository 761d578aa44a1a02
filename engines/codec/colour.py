"""Turn full-range pictures into limited-range YUV 4:2:0 planes and back, once.

BT.601, chroma sited at the centre of its four pixels. Needs numpy and cv2 alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

_KR, _KB = 0.299, 0.114
_KG = 1 - _KR - _KB
_FROM_BGR = (
    np.array(
        [
            [_KB, _KG, _KR],
            [0.5, -0.5 * _KG / (1 - _KB), -0.5 * _KR / (1 - _KB)],
            [-0.5 * _KB / (1 - _KR), -0.5 * _KG / (1 - _KR), 0.5],
        ]
    )
    * np.array([[219], [224], [224]])
    / 255
)
_TO_BGR = np.linalg.inv(_FROM_BGR)
_OFFSET = np.array([16.0, 128.0, 128.0])


def planes_from_bgr(bgr: U8) -> tuple[U8, U8, U8]:
    """Convert a full-range (H, W, 3) picture, cut to even sides, to limited-range planes."""
    height, width = bgr.shape[0] & ~1, bgr.shape[1] & ~1
    matrix = np.hstack((_FROM_BGR, _OFFSET[:, None])).astype(np.float32)
    yuv = cv2.transform(bgr[:height, :width].astype(np.float32), matrix)
    chroma = cv2.resize(yuv[:, :, 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return _u8(yuv[:, :, 0]), _u8(chroma[:, :, 0]), _u8(chroma[:, :, 1])


def bgr_from_planes(y: U8, u: U8, v: U8) -> U8:
    """Convert limited-range planes to a full-range (H, W, 3) picture."""
    size = (y.shape[1], y.shape[0])
    full = [cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for p in (u, v)]
    yuv = np.dstack((y.astype(np.float32), *full))
    matrix = np.hstack((_TO_BGR, (-_TO_BGR @ _OFFSET)[:, None])).astype(np.float32)
    return _u8(cv2.transform(yuv, matrix))


def _u8(values: NDArray[np.float32]) -> U8:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
