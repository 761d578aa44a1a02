"""Read the outlines of objects and of tracks out of messages; runs in encode and publish.

Knows no pixel, and no library but numpy. How they are traced is in engines/detectors/outlines.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.messages import Detections, Tracks

Outline = tuple[NDArray[np.float32], ...]
"""The parts of one object, the largest first; each is (P, 2) x and y in px."""

UNKNOWN: Outline = ()


def of_objects(found: Detections) -> Sequence[Outline]:
    """One for each box of a frame; all unknown where the network has no masks."""
    if not found.outlines:
        return [UNKNOWN] * (len(found.scores) // 4)
    return [
        tuple(np.frombuffer(part, np.float32).reshape(-1, 2) for part in parts)
        for parts in found.outlines
    ]


def of_tracks(message: Tracks) -> Sequence[Outline]:
    """One for each track of a frame; unknown where it was not seen there."""
    if not message.rows:
        return [UNKNOWN] * (len(message.ids) // 8)
    seen = of_objects(message.detections)
    rows = np.frombuffer(message.rows, np.int32).tolist()
    return [seen[row] if row >= 0 else UNKNOWN for row in rows]
