"""Score tracks against the truth with TrackEval: HOTA, CLEAR and identity, combined over a set.

The labels go through TrackEval's own readers and preprocessing (distractors, ignored regions);
KITTI's cars and pedestrians are combined by their number of detections.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from tracking.sequences import F64, KITTI_CLASSES, Sequence

with contextlib.redirect_stdout(io.StringIO()):
    import trackeval

METRICS = (
    trackeval.metrics.HOTA(),
    trackeval.metrics.CLEAR({"PRINT_CONFIG": False}),
    trackeval.metrics.Identity({"PRINT_CONFIG": False}),
)


class Judge:
    """Knows the truth of one sequence."""

    def __init__(self, sequence: Sequence) -> None:
        self.frames = sequence.frames
        self.kitti = sequence.protocol == "kitti"
        self.classes = ["car", "pedestrian"] if self.kitti else ["pedestrian"]
        with tempfile.TemporaryDirectory() as folder:
            self._dataset = _dataset(Path(folder), sequence)
            self._truth = self._dataset._load_raw_file("", sequence.name, is_gt=True)

    def score(self, tracks: F64) -> dict[str, list[dict[str, object]]]:
        """Scores of each class by each metric; tracks as rows frame, id, x1, y1, x2, y2, class."""
        raw = self._truth | {"tracker_ids": [], "tracker_dets": [], "tracker_classes": []}
        raw["tracker_confidences"] = []
        edges = np.searchsorted(tracks[:, 0], np.arange(self.frames + 1))
        for first, last in pairwise(edges):
            rows = tracks[first:last]
            boxes = rows[:, 2:6].copy()
            if not self.kitti:
                boxes[:, 2:] -= boxes[:, :2]
            raw["tracker_ids"].append(rows[:, 1].astype(int))
            raw["tracker_dets"].append(boxes)
            raw["tracker_classes"].append(self._classes(rows[:, 6]))
            raw["tracker_confidences"].append(np.ones(len(rows)))
        pairs = zip(raw["gt_dets"], raw["tracker_dets"], strict=True)
        raw["similarity_scores"] = [self._dataset._calculate_similarities(*p) for p in pairs]
        scores = {}
        for name in self.classes:
            data = self._dataset.get_preprocessed_seq_data(raw, name)
            scores[name] = [metric.eval_sequence(data) for metric in METRICS]
        return scores

    def _classes(self, classes: F64) -> F64:
        if not self.kitti:
            return np.ones(len(classes), int)
        numbers = self._dataset.class_name_to_class_id
        return np.array([numbers[KITTI_CLASSES[int(c)]] for c in classes], int)


def _dataset(folder: Path, sequence: Sequence) -> trackeval.datasets._base_dataset._BaseDataset:
    """TrackEval's reader and preprocessing for the kind of labels."""
    kitti = sequence.protocol == "kitti"
    truth = folder / "truth" / ("label_02" if kitti else sequence.name + "/gt")
    truth.mkdir(parents=True)
    (folder / "trackers").mkdir()
    config = {
        "GT_FOLDER": str(folder / "truth"),
        "TRACKERS_FOLDER": str(folder / "trackers"),
        "TRACKERS_TO_EVAL": [],
        "PRINT_CONFIG": False,
    }
    if kitti:
        (truth / f"{sequence.name}.txt").write_text(sequence.truth)
        (folder / "truth" / "evaluate_tracking.seqmap.training").write_text(
            f"{sequence.name} empty 000000 {sequence.frames:06d}\n"
        )
        return trackeval.datasets.Kitti2DBox(config)
    (truth / "gt.txt").write_text(sequence.truth)
    config |= {
        "BENCHMARK": "MOT15" if sequence.protocol == "mot15" else "MOT17",
        "SKIP_SPLIT_FOL": True,
        "SEQ_INFO": {sequence.name: sequence.frames},
    }
    return trackeval.datasets.MotChallenge2DBox(config)


def combine(results: Iterable[dict[str, list[dict[str, object]]]]) -> dict[str, float]:
    """HOTA, MOTA, IDF1 in percent and IDSW over all sequences and classes."""
    results = list(results)
    combined = []
    for index, metric in enumerate(METRICS):
        classes = {
            name: metric.combine_sequences(
                {str(n): result[name][index] for n, result in enumerate(results)}
            )
            for name in results[0]
        }
        combined.append(metric.combine_classes_det_averaged(classes))
    hota, clear, identity = combined
    return {
        "HOTA": 100 * float(np.mean(hota["HOTA"])),
        "MOTA": 100 * float(clear["MOTA"]),
        "IDF1": 100 * float(identity["IDF1"]),
        "IDSW": float(clear["IDSW"]),
    }
