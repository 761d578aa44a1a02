"""The vehicles that drive in the street, each by its outlines from the side.

Metres from the middle of the vehicle on the ground, nose to the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamer.sources.street.shapes import Rgb

Outline = tuple[tuple[float, float], ...]
"""From the lower rear corner over the top to the lower front corner; each row meets it once."""

CAR_COLOURS: tuple[Rgb, ...] = (
    (196, 30, 36),
    (30, 78, 160),
    (232, 232, 230),
    (36, 38, 44),
    (150, 156, 162),
    (226, 170, 30),
    (40, 104, 70),
    (120, 184, 214),
    (112, 34, 44),
    (222, 104, 34),
)
_BIG_COLOURS: tuple[Rgb, ...] = (
    (206, 44, 40),
    (30, 96, 168),
    (240, 178, 30),
    (36, 128, 92),
    (232, 234, 236),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A vehicle from its side."""

    name: Literal["car", "truck", "bus"]
    length_m: float
    width_m: float
    body: Outline
    cabin: Outline = ()
    """What stands on the body, or in front of it; none if the body is all."""
    panes: tuple[Outline, ...]
    wheels: tuple[float, ...]
    wheel_m: float
    """Radius."""
    inset_m: float = 0.14
    """How much narrower the cabin is than the body, on each side."""
    seams: tuple[float, ...] = ()
    """Where doors begin."""
    colours: tuple[Rgb, ...] = CAR_COLOURS


def _row(x1: float, x2: float, y1: float, y2: float, count: int) -> tuple[Outline, ...]:
    """A row of equal panes from x1 to x2."""
    gap = 0.13
    step = (x2 - x1 + gap) / count
    lefts = [x1 + i * step for i in range(count)]
    return tuple(_pane(x, x + step - gap, y1, y2) for x in lefts)


def _pane(x1: float, x2: float, y1: float, y2: float) -> Outline:
    return (x1, y1), (x1, y2), (x2, y2), (x2, y1)


# fmt: off
MODELS: dict[str, Model] = {
    "sedan": Model(
        name="car", length_m=4.5, width_m=1.76, wheels=(-1.32, 1.36), wheel_m=0.33,
        body=((-2.22, 0.3), (-2.25, 0.72), (-2.12, 0.94), (-1.2, 0.97),
              (1.0, 0.94), (1.95, 0.8), (2.2, 0.62), (2.23, 0.3)),
        cabin=((-1.85, 0.95), (-1.2, 1.4), (0.2, 1.44), (1.05, 0.94)),
        panes=(((-1.55, 0.99), (-1.1, 1.33), (-0.5, 1.36), (-0.5, 0.98)),
               ((-0.4, 0.98), (-0.4, 1.36), (0.15, 1.37), (0.78, 0.97))),
        seams=(-0.45, 0.62),
    ),
    "hatch": Model(
        name="car", length_m=3.9, width_m=1.7, wheels=(-1.2, 1.22), wheel_m=0.32,
        body=((-1.92, 0.3), (-1.95, 0.8), (-1.85, 0.97), (0.85, 0.96),
              (1.6, 0.84), (1.9, 0.62), (1.93, 0.3)),
        cabin=((-1.88, 0.96), (-1.6, 1.46), (0.05, 1.5), (0.92, 0.95)),
        panes=(((-1.6, 1.0), (-1.42, 1.38), (-0.62, 1.41), (-0.62, 1.0)),
               ((-0.52, 1.0), (-0.52, 1.41), (0.0, 1.42), (0.66, 0.99))),
        seams=(-0.57, 0.5),
    ),
    "suv": Model(
        name="car", length_m=4.6, width_m=1.86, wheels=(-1.4, 1.42), wheel_m=0.38,
        body=((-2.26, 0.36), (-2.3, 0.95), (-2.2, 1.12), (1.1, 1.1),
              (2.0, 0.98), (2.25, 0.78), (2.3, 0.36)),
        cabin=((-2.22, 1.11), (-1.95, 1.68), (0.35, 1.72), (1.15, 1.09)),
        panes=(((-1.95, 1.16), (-1.75, 1.58), (-1.2, 1.6), (-1.2, 1.15)),
               ((-1.1, 1.15), (-1.1, 1.6), (-0.3, 1.62), (-0.3, 1.15)),
               ((-0.2, 1.15), (-0.2, 1.62), (0.3, 1.62), (0.88, 1.13))),
        seams=(-1.15, -0.25, 0.7),
    ),
    "van": Model(
        name="truck", length_m=5.4, width_m=1.95, wheels=(-1.75, 1.75), wheel_m=0.36,
        body=((-2.7, 0.35), (-2.7, 2.2), (-2.6, 2.3), (1.2, 2.3),
              (1.4, 2.2), (2.1, 1.2), (2.62, 1.0), (2.7, 0.36)),
        panes=(((1.0, 1.25), (1.0, 1.95), (1.35, 1.95), (1.85, 1.25)),),
        inset_m=0.0, seams=(0.9, -0.6), colours=_BIG_COLOURS,
    ),
    "truck": Model(
        name="truck", length_m=7.4, width_m=2.3, wheels=(-2.5, 2.75), wheel_m=0.47,
        body=((-3.7, 0.72), (-3.7, 3.05), (1.75, 3.05), (1.75, 0.72)),
        cabin=((1.9, 0.45), (1.9, 2.35), (3.2, 2.35), (3.6, 1.4), (3.65, 0.45)),
        panes=(((2.3, 1.42), (2.3, 2.12), (3.08, 2.12), (3.32, 1.42)),),
        inset_m=0.06, colours=_BIG_COLOURS,
    ),
    "bus": Model(
        name="bus", length_m=10.4, width_m=2.45, wheels=(-3.3, 3.1), wheel_m=0.48,
        body=((-5.2, 0.36), (-5.2, 2.9), (-5.05, 3.05),
              (5.0, 3.05), (5.04, 2.9), (5.2, 1.1), (5.2, 0.36)),
        panes=(*_row(-4.9, 3.9, 1.42, 2.5, 6), _pane(4.08, 4.95, 0.5, 2.55)),
        inset_m=0.0, colours=_BIG_COLOURS,
    ),
}
# fmt: on
