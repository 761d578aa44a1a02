"""Draw bicycles and motorcycles and seat their riders; a rider's feet follow the pedals."""

from __future__ import annotations

import math

import numpy as np

from streamer.sources.street.people import (
    FOREARM,
    HIP_SIDE,
    SHIN,
    SHOULDER_SIDE,
    THIGH,
    UPPER_ARM,
    Joint,
    Limb,
    Look,
    Pose,
    dressed,
)
from streamer.sources.street.shapes import (
    F64,
    Figure,
    Paint,
    Rgb,
    capsules,
    disc,
    figure,
    paint,
    shadow,
    upright,
)

WHEEL_M = 0.34
_PEDAL, _CRANK_M = (0.05, 0.3), 0.16
_CRANK_M_PER_TURN = 4.8
_TYRE: Rgb = (28, 28, 30)


def bicycle(colour: Rgb, direction: int, x_m: float, z_m: float, rolled_m: float) -> Figure:
    """Draw a bicycle whose middle is at (x, z)."""
    front, rear = (0.56, WHEEL_M), (-0.5, WHEEL_M)
    saddle, bar, crank = (-0.2, 0.92), (0.42, 1.0), _PEDAL
    parts: list[tuple[F64, Paint]] = []
    turn = -rolled_m / WHEEL_M
    for hub in (rear, front):
        parts.append((disc(*hub, WHEEL_M - 0.02), paint(_TYRE, stroke_m=0.05)))
        for angle in (turn, turn + math.pi / 2):
            dx, dy = WHEEL_M * 0.9 * math.cos(angle), WHEEL_M * 0.9 * math.sin(angle)
            parts.append(
                (
                    _tube((hub[0] - dx, hub[1] - dy), (hub[0] + dx, hub[1] + dy), 0.008),
                    paint((150, 150, 150)),
                )
            )
    metal = paint(colour)
    stem = (0.38, 0.82)
    for a, b in (
        (rear, crank),
        (rear, (-0.15, 0.74)),
        (crank, saddle),
        ((-0.13, 0.72), stem),
        (crank, stem),
        (stem, bar),
        (front, stem),
    ):
        parts.append((_tube(a, b, 0.022), metal))
    parts.append((_tube((-0.31, 0.95), (-0.08, 0.93), 0.035), paint((30, 26, 24))))
    parts.append((_tube((0.34, 1.03), bar, 0.02), paint((30, 26, 24))))
    angle = -_crank(rolled_m)
    for side in (angle, angle + math.pi):
        foot = (crank[0] + _CRANK_M * math.cos(side), crank[1] + _CRANK_M * math.sin(side))
        parts.append((_tube(crank, foot, 0.016), paint((90, 92, 96))))
    return _standing(parts, direction, x_m, z_m)


def motorcycle(colour: Rgb, direction: int, x_m: float, z_m: float) -> Figure:
    """Draw a motorcycle whose middle is at (x, z)."""
    parts: list[tuple[F64, Paint]] = []
    for hub in (-0.68, 0.7):
        parts.append((disc(hub, 0.31, 0.31), paint(_TYRE)))
        parts.append((disc(hub, 0.31, 0.17, 12), paint((170, 172, 176))))
        parts.append((disc(hub, 0.31, 0.06, 8), paint((60, 60, 64))))
    parts.append((_tube((-0.75, 0.32), (0.05, 0.36), 0.05), paint((190, 192, 196))))
    parts.append((_tube((0.7, 0.31), (0.48, 0.95), 0.04), paint((150, 152, 156))))
    for outline, rgb, light in (
        (((-0.3, 0.28), (-0.32, 0.62), (0.35, 0.62), (0.42, 0.3)), (70, 72, 78), 1.0),
        (((-0.95, 0.78), (-0.9, 0.88), (-0.1, 0.76), (-0.1, 0.58), (-0.6, 0.58)), colour, 0.8),
        (
            ((-0.12, 0.62), (-0.1, 0.82), (0.1, 0.98), (0.4, 0.98), (0.52, 0.72), (0.36, 0.58)),
            colour,
            1.0,
        ),
        (((0.5, 0.66), (0.46, 1.02), (0.58, 1.2), (0.68, 0.98), (0.72, 0.7)), colour, 1.12),
        (((0.42, 0.62), (0.5, 0.7), (0.95, 0.62), (0.98, 0.55)), colour, 0.9),
    ):
        parts.append((np.array(outline), paint(rgb, light)))
    parts.append((_tube((-0.65, 0.85), (-0.1, 0.82), 0.06), paint((30, 28, 28))))
    parts.append((_tube((0.36, 1.06), (0.5, 1.04), 0.025), paint((30, 28, 28))))
    parts.append((disc(0.66, 0.9, 0.06, 10), paint((255, 246, 206))))
    parts.append((disc(-0.93, 0.82, 0.04, 8), paint((206, 26, 26))))
    return _standing(parts, direction, x_m, z_m)


