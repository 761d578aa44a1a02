"""The table of live tracks, one row each, and the usable detections of one frame.

Knows no option; see tracker.py for what happens to a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.tracking.detections import F32, F64, I64
from streamer.tracking.kalman import Belief

Rows = NDArray[np.void]

_BELIEF = ("pos", "vel", "var", "cov", "var_vel")

NO_PAIRS: tuple[I64, I64] = (np.empty(0, np.int64), np.empty(0, np.int64))
"""Rows and columns of no pair."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Detections that may extend or begin tracks; row is their place in what the caller gave."""

    row: I64
    boxes_cxcywh: F64
    boxes_xyxy: F64
    scores: F64
    group: I64
    place: I64
    looks: F32

    def __len__(self) -> int:
        return len(self.row)


def empty(votes: int, looks: int) -> Rows:
    """No track yet; votes: classes in the largest group; looks: length of an embedding.

    pos to var_vel is the belief as of seen_s, so that any later time is one prediction away.
    box: last detection, cxcywh. missed: last innovation, in standard deviations.
    """
    whole = [(name, np.int64) for name in ("id", "group", "hits", "detection")]
    real = [(name, np.float64) for name in ("born_s", "seen_s", "score", "first_score")]
    four = [(name, np.float64, (4,)) for name in (*_BELIEF, "box", "missed")]
    wide = [("votes", np.float64, (votes,)), ("looks", np.float32, (looks,))]
    return np.empty(0, np.dtype([*whole, *real, *four, *wide, ("state", "i1"), ("preview", "?")]))


def belief(rows: Rows) -> Belief:
    """What is believed of each row as of its seen_s."""
    return Belief(*(rows[name] for name in _BELIEF))


def believe(rows: Rows, where: I64 | slice, new: Belief) -> None:
    """Replace the belief of some rows."""
    for name in _BELIEF:
        rows[name][where] = getattr(new, name)


def taken(whole: Belief, where: I64) -> Belief:
    """The beliefs of some rows."""
    return Belief(*(getattr(whole, name)[where] for name in _BELIEF))
