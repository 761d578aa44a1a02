"""Find labelled sequences below a folder by their content and read their detections.

A folder with gt.txt (MOT format) is a sequence; each det_*.txt in it is a detector's output, each
ref_*.txt a tracker's, of which the boxes are taken and the identities thrown away. A kitti.tar.gz
holds label/<n>.txt and det/<class>/<n>.txt. Which set a file belongs to is read from its scores.
"""

from __future__ import annotations

import configparser
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

KITTI_CLASSES = {1: "pedestrian", 2: "car", 3: "cyclist"}


@dataclass(frozen=True)
class Sequence:
    """One sequence with the detections of one detector.

    rows: (K, 7) frame from 0, x1, y1, x2, y2, score in 0..1, class; sorted by frame.
    truth: text of the labels; protocol: "mot17", "mot15" (no classes in its labels) or "kitti".
    """

    name: str
    set: str
    fps: float
    frames: int
    rows: F64
    truth: str
    protocol: str

    def by_frame(self) -> Iterator[F64]:
        """(N, 6) x1, y1, x2, y2, score, class of each frame, also of empty ones."""
        edges = np.searchsorted(self.rows[:, 0], np.arange(self.frames + 1))
        for first, last in pairwise(edges):
            yield self.rows[first:last, 1:]


def find(folder: Path) -> list[Sequence]:
    """Every sequence below folder, in the order of their paths."""
    found = [s for gt in sorted(folder.rglob("gt.txt")) for s in _mot(gt)]
    for archive in sorted(folder.rglob("kitti.tar.gz")):
        found += _kitti(archive)
    return found


def _mot(gt: Path) -> Iterator[Sequence]:
    truth = np.loadtxt(gt, delimiter=",", ndmin=2)
    labelled = bool((truth[:, 7] > 0).any())
    fps, frames = 25.0, int(truth[:, 0].max())
    if (gt.parent / "seqinfo.ini").is_file():
        info = configparser.ConfigParser()
        info.read(gt.parent / "seqinfo.ini")
        fps = info.getfloat("Sequence", "frameRate")
        frames = info.getint("Sequence", "seqLength")
    for path in sorted([*gt.parent.glob("det_*.txt"), *gt.parent.glob("ref_*.txt")]):
        table = np.loadtxt(path, delimiter=",", ndmin=2)
        if path.name.startswith("ref_"):
            kind, scores = "reference", np.full(len(table), 0.9)
        else:
            kind, scores = _calibrated(table[:, 6])
        corners = table[:, 2:6].copy()
        corners[:, 2:] += corners[:, :2]
        rows = np.column_stack([table[:, 0] - 1, corners, scores, np.ones(len(table))])
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        yield Sequence(
            gt.parent.name,
            kind,
            fps,
            frames,
            rows[rows[:, 0] < frames],
            gt.read_text(),
            "mot17" if labelled else "mot15",
        )


def _calibrated(scores: F64) -> tuple[str, F64]:
    """Scores in 0..1 are Faster R-CNN's; unbounded ones the margin of DPM's classifier."""
    if scores.min() >= 0 and scores.max() <= 1:
        return "frcnn", (scores - scores.min()) / max(float(np.ptp(scores)), 1e-9)
    return "dpm", 1 / (1 + np.exp(-2 * (scores - 0.2)))


def _kitti(archive: Path) -> Iterator[Sequence]:
    """PointRCNN's scores are logits."""
    with tarfile.open(archive) as tar:
        text = {
            Path(member.name): stream.read().decode()
            for member in tar.getmembers()
            if member.name.endswith(".txt") and (stream := tar.extractfile(member)) is not None
        }
    for path in sorted(p for p in text if p.parent.name == "label"):
        lines = [
            line.split(",")
            for other, content in text.items()
            if "det" in other.parts and other.name == path.name
            for line in content.splitlines()
        ]
        table = np.array(lines, np.float64).reshape(len(lines), -1)
        scores = 1 / (1 + np.exp(-table[:, 6]))
        rows = np.column_stack([table[:, 0], table[:, 2:6], scores, table[:, 1]])
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        frames = 1 + max(int(line.split()[0]) for line in text[path].splitlines())
        yield Sequence(
            f"kitti-{path.stem}",
            "kitti",
            10.0,
            frames,
            rows[rows[:, 0] < frames],
            text[path],
            "kitti",
        )
