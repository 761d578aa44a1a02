"""Read the boxes of networks that have settled what is a duplicate: DETR, two-stage detectors.

Functions are as in heads.py. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.detectors.candidates import Candidates, best_class, sigmoid
from engines.detectors.heads import centred
from engines.detectors.nms import F32
from engines.detectors.signature import Signature


def detr(
    outputs: Sequence[F32],
    signature: Signature,
    extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """One box and one row of logits for each query; boxes are parts of the picture."""
    boxes, logits = outputs
    count, queries, width = logits.shape
    flat = logits.reshape(-1, width)
    if signature.softmax:
        shares = np.exp(flat - flat.max(axis=1, keepdims=True))
        scores = (shares / shares.sum(axis=1, keepdims=True))[:, : len(wanted)]
    else:
        scores = sigmoid(flat)
    kept, best, classes = best_class(scores, score, wanted)
    pictures, rows = np.divmod(kept, queries)
    corners = centred(boxes.reshape(count * queries, 4)[kept]) * np.tile(extents, 2)[pictures]
    return Candidates(pictures, rows, corners.astype(np.float32), best, classes.astype(np.int16))


def two_stage(
    outputs: Sequence[F32],
    _signature: Signature,
    _extents: F32,
    score: float,
    wanted: NDArray[np.bool_],
) -> Candidates:
    """Boxes in pixels, scores and labels, already without duplicates."""
    boxes, scores, labels = outputs[:3]
    known = np.where((labels >= 0) & (labels < len(wanted)), labels, 0).astype(np.intp)
    pictures, rows = np.nonzero((scores >= score) & wanted[known] & (known == labels))
    classes = known[pictures, rows].astype(np.int16)
    return Candidates(pictures, rows, boxes[pictures, rows], scores[pictures, rows], classes)
