"""Build cars, trucks and buses from their side outlines, extruded across their width.

A template is made once for each model, colour and direction; a frame only moves it along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from streamer.sources.street.camera import HEIGHT_M
from streamer.sources.street.models import MODELS, Model, Outline
from streamer.sources.street.shapes import (
    F64,
    Figure,
    Paint,
    Rgb,
    disc,
    figure,
    paint,
    rectangle,
    shadow,
    upright,
)

_GLASS: Rgb = (64, 88, 108)
_TYRE: Rgb = (26, 26, 28)
_RIM: Rgb = (178, 182, 186)


class _Workshop:
    """Puts one vehicle together from back to front; the near side is at z = -half."""

    def __init__(self, model: Model, colour: Rgb, direction: int) -> None:
        self.parts: list[tuple[F64, Paint]] = []
        self.normals: list[tuple[float, float, float, float]] = []
        self._model, self._colour, self._direction = model, colour, direction
        self._half = model.width_m / 2
        self._mirror = np.array([direction, 1.0])

    def side(self, outline: F64 | Outline, look: Paint, inset_m: float = 0.0) -> None:
        """Add an outline that is always seen."""
        flat = np.asarray(outline, np.float64) * self._mirror
        self.parts.append((upright(flat, inset_m - self._half), look))
        self.normals.append((0.0, 1.0, 0.0, -1.0))

    def skin(self, outline: Outline, colour: Rgb, inset_m: float) -> None:
        """Add the faces between both sides; a frame leaves out those that are turned away."""
        corners = np.asarray(outline, np.float64) * self._mirror
        z_near, z_far = inset_m - self._half, self._half - inset_m
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            size = math.hypot(*(b - a))
            nx, ny = -(b - a)[1] * self._direction / size, (b - a)[0] * self._direction / size
            if ny < -0.5:
                continue  # the floor
            is_screen = 0.08 < ny < 0.95 and size > 0.5
            look = paint(_GLASS, 1.3) if is_screen else paint(colour, 0.72 + 0.42 * ny)
            face = np.concatenate(
                [upright(np.array([a, b]), z_near), upright(np.array([b, a]), z_far)]
            )
            self.parts.append((face, look))
            self.normals.append((float(nx), float(ny), *a.tolist()))

    def chassis(self) -> None:
        """Add the far wheels and the dark below the floor."""
        model, reach = self._model, self._model.length_m / 2
        for x in model.wheels:
            far = disc(x, model.wheel_m, model.wheel_m, 14)
            self.side(far, paint(_TYRE), model.width_m - 0.25)
        self.side(rectangle(0.1 - reach, 0.2, reach - 0.1, 0.75), paint((18, 18, 20)), 0.25)

    def shell(self) -> None:
        """Add body, cabin and their panes."""
        model, colour = self._model, self._colour
        self.skin(model.body, colour, 0.0)
        self.side(model.body, paint(colour))
        bottom = min(y for _, y in model.body)
        reach = model.length_m / 2
        sill = rectangle(0.06 - reach, bottom, reach - 0.06, bottom + 0.12)
        self.side(sill, paint(colour, 0.6))
        for x in model.seams:
            top = 1.0 if model.cabin else 2.0
            self.side(rectangle(x, bottom + 0.1, x + 0.025, top * 0.94), paint(colour, 0.66))
            self.side(rectangle(x - 0.3, top * 0.8, x - 0.12, top * 0.8 + 0.04), paint(colour, 0.5))
        if model.cabin:
            cab = colour if model.name == "car" else (228, 228, 224)
            self.skin(model.cabin, cab, model.inset_m)
            self.side(model.cabin, paint(cab, 0.95), model.inset_m)
        for pane in model.panes:
            self._pane(pane)

    def _pane(self, pane: Outline) -> None:
        model = self._model
        self.side(pane, paint((22, 26, 30), stroke_m=0.05), model.inset_m)
        self.side(pane, paint(_GLASS), model.inset_m)
        (x1, y1), (_, y2), (x3, _), _ = pane
        at = [x1 + part * (x3 - x1) for part in (0.3, 0.5, 0.75, 0.55)]
        glint = ((at[0], y1), (at[1], y2 - 0.03), (at[2], y2 - 0.03), (at[3], y1))
        self.side(glint, paint((122, 150, 170)), model.inset_m)

    def decoration(self) -> None:
        """Add stripes, bumpers and lights."""
        model, reach = self._model, self._model.length_m / 2
        bottom = min(y for _, y in model.body)
        if model.name == "bus":
            self.side(rectangle(-reach, 0.95, 3.95, 1.18), paint((240, 240, 236)))
            self.side(rectangle(3.2, 2.62, 5.1, 2.9), paint((30, 30, 26)))
            self.side(rectangle(3.4, 2.69, 4.9, 2.82), paint((250, 190, 40)))
        elif model.length_m > 7:
            self.side(rectangle(-3.2, 1.5, 1.2, 2.2), paint((244, 244, 240)))
            self.side(rectangle(-2.9, 1.72, 0.9, 1.98), paint(self._colour, 0.8))
        low = bottom + (0.3 if model.name != "truck" or model.length_m < 7 else -0.12)
        self.side(rectangle(reach - 0.26, low, reach - 0.05, low + 0.15), paint((255, 244, 200)))
        tail = bottom + 0.3
        self.side(rectangle(0.05 - reach, tail, 0.2 - reach, tail + 0.2), paint((200, 24, 24)))

    def wheels(self) -> None:
        """Add the near wheels in their arches."""
        radius = self._model.wheel_m
        for x in self._model.wheels:
            self.side(disc(x, radius + 0.03, radius * 1.16), paint((20, 20, 22)))
            self.side(disc(x, radius, radius), paint(_TYRE))
            self.side(disc(x, radius, radius * 0.62, 12), paint(_RIM))

    def shadow(self) -> F64:
        """Throw the hull of the whole vehicle on the ground."""
        model = self._model
        reach, half = model.length_m / 2, self._half
        high = max(y for _, y in (*model.body, *model.cabin))
        box = np.array(
            [(x, y, z) for x in (-reach, reach) for y in (0.15, high) for z in (-half, half)]
        )
        flat = shadow(box)[:, [0, 2]].astype(np.float32)
        hull = cv2.convexHull(flat)[:, 0].astype(np.float64)
        return np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], axis=1)


@dataclass(frozen=True, slots=True)
class _Template:
    figure: Figure
    normals: F64
    """(outlines, 4): outward normal (x, y) of each face and a point on it."""


@lru_cache(maxsize=256)
def _template(kind: str, colour: Rgb, direction: int) -> _Template:
    shop = _Workshop(MODELS[kind], colour, direction)
    shop.chassis()
    shop.shell()
    shop.decoration()
    shop.wheels()
    return _Template(figure(shop.parts, [shop.shadow()]), np.array(shop.normals))


def vehicle(
    kind: str, colour: Rgb, direction: int, x_m: float, z_m: float, rolled_m: float
) -> Figure:
    """Draw a vehicle whose middle is at (x, z); rolled_m is the way its wheels have turned."""
    template, model = _template(kind, colour, direction), MODELS[kind]
    nx, ny, px, py = template.normals.T
    seen = nx * -(x_m + px) + ny * (HEIGHT_M - py) > 0
    still = template.figure
    place = np.array([x_m, 0.0, z_m])
    points, ends = [still.points + place], list(still.ends)
    paints: list[Paint | None] = [
        look if visible else None for look, visible in zip(still.paints, seen.tolist(), strict=True)
    ]
    turn = -direction * rolled_m / model.wheel_m
    for x in model.wheels:
        centre = (x_m + x * direction, model.wheel_m)
        for angle in (turn, turn + math.pi / 2):
            points.append(
                upright(_spoke(centre, angle, model.wheel_m * 0.55), z_m - model.width_m / 2)
            )
            ends.append(ends[-1] + 4)
            paints.append(paint((70, 72, 76)))
    return Figure(np.concatenate(points), ends, paints, [s + place for s in still.shadows])


def _spoke(centre: tuple[float, float], angle: float, reach: float) -> F64:
    c, s = math.cos(angle), math.sin(angle)
    along, across = np.array([c, s]) * reach, np.array([-s, c]) * 0.045
    return np.array([along + across, along - across, -along - across, across - along]) + centre
