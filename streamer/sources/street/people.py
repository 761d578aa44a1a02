"""Pose a person for a moment of an action and dress the skeleton, as a figure from back to front.

Lengths of the body are fractions of its height. Body axes: f forward, u up, l to the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streamer.sources.street.dice import Dice
from streamer.sources.street.shapes import (
    Figure,
    Paint,
    Rgb,
    capsules,
    figure,
    paint,
    shadow,
    upright,
)

THIGH, SHIN, ANKLE, HIP_SIDE = 0.25, 0.245, 0.035, 0.05
SHOULDER, SHOULDER_SIDE, UPPER_ARM, FOREARM, HEAD = 0.82, 0.108, 0.165, 0.165, 0.93

_SKIN: tuple[Rgb, ...] = (
    (246, 208, 180),
    (224, 172, 132),
    (186, 128, 92),
    (120, 80, 58),
    (255, 219, 190),
)
_HAIR: tuple[Rgb, ...] = (
    (40, 30, 26),
    (84, 56, 36),
    (150, 104, 52),
    (214, 176, 98),
    (120, 118, 116),
    (150, 62, 32),
)
_TOPS: tuple[Rgb, ...] = (
    (200, 42, 46), (32, 84, 170), (244, 190, 40), (40, 132, 82), (238, 238, 232), (40, 42, 50),
    (226, 110, 40), (128, 66, 148), (96, 170, 210), (150, 160, 150), (236, 130, 160), (90, 50, 40),
)  # fmt: skip
_TROUSERS: tuple[Rgb, ...] = (
    (42, 56, 92), (34, 34, 40), (96, 84, 70), (70, 96, 140), (196, 178, 146), (84, 88, 92),
    (110, 40, 48),
)  # fmt: skip
_SHOES: tuple[Rgb, ...] = ((30, 26, 26), (236, 236, 236), (110, 70, 44), (190, 40, 50))


@dataclass(frozen=True, slots=True)
class Look:
    """What one person wears and is made like."""

    height_m: float
    girth: float
    skin: Rgb
    hair: Rgb
    top: Rgb
    trousers: Rgb
    shoes: Rgb
    long_hair: bool
    bare_arms: bool
    shorts: bool
    skirt: bool
    bag: Rgb | None
    helmet: Rgb | None = None

    @classmethod
    def draw(cls, dice: Dice, *, helmet: bool = False) -> Look:
        """Choose the look of one person."""
        child = dice.chance(0.1) and not helmet
        return cls(
            height_m=dice.between(1.15, 1.4) if child else dice.between(1.58, 1.92),
            girth=dice.between(0.92, 1.18),
            skin=dice.pick(_SKIN),
            hair=dice.pick(_HAIR),
            top=dice.pick(_TOPS),
            trousers=dice.pick(_TROUSERS),
            shoes=dice.pick(_SHOES),
            long_hair=dice.chance(0.4),
            bare_arms=dice.chance(0.45),
            shorts=dice.chance(0.2),
            skirt=dice.chance(0.18),
            bag=dice.pick(_TOPS) if dice.chance(0.35) else None,
            helmet=dice.pick(_TOPS) if helmet else None,
        )


class Pose(NamedTuple):
    """Everything that a gait or gesture sets, in radians and fractions; poses mix linearly."""

    yaw: float = 0.25
    """0 faces right, pi/2 faces the camera, pi faces left."""
    swing: float = 0.0
    knee: float = 0.04
    kick: float = 0.0
    """How far the knee bends further while its leg swings forward."""
    arms: float = 0.0
    elbow: float = 0.2
    lean: float = 0.0
    bounce: float = 0.0
    raised: float = 0.0
    """How far the right arm is raised, 1 for a hand above the head."""
    wag: float = 0.0
    """Sideways angle of the raised forearm."""
    tilt: float = 0.0
    """Rotation of the whole body about its feet; pi/2 lies on the ground."""

    def mixed(self, other: Pose, weight: float) -> Pose:
        """This pose, with the other one mixed in; weight 1 is all the other."""
        return Pose(*(a + (b - a) * weight for a, b in zip(self, other, strict=True)))


Joint = tuple[float, float, float]
"""Body axes (f, u, l)."""


class Limb(NamedTuple):
    """A limb's upper and lower part, by its three joints."""

    root: Joint
    middle: Joint
    tip: Joint


