"""Turn a detector's raw outputs into boxes without duplicates; numpy alone, a whole batch at once.

Knows no engine and no frame: boxes are in pixels of the network's input. How each family says its
boxes is in heads.py (grids), anchored.py (torchvision) and settled.py (transformers, two stages).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engines.detectors import anchored, heads, settled
from engines.detectors.candidates import I16, Candidates
from engines.detectors.heads import cell_boxes
from engines.detectors.nms import F32, best_of, box_iou, suppress
from engines.detectors.signature import Layout, Signature

__all__ = ["F32", "I16", "Found", "box_iou", "cell_boxes", "decode", "suppress"]

CANDIDATES = 1000
"""Boxes of one picture that enter suppression, best first, where a family sets no other limit."""

MOST = 300
"""Boxes of one picture that a torchvision family reports."""

_READERS = {
    "anchorfree": heads.anchorfree,
    "fastestdet": heads.fastestdet,
    "yolov5": heads.yolov5,
    "yolov8": heads.yolov8,
    "ssd": anchored.ssd,
    "retinanet": anchored.retinanet,
    "fcos": anchored.fcos,
    "detr": settled.detr,
    "boxes": settled.two_stage,
}
_WITHOUT_DUPLICATES: tuple[Layout, ...] = ("detr", "boxes")


@dataclass(frozen=True, slots=True)
class Found:
    """What one picture shows: boxes_xyxy (N, 4), scores (N,), classes (N,), masks or None.

    masks: (N, h, w) chance of each cell of a grid over the box to be of the object.
    """

    boxes_xyxy: F32
    scores: F32
    classes: I16
    masks: F32 | None


def decode(
    outputs: Sequence[F32],
    signature: Signature,
    *,
    extents: F32,
    score: float,
    iou: float,
    wanted: NDArray[np.bool_],
) -> list[Found]:
    """Decode a batch.

    Args:
        outputs: of the network, in the order of signature.outputs, batch axis first.
        signature: their layout.
        extents: (N, 2) width and height that each picture fills of the network's input.
        score: lowest score that is kept.
        iou: highest overlap that two boxes of one class may have.
        wanted: (classes,) True for each class that is kept; others can't suppress anything.

    Returns:
        For each picture its boxes, by falling score; ties by their place in the output.
    """
    found = _READERS[signature.layout](outputs, signature, extents, score, wanted)
    if not found.limited:
        found = found.take(best_of(found.pictures, found.scores, CANDIDATES))
    else:
        found = found.take(np.lexsort((-found.scores, found.pictures)))
    if signature.layout not in _WITHOUT_DUPLICATES:
        groups = found.pictures * len(signature.classes) + found.classes
        found = found.take(suppress(found.boxes_xyxy, groups, iou))
    if found.limited:
        found = found.take(best_of(found.pictures, found.scores, MOST))
    masks = outputs[3][0] if signature.has_masks else None
    ends = np.searchsorted(found.pictures, np.arange(len(extents) + 1))
    return [_of_one(found.take(slice(first, last)), masks) for first, last in pairwise(ends)]


def _of_one(found: Candidates, masks: F32 | None) -> Found:
    kept = None if masks is None else masks[found.rows]
    return Found(found.boxes_xyxy, found.scores, found.classes, kept)
