"""Estimate how the camera moved between two small luma planes; runs in the infer process.

Knows no track. Corners of the scenery are followed by sparse optical flow; those on detected
objects are left out, because they tell the object's motion and not the camera's.
Source: Lucas and Kanade (1981) in pyramids; RANSAC over a similarity (Aharon et al., BoT-SORT).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.tracking.detections import F32, F64

U8 = NDArray[np.uint8]

_CORNERS = 120
_LEAST_FOLLOWED = 12
"""Fewer corners than this don't make an estimate."""
_LEAST_AGREEING = 0.4
"""Part of the corners that must move with the camera; else it is unknown."""


def estimate_motion(
    previous_small_y: U8, small_y: U8, *, scale: float, ignore_boxes_xyxy: F32
) -> F64 | None:
    """Estimate the affine that takes a pixel of the frame before to this one.

    Args:
        previous_small_y: (H, W) luma of the frame before, about 320x180.
        small_y: the same of this frame.
        scale: pixels of the full frame in one small pixel.
        ignore_boxes_xyxy: (N, 4) objects in the frame before, px of the full frame.

    Returns:
        (2, 3) affine in px of the full frame: a shift, a rotation and a zoom; None where the
        scenery shows too little to tell, or the picture was cut.

    Raises:
        ValueError: the planes differ in size.
    """
    if previous_small_y.shape != small_y.shape:
        raise ValueError(
            f"small_y must be {previous_small_y.shape} like the plane before, got {small_y.shape}"
        )
    corners = _corners(previous_small_y, np.asarray(ignore_boxes_xyxy, np.float64) / scale)
    if len(corners) < _LEAST_FOLLOWED:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        previous_small_y, small_y, corners, None, winSize=(11, 11), maxLevel=3
    )
    kept = found[:, 0] == 1
    if np.count_nonzero(kept) < _LEAST_FOLLOWED:
        return None
    # RANSAC of OpenCV seeds itself, so equal planes give equal motion.
    affine, agreeing = cv2.estimateAffinePartial2D(
        corners[kept], moved[kept], method=cv2.RANSAC, ransacReprojThreshold=0.7, maxIters=200
    )
    if affine is None or np.count_nonzero(agreeing) < _LEAST_AGREEING * len(corners):
        return None
    affine[:, 2] *= scale
    return np.asarray(affine, np.float64)


def _corners(small_y: U8, boxes_xyxy: F64) -> F32:
    """(K, 1, 2) corners outside the boxes."""
    scenery = np.full(small_y.shape, 255, np.uint8)
    height, width = small_y.shape
    edges = np.clip(boxes_xyxy, 0, (width, height, width, height))
    for x1, y1, x2, y2 in np.rint(edges).astype(int).tolist():
        scenery[y1:y2, x1:x2] = 0
    corners = cv2.goodFeaturesToTrack(small_y, _CORNERS, 0.01, 6.0, mask=scenery, blockSize=3)
    return np.empty((0, 1, 2), np.float32) if corners is None else np.asarray(corners, np.float32)
