"""Make a detector's scores mean what they say: the chance that a box is a sure object; offline.

Trained scores rank boxes well but sit too close together. Two numbers, a gain and an offset of the
logits, are fitted on training pictures so that of all boxes scored 0.7, seven in ten are objects of
which the labels are sure. Platt, Probabilistic outputs for support vector machines, 1999.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.detectors.agreement import matched
from engines.detectors.examples import Example, Packs
from engines.detectors.runtime import Detector

F64 = NDArray[np.float64]

_SURE = 0.5
_PICTURES = 900
_NEWTON_STEPS = 12
_CLOSEST = 1e-6  # to a score of 0 or 1


def drawn(packs: Path, names: Sequence[str], count: int = _PICTURES) -> Iterable[Example]:
    """Yield pictures of some packs as they are, in equal shares."""
    source = Packs(packs, dict.fromkeys(names, 1.0))
    random = np.random.default_rng(0)
    return (source.draw(random)[0] for _ in range(count))


def outcomes(detector: Detector, examples: Iterable[Example]) -> tuple[F64, NDArray[np.bool_]]:
    """Score each box that is found, and say whether a sure object is there."""
    scores, hits = [], []
    image = detector.signature.input.name
    for example in examples:
        _, height, width = example.picture.shape
        outputs = detector.engine.infer({image: example.picture[None]})
        found = detector.decode(outputs, width, height)
        sure = example.scores.max(axis=1, initial=0) >= _SURE
        names = example.scores.argmax(axis=1) if len(example.scores) else np.zeros(0, int)
        for name in range(len(detector.classes)):
            mine = found.classes == name
            goal = example.boxes_xyxy[sure & (names == name)]
            scores.append(found.scores[mine])
            hits.append(matched(found.boxes_xyxy[mine], goal))
    return np.concatenate(scores).astype(np.float64), np.concatenate(hits)


def fit(scores: F64, hits: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit gain and offset of the logits by Newton's method on the likelihood of the hits."""
    kept = np.clip(scores, _CLOSEST, 1 - _CLOSEST)
    inputs = np.column_stack([np.log(kept / (1 - kept)), np.ones(len(kept))])
    solution = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-inputs @ solution))
        slope = inputs.T @ (hits - chance)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs
        solution += np.linalg.solve(curvature + 1e-6 * np.eye(2), slope)
    return float(solution[0]), float(solution[1])
