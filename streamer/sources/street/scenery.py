"""Paint the empty street once per picture size: sky, houses, trees and ground, with their labels.

What something can pass behind (poles, trunks, signs) is not painted but given as figures, for the
renderer to draw in order of depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from streamer.sources.street.camera import F64, View
from streamer.sources.street.canvas import POLE, SIGN, TREE, Canvas
from streamer.sources.street.dice import Dice
from streamer.sources.street.ground import paint_ground
from streamer.sources.street.houses import build_houses
from streamer.sources.street.shapes import (
    Figure,
    Paint,
    Rgb,
    capsules,
    disc,
    figure,
    paint,
    rectangle,
    shadow,
    upright,
)

_STREAM = 1000  # of the dice, after those of the lanes
_LEAVES: tuple[Rgb, ...] = ((58, 100, 48), (74, 120, 56), (94, 140, 66), (118, 160, 80))
_TREES_M = (-14.6, -6.2, 2.4, 12.6)
_TREE_Z_M, _LAMP_Z_M, _NEAR_Z_M = 20.25, 20.2, 9.1


@dataclass(frozen=True, slots=True)
class Prop:
    """A thing that stands still in the street and hides what is behind it."""

    figure: Figure
    z_m: float
    label: int


def paint_scenery(view: View, seed: int) -> Canvas:
    """Paint everything that nothing passes behind."""
    canvas, dice = Canvas(view), Dice(seed, _STREAM, 0)
    noise = np.random.Generator(np.random.Philox(key=[seed, _STREAM + 1]))
    _sky(canvas, noise)
    paint_ground(canvas, noise)
    _distance(canvas, dice)
    build_houses(canvas, dice)
    for x in _TREES_M:
        _crown(canvas, dice, x)
    return canvas


def _sky(canvas: Canvas, noise: np.random.Generator) -> None:
    height, width = canvas.labels.shape
    horizon = max(1, int(canvas.view.horizon_px - canvas.origin[1]) + 1)
    part = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    blue = (
        np.array((118, 168, 222), np.float32) * (1 - part)
        + np.array((206, 224, 238), np.float32) * part
    )
    clouds = np.zeros((horizon, width), np.float32)
    for cells, strength in ((4, 0.5), (9, 0.3), (20, 0.16)):
        coarse = noise.random((cells, cells * 4)).astype(np.float32)
        clouds += strength * cv2.resize(coarse, (width, horizon), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((clouds - 0.52) * 4, 0, 0.9)[..., None]
    canvas.rgb[: min(horizon, height)] = (
        blue + (np.array((250, 250, 250), np.float32) - blue) * cover
    )[:height].astype(np.uint8)


def _distance(canvas: Canvas, dice: Dice) -> None:
    """Trees far behind the houses, seen through the gaps."""
    for z in (60.0, 45.0):
        light = 1.25 if z > 50 else 1.0
        for x in np.arange(-0.86 * z, 0.86 * z, 1.3).tolist():
            high = dice.between(3.2, 7.0)
            tone = (round(96 * light), round(126 * light), round(98 * light))
            crown = disc(x, high * 0.55, high * 0.5, 12)
            canvas.wall(crown, z, tone, TREE)
            canvas.wall(rectangle(x - 1.4, 0, x + 1.4, high * 0.6), z, tone, TREE)


def _crown(canvas: Canvas, dice: Dice, x: float) -> None:
    """A crown of leaves from dark to light; it begins above every head."""
    for layer, green in enumerate(_LEAVES):
        for _ in range(46):
            spread, rise = dice.between(-1, 1), dice.between(-1, 1)
            if spread * spread + rise * rise > 1:
                continue
            at = (x + spread * 1.55 + layer * -0.12, 3.95 + rise * 1.15 + layer * 0.13)
            radius = dice.between(0.18, 0.5) * (1.0 - 0.17 * layer)
            canvas.wall(disc(*at, radius, 9), _TREE_Z_M, green, TREE)


def props() -> list[Prop]:
    """Everything that stands still and can hide an actor."""
    out = [Prop(_trunk(x), _TREE_Z_M, TREE) for x in _TREES_M]
    out += [Prop(_lamp(x, _LAMP_Z_M, way), _LAMP_Z_M, POLE) for x, way in ((-10.4, 1), (7.4, -1))]
    out.append(Prop(_lamp(-5.6, _NEAR_Z_M, 1), _NEAR_Z_M, POLE))
    out += [Prop(_bollard(x), _NEAR_Z_M, POLE) for x in (1.6, 2.9, 6.8)]
    for x, z, shape in (
        (3.0, _NEAR_Z_M - 0.05, "crossing"),
        (-3.2, 20.1, "speed"),
        (10.9, 20.1, "parking"),
    ):
        board, stands = _sign(x, z, shape)
        out += [Prop(stands, z, POLE), Prop(board, z - 0.02, SIGN)]
    return out


def _standing(rows: list[tuple[F64, Paint]], z_m: float) -> Figure:
    parts = [(upright(outline, z_m), look) for outline, look in rows]
    return figure(parts, [shadow(points) for points, _ in parts])


def _trunk(x: float) -> Figure:
    stem = capsules(np.array([[x, 0.0, 0.2, x + 0.04, 3.0, 0.12]]))[0]
    light = capsules(np.array([[x - 0.06, 0.1, 0.05, x, 2.9, 0.03]]))[0]
    return _standing([(stem, paint((92, 70, 52))), (light, paint((118, 94, 72)))], _TREE_Z_M)


def _lamp(x: float, z_m: float, way: int) -> Figure:
    grey, light = paint((70, 76, 80)), paint((128, 134, 138))
    arms = np.array([[x, 0.1, 0.07, x, 6.2, 0.045], [x, 6.2, 0.05, x + way * 1.3, 6.45, 0.04]])
    pole, arm = capsules(arms)
    head = x + way * 1.35
    rows = [
        (rectangle(x - 0.13, 0.0, x + 0.13, 0.45), grey),
        (pole, grey),
        (arm, grey),
        (rectangle(x - 0.045, 0.45, x - 0.015, 6.0), light),
        (rectangle(head - 0.35, 6.36, head + 0.35, 6.52), grey),
        (rectangle(head - 0.28, 6.31, head + 0.28, 6.37), paint((250, 244, 214))),
    ]
    return _standing(rows, z_m)


def _bollard(x: float) -> Figure:
    post = capsules(np.array([[x, 0.05, 0.07, x, 0.85, 0.06]]))[0]
    ring = rectangle(x - 0.066, 0.62, x + 0.066, 0.74)
    return _standing([(post, paint((60, 64, 70))), (ring, paint((236, 232, 224)))], _NEAR_Z_M)


def _sign(x: float, z_m: float, shape: str) -> tuple[Figure, Figure]:
    """A board and the post that bears it."""
    post = _standing(
        [(np.add(rectangle(-0.035, 0, 0.035, 2.75), (x, 0)), paint((146, 150, 152)))], z_m
    )
    board = [(np.add(outline, (x, 2.45)), look) for outline, look in _BOARDS[shape]()]
    return _standing(board, z_m - 0.02), post


def _crossing_board() -> list[tuple[F64, Paint]]:
    walker = capsules(np.array([[0, -0.02, 0.03, side, -0.16, 0.018] for side in (-0.07, 0.07)]))
    return [
        (rectangle(-0.3, -0.3, 0.3, 0.3), _BLUE),
        (np.array([[-0.22, -0.19], [0.22, -0.19], [0, 0.21]]), _WHITE),
        *((leg, _BLACK) for leg in walker),
        (disc(0, 0.08, 0.025, 8), _BLACK),
    ]


def _speed_board() -> list[tuple[F64, Paint]]:
    digits = [rectangle(x, -0.12, x + 0.12, 0.12) for x in (-0.15, 0.03)]
    corners = [(x, y) for x in (-0.115, 0.065) for y in (-0.085, 0.015)]
    holes = [rectangle(x, y, x + 0.05, y + 0.07) for x, y in corners]
    return [
        (disc(0, 0, 0.36, 20), paint((196, 30, 34))),
        (disc(0, 0, 0.27, 20), _WHITE),
        *((digit, _BLACK) for digit in digits),
        *((hole, _WHITE) for hole in holes),
    ]


def _parking_board() -> list[tuple[F64, Paint]]:
    return [
        (rectangle(-0.32, -0.32, 0.32, 0.32), _WHITE),
        (rectangle(-0.29, -0.29, 0.29, 0.29), _BLUE),
        (rectangle(-0.12, -0.2, -0.04, 0.2), _WHITE),
        (disc(0.02, 0.09, 0.12, 12), _WHITE),
        (disc(0.01, 0.09, 0.055, 10), _BLUE),
    ]


_BLUE, _WHITE, _BLACK = paint((28, 84, 176)), paint((240, 240, 238)), paint((28, 28, 30))
_BOARDS = {"crossing": _crossing_board, "speed": _speed_board, "parking": _parking_board}
