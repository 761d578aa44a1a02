"""Score maps of labels: intersection over union, and how well borders lie; numpy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

BORDER_PX = 3
"""How far a border may lie from the true one."""


class Scores:
    """Counts over many pictures; what has no class is left out."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = np.zeros((classes, classes), np.int64)  # rows are the truth
        self._border_sum, self._border_count = np.zeros(classes), np.zeros(classes, np.int64)

    def add(self, labels: U8, truth: U8, *, borders: bool = True) -> None:
        """Count one picture; both are (h, w), truth from `classes` on is void.

        Raises:
            ValueError: the sizes differ.
        """
        if labels.shape != truth.shape:
            raise ValueError(f"labels must be {truth.shape} as the truth, got {labels.shape}")
        judged = truth < self.classes
        pairs = truth[judged].astype(np.int64) * self.classes + labels[judged]
        counts = np.bincount(pairs, minlength=self.classes**2)
        self.confusion += counts.reshape(self.classes, self.classes)
        if borders:
            self._add_borders(labels, truth, judged)

    def per_class(self) -> F64:
        """Intersection over union of each class; NaN for one that was nowhere."""
        right = np.diag(self.confusion).astype(float)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - right
        scores: F64 = np.divide(right, either, out=np.full(self.classes, np.nan), where=either > 0)
        return scores

    def miou(self) -> float:
        """Mean over the classes that were anywhere."""
        scores = self.per_class()
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    def border_f(self) -> float:
        """F-score of the borders: mean over the pictures of each class, then over classes."""
        there = self._border_count > 0
        if not there.any():
            return float("nan")
        return float((self._border_sum[there] / self._border_count[there]).mean())

    def _add_borders(self, labels: U8, truth: U8, judged: NDArray[np.bool_]) -> None:
        for index in range(self.classes):
            true, ours = truth == index, (labels == index) & judged
            if not true.any():
                continue
            self._border_sum[index] += border_score(ours, true)
            self._border_count[index] += 1


def border_score(ours: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """F-score of one region's border, with BORDER_PX of tolerance; 1 if neither has one."""
    ours_line, true_line = _border(ours), _border(true)
    if not ours_line.any() or not true_line.any():
        return float(ours_line.any() == true_line.any())
    precision = _near(true_line)[ours_line > 0].mean()
    recall = _near(ours_line)[true_line > 0].mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def _border(region: NDArray[np.bool_]) -> U8:
    mask = region.astype(np.uint8)
    line: U8 = mask - cv2.erode(mask, np.ones((3, 3), np.uint8))
    return line


def _near(line: U8) -> U8:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BORDER_PX + 1,) * 2)
    wide: U8 = cv2.dilate(line, disc)
    return wide
