"""Filter box positions of all tracks at once: constant velocity, in continuous time.

Each of the four coordinates (centre x, centre y, width, height) is a filter of its own with a
state (position, velocity), because noise and motion don't couple them. So a prediction or an
update is a dozen products of (N, 4) arrays and no matrix is ever inverted. The noise is white in
continuous time: two steps of dt/2 equal one of dt, whatever the frame rate.
Source: Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking", 6.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamer.tracking.detections import F64


@dataclass(frozen=True, slots=True)
class Noise:
    """How much is uncertain, in parts of the box's own size; (4,) each, for cx, cy, w, h.

    measured: standard deviation of a detector's box. drift: of position, per sqrt(second).
    agility: of velocity, per second and sqrt(second). first_velocity: of a new track, per second.
    """

    measured: F64
    drift: F64
    agility: F64
    first_velocity: F64


@dataclass(slots=True)
class Belief:
    """Mean and covariance of N boxes; (N, 4) float64 each, in px and px/s.

    pos, vel: means. var, var_vel: their variances. cov: of position with velocity.
    """

    pos: F64
    vel: F64
    var: F64
    cov: F64
    var_vel: F64


def to_cxcywh(boxes_xyxy: F64) -> F64:
    """Corners to centre and size."""
    size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return np.concatenate([boxes_xyxy[:, :2] + size * 0.5, size], axis=1)


def to_xyxy(boxes_cxcywh: F64) -> F64:
    """Centre and size to corners; a size that the filter drove below one pixel counts as one."""
    half = np.maximum(boxes_cxcywh[:, 2:], 1.0) * 0.5
    return np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], axis=1)


def scales(boxes_cxcywh: F64) -> F64:
    """(N, 4) the length in px that noise is a part of: width for cx and w, height for cy and h."""
    size = boxes_cxcywh[:, 2:]
    return np.concatenate([size, size], axis=1)


def begin(boxes_cxcywh: F64, noise: Noise) -> Belief:
    """Believe in boxes that were seen once."""
    scale = scales(boxes_cxcywh)
    zeros = np.zeros_like(boxes_cxcywh)
    return Belief(
        boxes_cxcywh,
        zeros,
        (noise.measured * scale) ** 2,
        zeros,
        (noise.first_velocity * scale) ** 2,
    )


def predict(belief: Belief, dt_s: F64, scale: F64, noise: Noise) -> Belief:
    """Carry beliefs forward.

    Args:
        belief: of N boxes.
        dt_s: (N, 1) seconds, zero or more.
        scale: (N, 4) from scales() of the last observed boxes.
        noise: of the motion.
    """
    drift, agility = (noise.drift * scale) ** 2, (noise.agility * scale) ** 2
    grown = agility * dt_s
    cov = belief.cov + dt_s * (belief.var_vel + grown * 0.5)
    var = belief.var + dt_s * (belief.cov + cov + drift - grown * dt_s * (1 / 6))
    return Belief(belief.pos + belief.vel * dt_s, belief.vel, var, cov, belief.var_vel + grown)


def correct(belief: Belief, seen_cxcywh: F64, var_measured: F64) -> Belief:
    """Take one detection each into N beliefs; var_measured is (N, 4), px squared."""
    gain = 1.0 / (belief.var + var_measured)
    missed = (seen_cxcywh - belief.pos) * gain
    rest = var_measured * gain
    return Belief(
        belief.pos + belief.var * missed,
        belief.vel + belief.cov * missed,
        belief.var * rest,
        belief.cov * rest,
        belief.var_vel - belief.cov * belief.cov * gain,
    )


def move(belief: Belief, affine: F64) -> Belief:
    """Carry beliefs into the coordinates of another picture, whose pixels are affine @ (x, y, 1).

    Between two frames a camera turns little, so the correlation that a rotation makes between
    x and y is left out and the coordinates stay separate.
    """
    turn = affine[:, :2]
    size = np.sqrt(abs(np.linalg.det(turn)))
    squares = np.zeros((4, 4))
    squares[:2, :2] = turn**2
    squares[2:, 2:] = np.eye(2) * size**2
    vel = np.concatenate([belief.vel[:, :2] @ turn.T, belief.vel[:, 2:] * size], axis=1)
    return Belief(
        move_boxes(belief.pos, affine),
        vel,
        belief.var @ squares.T,
        belief.cov @ squares.T,
        belief.var_vel @ squares.T,
    )


def move_boxes(boxes_cxcywh: F64, affine: F64) -> F64:
    """The same for boxes alone."""
    size = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    centre = boxes_cxcywh[:, :2] @ affine[:, :2].T + affine[:, 2]
    return np.concatenate([centre, boxes_cxcywh[:, 2:] * size], axis=1)
