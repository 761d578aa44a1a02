"""Turn scores and truth into accuracies, areas under curves and their intervals; numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Int = NDArray[np.int64]
Text = NDArray[np.str_]

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its central 95 %."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """Value, low and high, rounded for a report."""
        return [round(x, 4) for x in (self.value, self.low, self.high)]


def accuracy(scores: F64, truth: Int) -> float:
    """Part of rows (n, classes) whose largest score is the true class."""
    return float((scores.argmax(1) == truth).mean())


def mean_class_accuracy(scores: F64, truth: Int) -> float:
    """Mean over the classes that occur of the part found of each."""
    right = scores.argmax(1) == truth
    return float(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


def auc(scores: F64, truth: Int) -> float:
    """Chance that a row of a class scores higher for it than another; mean over the classes."""
    areas = []
    for c in np.unique(truth):
        margin = scores[:, c] - np.delete(scores, c, axis=1).max(axis=1)
        inside, outside = margin[truth == c], margin[truth != c]
        if not len(outside):
            return float("nan")
        above = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
        areas.append(above)
    return float(np.mean(areas))


def confusion(scores: F64, truth: Int, classes: int) -> Int:
    """Count (true class, said class)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, scores.argmax(1)), 1)
    return counts


def bootstrap(figure: Callable[[Int], float], source: Text, *, seed: int = 0) -> Interval:
    """Interval of a figure of rows when whole sources are drawn anew.

    Args:
        figure: computes it of the rows given by index, repeated ones included.
        source: of each row.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(source == name) for name in np.unique(source)]
    drawn = [
        figure(np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]))
        for _ in range(_DRAWS)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(figure(np.arange(len(source))), float(low), float(high))


def folds_by_source(
    source: Text, truth: Int, folds: int, *, seed: int, training_only: str = "unknown"
) -> Int:
    """Deal sources to folds of about equal size and mixture; -1 for what only trains."""
    rng = np.random.default_rng(seed)
    names = [str(n) for n in np.unique(source) if n != training_only]
    if len(names) < folds:
        raise SystemExit(
            f"folds must be at most the number of sources, {len(names)}, got {folds}; use fewer"
        )
    classes = int(truth.max()) + 1
    counts = {n: np.bincount(truth[source == n], minlength=classes) for n in names}
    order = rng.permutation(len(names))
    names = sorted((names[i] for i in order), key=lambda n: -counts[n].sum())
    held = np.zeros((folds, classes))
    fold = np.full(len(source), -1, np.int64)
    for name in names:
        growth = ((held + counts[name]) ** 2 - held**2).sum(axis=1)
        best = int(growth.argmin())
        held[best] += counts[name]
        fold[source == name] = best
    return fold
