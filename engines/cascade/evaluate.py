"""Score the shipped cascade on labelled pictures, at its tuned rho, dense, and by rho; offline.

The last line of the output is one JSON object. "ms" is the median time of a picture, from planes
to labels; "ms_cpu" the same in processor time, which a busy machine disturbs less.

    python -m engines.cascade.evaluate --data DIR --split NAME
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.cascade.metrics import Scores
from engines.cascade.pack import labelled_pictures, planes_of
from engines.cascade.runtime import LabelMap, Segmenter
from engines.cascade.stages import Rule

U8 = NDArray[np.uint8]
RHOS = (1.0, 0.985, 0.95, 0.9, 0.8, 0.6)
"""Of the table; 1 is dense."""
_WITH_BORDERS = 2
"""Scoring borders takes as long as labelling, so only the tuned rule's and the dense ones are."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one rule reached."""

    rule: Rule
    scores: Scores
    decided: tuple[float, float, float]
    ms: float
    ms_cpu: float

    def short(self) -> dict[str, object]:
        """As a row of the table."""
        return {
            "rho": self.rule.rho,
            "share": self.rule.share,
            "decided": [round(share, 4) for share in self.decided],
            "miou": round(self.scores.miou(), 4),
            "ms": round(self.ms, 2),
            "ms_cpu": round(self.ms_cpu, 2),
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as a decoder gives it, with the truth."""

    planes: tuple[U8, U8, U8]
    truth: U8


def measure(segmenter: Segmenter, pictures: Sequence[Picture], rules: Sequence[Rule]) -> list[Row]:
    """Label all pictures by each rule; the rules take turns, so that all see the same machine."""
    count = len(segmenter.classes)
    scores = [Scores(count) for _ in rules]
    times: list[list[tuple[float, float]]] = [[] for _ in rules]
    decided: list[list[tuple[float, float, float]]] = [[] for _ in rules]
    tuned = segmenter.stages.rule
    try:
        for picture in pictures:
            for index, rule in enumerate(rules):
                segmenter.stages.rule = rule
                wall, cpu = time.perf_counter(), time.process_time()
                found = segmenter.segment(picture.planes)
                times[index].append((time.perf_counter() - wall, time.process_time() - cpu))
                labels = enlarged(found, picture.truth.shape)
                scores[index].add(labels, picture.truth, borders=index < _WITH_BORDERS)
                decided[index].append(found.decided)
    finally:
        segmenter.stages.rule = tuned
    rows = []
    for index, rule in enumerate(rules):
        first, second, third = (statistics.fmean(d[s] for d in decided[index]) for s in range(3))
        wall_s, cpu_s = (statistics.median(t[k] for t in times[index]) for k in range(2))
        rows.append(Row(rule, scores[index], (first, second, third), 1e3 * wall_s, 1e3 * cpu_s))
    return rows


def enlarged(found: LabelMap, shape: tuple[int, ...]) -> U8:
    """Stretch a map of labels over a picture of (h, w)."""
    if found.labels.shape == shape:
        return found.labels
    stretched: U8 = cv2.resize(
        found.labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return stretched


def report(segmenter: Segmenter, rows: Sequence[Row]) -> dict[str, object]:
    """Put what was measured into one object; the first row is the tuned rule, the second dense."""
    tuned, dense = rows[0], rows[1]
    per_class = zip(segmenter.classes, tuned.scores.per_class(), strict=True)
    return {
        "miou": round(tuned.scores.miou(), 4),
        "miou_dense": round(dense.scores.miou(), 4),
        "per_class": {n: None if np.isnan(v) else round(float(v), 4) for n, v in per_class},
        "rho": tuned.rule.rho,
        "share": tuned.rule.share,
        "decided": [round(share, 4) for share in tuned.decided],
        "border_f": round(tuned.scores.border_f(), 4),
        "border_f_dense": round(dense.scores.border_f(), 4),
        "ms": round(tuned.ms, 2),
        "ms_dense": round(dense.ms, 2),
        "ms_cpu": round(tuned.ms_cpu, 2),
        "ms_cpu_dense": round(dense.ms_cpu, 2),
        "speedup": round(dense.ms_cpu / tuned.ms_cpu, 3),
        "table": [row.short() for row in rows[1:]],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="cascade")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="take this many pictures, evenly spaced")
    parser.add_argument("--rho", type=float, nargs="*", default=list(RHOS), help="of the table")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    segmenter = Segmenter.load(
        options.model, device=options.device, threads=options.threads, precision=options.precision
    )
    pictures = [
        Picture(planes_of(bgr), truth)
        for _, bgr, truth in labelled_pictures(options.data, options.split)
    ]
    if options.limit:
        pictures = pictures[:: -(-len(pictures) // options.limit)]
    tuned = segmenter.stages.rule
    rhos = [1.0, *(rho for rho in options.rho if rho < 1)]
    rows = measure(segmenter, pictures, [tuned, *(Rule(rho, tuned.share) for rho in rhos)])
    result = {"split": options.split, "pictures": len(pictures)} | report(segmenter, rows)
    segmenter.close()
    for row in rows[1:]:
        sys.stdout.write(f"{json.dumps(row.short())}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
