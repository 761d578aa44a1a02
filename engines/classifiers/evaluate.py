"""Measure what a verifier gains: precision at equal recall, with and without it; offline.

Truth is what a teacher is confident of on the last quarter of each clip, which nothing was trained
on. Both are measured on the same frames; the interval is a bootstrap over clips, in pairs.

    python -m engines.classifiers.evaluate TEACHER.onnx CLIP... [--verifier street-check]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.classifiers.runtime import Classifier
from engines.crops import F32, Piece
from engines.detectors.agreement import AGREED_CLASSES, TEACHER_SCORE, matched
from engines.detectors.pack import decoded
from engines.detectors.runtime import Detections, Detector

F64 = NDArray[np.float64]

OPERATING_SCORE = 0.4
_ROUNDS = 1000


@dataclass(slots=True)
class Outcome:
    """Boxes of one clip, each with its score and whether the teacher has it, and how many it has.

    Greedy matching takes the best box first, so what holds for all boxes holds from any score on.
    """

    wanted: int = 0
    scores: list[F32] = field(default_factory=list)
    hits: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, found_xyxy: F32, scores: F32, wanted_xyxy: F32) -> None:
        """Count one class in one frame."""
        order = np.argsort(-scores, kind="stable")
        self.wanted += len(wanted_xyxy)
        self.scores.append(scores[order])
        self.hits.append(matched(found_xyxy[order], wanted_xyxy))


class Curve:
    """Precision and recall of some clips at every score."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        empty = np.empty(0, np.float32)
        scores = np.concatenate([empty, *(s for o in outcomes for s in o.scores)])
        hits = np.concatenate([empty, *(h for o in outcomes for h in o.hits)])
        order = np.argsort(-scores, kind="stable")
        self._scores = scores[order]
        right = np.cumsum(hits[order])
        self.precision: F64 = right / np.arange(1, len(right) + 1)
        self.recall: F64 = right / max(sum(o.wanted for o in outcomes), 1)

    def at_score(self, score: float) -> tuple[float, float]:
        """Precision and recall of all boxes from a score on."""
        last = int(np.searchsorted(-self._scores, -score, side="right")) - 1
        return (float(self.precision[last]), float(self.recall[last])) if last >= 0 else (1.0, 0.0)

    def precision_at(self, recall: float) -> float:
        """Precision where recall is first reached; 0 if it never is."""
        first = int(np.searchsorted(self.recall, recall))
        return float(self.precision[first]) if first < len(self.recall) else 0.0

    def best_f1(self) -> float:
        """The highest harmonic mean of both."""
        return float(
            np.max(2 * self.precision * self.recall / (self.precision + self.recall + 1e-12))
        )


class Comparison:
    """The detector alone and with its verifier, on the same frames."""

    def __init__(self, detector: Detector, teacher: Detector, verifier: Classifier) -> None:
        self._detector, self._teacher, self._verifier = detector, teacher, verifier
        self._columns = verifier.columns(detector.classes)
        self.check_ms: list[float] = []
        self.boxes = 0

    def clip(self, path: Path) -> tuple[Outcome, Outcome]:
        """Look at the last quarter of a clip."""
        alone, checked = Outcome(), Outcome()
        frames = list(decoded(path))
        for planes in frames[int(len(frames) * 0.75) :]:
            yuv = (planes.y, planes.u, planes.v)
            found = self._detector.detect(*yuv)
            second = self._second_opinion(found, yuv)
            goal = self._teacher.detect(*yuv)
            for name in AGREED_CLASSES:
                mine = found.classes == self._detector.classes.index(name)
                sure = goal.scores >= TEACHER_SCORE
                theirs = goal.classes == self._teacher.classes.index(name)
                wanted = goal.boxes_xyxy[sure & theirs]
                alone.add(found.boxes_xyxy[mine], found.scores[mine], wanted)
                checked.add(found.boxes_xyxy[mine], second[mine], wanted)
        return alone, checked

    def _second_opinion(self, found: Detections, yuv: tuple[NDArray[np.uint8], ...]) -> F32:
        columns = self._columns[found.classes]
        rows = np.flatnonzero(columns >= 0)
        if not len(rows):
            return found.scores
        y, u, v = yuv
        start_s = time.thread_time()
        said = self._verifier.network.look([Piece((y, u, v), found.boxes_xyxy[rows])])
        self.check_ms.append((time.thread_time() - start_s) * 1e3)
        self.boxes += len(rows)
        scores: F32 = found.scores.copy()
        scores[rows] = self._verifier.second_opinion(scores[rows], said, columns[rows])
        return scores


def compare(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, object]:
    """Precision of both where the detector alone has its recall at OPERATING_SCORE."""
    alone, checked = (Curve([pair[side] for pair in pairs]) for side in (0, 1))
    precision, recall = alone.at_score(OPERATING_SCORE)
    random = np.random.default_rng(0)
    gains = []
    for _ in range(_ROUNDS):
        drawn = [pairs[index] for index in random.integers(len(pairs), size=len(pairs))]
        before, after = (Curve([pair[side] for pair in drawn]) for side in (0, 1))
        first, at = before.at_score(OPERATING_SCORE)
        gains.append(after.precision_at(at) - first)
    low, high = np.percentile(gains, [2.5, 97.5])
    return {
        "clips": len(pairs),
        "wanted": sum(pair[0].wanted for pair in pairs),
        "recall": round(recall, 4),
        "precision": {
            "alone": round(precision, 4),
            "verified": round(checked.precision_at(recall), 4),
            "gain_95": [round(float(low), 4), round(float(high), 4)],
        },
        "best_f1": {
            "alone": round(alone.best_f1(), 4),
            "verified": round(checked.best_f1(), 4),
        },
    }


def expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and the clips in folders."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix in (".mp4", ".avi"))
        else:
            yield path


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--detector", default="street")
    parser.add_argument("--verifier", default="street-check")
    options = parser.parse_args(argv)
    comparison = Comparison(
        Detector.load(options.detector, device="cpu", score=0.05),
        Detector.load(options.teacher, device="cpu"),
        Classifier.load(options.verifier, device="cpu"),
    )
    by_group: dict[str, list[tuple[Outcome, Outcome]]] = {}
    for clip in expand(options.clips):
        group = clip.parent.name if clip.parent in options.clips else clip.name
        outcomes = comparison.clip(clip)
        if outcomes[0].wanted:
            by_group.setdefault(group, []).append(outcomes)
    everything = [pair for pairs in by_group.values() for pair in pairs]
    report = {
        "detector": options.detector,
        "verifier": options.verifier,
        "all": compare(everything),
        "sources": {group: compare(pairs) for group, pairs in by_group.items()},
        "ms_a_crop": round(sum(comparison.check_ms) / max(comparison.boxes, 1), 4),
        "crops_a_frame": round(comparison.boxes / max(len(comparison.check_ms), 1), 2),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
