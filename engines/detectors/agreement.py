"""Count the boxes that a detector shares with a teacher on clips, or with the truth of rendered
scenes; offline.

Clips are counted in their last quarter only, which no training picture comes from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.detectors.decode import box_iou
from engines.detectors.pack import FIRST_TRAINING_SEED, decoded
from engines.detectors.runtime import Detections, Detector
from streamer.planes import Planes
from streamer.sources.street.street import Street

TEACHER_SCORE = 0.5
AGREED_CLASSES = ("person", "car")

_CLIPS = (".mp4", ".avi", ".mkv", ".mov")
_SAME_IOU = 0.5
_SCENE_FRAMES = range(50, 750, 100)
_IN_SIGHT = 0.5  # visibility of an actor that must be found


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


def scenes(detector: Detector, seeds: range, score: float) -> dict[str, object]:
    """Measure which actors of rendered scenes are found, by class; half hidden ones don't count.

    Raises:
        ValueError: the seeds are those that training pictures come from.
    """
    if seeds.stop > FIRST_TRAINING_SEED:
        raise ValueError(f"seeds must be below {FIRST_TRAINING_SEED}, got {seeds}; others train")
    watch = Stopwatch()
    total: dict[str, Tally] = {}
    for seed in seeds:
        street = Street(seed)
        planes = Planes.empty(street.width, street.height)
        for frame in _SCENE_FRAMES:
            street.render(frame, planes)
            seen = watch.detect(detector, planes)
            actors = [a for a in street.truth(frame).sightings if a.visibility >= _IN_SIGHT]
            for name in detector.classes:
                wanted = [actor.box_xyxy for actor in actors if actor.name == name]
                goal = np.array(wanted, np.float32).reshape(-1, 4)
                found = match(_boxes(detector, seen, name, score), goal)
                total.setdefault(name, Tally()).add(found)
    both = Tally()
    for tally in total.values():
        both.add(tally)
    return {
        "seeds": len(seeds),
        "score": score,
        "recall": both.report()["recall"],
        "actors": both.wanted,
        "classes": {name: tally.report() for name, tally in total.items()},
        "ms": watch.median_ms,
    }


def matched(found_xyxy: NDArray[np.float32], wanted_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which found boxes, best first, overlap a wanted one by half that no better one took."""
    hits = np.zeros(len(found_xyxy), bool)
    if len(wanted_xyxy):
        overlaps = box_iou(found_xyxy, wanted_xyxy)
        for index, row in enumerate(overlaps):
            best = int(row.argmax())
            if row[best] >= _SAME_IOU:
                hits[index] = True
                overlaps[:, best] = 0
    return hits


def match(found_xyxy: NDArray[np.float32], wanted_xyxy: NDArray[np.float32]) -> Tally:
    """Count what two sets of boxes share."""
    hits = matched(found_xyxy, wanted_xyxy)
    return Tally(int(hits.sum()), len(found_xyxy), len(wanted_xyxy))


def _boxes(detector: Detector, seen: Detections, name: str, score: float) -> NDArray[np.float32]:
    keep = (seen.classes == detector.classes.index(name)) & (seen.scores >= score)
    boxes: NDArray[np.float32] = seen.boxes_xyxy[keep]
    return boxes


def _expand(clips: Sequence[Path]) -> list[Path]:
    return [
        path
        for clip in clips
        for path in (sorted(clip.iterdir()) if clip.is_dir() else [clip])
        if path.suffix in _CLIPS
    ]
