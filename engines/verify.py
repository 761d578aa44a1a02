"""Compare an engine with ONNX Runtime in fp32, the oracle, on pictures: outputs and boxes.

Raw outputs tell how exact the arithmetic is, boxes tell whether it matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.detectors.decode import box_iou
from engines.detectors.runtime import Detections, Detector

U8 = NDArray[np.uint8]
Picture = tuple[U8, U8, U8]

SCORE = 0.25
"""Boxes of at least this score are compared."""
EXACT = 1e-3
"""Largest difference of raw outputs, as a part of the largest value, that is rounding of fp32."""
AGREEMENT = 0.95
"""Share of boxes that engines of lower precision must have in common with the oracle."""

_SAME_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an engine is from the oracle."""

    engine: str
    device: str
    precision: str
    pictures: int
    outputs: Mapping[str, float]
    """Largest difference of each raw output, as a part of its largest value."""
    boxes: int
    """Of the oracle."""
    agreement: float
    """F1 of boxes of the same class that overlap by half; 1 where there are none."""
    worst_box_px: float
    """Largest distance of a side between boxes that agree."""
    worst_score: float
    passed: bool


def compare(
    path: Path, pictures: Sequence[Picture], *, device: str, precision: str | None = None
) -> Comparison:
    """Run a detector on an engine and on the oracle.

    Args:
        path: ONNX file of a detector.
        pictures: planes of limited-range YUV 4:2:0; at least one.
        device: of the engine, as for load_engine.
        precision: of the engine; None and f32 must be exact, others must agree on boxes.

    Raises:
        EngineError: the network can't be loaded on the device, or broke.
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("pictures: there must be at least one to compare, got none")
    oracle = Detector.load(path, device="onnxruntime:cpu", score=SCORE, batch=1)
    try:
        engine = Detector.load(path, device=device, precision=precision, score=SCORE, batch=1)
        try:
            return _compare(oracle, engine, pictures, precision or "f32")
        finally:
            engine.close()
    finally:
        oracle.close()


def _compare(
    oracle: Detector, engine: Detector, pictures: Sequence[Picture], precision: str
) -> Comparison:
    outputs: dict[str, float] = {}
    hits = found = wanted = 0
    worst_box = worst_score = 0.0
    quantised = "QuantizeLinear" in engine.operators
    for planes in pictures:
        inputs = oracle.prepare(*planes)
        theirs, ours = oracle.engine.infer(inputs), engine.engine.infer(inputs)
        for name, array in theirs.items():
            outputs[name] = max(outputs.get(name, 0.0), _difference(array, ours[name]))
        size = planes[0].shape[1], planes[0].shape[0]
        goal, seen = oracle.decode(theirs, *size), engine.decode(ours, *size)
        pairs = _pairs(goal, seen)
        hits, found, wanted = hits + len(pairs), found + len(seen), wanted + len(goal)
        for one, other in pairs:
            apart = np.abs(goal.boxes_xyxy[one] - seen.boxes_xyxy[other]).max()
            worst_box = max(worst_box, float(apart))
            worst_score = max(worst_score, abs(float(goal.scores[one] - seen.scores[other])))
    agreement = 2 * hits / (found + wanted) if found + wanted else 1.0
    # Rounding steps of int8 may fall to either side, so engines differ by whole steps.
    exact = precision in ("f32", "fp32") and not quantised
    passed = max(outputs.values()) <= EXACT if exact else agreement >= AGREEMENT
    return Comparison(
        f"{engine.engine.name} {engine.engine.version}",
        engine.engine.device,
        precision,
        len(pictures),
        outputs,
        wanted,
        agreement,
        worst_box,
        worst_score,
        passed,
    )


def _difference(wanted: Array, got: Array) -> float:
    """Largest difference as a part of the largest value; infinite where shapes differ."""
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    largest = max(float(np.abs(wanted).max()), 1e-9)
    return float(np.abs(wanted.astype(np.float64) - got).max()) / largest


def _pairs(goal: Detections, seen: Detections) -> list[tuple[int, int]]:
    """Boxes of the same class that overlap by half, each in one pair at most."""
    overlaps = box_iou(goal.boxes_xyxy, seen.boxes_xyxy)
    overlaps *= goal.classes[:, None] == seen.classes
    pairs = []
    for one in range(len(goal)):
        other = int(overlaps[one].argmax()) if len(seen) else 0
        if len(seen) and overlaps[one, other] >= _SAME_IOU:
            pairs.append((one, other))
            overlaps[:, other] = 0
    return pairs
