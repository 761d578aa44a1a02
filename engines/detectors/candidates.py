"""Hold the boxes of a batch that may be objects, before duplicates are removed; numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.detectors.nms import F32, Indices

I16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of several pictures, one row each."""

    pictures: Indices
    """(N,) index of the picture in the batch."""
    rows: Indices
    """(N,) row of the network's output that the box is from."""
    boxes_xyxy: F32
    """(N, 4) pixels of the network's input."""
    scores: F32
    classes: I16
    limited: bool = False
    """The family's own limits are kept already."""

    def take(self, indices: Indices | slice) -> Candidates:
        """Keep some of them, in this order."""
        return Candidates(
            self.pictures[indices],
            self.rows[indices],
            self.boxes_xyxy[indices],
            self.scores[indices],
            self.classes[indices],
            self.limited,
        )


def best_class(
    scores: F32, score: float, wanted: NDArray[np.bool_]
) -> tuple[Indices, F32, NDArray[np.intp]]:
    """Give each row its best wanted class, and drop rows below the score.

    Args:
        scores: (n, classes).
        score: lowest that is kept.
        wanted: (classes,) others count as 0.

    Returns:
        Rows that are kept, their scores and their classes.
    """
    scores = np.where(wanted, scores, np.float32(0))
    classes = scores.argmax(axis=1)
    best: F32 = scores[np.arange(len(scores)), classes]
    keep = np.flatnonzero(best >= score)
    return keep, best[keep], classes[keep]


def sigmoid(logits: F32) -> F32:
    """Logistic function that overflows nowhere."""
    small = np.exp(-np.abs(logits))
    result: F32 = np.where(logits >= 0, 1, small) / (1 + small)
    return result


def logit_of(score: float) -> float:
    """Logit below which no score of a sigmoid can be; a little lower, for rounding."""
    return math.log(score / (1 - score)) - 1e-3
