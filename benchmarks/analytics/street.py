"""The rendered street through tracker and analytics, with true boxes or those of a detector.

The zones are those of configs/street_zones.yaml. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.analytics.truth import Seen
from engines.detectors.runtime import Detector
from streamer.analytics import Analytics, Sight, Totals
from streamer.config import CameraConfig, DetectorConfig
from streamer.configfile import load_config
from streamer.ledger import COUNTERS
from streamer.messages import Happening
from streamer.planes import Planes
from streamer.sources.street import Street
from streamer.tracking import Detections, make_tracker

CONFIG = Path(__file__).resolve().parent.parent.parent / "configs" / "street_zones.yaml"
CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
CONFUSABLE = ((2, 4, 5), (1, 3))


@dataclass(frozen=True)
class Scene:
    """A stretch of the street."""

    seed: int
    seconds: int
    fps: int = 25
    width: int = 1280
    height: int = 720

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def street(self) -> Street:
        """What renders it."""
        return Street(self.seed, self.width, self.height, fps=Fraction(self.fps))

    def truth(self) -> list[list[Seen]]:
        """Everybody in every frame."""
        street = self.street()
        return [
            [Seen(s.identity, s.name, s.box_xyxy) for s in street.truth(frame).sightings]
            for frame in range(self.seconds * self.fps)
        ]


@dataclass
class Observed:
    """What analytics made of a scene."""

    happenings: list[tuple[int, Happening]] = field(default_factory=list)
    """With their frames."""
    identity: dict[tuple[int, int], int] = field(default_factory=dict)
    """Who a track is in a frame, where the boxes are true."""
    spent_s: list[float] = field(default_factory=list)
    """Processor time of analytics, by frame."""
    occupancy: list[tuple[int, ...]] = field(default_factory=list)
    speeds_kmh: dict[int, list[float]] = field(default_factory=dict)
    """By track."""
    counts: tuple[tuple[int, int], ...] = ()

    def of(self, kind: str, **fields: object) -> list[tuple[int, Happening]]:
        """Happenings of one kind with these fields."""
        return [
            (frame, happening)
            for frame, happening in self.happenings
            if happening.kind == kind and fields.items() <= happening.fields.items()
        ]


def camera() -> CameraConfig:
    """With its zones and lines."""
    return load_config(CONFIG).cameras["street"]


def true_boxes(truth: list[list[Seen]]) -> Iterator[Detections]:
    """The truth as a perfect detector would give it."""
    for frame in truth:
        boxes = np.array([seen.box_xyxy for seen in frame], np.float32).reshape(-1, 4)
        classes = np.array([CLASSES.index(seen.name) for seen in frame], np.int64)
        yield Detections(boxes, np.ones(len(frame), np.float32), classes)


def found_boxes(scene: Scene) -> Iterator[Detections]:
    """What the default detector finds in the pictures."""
    settings = DetectorConfig()
    detector = Detector.load(
        settings.model, device="cpu", score=settings.score_low, nms_iou=settings.nms_iou
    )
    places = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in detector.classes])
    street, planes = scene.street(), Planes.empty(*scene.size)
    try:
        for frame in range(scene.seconds * scene.fps):
            street.render(frame, planes)
            found = detector.detect(planes.y, planes.u, planes.v)
            classes = places[found.classes]
            known = classes >= 0
            yield Detections(
                found.boxes_xyxy[known], found.scores[known], classes[known].astype(np.int64)
            )
    finally:
        detector.close()


def watch(
    scene: Scene, boxes: Iterator[Detections], truth: list[list[Seen]] | None = None
) -> Observed:
    """Run tracker and analytics over a scene; truth: if the boxes are its own, in its order."""
    tracker = make_tracker("default", class_groups=CONFUSABLE)
    analytics = Analytics("street", camera(), CLASSES, Totals([0] * COUNTERS))
    observed = Observed()
    for frame, found in enumerate(boxes):
        tracks = tracker.update(found, frame / scene.fps)
        seen = tracks.detection >= 0
        ids = tracks.ids[seen]
        sight = Sight(
            frame, frame / scene.fps, scene.width, scene.height, ids,
            found.boxes_xyxy[tracks.detection[seen]].astype(np.float64), tracks.classes[seen],
            tracks.confirmed[seen], tracks.ended,
        )  # fmt: skip
        begun_s = time.thread_time()
        happenings = analytics.update(sight)
        readings = analytics.readings(ids)
        observed.spent_s.append(time.thread_time() - begun_s)
        observed.happenings += [(frame, happening) for happening in happenings]
        observed.occupancy.append(readings.occupancy)
        observed.counts = readings.counts
        speeds = np.frombuffer(readings.speeds_kmh, np.float32).tolist()
        for track_id, speed in zip(ids.tolist(), speeds, strict=True):
            observed.speeds_kmh.setdefault(track_id, []).append(speed)
        if truth is not None:
            for track_id, row in zip(ids.tolist(), tracks.detection[seen].tolist(), strict=True):
                observed.identity[track_id, frame] = truth[frame][row].identity
    last = scene.seconds * scene.fps
    observed.happenings += [(last, happening) for happening in analytics.end()]
    return observed
