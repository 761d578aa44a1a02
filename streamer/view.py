"""What a user declares about the view of one camera: zones, lines and a calibration, checked.

Points are parts of the frame's width and height, x from the left and y from above. Pure: what
follows from tracks is in analytics/. Knows no configuration file and no track.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from streamer.errors import ConfigError
from streamer.strict import Name, Strict

Point = tuple[float, float]
Anchor = Literal["bottom", "center", "top", "left", "right"]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]

MOST = 64
"""Zones, lines and corners of a polygon, at the most."""
_FLAT = 1e-3
"""Twice the area of a triangle, in parts of its longest side squared, below which it is a line."""


class _Border(Strict, frozen=True, kw_only=True):
    classes: tuple[str, ...] = ()
    """Only these classes count; empty for all."""
    on: tuple[str, ...] = ()
    """Surfaces of the segmenter, such as pavement: an object counts only while what lies straight
    below its anchor, at the lower edge of its box, is one of these; empty for any."""
    anchor: Anchor = "bottom"
    """Which point of an object's box says where it is: the middle of this edge, or of the box."""
    margin: Annotated[float, Meta(ge=0, le=2)] = 0.1
    """An object is across when its anchor is so far beyond the border, in parts of the root of its
    box's area,"""
    settle_s: Annotated[float, Meta(ge=0, le=60)] = 0.4
    """or when it has stayed beyond it for so long. Less than that is jitter."""


class ZoneConfig(_Border, frozen=True, kw_only=True):
    """A part of the picture, and what there is an event about. Each limit is optional."""

    polygon: tuple[Point, ...]
    """Its corners in order, 3 to 64, in 0..1; edges don't cross."""
    dwell_s: Positive | None = None
    """zone.dwell when an object's visit has lasted for so long."""
    loitering_s: Positive | None = None
    """loitering when all visits of an object together have lasted for so long."""
    occupancy_over: Count | None = None
    """zone.occupancy when there are more objects than this, and when there no longer are."""
    crowding_over: Count | None = None
    """crowding when there have been more objects than this for crowding_s."""
    crowding_s: Positive = 10.0
    absence_s: Positive | None = None
    """absence when there has been no object for so long."""
    stopped_s: Positive | None = None
    """vehicle.stopped when a car, bus, truck or motorcycle has stood for so long."""
    direction: Point | None = None
    """The way that is right, such as [1, 0] to the right or [0, 1] down; direction.wrong when an
    object has come half of its own size the other way."""
    speed_over_kmh: Positive | None = None
    """speed.over when an object is faster; needs a calibration."""


class LineConfig(_Border, frozen=True, kw_only=True):
    """A line that objects cross: "in" from the left of one who walks from its begin to its end."""

    ends: tuple[Point, Point]
    """Begin and end, in 0..1."""
    once: bool = False
    """Count an object once in each direction, however often it crosses."""
    allowed: Literal["both", "in", "out"] = "both"
    """direction.wrong when an object crosses the other way."""


class CalibrationConfig(Strict, frozen=True, kw_only=True):
    """Four points of the ground, in the picture and in metres: makes speeds of tracks.

    No three of them on a line; the farther apart, the better. In the same order twice.
    """

    picture: tuple[Point, Point, Point, Point]
    """In parts of width and height."""
    ground_m: tuple[Point, Point, Point, Point]
    """The same points seen from above, in metres, from any origin."""


def check_view(
    where: str,
    zones: Mapping[Name, ZoneConfig],
    lines: Mapping[Name, LineConfig],
    calibration: CalibrationConfig | None,
    *,
    found: Sequence[str] | None,
    segmented: bool = False,
) -> None:
    """Refuse what can't be meant.

    Args:
        where: path of the camera, for the error.
        zones: by name.
        lines: by name.
        calibration: or None.
        found: classes that the detector keeps, empty for all; None if there is no detector.
        segmented: there is a segmenter.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    for what, borders in (("zones", zones), ("lines", lines)):
        if borders and found is None:
            raise ConfigError(f"{where}.{what}: need a detector, got none; configure one")
        if len(borders) > MOST:
            raise ConfigError(
                f"{where}.{what}: must be at most {MOST}, got {len(borders)}; remove some"
            )
        for name, border in borders.items():
            _check_classes(f"{where}.{what}.{name}.classes", border.classes, found or ())
            if border.on and not segmented:
                raise ConfigError(
                    f"{where}.{what}.{name}.on: needs a segmenter, got none; configure one"
                )
    for name, zone in zones.items():
        _check_polygon(f"{where}.zones.{name}.polygon", zone.polygon)
        if zone.direction is not None and not _length(zone.direction, (0.0, 0.0)) > 0:
            raise ConfigError(
                f"{where}.zones.{name}.direction: must have a length, got "
                f"{list(zone.direction)}; use [1, 0] for to the right"
            )
        if zone.speed_over_kmh is not None and calibration is None:
            raise ConfigError(
                f"{where}.zones.{name}.speed_over_kmh: needs a calibration, got none; "
                f"add {where}.calibration"
            )
    for name, line in lines.items():
        path = f"{where}.lines.{name}"
        _check_inside(f"{path}.ends", line.ends)
        if line.ends[0] == line.ends[1]:
            raise ConfigError(
                f"{path}.ends: must be two different points, got {list(line.ends[0])} twice; "
                "move one of them"
            )
        if name in zones:
            raise ConfigError(
                f"{path}: must not have the name of a zone, for rules go by name; rename it"
            )
    if calibration is not None:
        _check_calibration(f"{where}.calibration", calibration)


def check_surfaces(
    where: str,
    zones: Mapping[Name, ZoneConfig],
    lines: Mapping[Name, LineConfig],
    classes: Sequence[str],
) -> None:
    """Refuse surfaces that the segmenter, of these classes, can't see.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    for what, borders in (("zones", zones), ("lines", lines)):
        for name, border in borders.items():
            for surface in border.on:
                if surface not in classes:
                    raise ConfigError(
                        f"{where}.{what}.{name}.on: {surface!r} must be a class of the segmenter, "
                        f"which knows {', '.join(classes)}; choose one of these"
                    )


