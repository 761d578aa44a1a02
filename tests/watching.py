"""Objects that walk where a test says, seen by the analytics of one camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamer.analytics import Analytics, Counters, Sight, Totals
from streamer.config import CameraConfig
from streamer.ledger import COUNTERS
from streamer.messages import Happening
from streamer.view import CalibrationConfig, LineConfig, ZoneConfig

NAMES = ("person", "car")
SIZE = (1000, 500)
WIDE_PX, HIGH_PX = 20.0, 80.0
"""Of every object: its size, the root of its area, is 40 px."""
Path = Callable[[float], "tuple[float, float] | None"]
"""Where the feet are at a time, px; None while out of sight."""


def square(x1: float, y1: float, x2: float, y2: float, **limits: object) -> ZoneConfig:
    """A zone with upright sides, in px."""
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    polygon = tuple((x / SIZE[0], y / SIZE[1]) for x, y in corners)
    return ZoneConfig(polygon=polygon, **limits)  # type: ignore[arg-type]


def line(ax: float, ay: float, bx: float, by: float, **options: object) -> LineConfig:
    """A line in px."""
    ends = (ax / SIZE[0], ay / SIZE[1]), (bx / SIZE[0], by / SIZE[1])
    return LineConfig(ends=ends, **options)  # type: ignore[arg-type]


def along(x_px: float, speed_px_s: float, y_px: float = 250.0) -> Path:
    """From a place to the right (or to the left) at an even speed."""
    return lambda time_s: (x_px + speed_px_s * time_s, y_px)


class Watch:
    """One camera's analytics, frame by frame."""

    def __init__(
        self,
        zones: dict[str, ZoneConfig] | None = None,
        lines: dict[str, LineConfig] | None = None,
        *,
        calibration: CalibrationConfig | None = None,
        counters: Counters | None = None,
        fps: float = 25.0,
        begin_s: float = 0.0,
        seq: int = 0,
    ) -> None:
        camera = CameraConfig(
            source="x", zones=zones or {}, lines=lines or {}, calibration=calibration
        )
        self.counters = counters if counters is not None else [0] * COUNTERS
        self.analytics = Analytics("gate", camera, NAMES, Totals(self.counters))
        self.happenings: list[Happening] = []
        self.times: list[float] = []
        """When each was told."""
        self.fps, self.time_s, self.seq = fps, begin_s, seq

    def see(
        self,
        places: dict[int, tuple[float, float]],
        *,
        time_s: float | None = None,
        classes: dict[int, int] | None = None,
        tentative: Sequence[int] = (),
        ended: Sequence[int] = (),
        size: tuple[int, int] = SIZE,
    ) -> list[Happening]:
        """One frame; what happened in it."""
        self.time_s = self.time_s if time_s is None else time_s
        feet = np.array(list(places.values()), np.float64).reshape(-1, 2)
        half = np.array([WIDE_PX / 2, 0.0])
        boxes = np.hstack([feet - half - (0, HIGH_PX), feet + half])
        ids = np.array(list(places), np.int64)
        made = self.analytics.update(
            Sight(
                self.seq, self.time_s, *size, ids, boxes,
                np.array([(classes or {}).get(n, 0) for n in places], np.int64),
                ~np.isin(ids, np.array(tentative, np.int64)), np.array(ended, np.int64),
            )
        )  # fmt: skip
        self._tell(made)
        self.seq += 1
        self.time_s += 1 / self.fps
        return made

    def play(
        self, seconds: float, paths: dict[int, Path], *, classes: dict[int, int] | None = None
    ) -> list[Happening]:
        """Frames of so many seconds; paths go by the time since their begin."""
        begin_s, first = self.time_s, len(self.happenings)
        for frame in range(round(seconds * self.fps)):
            now_s = frame / self.fps
            seen = {number: path(now_s) for number, path in paths.items()}
            self.see(
                {number: place for number, place in seen.items() if place is not None},
                time_s=begin_s + now_s, classes=classes,
            )  # fmt: skip
        self.time_s = begin_s + round(seconds * self.fps) / self.fps
        return self.happenings[first:]

    def end(self) -> list[Happening]:
        """The stream is over."""
        made = self.analytics.end()
        self._tell(made)
        return made

    def of(self, kind: str, **fields: object) -> list[Happening]:
        """What happened so far, of one kind and with these fields."""
        return [
            happening
            for happening in self.happenings
            if happening.kind == kind and fields.items() <= happening.fields.items()
        ]

    def when(self, kind: str, **fields: object) -> list[float]:
        """When that was told."""
        wanted = self.of(kind, **fields)
        return [
            round(time_s, 6)
            for time_s, happening in zip(self.times, self.happenings, strict=True)
            if any(happening is each for each in wanted)
        ]

    def _tell(self, made: list[Happening]) -> None:
        self.happenings += made
        self.times += [self.time_s] * len(made)