def legs(pose: Pose, phase: float) -> tuple[Limb, Limb, float]:
    """Left and right leg and the height of the hip; the lower foot stands on the ground."""
    bones = []
    for side, turn in ((1, phase), (-1, phase + math.pi)):
        thigh = pose.swing * math.sin(turn) + pose.knee * 0.5 + pose.lean * 0.3
        shin = thigh - pose.knee - pose.kick * max(0.0, math.cos(turn)) ** 1.5
        bones.append((side * HIP_SIDE, thigh, shin))
    drop = max(THIGH * math.cos(thigh) + SHIN * math.cos(shin) for _, thigh, shin in bones)
    hip = drop + ANKLE + pose.bounce * abs(math.sin(phase + 0.6))
    left, right = (_leg(hip, *bone) for bone in bones)
    return left, right, hip


def _leg(hip: float, side: float, thigh: float, shin: float) -> Limb:
    knee_f, knee_u = THIGH * math.sin(thigh), hip - THIGH * math.cos(thigh)
    foot = (knee_f + SHIN * math.sin(shin), knee_u - SHIN * math.cos(shin), side)
    return Limb((0.0, hip, side), (knee_f, knee_u, side), foot)


def arms(pose: Pose, phase: float, neck: tuple[float, float]) -> tuple[Limb, Limb]:
    """Left and right arm, hanging from the shoulders on both sides of the neck (f, u)."""
    return _arm(pose, neck, 1, phase + math.pi, 0.0), _arm(pose, neck, -1, phase, pose.raised)


def _arm(pose: Pose, neck: tuple[float, float], side: int, turn: float, raised: float) -> Limb:
    upper = pose.arms * math.sin(turn) - pose.elbow * 0.12
    lower = upper + pose.elbow + 0.25 * pose.arms * (1 + math.sin(turn))
    lift = 0.12 + raised * 2.0  # away from the body's side
    fore = lift * (1 - raised) + raised * (2.9 + pose.wag)
    root = (neck[0], neck[1], side * SHOULDER_SIDE)
    elbow = _along(root, UPPER_ARM, upper * (1 - raised), lift, side)
    return Limb(root, elbow, _along(elbow, FOREARM, lower * (1 - raised), fore, side))


def _along(root: Joint, length: float, forward: float, lift: float, side: int) -> Joint:
    return (
        root[0] + length * math.sin(forward) * math.cos(lift),
        root[1] - length * math.cos(forward) * math.cos(lift),
        root[2] + side * length * math.sin(lift),
    )


def person(look: Look, pose: Pose, phase: float, x_m: float, z_m: float) -> Figure:
    """Draw a person who stands at (x, z) on the ground."""
    left_leg, right_leg, hip = legs(pose, phase)
    trunk = SHOULDER - THIGH - SHIN - ANKLE
    neck = (trunk * math.sin(pose.lean), hip + trunk * math.cos(pose.lean))
    left_arm, right_arm = arms(pose, phase, neck)
    return dressed(look, pose, (left_leg, right_leg, left_arm, right_arm), hip, neck, x_m, z_m)


def dressed(
    look: Look,
    pose: Pose,
    limbs: tuple[Limb, Limb, Limb, Limb],
    hip: float,
    neck: tuple[float, float],
    x_m: float,
    z_m: float,
    saddle: tuple[float, float] = (0.0, 0.0),
) -> Figure:
    """Put flesh and clothes on a skeleton; saddle (f, u) moves all of it, in metres."""
    sketch = _Sketch(look, pose.yaw)
    sketch.body(limbs, hip, neck)
    outlines = capsules(np.array(sketch.rows) * look.height_m)
    outlines += (math.cos(pose.yaw) * saddle[0], saddle[1])
    if pose.tilt:
        c, s = math.cos(pose.tilt), math.sin(pose.tilt)
        outlines = outlines @ np.array([[c, -s], [s, c]])
        outlines[..., 1] += 0.11 * abs(s)
    outlines[..., 0] += x_m
    standing = upright(outlines, z_m)
    return figure(list(zip(standing, sketch.paints, strict=True)), list(shadow(standing)))


