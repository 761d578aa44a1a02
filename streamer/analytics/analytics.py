"""Turn where the tracks of one camera are into what happens there; runs in the track process.

One per camera; not thread-safe. All times are media time: frames may be missing and come at any
rate. Only what was seen in a frame moves a track; one that is out of sight stays where it was until
its tracker ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamer.analytics.conditions import Conditions
from streamer.analytics.footing import Surfaces
from streamer.analytics.geometry import F64, I64, Ground, Mask
from streamer.analytics.lines import Lines
from streamer.analytics.motion import measure_speed, measure_still
from streamer.analytics.rows import Rows, kind_of_rows, new_rows, put, taken
from streamer.analytics.totals import Totals, Visit
from streamer.analytics.visits import VisitRules
from streamer.analytics.zones import Pairs, Zones, forget_visit, pairs_of
from streamer.config import CameraConfig
from streamer.errors import ConfigError
from streamer.messages import Fields, Happening, Readings
from streamer.view import LineConfig, ZoneConfig

_CARRIED_S = 3.0
"""So long after a restart an object that appears in a zone is one that was in it before."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The tracks that are seen in one frame, and those that have ended since the one before.

    ids, classes: (N,) int64. boxes_xyxy: (N, 4) px. confirmed: (N,) bool. ended: ids.
    """

    seq: int
    time_s: float
    width: int
    height: int
    ids: I64
    boxes_xyxy: F64
    classes: I64
    confirmed: Mask
    ended: I64
    surfaces: Surfaces | None = None
    """Below them, where somebody asks and somebody knows."""


class Analytics:
    """What is known of one camera's zones and lines."""

    def __init__(
        self, name: str, camera: CameraConfig, class_names: Sequence[str], totals: Totals
    ) -> None:
        """Start with no track.

        Args:
            name: of the camera, for errors.
            camera: with zones, lines and a calibration.
            class_names: of the detector.
            totals: what the process before this one has counted.

        Raises:
            ConfigError: a zone or line names a class that the detector does not know.
        """
        self._camera, self._class_names, self._totals = camera, tuple(class_names), totals
        self._zone_names, self._line_names = tuple(camera.zones), tuple(camera.lines)
        self._zone_classes = _classes(f"cameras.{name}.zones", camera.zones, class_names)
        self._line_classes = _classes(f"cameras.{name}.lines", camera.lines, class_names)
        zones = tuple(camera.zones.values())
        self._visits = VisitRules(zones, class_names)
        conditions = [
            Conditions(place, *named, totals) for place, named in enumerate(camera.zones.items())
        ]
        self._conditions = [condition for condition in conditions if condition.wanted]
        self._rows: Rows = new_rows(kind_of_rows(len(zones), len(camera.lines)), 0)
        self._places: dict[int, int] = {}
        self._occupancy = [0] * len(zones)
        self._empty_s = [np.nan] * len(zones)
        self._size = (0, 0)
        self._time_s = -np.inf
        self._left_over = totals.left_over
        self._carried = [0] * len(zones)
        self._carried_until_s = np.inf

    def update(self, sight: Sight) -> list[Happening]:
        """Take in one frame; what happened in it, causes before their consequences.

        Over a gap in which a track was not seen, it went straight. Another picture size (which
        comes with another epoch) and a clock that goes back end all tracks, and so all visits.
        """
        self._totals.begin(sight.seq)
        happenings = list(self._take_over(sight)) if self._left_over else []
        if sight.time_s < self._time_s:
            for condition in self._conditions:
                condition.restart()
        resized = (sight.width, sight.height) != self._size
        ended = np.ones(len(self._rows), bool) if resized else self._are(sight.ended)
        happenings += self._end(ended, "lost")
        if resized:
            self._lay_out(sight.width, sight.height)
        self._time_s = sight.time_s
        happenings += self._move(sight)
        for condition in self._conditions:
            place = condition.place
            happenings += condition.check(
                self._occupancy[place], self._empty_s[place], sight.time_s
            )
        self._totals.end(sight.seq, _ns(sight.time_s))
        return happenings

    def end(self) -> list[Happening]:
        """The stream is over, and so are all visits."""
        return list(self._end(np.ones(len(self._rows), bool), "ended"))

    def readings(self, ids: I64) -> Readings:
        """What is to be drawn; ids: of the tracks that are drawn."""
        alarms = [False] * len(self._occupancy)
        if self._visits.any_stops:
            alarms = np.isfinite(self._rows["stopped_s"]).any(axis=0).tolist()
        for condition in self._conditions:
            alarms[condition.place] |= condition.any_hold
        counts = tuple(self._totals.crossings(line) for line in range(len(self._line_names)))
        speeds = b""
        if self._camera.calibration is not None:
            known = [self._places.get(number, -1) for number in ids.tolist()]
            speed = np.append(self._rows["speed_kmh"], np.nan)[known]
            speeds = speed.astype(np.float32).tobytes()
        return Readings(tuple(self._occupancy), tuple(alarms), counts, speeds)

    def _lay_out(self, width: int, height: int) -> None:
        camera = self._camera
        self._size = (width, height)
        zones, lines = tuple(camera.zones.values()), tuple(camera.lines.values())
        self._zones = Zones(zones, self._zone_classes, width, height) if zones else None
        self._lines = Lines(lines, self._line_classes, width, height) if lines else None
        self._ground = Ground(camera.calibration, width, height) if camera.calibration else None

    def _are(self, ids: I64) -> Mask:
        """Which rows these are."""
        found = np.zeros(len(self._rows), bool)
        found[[self._places[n] for n in ids.tolist() if n in self._places]] = True
        return found

    def _rows_of(self, ids: I64) -> I64:
        """The rows of these tracks; tracks without a row get one."""
        numbers = ids.tolist()
        new = [number for number in numbers if number not in self._places]
        if new:
            rows = new_rows(self._rows.dtype, len(new))
            rows["id"] = new
            self._places |= {n: place for place, n in enumerate(new, len(self._rows))}
            self._rows = np.concatenate([self._rows, rows])
        return np.array([self._places[number] for number in numbers], np.int64)

    def _move(self, sight: Sight) -> Iterator[Happening]:
        """Everything that follows from where the tracks are seen now."""
        at = self._rows_of(sight.ids)
        rows, now_s = taken(self._rows, at), sight.time_s
        rows["box"], rows["class"] = sight.boxes_xyxy, sight.classes
        box = rows["box"]
        sizes_px = np.sqrt((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
        if self._ground is not None:
            measure_speed(rows, self._ground, *self._size, now_s)
        if self._visits.any_stops:
            measure_still(rows, sizes_px, now_s)
        if self._zones is not None:
            points, entered, left = self._zones.move(
                rows, sizes_px, sight.confirmed, now_s, sight.surfaces
            )
            yield from self._leave(rows, left, rows["run_s"][left], "left")
            self._visits.begin(rows, entered)
            yield from self._enter(rows, entered)
            yield from self._check_visits(rows, points, sizes_px)
        if self._lines is not None:
            crossed = self._lines.move(rows, sizes_px, sight.confirmed, now_s, sight.surfaces)
            yield from self._cross(rows, crossed)
        rows["seen_s"], rows["fresh"] = now_s, False
        put(self._rows, at, rows)

    def _enter(self, rows: Rows, pairs: Pairs) -> Iterator[Happening]:
        for row, zone in _each(pairs):
            track_id, entered_s = int(rows["id"][row]), float(rows["entered_s"][row, zone])
            appeared = bool(rows["appeared"][row, zone])
            goes_on = appeared and self._carried[zone] > 0 and self._time_s <= self._carried_until_s
            self._carried[zone] -= goes_on
            self._occupancy[zone] += 1
            fields = self._of_track(rows, row)
            self._totals.open(
                track_id, zone, int(rows["class"][row]), _ns(entered_s), self._relative(rows, row)
            )
            yield Happening("zone.enter", {
                **fields, "zone": self._zone_names[zone],
                "entered_pts_s": round(entered_s, 6), "appeared": appeared,
                "occupancy": self._occupancy[zone],
                "total": self._totals.entered(zone, known=goes_on),
            })  # fmt: skip

    def _leave(self, rows: Rows, pairs: Pairs, left_s: F64, reason: str) -> Iterator[Happening]:
        yield from self._stops(rows, _only(pairs, np.isfinite(rows["stopped_s"][pairs])), False)
        entered_s = rows["entered_s"][pairs].tolist()
        dwell_s = forget_visit(rows, pairs, left_s).tolist()
        for number, (row, zone) in enumerate(_each(pairs)):
            self._occupancy[zone] -= 1
            self._empty_s[zone] = float(left_s[number])
            self._totals.close(int(rows["id"][row]), zone)
            yield Happening("zone.leave", {
                **self._of_track(rows, row), "zone": self._zone_names[zone], "reason": reason,
                "entered_pts_s": round(entered_s[number], 6),
                "dwell_s": round(dwell_s[number], 6), "occupancy": self._occupancy[zone],
            })  # fmt: skip

    def _check_visits(self, rows: Rows, points: F64, sizes_px: F64) -> Iterator[Happening]:
        now_s, visits = self._time_s, self._visits
        for row, zone, fields in self._in_zones(rows, visits.dwelt(rows, now_s)):
            dwell_s = round(now_s - float(rows["entered_s"][row, zone]), 6)
            yield Happening("zone.dwell", {**fields, "dwell_s": dwell_s})
        for row, zone, fields in self._in_zones(rows, visits.loitered(rows, now_s)):
            visit_s = now_s - float(rows["entered_s"][row, zone])
            total_s = round(float(rows["past_s"][row, zone]) + visit_s, 6)
            yield Happening("loitering", {**fields, "total_s": total_s})
        if self._ground is not None:
            for row, zone, fields in self._in_zones(rows, visits.sped(rows, now_s)):
                limit = self._camera.zones[self._zone_names[zone]].speed_over_kmh
                speed = _known(float(rows["speed_kmh"][row]))
                yield Happening("speed.over", {**fields, "speed_kmh": speed, "limit_kmh": limit})
        for _, _, fields in self._in_zones(rows, visits.wrong_way(rows, points, sizes_px)):
            yield Happening("direction.wrong", fields)
        if visits.any_stops:
            begun, over = visits.stopped(rows, now_s)
            yield from self._stops(rows, begun, True)
            yield from self._stops(rows, over, False)

    def _stops(self, rows: Rows, pairs: Pairs, active: bool) -> Iterator[Happening]:
        for row, zone, fields in self._in_zones(rows, pairs):
            duration_s = round(self._time_s - float(rows["stopped_s"][row, zone]), 6)
            if not active:
                rows["stopped_s"][row, zone] = np.nan
            yield Happening(
                "vehicle.stopped", {**fields, "active": active, "duration_s": duration_s}
            )

    def _cross(self, rows: Rows, pairs: Pairs) -> Iterator[Happening]:
        for row, line in _each(pairs):
            inward, name = bool(rows["line_right"][row, line]), self._line_names[line]
            count_in, count_out = self._totals.crossed(line, inward=inward)
            way = "in" if inward else "out"
            fields = {**self._of_track(rows, row), "line": name}
            yield Happening("line.crossed", {
                **fields, "direction": way, "count_in": count_in, "count_out": count_out,
                "crossed_pts_s": round(float(rows["line_crossed_s"][row, line]), 6),
                "speed_kmh": _known(float(rows["speed_kmh"][row])),
            })  # fmt: skip
            if self._camera.lines[name].allowed not in ("both", way):
                yield Happening("direction.wrong", fields)

    def _end(self, ended: Mask, reason: str) -> Iterator[Happening]:
        """Tracks are gone, and leave the zones that they were in when they were last seen."""
        if not ended.any():
            return
        rows = self._rows[ended]
        pairs = pairs_of(rows["inside"])
        yield from self._leave(rows, pairs, rows["seen_s"][pairs[0]], reason)
        self._rows = self._rows[~ended]
        self._places = {number: place for place, number in enumerate(self._rows["id"].tolist())}

    def _take_over(self, sight: Sight) -> Iterator[Happening]:
        """End the visits of a process that died; objects that still are there enter again."""
        left_over, self._left_over = self._left_over, ()
        self._carried_until_s = sight.time_s + _CARRIED_S
        for visit in left_over:
            self._carried[visit.zone] += 1
        waiting = list(self._carried)
        for visit in left_over:
            waiting[visit.zone] -= 1
            yield self._taken_over(visit, sight, waiting[visit.zone])

    def _taken_over(self, visit: Visit, sight: Sight, occupancy: int) -> Happening:
        x1, y1, x2, y2 = visit.box_rel
        width, height = sight.width, sight.height
        return Happening("zone.leave", {
            "track_id": visit.track_id, "class": self._class_names[visit.class_index],
            "box_xyxy_px": _rounded((x1 * width, y1 * height, x2 * width, y2 * height), 2),
            "box_xyxy_rel": _rounded(visit.box_rel, 5), "zone": self._zone_names[visit.zone],
            "reason": "restarted", "entered_pts_s": round(visit.entered_ns / 1e9, 6),
            "dwell_s": round((visit.left_ns - visit.entered_ns) / 1e9, 6), "occupancy": occupancy,
        })  # fmt: skip

    def _in_zones(self, rows: Rows, pairs: Pairs) -> Iterator[tuple[int, int, Fields]]:
        for row, zone in _each(pairs):
            yield row, zone, {**self._of_track(rows, row), "zone": self._zone_names[zone]}

    def _of_track(self, rows: Rows, row: int) -> Fields:
        return {
            "track_id": int(rows["id"][row]),
            "class": self._class_names[int(rows["class"][row])],
            "box_xyxy_px": _rounded(rows["box"][row].tolist(), 2),
            "box_xyxy_rel": _rounded(self._relative(rows, row), 5),
        }

    def _relative(self, rows: Rows, row: int) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = rows["box"][row].tolist()
        width, height = self._size
        return x1 / width, y1 / height, x2 / width, y2 / height


def _classes(
    where: str, borders: dict[str, ZoneConfig] | dict[str, LineConfig], names: Sequence[str]
) -> Mask:
    """Which classes count where: (C, K) bool."""
    for name, border in borders.items():
        for wanted in border.classes:
            if wanted not in names:
                raise ConfigError(
                    f"{where}.{name}.classes: must be classes of the detector, got {wanted!r}; "
                    f"it knows {', '.join(names)}"
                )
    counts = [[not b.classes or name in b.classes for b in borders.values()] for name in names]
    return np.array(counts, np.bool_).reshape(len(names), len(borders))


def _each(pairs: Pairs) -> list[tuple[int, int]]:
    if not len(pairs[0]):
        return []
    return list(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))


def _only(pairs: Pairs, kept: Mask) -> Pairs:
    return pairs[0][kept], pairs[1][kept]


def _rounded(sides: Sequence[float], digits: int) -> tuple[float, ...]:
    return tuple(round(side, digits) for side in sides)


def _known(speed_kmh: float) -> float | None:
    return round(speed_kmh, 1) if np.isfinite(speed_kmh) else None


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)
