"""Build cars, trucks, buses and bicycles from side outlines that are extruded across their width.

A template is made once for each model, colour and direction; a frame only moves it along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from streamer.sources.street.camera import HEIGHT_M
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

GLASS: Rgb = (64, 88, 108)
_TYRE: Rgb = (26, 26, 28)
_RIM: Rgb = (178, 182, 186)
CAR_COLOURS: tuple[Rgb, ...] = (
    (196, 30, 36), (30, 78, 160), (232, 232, 230), (36, 38, 44), (150, 156, 162), (226, 170, 30),
    (40, 104, 70), (120, 184, 214), (112, 34, 44), (222, 104, 34),
)  # fmt: skip
_BIG_COLOURS: tuple[Rgb, ...] = (
    (206, 44, 40),
    (30, 96, 168),
    (240, 178, 30),
    (36, 128, 92),
    (232, 234, 236),
)

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A vehicle from its side, nose to the right, in metres from its middle on the ground."""

    name: Literal["car", "truck", "bus"]
    length_m: float
    width_m: float
    body: Outline
    """From the lower rear corner over the top to the lower front corner."""
    cabin: Outline
    panes: tuple[Outline, ...]
    wheels: tuple[float, ...]
    wheel_m: float
    inset_m: float = 0.14
    """How much narrower the cabin is than the body, on each side."""
    seams: tuple[float, ...] = ()
    colours: tuple[Rgb, ...] = CAR_COLOURS


def _panes(
    x1: float, x2: float, y1: float, y2: float, count: int, gap: float
) -> tuple[Outline, ...]:
    step = (x2 - x1 + gap) / count
    lefts = [x1 + i * step for i in range(count)]
    return tuple(((x, y1), (x, y2), (x + step - gap, y2), (x + step - gap, y1)) for x in lefts)


MODELS: dict[str, Model] = {
    "sedan": Model(
        "car", 4.5, 1.76,
        ((-2.22, 0.3), (-2.25, 0.72), (-2.12, 0.94), (-1.2, 0.97), (1.0, 0.94), (1.95, 0.8), (2.2, 0.62), (2.23, 0.3)),
        ((-1.85, 0.95), (-1.2, 1.4), (0.2, 1.44), (1.05, 0.94)),
        (((-1.55, 0.99), (-1.1, 1.33), (-0.5, 1.36), (-0.5, 0.98)), ((-0.4, 0.98), (-0.4, 1.36), (0.15, 1.37), (0.78, 0.97))),
        (-1.32, 1.36), 0.33, seams=(-0.45, 0.62),
    ),
    "hatch": Model(
        "car", 3.9, 1.7,
        ((-1.92, 0.3), (-1.95, 0.8), (-1.85, 0.97), (0.85, 0.96), (1.6, 0.84), (1.9, 0.62), (1.93, 0.3)),
        ((-1.88, 0.96), (-1.6, 1.46), (0.05, 1.5), (0.92, 0.95)),
        (((-1.6, 1.0), (-1.42, 1.38), (-0.62, 1.41), (-0.62, 1.0)), ((-0.52, 1.0), (-0.52, 1.41), (0.0, 1.42), (0.66, 0.99))),
        (-1.2, 1.22), 0.32, seams=(-0.57, 0.5),
    ),
    "suv": Model(
        "car", 4.6, 1.86,
        ((-2.26, 0.36), (-2.3, 0.95), (-2.2, 1.12), (1.1, 1.1), (2.0, 0.98), (2.25, 0.78), (2.3, 0.36)),
        ((-2.22, 1.11), (-1.95, 1.68), (0.35, 1.72), (1.15, 1.09)),
        (((-1.95, 1.16), (-1.75, 1.58), (-1.2, 1.6), (-1.2, 1.15)), ((-1.1, 1.15), (-1.1, 1.6), (-0.3, 1.62), (-0.3, 1.15)),
         ((-0.2, 1.15), (-0.2, 1.62), (0.3, 1.62), (0.88, 1.13))),
        (-1.4, 1.42), 0.38, seams=(-1.15, -0.25, 0.7),
    ),
    "van": Model(
        "truck", 5.4, 1.95,
        ((-2.7, 0.35), (-2.7, 2.2), (-2.6, 2.3), (1.2, 2.3), (1.4, 2.2), (2.1, 1.2), (2.62, 1.0), (2.7, 0.36)),
        (), (((1.0, 1.25), (1.0, 1.95), (1.35, 1.95), (1.85, 1.25)),),
        (-1.75, 1.75), 0.36, 0.0, seams=(0.9, -0.6), colours=_BIG_COLOURS,
    ),
    "truck": Model(
        "truck", 7.4, 2.3,
        ((-3.7, 0.72), (-3.7, 3.05), (1.75, 3.05), (1.75, 0.72)),
        ((1.9, 0.45), (1.9, 2.35), (3.2, 2.35), (3.55, 1.45), (3.65, 0.45)),
        (((2.3, 1.42), (2.3, 2.12), (3.08, 2.12), (3.32, 1.42)),),
        (-2.5, 2.75), 0.47, 0.06, colours=_BIG_COLOURS,
    ),
    "bus": Model(
        "bus", 10.4, 2.45,
        ((-5.2, 0.36), (-5.2, 2.9), (-5.05, 3.05), (5.0, 3.05), (5.18, 2.85), (5.2, 0.36)),
        (), (*_panes(-4.9, 3.9, 1.42, 2.5, 6, 0.13), ((4.08, 0.5), (4.08, 2.55), (4.95, 2.55), (4.95, 0.5))),
        (-3.3, 3.1), 0.48, 0.0, seams=(), colours=_BIG_COLOURS,
    ),
}  # fmt: skip


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

    def skin(self, outline: Outline, colour: Rgb, inset_m: float, glassy: bool) -> None:
        """Add the faces between near and far side; a frame leaves out those that are turned away."""
        corners = np.asarray(outline, np.float64) * self._mirror
        z_near, z_far = inset_m - self._half, self._half - inset_m
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            size = math.hypot(*(b - a))
            nx, ny = -(b - a)[1] * self._direction / size, (b - a)[0] * self._direction / size
            if ny < -0.5:
                continue  # the floor
            look = paint(GLASS, 1.3) if glassy and ny < 0.95 else paint(colour, 0.72 + 0.42 * ny)
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
        self.skin(model.body, colour, 0.0, glassy=False)
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
            self.skin(model.cabin, cab, model.inset_m, glassy=True)
            self.side(model.cabin, paint(cab, 0.95), model.inset_m)
        for pane in model.panes:
            self._pane(pane)

    def _pane(self, pane: Outline) -> None:
        model = self._model
        self.side(pane, paint((22, 26, 30), stroke_m=0.05), model.inset_m)
        self.side(pane, paint(GLASS), model.inset_m)
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
