"""What truly happens in zones and on lines, from where everybody is in every frame of a sequence.

Looks at whole paths after the event, with OpenCV's geometry, and shares no code with what it
judges. A visit lasts from the first frame inside to the first outside; absences shorter than
settle_s that stay within the margin do not part it, and what stayed as short and as near to the
border is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from streamer.view import LineConfig, ZoneConfig

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Seen:
    """One object in one frame."""

    identity: int
    name: str
    box_xyxy: Box


@dataclass(frozen=True)
class Visit:
    """One object's stay in one zone, in frames."""

    identity: int
    first: int
    """The first inside."""
    left: int
    """The first outside, or the last in which the object was seen at all."""


Frames = Sequence[Sequence[Seen]]


def visits(frames: Frames, zone: ZoneConfig, fps: float, size: tuple[int, int]) -> list[Visit]:
    """All visits to a zone."""
    polygon = (np.array(zone.polygon) * size).astype(np.float32)
    settle = round(zone.settle_s * fps)
    found: list[Visit] = []
    for identity, path in paths(frames, zone.classes).items():
        depth = {
            frame: cv2.pointPolygonTest(polygon, _foot(box), True) / _size(box)
            for frame, box in path.items()
        }
        for first, last in _stays(depth, settle, zone.margin):
            later = [frame for frame in path if frame > last]
            found.append(Visit(identity, first, min(later, default=last)))
    return sorted(found, key=lambda visit: (visit.first, visit.identity))


def crossings(
    frames: Frames, line: LineConfig, fps: float, size: tuple[int, int]
) -> tuple[int, int]:
    """Begins and ends of all stays on the right of an upright line: crossings in and out."""
    (ax, ay), (bx, by) = np.array(line.ends) * size
    assert ax == bx
    settle = round(line.settle_s * fps)
    inward = outward = 0
    for path in paths(frames, line.classes).values():
        right = 1 if by < ay else -1
        depth = {f: right * (_foot(box)[0] - ax) / _size(box) for f, box in path.items()}
        level = {f for f, box in path.items() if min(ay, by) <= _foot(box)[1] <= max(ay, by)}
        for first, last in _stays(depth, settle, line.margin):
            inward += first > min(path) and first in level
            outward += last < max(path) and last in level
    return inward, outward


def paths(frames: Frames, classes: Sequence[str]) -> dict[int, dict[int, Box]]:
    """The boxes of each object of some classes, by frame."""
    found: dict[int, dict[int, Box]] = {}
    for number, frame in enumerate(frames):
        for seen in frame:
            if not classes or seen.name in classes:
                found.setdefault(seen.identity, {})[number] = seen.box_xyxy
    return found


def _stays(depth: dict[int, float], settle: int, margin: float) -> list[tuple[int, int]]:
    """First and last frame of each stay inside; depth: in parts of the object's size."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frame for frame, part in depth.items() if part >= 0):
        if runs:
            away = [depth[n] for n in range(runs[-1][1] + 1, frame) if n in depth]
            if len(away) <= settle and all(part > -margin for part in away):
                runs[-1] = runs[-1][0], frame
                continue
        runs.append((frame, frame))
    return [
        (first, last)
        for first, last in runs
        if last - first + 1 > settle
        or max(part for frame, part in depth.items() if first <= frame <= last) >= margin
    ]


def _foot(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, box[3]


def _size(box: Box) -> float:
    return max(((box[2] - box[0]) * (box[3] - box[1])) ** 0.5, 1e-9)
