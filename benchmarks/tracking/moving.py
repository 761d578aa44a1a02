"""Sequences of the rendered street with a camera that shakes or pans, and the motion seen in them.

Detections are the truth with a detector's faults, from a fixed seed: boxes jitter by 2 % of their
size, one of eight is missed, hidden objects score low. The motion is estimated from the pixels.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from tracking.sequences import F64, Sequence

from streamer.planes import Planes
from streamer.sources.street import Camera, Street
from streamer.tracking.motion import estimate_motion

_WIDTH, _HEIGHT, _FPS, _FRAMES, _SCALE = 1280, 720, 10, 150, 4


def moving(camera: Camera, seed: int = 3) -> tuple[Sequence, list[F64 | None]]:
    """One sequence and the motion into each of its frames."""
    street = Street(seed, _WIDTH, _HEIGHT, fps=Fraction(_FPS), camera=camera)
    dice = np.random.default_rng(seed)
    planes, small = Planes.empty(_WIDTH, _HEIGHT), None
    rows, labels, motions = [np.empty((0, 7))], [], []
    boxes = np.empty((0, 4), np.float32)
    for frame in range(_FRAMES):
        street.render(frame, planes)
        previous, small = (
            small,
            cv2.resize(
                planes.y, (_WIDTH // _SCALE, _HEIGHT // _SCALE), interpolation=cv2.INTER_AREA
            ),
        )
        motions.append(
            None
            if previous is None
            else estimate_motion(previous, small, scale=_SCALE, ignore_boxes_xyxy=boxes)
        )
        sightings = [s for s in street.truth(frame).sightings if s.visibility > 0.2]
        for s in sightings:
            x1, y1, x2, y2 = s.box_xyxy
            labels.append(f"{frame + 1},{s.identity},{x1},{y1},{x2 - x1},{y2 - y1},1,-1,-1,-1")
        truth = np.array([s.box_xyxy for s in sightings]).reshape(-1, 4)
        size = np.tile(truth[:, 2:] - truth[:, :2], 2)
        seen = dice.random(len(truth)) > 1 / 8
        found = (truth + dice.normal(0, 0.02, truth.shape) * size)[seen]
        scores = (0.35 + 0.6 * np.array([s.visibility for s in sightings]))[seen]
        rows.append(
            np.column_stack([np.full(len(found), frame), found, scores, np.ones(len(found))])
        )
        boxes = found.astype(np.float32)
    sequence = Sequence(
        camera, camera, _FPS, _FRAMES, np.concatenate(rows), "\n".join(labels) + "\n", "mot15"
    )
    return sequence, motions
