"""What goes into a tracker and what comes out, as arrays; runs in the track process.

Knows no tracker, and no library but numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
Mask = NDArray[np.bool_]

TENTATIVE, CONFIRMED, LOST = 0, 1, 2
"""States of a track: not yet believed (never counted), seen, and out of sight but remembered."""


FARTHEST_PX = 1e6
"""A corner farther out than this is no pixel of any picture."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections of one frame.

    boxes_xyxy: (N, 4) px. scores: (N,) in 0..1. classes: (N,) integers.
    motion: (2, 3) affine that takes a pixel of the frame before to this one, or None if unknown.
    embeddings: (N, D) appearance, any length of vector, or None.
    """

    boxes_xyxy: F32
    scores: F32
    classes: I64
    motion: F64 | None = None
    embeddings: F32 | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy)
        if self.boxes_xyxy.shape != (count, 4):
            raise ValueError(f"boxes_xyxy must be (N, 4), got {self.boxes_xyxy.shape}")
        for name, column in (("scores", self.scores), ("classes", self.classes)):
            if column.shape != (count,):
                raise ValueError(f"{name} must be ({count},) like the boxes, got {column.shape}")
        if self.motion is not None and self.motion.shape != (2, 3):
            raise ValueError(f"motion must be (2, 3), got {self.motion.shape}")
        if self.embeddings is not None and (
            self.embeddings.ndim != 2 or len(self.embeddings) != count
        ):
            raise ValueError(f"embeddings must be ({count}, D), got {self.embeddings.shape}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def empty(cls, motion: F64 | None = None) -> Detections:
        """A frame in which nothing was found."""
        return cls(
            np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), motion
        )

    def usable(self) -> Mask:
        """(N,) bool: a number for a score, corners within reach, a positive width and height.

        The other rows are no evidence of anything.
        """
        boxes = self.boxes_xyxy
        # A comparison with NaN is False, so this refuses what is not finite as well.
        near = (np.abs(boxes) < FARTHEST_PX).all(axis=1)
        sized = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return np.asarray(near & sized & np.isfinite(self.scores))


@dataclass(frozen=True, slots=True)
class Tracks:
    """Every live track after one update, oldest first; columns of the same length.

    ids: int64, never given twice by one tracker. classes: int64, by majority of the detections.
    scores: of the last matched detection. boxes_xyxy: (N, 4) float32 px, filtered or predicted.
    velocities_px_s: (N, 2) float32, of the box's centre. state: TENTATIVE, CONFIRMED or LOST.
    shown: (N,) bool, worth drawing: confirmed, or new and very likely real. Count confirmed only.
    age_s: since the first detection. hits: matched detections.
    detection: row of the matched detection in this frame, or -1.
    ended: ids that ended in this update, also those that never were confirmed.
    """

    ids: I64
    classes: I64
    scores: F32
    boxes_xyxy: F32
    velocities_px_s: F32
    state: I8
    shown: Mask
    age_s: F64
    hits: I64
    detection: I64
    ended: I64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def confirmed(self) -> Mask:
        """(N,) bool: the tracks to count."""
        return np.asarray(self.state == CONFIRMED)