class _Sketch:
    """Capsules (x, u, radius, x, u, radius) in fractions of the height, and their paints."""

    def __init__(self, look: Look, yaw: float) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.paints: list[Paint] = []
        self._look = look
        self._facing, self._sideways = math.cos(yaw), math.sin(yaw)

    def body(
        self, limbs: tuple[Limb, Limb, Limb, Limb], hip: float, neck: tuple[float, float]
    ) -> None:
        """Draw everything, the far side first."""
        left_leg, right_leg, left_arm, right_arm = limbs
        near_arm, far_arm, near_leg, far_leg = right_arm, left_arm, right_leg, left_leg
        if self._facing < 0:
            near_arm, far_arm, near_leg, far_leg = far_arm, near_arm, far_leg, near_leg
        waving = far_arm.tip[1] > neck[1]  # a raised arm is in front of the head
        if not waving:
            self._arm(far_arm, 0.72)
        self._leg(far_leg, 0.74)
        self._leg(near_leg, 1.0)
        self._trunk(hip, neck)
        self._head(neck)
        if waving:
            self._arm(far_arm, 0.93)
        self._arm(near_arm, 0.93)

    def _add(self, a: Joint, ra: float, b: Joint, rb: float, look: Paint) -> None:
        f, s = self._facing, self._sideways
        self.rows.append((a[0] * f + a[2] * s, a[1], ra, b[0] * f + b[2] * s, b[1], rb))
        self.paints.append(look)

    def _leg(self, limb: Limb, light: float) -> None:
        look, girth = self._look, self._look.girth
        bare = look.shorts or look.skirt
        toe = (limb.tip[0] + 0.07, limb.tip[1] - 0.014, limb.tip[2])
        self._add(limb.tip, 0.029, toe, 0.02, paint(look.shoes, light))
        shin = paint(look.skin if bare else look.trousers, light)
        self._add(limb.middle, 0.036 * girth, limb.tip, 0.024, shin)
        self._add(limb.root, 0.054 * girth, limb.middle, 0.038 * girth, paint(look.trousers, light))

    def _arm(self, limb: Limb, light: float) -> None:
        look, girth = self._look, self._look.girth
        sleeve, skin = paint(look.top, light), paint(look.skin, light)
        self._add(limb.tip, 0.023, limb.tip, 0.023, skin)
        self._add(limb.middle, 0.027 * girth, limb.tip, 0.02, skin if look.bare_arms else sleeve)
        self._add(limb.root, 0.036 * girth, limb.middle, 0.029 * girth, sleeve)

    def _trunk(self, hip: float, neck: tuple[float, float]) -> None:
        look = self._look
        depth, breadth = 0.064 * look.girth, 0.1 * look.girth
        half = depth + (breadth - depth) * abs(self._sideways)
        if look.long_hair and not look.helmet:
            f, u = neck[0] * 1.12, neck[1] + HEAD - SHOULDER
            self._add(
                (f - 0.01, u, 0.0), 0.06, (f - 0.03, u - 0.11, 0.0), 0.058, paint(look.hair, 0.88)
            )
        chest, belly = (neck[0], neck[1] + 0.012 - half, 0.0), (neck[0] * 0.25, hip + 0.05, 0.0)
        if look.bag:
            upper, lower = (neck[0] - 0.085, neck[1] - 0.07, 0.0), (-0.085, hip + 0.11, 0.0)
            self._add(upper, 0.055, lower, 0.062, paint(look.bag, 0.92))
        cloth = paint(look.trousers, 0.94)
        if look.skirt:
            self._add((0.0, hip + 0.02, 0.0), half * 0.8, (0.0, hip - 0.13, 0.0), half * 1.1, cloth)
        else:
            self._add(
                (0.0, hip + 0.03, 0.0), half * 0.82, (0.0, hip - 0.01, 0.0), half * 0.8, cloth
            )
        self._add(chest, half, belly, half * 0.86, paint(look.top))
        if look.bag and abs(self._sideways) > 0.6:
            for side in (-0.062, 0.062):
                strap = (neck[0], neck[1], side), (belly[0], hip + 0.14, side)
                self._add(strap[0], 0.011, strap[1], 0.011, paint(look.bag, 0.75))

    def _head(self, neck: tuple[float, float]) -> None:
        look = self._look
        f, u = neck[0] * 1.12 + 0.012, neck[1] + HEAD - SHOULDER
        skin, hair = paint(look.skin), paint(look.helmet or look.hair)
        self._add(
            (neck[0], neck[1] - 0.01, 0.0), 0.03, (f, u - 0.03, 0.0), 0.028, paint(look.skin, 0.82)
        )
        cap = 0.07 if look.helmet else 0.063
        self._add((f - 0.006, u + 0.016, 0.0), cap, (f - 0.012, u + 0.004, 0.0), cap, hair)
        self._add((f + 0.018, u - 0.002, 0.0), 0.048, (f + 0.016, u - 0.034, 0.0), 0.036, skin)
        if self._sideways > 0.75:
            for side in (-0.02, 0.02):
                self._add(
                    (f, u - 0.004, side), 0.007, (f, u - 0.004, side), 0.007, paint((40, 30, 30))
                )
