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
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from engines.base import Engine
from engines.cascade.dense import dense_model
from engines.cascade.metrics import Scores
from engines.cascade.pack import labelled_pictures, planes_of
from engines.cascade.picture import best_labels, fill_input
from engines.cascade.runtime import LabelMap, Segmenter, find_cascade
from engines.cascade.signature import STRIDE
from engines.cascade.stages import Rule
from engines.load import load_engine

U8 = NDArray[np.uint8]
Triple = tuple[U8, U8, U8]
RHOS = (1.0, 0.985, 0.95, 0.9, 0.8, 0.6)
"""Of the table; 1 is dense."""


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

    planes: Triple
    truth: U8


@dataclass(frozen=True, slots=True)
class Way:
    """One way to label a frame, with the rule that it stands for."""

    rule: Rule
    label: Callable[[Triple], LabelMap]


def by_rule(segmenter: Segmenter, rule: Rule) -> Way:
    """Label with the cascade by another rule than the tuned one."""
    return Way(rule, partial(segmenter.segment, rule=rule))


def densely(segmenter: Segmenter, engine: Engine) -> Way:
    """Label with all three stages as one graph, which is the fastest dense form."""
    signature = segmenter.stages.signature
    picture = np.zeros((1, 3, signature.height, signature.width), np.uint8)

    def label(planes: Triple) -> LabelMap:
        at = fill_input(*planes, picture[0])
        logits = engine.infer({"planes": picture})["logits"][0]
        labels = best_labels(logits, at, STRIDE, segmenter.out_stride)
        shares = np.bincount(labels.reshape(-1), minlength=len(logits)) / labels.size
        height, width = labels.shape
        return LabelMap(width, height, labels, shares.astype(np.float32), (0.0, 0.0, 1.0), 0.0)

    return Way(Rule(1.0, 0.0), label)


def load_dense(
    folder: Path, device: str, threads: int, precision: str | None, stages: int = 3
) -> Engine:
    """Load all stages, or the first ones, as one graph."""
    with tempfile.TemporaryDirectory() as place:
        onnx.save(dense_model(folder, stages), Path(place) / "dense.onnx")
        return load_engine(
            Path(place) / "dense.onnx", device=device, threads=threads, precision=precision
        )


def measure(
    ways: Sequence[Way], pictures: Sequence[Picture], classes: int, *, borders: int = 2
) -> list[Row]:
    """Label all pictures in each way; the ways take turns, so that all see the same machine.

    Args:
        ways: to compare.
        pictures: with their truth.
        classes: how many there are.
        borders: the borders of so many of the first ways are scored too, which is slow.
    """
    scores = [Scores(classes) for _ in ways]
    times: list[list[tuple[float, float]]] = [[] for _ in ways]
    decided: list[list[tuple[float, float, float]]] = [[] for _ in ways]
    for picture in pictures:
        for index, way in enumerate(ways):
            wall, cpu = time.perf_counter(), time.process_time()
            found = way.label(picture.planes)
            times[index].append((time.perf_counter() - wall, time.process_time() - cpu))
            labels = enlarged(found, picture.truth.shape)
            scores[index].add(labels, picture.truth, borders=index < borders)
            decided[index].append(found.decided)
    rows = []
    for index, way in enumerate(ways):
        first, second, third = (statistics.fmean(d[s] for d in decided[index]) for s in range(3))
        wall_s, cpu_s = (statistics.median(t[k] for t in times[index]) for k in range(2))
        rows.append(Row(way.rule, scores[index], (first, second, third), 1e3 * wall_s, 1e3 * cpu_s))
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
    dense = load_dense(
        find_cascade(options.model), options.device, options.threads, options.precision
    )
    ways = [by_rule(segmenter, tuned), densely(segmenter, dense)]
    ways += [by_rule(segmenter, Rule(rho, tuned.share)) for rho in options.rho if rho < 1]
    rows = measure(ways, pictures, len(segmenter.classes))
    dense.close()
    result = {"split": options.split, "pictures": len(pictures)} | report(segmenter, rows)
    segmenter.close()
    for row in rows[1:]:
        sys.stdout.write(f"{json.dumps(row.short())}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
