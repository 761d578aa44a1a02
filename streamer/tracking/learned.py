"""Learn, while tracking, how far this camera's detector can be trusted; knows no track.

Detectors differ: one is exact and never blinks, another jitters and misses every third frame.
Thresholds that suit one harm the other, so the tracker measures what it needs instead of being
told. All is deterministic, bounded, and survives a reset: it belongs to the detector.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamer.tracking.detections import F64

_SCORE_BINS = 20


class BoxNoise:
    """How much boxes jitter: a factor on the measurement variance, (4,) for cx, cy, w, h.

    A filter with the right gain leaves white innovations. If one innovation tends to be undone by
    the next, the filter follows jitter and the noise must grow; if it is repeated, the filter lags.
    Source: Mehra, "On the identification of variances and adaptive Kalman filtering" (1970).
    """

    _MEMORY = 200.0
    """Pairs of innovations over which the correlation is taken."""
    _STEP, _MOST_STEP = 0.03, 0.6
    """Change of the logarithm of the factor for each pair and in a frame, at a correlation of 1."""

    def __init__(self) -> None:
        self._log: F64 = np.zeros(4)
        self._products: F64 = np.zeros(4)
        self._squares: F64 = np.full(4, 50.0)

    @property
    def factor(self) -> F64:
        """Variance in units of the nominal one, 0.05 to 12."""
        return np.exp(self._log)

    def observe(self, before: F64, now: F64) -> None:
        """Take in innovations of the same tracks in two frames, (N, 4), in standard deviations."""
        if not len(now):
            return
        kept = math.exp(-len(now) / self._MEMORY)
        self._products = self._products * kept + (before * now).sum(axis=0)
        self._squares = self._squares * kept + 0.5 * (before**2 + now**2).sum(axis=0)
        correlation = self._products / (self._squares + 20.0)
        # Place and size each are one property of the detector.
        correlation = np.repeat(correlation.reshape(2, 2).mean(axis=1), 2)
        step = min(self._STEP * len(now), self._MOST_STEP)
        self._log = np.clip(self._log - step * correlation, -3.0, 2.5)


class Returns:
    """How often a track that the detector missed is soon found again where it was predicted."""

    _MEMORY = 100.0
    """Misses over which the share is taken."""

    def __init__(self) -> None:
        self._back, self._gone = 2.0, 2.0

    @property
    def share(self) -> float:
        """Part of the misses that were the detector's fault, 0..1; a half before any is known."""
        return self._back / (self._back + self._gone)

    def observe(self, back: int, gone: int) -> None:
        """Count tracks that were found again, and tracks that were not."""
        if back or gone:
            kept = math.exp(-(back + gone) / self._MEMORY)
            self._back = self._back * kept + back
            self._gone = self._gone * kept + gone


class Births:
    """How often a first detection of some score is followed by a second one.

    Before anything is known, the score itself is taken for the probability.
    """

    _DOUBT = 4.0
    """Births that the score alone counts for."""
    _MEMORY = 500.0

    def __init__(self) -> None:
        self._born: F64 = np.zeros(_SCORE_BINS)
        self._lived: F64 = np.zeros(_SCORE_BINS)

    def probability(self, scores: F64) -> F64:
        """Probability that tracks that begin at these scores are real; (N,) -> (N,)."""
        bins = self._bins(scores)
        return (self._lived[bins] + self._DOUBT * scores) / (self._born[bins] + self._DOUBT)

    def begun(self, scores: F64) -> None:
        """Count tracks that began at these scores."""
        kept = math.exp(-len(scores) / self._MEMORY)
        self._born *= kept
        self._lived *= kept
        np.add.at(self._born, self._bins(scores), 1.0)

    def confirmed(self, scores: F64) -> None:
        """Count tracks that began at these scores and were detected a second time."""
        np.add.at(self._lived, self._bins(scores), 1.0)

    @staticmethod
    def _bins(scores: F64) -> NDArray[np.intp]:
        return np.clip(scores * _SCORE_BINS, 0, _SCORE_BINS - 1).astype(np.intp)
