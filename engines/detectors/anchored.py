"""Read the boxes of torchvision's one-stage detectors: SSD, RetinaNet, FCOS; numpy alone.

Each gives the same boxes as torchvision's own postprocessing: an anchor may be several classes at
once, and the best of each class or pyramid level go on. Functions are as in heads.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.detectors.anchors import (
    RETINA_SHAPES,
    SSDLITE_SIZE,
    fcos_anchors,
    levels,
    retina_anchors,
    ssd_anchors,
)
from engines.detectors.candidates import Candidates, logit_of, sigmoid
from engines.detectors.nms import F32, Indices, best_of
from engines.detectors.signature import Signature

_OF_A_CLASS = {SSDLITE_SIZE: 300}
_OF_A_CLASS_ELSE = 400
_OF_A_LEVEL = 1000
_SSD_WEIGHTS = np.array([10, 10, 5, 5], np.float32)
_LARGEST_LOG = np.float32(np.log(1000 / 16))


def ssd(
    outputs: Sequence[F32],
    signature: Signature,
    extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Offsets from anchors, and logits that a softmax makes shares of; class 0 is background."""
    offsets, logits = outputs
    shares = np.exp(logits - logits.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    pictures, rows, classes = np.nonzero((shares >= score) & wanted)
    scores = shares[pictures, rows, classes]
    most = _OF_A_CLASS.get(signature.width, _OF_A_CLASS_ELSE)
    best = best_of(pictures * len(wanted) + classes, scores, most)
    pictures, rows = pictures[best], rows[best]
    boxes = _moved(offsets[pictures, rows] / _SSD_WEIGHTS, ssd_anchors(signature.width)[rows])
    return _candidates(pictures, rows, boxes, scores[best], classes[best], extents)


def retinanet(
    outputs: Sequence[F32],
    signature: Signature,
    extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Offsets from anchors, and one logit for each class."""
    offsets, logits = outputs
    pictures, rows, classes = np.nonzero((logits >= logit_of(score)) & wanted)
    scores = sigmoid(logits[pictures, rows, classes])
    sizes = signature.width, signature.height
    best = _best_of_levels(pictures, levels(*sizes, RETINA_SHAPES)[rows], scores, score)
    pictures, rows = pictures[best], rows[best]
    boxes = _moved(offsets[pictures, rows], retina_anchors(*sizes)[rows])
    return _candidates(pictures, rows, boxes, scores[best], classes[best], extents)


def fcos(
    outputs: Sequence[F32],
    signature: Signature,
    extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Distances of four sides from the middle of a cell, class logits, and how central it is."""
    distances, logits, central = outputs
    # The score is the root of a product of two sigmoids, so each of them is at least its square.
    pictures, rows, classes = np.nonzero((logits >= logit_of(score**2)) & wanted)
    product = sigmoid(logits[pictures, rows, classes]) * sigmoid(central[pictures, rows, 0])
    scores: F32 = np.sqrt(product)
    sizes = signature.width, signature.height
    best = _best_of_levels(pictures, levels(*sizes, 1)[rows], scores, score)
    pictures, rows = pictures[best], rows[best]
    anchors = fcos_anchors(*sizes)[rows]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    sides = distances[pictures, rows] * np.tile(anchors[:, 2:] - anchors[:, :2], 2)
    boxes = np.hstack([centre - sides[:, :2], centre + sides[:, 2:]]).astype(np.float32)
    return _candidates(pictures, rows, boxes, scores[best], classes[best], extents)


def _best_of_levels(pictures: Indices, level: Indices, scores: F32, score: float) -> Indices:
    kept = np.flatnonzero(scores >= score)
    groups = pictures * (int(level.max(initial=0)) + 1) + level
    return kept[best_of(groups[kept], scores[kept], _OF_A_LEVEL)]


def _moved(offsets: F32, anchors: F32) -> F32:
    """Move and stretch anchors (n, 4) by (dx, dy of their size, log of width, log of height)."""
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + offsets[:, :2] * size
    half = np.exp(np.minimum(offsets[:, 2:], _LARGEST_LOG)) * size / 2
    return np.hstack([centre - half, centre + half])


def _candidates(
    pictures: Indices, rows: Indices, boxes: F32, scores: F32, classes: Indices, extents: F32
) -> Candidates:
    """Clip to the picture, which torchvision does before it compares overlaps."""
    boxes = np.clip(boxes, np.float32(0), np.tile(extents, 2)[pictures])
    return Candidates(pictures, rows, boxes, scores, classes.astype(np.int16), limited=True)