def cyclist(look: Look, direction: int, x_m: float, z_m: float, rolled_m: float) -> Figure:
    """Draw a person who pedals the bicycle that stands at (x, z)."""
    turn = -_crank(rolled_m)
    feet = tuple(
        (_PEDAL[0] + _CRANK_M * math.cos(a), _PEDAL[1] + _CRANK_M * math.sin(a) + 0.07)
        for a in (turn, turn + math.pi)
    )
    return _rider(
        look, direction, x_m, z_m, seat=(-0.2, 1.02), feet=feet, hands=(0.36, 1.05), lean=0.42
    )


def motorcyclist(look: Look, direction: int, x_m: float, z_m: float) -> Figure:
    """Draw a person who rides the motorcycle that stands at (x, z)."""
    feet = ((-0.05, 0.36), (-0.05, 0.36))
    return _rider(
        look, direction, x_m, z_m, seat=(-0.3, 0.96), feet=feet, hands=(0.42, 1.08), lean=0.3
    )


def _rider(
    look: Look,
    direction: int,
    x_m: float,
    z_m: float,
    *,
    seat: tuple[float, float],
    feet: tuple[tuple[float, float], ...],
    hands: tuple[float, float],
    lean: float,
) -> Figure:
    size = look.height_m
    pose = Pose(yaw=0.0 if direction > 0 else math.pi, lean=lean)
    trunk = 0.29
    hip = seat[1] / size
    neck = (trunk * math.sin(lean), hip + trunk * math.cos(lean))
    hand = ((hands[0] - seat[0]) / size, hands[1] / size)
    limbs = []
    for side, foot in zip((1, -1), feet, strict=True):
        ankle = ((foot[0] - seat[0]) / size, foot[1] / size)
        limbs.append(_reach((0.0, hip, side * HIP_SIDE), ankle, (THIGH, SHIN), 1))
    for side in (1, -1):
        limbs.append(_reach((*neck, side * SHOULDER_SIDE), hand, (UPPER_ARM, FOREARM), -1))
    left_leg, right_leg, left_arm, right_arm = limbs
    return dressed(
        look, pose, (left_leg, right_leg, left_arm, right_arm), hip, neck, x_m, z_m, (seat[0], 0.0)
    )


def _reach(root: Joint, target: tuple[float, float], bones: tuple[float, float], bend: int) -> Limb:
    """Bend a limb of two bones so that it ends at the target, or as near as it can."""
    df, du = target[0] - root[0], target[1] - root[1]
    far = min(math.hypot(df, du), sum(bones) * 0.999)
    heading = math.atan2(du, df)
    first, second = bones
    cosine = (first * first + far * far - second * second) / (2 * first * far)
    angle = heading + bend * math.acos(max(-1.0, min(1.0, cosine)))
    middle = (root[0] + first * math.cos(angle), root[1] + first * math.sin(angle), root[2])
    tip = (root[0] + far * math.cos(heading), root[1] + far * math.sin(heading), root[2])
    return Limb(root, middle, tip)


def _crank(rolled_m: float) -> float:
    return math.tau * rolled_m / _CRANK_M_PER_TURN


def _tube(a: tuple[float, float], b: tuple[float, float], radius: float) -> F64:
    outline: F64 = capsules(np.array([[*a, radius, *b, radius]]))[0]
    return outline


def _standing(parts: list[tuple[F64, Paint]], direction: int, x_m: float, z_m: float) -> Figure:
    mirror = np.array([direction, 1.0])
    upright_parts = [(upright(points * mirror + (x_m, 0.0), z_m), look) for points, look in parts]
    return figure(upright_parts, [shadow(points) for points, _ in upright_parts])
