"""Measure a detector, on labelled pictures or against a teacher on clips; offline.

    python -m engines.detectors.evaluate --data DIR --split val --detector street
    python -m engines.detectors.evaluate --agreement CLIPS... --teacher TEACHER.onnx

The first gives average precision by pycocotools over the classes that detector and labels share;
the second F1 of boxes on the last quarter of each clip, which no training picture comes from.
The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engines.detectors.decode import box_iou
from engines.detectors.pack import decoded, planes_of, read_yolo_text
from engines.detectors.runtime import Detections, Detector
from streamer.planes import Planes

LOWEST_SCORE = 0.01
"""Average precision needs the long tail of doubtful boxes."""

TEACHER_SCORE = 0.5
AGREED_CLASSES = ("person", "car")
_CLIPS = (".mp4", ".avi", ".mkv", ".mov")


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds of each detection, all of it: scaling, network, decoding."""

    times_ms: list[float] = field(default_factory=list)

    def detect(self, detector: Detector, planes: Planes) -> Detections:
        """Detect, and remember how long it took."""
        start = time.perf_counter()
        found = detector.detect(planes.y, planes.u, planes.v)
        self.times_ms.append((time.perf_counter() - start) * 1e3)
        return found

    @property
    def median_ms(self) -> float:
        """Median over all detections so far."""
        return round(float(np.median(self.times_ms)), 2)


@dataclass(slots=True)
class Tally:
    """Boxes that two detectors share, and those of only one."""

    hits: int = 0
    found: int = 0
    wanted: int = 0

    def add(self, other: Tally) -> None:
        """Count another tally in."""
        self.hits += other.hits
        self.found += other.found
        self.wanted += other.wanted

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(self.found + self.wanted, 1)

    def report(self) -> dict[str, float | int]:
        """F1 and what it is made of."""
        return {
            "f1": round(self.f1, 4),
            "precision": round(self.hits / max(self.found, 1), 4),
            "recall": round(self.hits / max(self.wanted, 1), 4),
            "boxes": self.wanted,
        }


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


def agreement(
    detector: Detector, teacher: Detector, clips: Sequence[Path], score: float
) -> dict[str, object]:
    """Measure F1 against a teacher's confident boxes on the last quarter of each clip.

    Clips in which the teacher is confident of nothing are left out.
    """
    watch = Stopwatch()
    total = {name: Tally() for name in AGREED_CLASSES}
    by_folder: dict[str, Tally] = {}
    clips_used = 0
    for clip in _expand(clips):
        frames = list(decoded(clip))
        last = frames[int(len(frames) * 0.75) :]
        wanted = [teacher.detect(p.y, p.u, p.v) for p in last]
        tallies = {name: Tally() for name in AGREED_CLASSES}
        for planes, goal in zip(last, wanted, strict=True):
            seen = watch.detect(detector, planes)
            for name, tally in tallies.items():
                tally.add(
                    match(
                        _boxes(detector, seen, name, score),
                        _boxes(teacher, goal, name, TEACHER_SCORE),
                    )
                )
        if not any(tally.wanted for tally in tallies.values()):
            continue
        clips_used += 1
        group = clip.name if len(_expand([clip.parent])) < 20 else clip.parent.name
        for name, tally in tallies.items():
            total[name].add(tally)
            by_folder.setdefault(group, Tally()).add(tally)
    both = Tally()
    for tally in total.values():
        both.add(tally)
    return {
        "clips": clips_used,
        "frames": len(watch.times_ms),
        "score": score,
        **both.report(),
        "classes": {name: tally.report() for name, tally in total.items()},
        "sources": {name: tally.report() for name, tally in by_folder.items()},
        "ms": watch.median_ms,
    }


def _boxes(detector: Detector, seen: Detections, name: str, score: float) -> NDArray[np.float32]:
    keep = (seen.classes == detector.classes.index(name)) & (seen.scores >= score)
    boxes: NDArray[np.float32] = seen.boxes_xyxy[keep]
    return boxes


def match(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> Tally:
    """Pair boxes that overlap by half, best scored first, each once."""
    tally = Tally(0, len(found), len(wanted))
    if len(wanted):
        for row in (overlaps := box_iou(found, wanted)):
            best = int(row.argmax())
            if row[best] >= 0.5:
                tally.hits += 1
                overlaps[:, best] = 0
    return tally


def _expand(clips: Sequence[Path]) -> list[Path]:
    return [
        path
        for clip in clips
        for path in (sorted(clip.iterdir()) if clip.is_dir() else [clip])
        if path.suffix in _CLIPS
    ]


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
    parser.add_argument("--detector", default="street")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--score", type=float, default=0.4, help="of --agreement")
    options = parser.parse_args(argv)
    if (options.data is None) == (options.agreement is None):
        parser.error("give either --data or --agreement")
    if options.agreement and options.teacher is None:
        parser.error("--agreement needs --teacher")
    lowest = LOWEST_SCORE if options.data else min(options.score, TEACHER_SCORE)
    detector = Detector.load(
        options.detector, device=options.device, threads=options.threads, score=lowest
    )
    if options.data:
        report = average_precision(detector, options.data, options.split)
    else:
        teacher = Detector.load(options.teacher, device=options.device, score=TEACHER_SCORE)
        report = agreement(detector, teacher, options.agreement, options.score)
    sys.stdout.write(json.dumps({"detector": options.detector} | report) + "\n")


if __name__ == "__main__":
    main()
