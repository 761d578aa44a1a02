"""Turn the frames of one camera into how it moves between them; runs in the infer process.

Where the scenery stands still, which a comparison of its edges tells in a tenth of the time, the
motion is not estimated; where it hardly moves, as on a mast in the wind, in every third frame.
Takes frames in their order; one object a camera, not thread-safe.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.messages import FrameInfo
from streamer.tracking.motion import estimate_motion

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

_WIDTH = 320
_EDGE, _CHANGED = 16, 10  # grey levels
_MOVING = 0.12
"""Part of the scenery's edges that must have changed; a still camera's flicker and shadows stay
below, a shift of one pixel in 320 is above."""
_CALM = 0.35
"""Pixels of the small picture; a camera that moves by less can be looked at less often. Tracks that
were seen meanwhile are moved by so much too far at the most."""
_GAP_S = 1.0


def small_luma(y: U8) -> tuple[U8, int]:
    """Scale luma by a whole number to about 320 pixels across; also how many pixels went into one.

    A plane that is small enough is copied, since its slot is given back before it is compared.
    """
    height, width = y.shape
    scale = max(1, round(width / _WIDTH))
    if scale == 1:
        return y.copy(), 1
    size = (max(width // scale, 1), max(height // scale, 1))
    small: U8 = cv2.resize(y, size, interpolation=cv2.INTER_LINEAR)
    return small, scale


class CameraMotion:
    """The motion of one camera.

    Args:
        always: estimate it in each frame, also where the scenery stands still.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._info: FrameInfo | None = None
        self._small: U8 | None = None
        self._boxes_xyxy = np.empty((0, 4), np.float32)
        self._leave_out = 0
        """So many frames need not be looked at: the camera has just been seen to move a little."""

    def into(self, info: FrameInfo, small: U8, scale: int, boxes_xyxy: F32) -> bytes:
        """Estimate the motion into this frame, from the last one that was not left out.

        Args:
            info: of this frame.
            small, scale: what small_luma made of it.
            boxes_xyxy: (N, 4) objects in it, which don't tell the camera's motion.

        Returns:
            (2, 3) float32 affine in px of the frame; empty if unknown, after a gap, where nothing
            moved, and for a frame that is left out.
        """
        before, before_small, objects = self._info, self._small, self._boxes_xyxy
        follows = before is not None and _consecutive(before, info)
        if follows and self._leave_out:
            self._leave_out -= 1
            return b""
        self._leave_out = 0
        self._info, self._small, self._boxes_xyxy = info, small, boxes_xyxy
        if not follows or before_small is None:
            return b""
        if not self._always and not scenery_changed(
            before_small, small, np.asarray(objects / scale, np.float32)
        ):
            return b""
        found = estimate_motion(before_small, small, scale=scale, ignore_boxes_xyxy=objects)
        if found is None:
            return b""
        if not self._always and _largest_shift(found, info) < _CALM * scale:
            self._leave_out = 2
        return found.astype(np.float32).tobytes()


def _largest_shift(affine: NDArray[np.float64], info: FrameInfo) -> float:
    """Of the corners of the picture, px."""
    corners = np.array([[0, 0, 1], [info.width, 0, 1], [0, info.height, 1]])
    return float(np.abs(corners @ affine.T - corners[:, :2]).max())


def scenery_changed(before: U8, after: U8, objects_xyxy: F32) -> bool:
    """True if more edges outside the objects (in small pixels) changed than a still camera's do."""
    edges = cv2.absdiff(before[:, 1:], before[:, :-1])
    _, edges = cv2.threshold(edges, _EDGE, 255, cv2.THRESH_BINARY)
    limits = np.array([before.shape[1], before.shape[0]] * 2)
    for x1, y1, x2, y2 in np.clip(np.rint(objects_xyxy), 0, limits).astype(int).tolist():
        edges[y1:y2, x1:x2] = 0
    _, changed = cv2.threshold(
        cv2.absdiff(before[:, 1:], after[:, 1:]), _CHANGED, 255, cv2.THRESH_BINARY
    )
    moved = cv2.countNonZero(cv2.bitwise_and(edges, changed))
    return bool(moved > _MOVING * cv2.countNonZero(edges))


def _consecutive(before: FrameInfo, info: FrameInfo) -> bool:
    same_view = (before.epoch, before.width, before.height) == (
        info.epoch,
        info.width,
        info.height,
    )
    return same_view and not info.discontinuity and info.pts_s - before.pts_s <= _GAP_S