def _check_classes(where: str, classes: Sequence[str], found: Sequence[str]) -> None:
    for name in classes:
        if found and name not in found:
            raise ConfigError(
                f"{where}: {name!r} must be in detector.classes to be found; add it there"
            )


def _check_inside(where: str, points: Sequence[Point]) -> None:
    for number, (x, y) in enumerate(points, 1):
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ConfigError(
                f"{where}: point {number} must lie in the frame, 0..1, got [{x:g}, {y:g}]; "
                "divide pixels by the frame's width and height"
            )


def _check_polygon(where: str, polygon: Sequence[Point]) -> None:
    if not 3 <= len(polygon) <= MOST:
        raise ConfigError(
            f"{where}: must have 3 to {MOST} corners, got {len(polygon)}; add or remove some"
        )
    _check_inside(where, polygon)
    edges = list(zip(polygon, (*polygon[1:], polygon[0]), strict=True))
    for number, (a, b) in enumerate(edges, 1):
        if a == b:
            raise ConfigError(f"{where}: corner {number} is given twice in a row; remove one")
    for (i, first), (j, second) in itertools.combinations(enumerate(edges), 2):
        neighbours = j == i + 1 or (i == 0 and j == len(edges) - 1)
        if _fold(first, second) if neighbours else _touch(*first, *second):
            raise ConfigError(
                f"{where}: its edges {i + 1} and {j + 1} must not cross or touch; "
                "give the corners in order around the zone"
            )


def _check_calibration(where: str, calibration: CalibrationConfig) -> None:
    sides: list[list[int]] = []
    for name, points in (("picture", calibration.picture), ("ground_m", calibration.ground_m)):
        if not all(math.isfinite(side) for point in points for side in point):
            raise ConfigError(f"{where}.{name}: must be finite numbers, got {points}; mend them")
        sides.append([])
        for three in itertools.combinations(points, 3):
            longest = max(_length(a, b) for a, b in itertools.combinations(three, 2))
            area = _turn(*three)
            if abs(area) <= _FLAT * longest * longest:
                raise ConfigError(
                    f"{where}.{name}: no three of the points may lie on a line, as "
                    f"{', '.join(f'[{x:g}, {y:g}]' for x, y in three)} do; move one of them"
                )
            sides[-1].append(1 if area > 0 else -1)
    if sides[0] not in (sides[1], [-side for side in sides[1]]):
        raise ConfigError(
            f"{where}.ground_m: must give the points in the order of {where}.picture, "
            "and these can't be the same four; swap two of them"
        )


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the area of a triangle, positive where a, b, c turn to the right in the picture."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _length(a: Point, b: Point) -> float:
    return math.hypot(b[0] - a[0], b[1] - a[1])


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    """True if the segments a-b and c-d have a point in common."""
    sides = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(
        side == 0
        and min(p[0], q[0]) <= r[0] <= max(p[0], q[0])
        and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])
        for side, (p, q, r) in zip(sides, ends, strict=True)
    )


def _fold(first: tuple[Point, Point], second: tuple[Point, Point]) -> bool:
    """True if two edges with a corner in common lie on each other."""
    corner = first[1] if first[1] in second else first[0]
    a = first[0] if corner == first[1] else first[1]
    b = second[0] if corner == second[1] else second[1]
    ahead = (a[0] - corner[0]) * (b[0] - corner[0]) + (a[1] - corner[1]) * (b[1] - corner[1])
    return _turn(corner, a, b) == 0 and ahead > 0
