"""Score a shipped recogniser on a folder of labelled clips as a stream would be scored; offline.

    python -m engines.off.evaluate --data DIR [--model fight]

DIR holds labels.csv (file,label,source) and the clips. Nothing is trained. Each clip's score is the
mean over all of it. The last line of the output is JSON; figures are fractions. Clips that the
network was trained on are named by their files' digests in the metadata and counted apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.off.crops import fill_frame
from engines.off.metrics import accuracy, auc, confusion, mean_class_accuracy
from engines.off.pack import read_labels, timed_frames
from engines.off.runtime import Memory, OffModel
from engines.off.sampler import Sampler

F32 = NDArray[np.float32]

_SECOND_NS = 1_000_000_000
_DIGEST = 8  # characters


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one clip."""

    scores: F32
    samples: int
    engine_s: float
    """Time spent in preprocessing and network."""


def judge(model: OffModel, path: Path) -> Judged:
    """Score one clip from its first frame to its last.

    Raises:
        SystemExit: it is too short to show motion.
    """
    signature = model.signature
    sampler = Sampler(signature.rate, gap_s=60.0)
    memory = Memory(1 << 20)  # the whole clip is the window
    planes = np.empty((1, 3, signature.height, signature.width), np.uint8)
    spent_s = 0.0
    for time_s, frame in timed_frames(path):
        if sampler.take(round(time_s * _SECOND_NS)) == "skip":
            continue
        begin = time.perf_counter()
        fill_frame((frame.y, frame.u, frame.v), planes[0])
        model.step(planes, [memory])
        spent_s += time.perf_counter() - begin
    scores = model.scores(memory)
    if scores is None:
        raise SystemExit(
            f"{path}: clip must hold at least {signature.least} samples at {signature.rate:g} a "
            f"second, got {memory.samples}; remove its row or give a longer clip"
        )
    return Judged(scores, memory.samples, spent_s)


def digest(path: Path) -> str:
    """Short name of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST]


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="fight", help="name in the zoo, or an ONNX file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    model = OffModel.load(options.model, device=options.device, threads=options.threads, batch=1)
    classes = model.signature.classes
    if model.signature.scope != "frame":
        raise SystemExit(
            f"{options.model}: scope must be frame, got {model.signature.scope}; persons have no "
            "labels.csv, see engines.off.street_test"
        )
    rows = read_labels(options.data, classes)
    model.engine.warm_up()
    judged = [judge(model, row.path) for row in rows]
    scores = np.stack([each.scores for each in judged]).astype(np.float64)
    truth = np.array([classes.index(row.label) for row in rows])
    trained = set(model.engine.metadata.get("trained_on", "").split(","))
    seen = np.array([digest(row.path) in trained for row in rows])
    if seen.any():
        sys.stdout.write(
            f"note: the network was trained on {seen.sum()} of these {len(rows)} clips, so this is "
            "no measure of how well it does on new ones; see the cross-validation in CARD.md\n"
        )
    if seen.any() and not seen.all():
        new = accuracy(scores[~seen], truth[~seen])
        sys.stdout.write(f"accuracy on the {(~seen).sum()} clips it never saw: {new:.4f}\n")
    counts = confusion(scores, truth, len(classes))
    sys.stdout.write(f"true (rows) against said ({', '.join(classes)}):\n{counts}\n")
    spent_s, samples = sum(j.engine_s for j in judged), sum(j.samples for j in judged)
    figures = {
        "accuracy": round(accuracy(scores, truth), 4),
        "mean_class_accuracy": round(mean_class_accuracy(scores, truth), 4),
        "auc": round(auc(scores, truth), 4),
        "clips": len(rows),
        "ms_per_frame": round(1000 * spent_s / samples, 3),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
