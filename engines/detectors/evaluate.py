"""Measure a detector on labelled pictures, against a teacher on clips, or on scenes; offline.

    python -m engines.detectors.evaluate --data DIR --split val --detector street
    python -m engines.detectors.evaluate --agreement CLIPS... --teacher TEACHER.onnx
    python -m engines.detectors.evaluate --street 0:10

The first gives average precision by pycocotools over the classes that detector and labels share;
the second F1 of boxes on the last quarter of each clip, which no training picture comes from; the
third which actors of rendered scenes are found. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engines.detectors.agreement import TEACHER_SCORE, Stopwatch, agreement, scenes
from engines.detectors.pack import planes_of, read_yolo_text
from engines.detectors.runtime import Detector

LOWEST_SCORE = 0.001
"""Average precision needs the long tail of doubtful boxes."""


def average_precision(detector: Detector, folder: Path, split: str) -> dict[str, object]:
    """Measure AP on a folder of pictures with boxes in YOLO text form."""
    names = yaml.safe_load((folder / "classes.yaml").read_text())["names"]
    names = dict(names.items() if isinstance(names, dict) else enumerate(names))
    shared = {index: name for index, name in names.items() if name in detector.classes}
    pictures: list[dict[str, object]] = []
    truth: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    watch = Stopwatch()
    for number, path in enumerate(sorted((folder / split / "images").iterdir())):
        bgr = cv2.imread(str(path))
        if bgr is None:
            raise SystemExit(f"{path}: file must be a picture, got something else; remove it")
        height, width = bgr.shape[:2]
        pictures.append({"id": number, "width": width, "height": height})
        classes, boxes = read_yolo_text(
            folder / split / "labels" / f"{path.stem}.txt", width, height
        )
        for index, box in zip(classes.tolist(), boxes, strict=True):
            if index in shared:
                truth.append(_annotation(number, index, box) | {"id": len(truth) + 1})
        seen = watch.detect(detector, planes_of(bgr))
        wanted = {name: index for index, name in shared.items()}
        for box, score, kind in zip(seen.boxes_xyxy, seen.scores, seen.classes, strict=True):
            if (name := detector.classes[kind]) in wanted:
                found.append(_annotation(number, wanted[name], box) | {"score": float(score)})
    precision = _cocoeval(pictures, shared, truth, found)
    return {
        "images": len(pictures),
        "ap50": {name: round(at50, 4) for name, (at50, _) in precision.items()},
        "ap": {name: round(whole, 4) for name, (_, whole) in precision.items()},
        "ms": watch.median_ms,
    }


def _annotation(picture: int, index: int, box_xyxy: NDArray[np.float32]) -> dict[str, object]:
    x1, y1, x2, y2 = (float(n) for n in box_xyxy)
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": picture,
        "category_id": index,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _cocoeval(
    pictures: list[dict[str, object]],
    classes: dict[int, str],
    truth: list[dict[str, object]],
    found: list[dict[str, object]],
) -> dict[str, tuple[float, float]]:
    """AP at 0.5 and over 0.5:0.95 of each class that has objects."""
    result: dict[str, tuple[float, float]] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = {
            "info": {},
            "images": pictures,
            "categories": [{"id": index, "name": name} for index, name in classes.items()],
            "annotations": truth,
        }
        labelled.createIndex()
        evaluation = COCOeval(labelled, labelled.loadRes(found) if found else COCO(), "bbox")
        evaluation.params.catIds = list(classes)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"]  # (overlaps, recalls, classes, areas, counts)
    for position, name in enumerate(classes.values()):
        curve = precision[:, :, position, 0, -1]
        if (curve >= 0).any():
            result[name] = float(curve[0].mean()), float(curve.mean())
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--agreement", type=Path, nargs="+", metavar="CLIPS")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--street", metavar="SEEDS", help="first and one behind the last: 0:10")
    parser.add_argument("--detector", default="street")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--score", type=float, default=0.4, help="of --agreement and --street")
    options = parser.parse_args(argv)
    if [options.data, options.agreement, options.street].count(None) != 2:
        parser.error("give one of --data, --agreement and --street")
    if options.agreement and options.teacher is None:
        parser.error("--agreement needs --teacher")
    lowest = LOWEST_SCORE if options.data else min(options.score, TEACHER_SCORE)
    load = partial(Detector.load, device=options.device, batch=1)
    detector = load(options.detector, threads=options.threads, score=lowest)
    if options.data:
        report = average_precision(detector, options.data, options.split)
    elif options.street:
        seeds = range(*(int(n) for n in options.street.split(":")))
        report = scenes(detector, seeds, options.score)
    else:
        teacher = load(options.teacher, score=TEACHER_SCORE)
        report = agreement(detector, teacher, options.agreement, options.score)
    sys.stdout.write(json.dumps({"detector": options.detector} | report) + "\n")


if __name__ == "__main__":
    main()
