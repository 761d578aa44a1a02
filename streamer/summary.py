"""Add up what the stages count into what the user is told, over all their incarnations."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from streamer.histogram import Histogram
from streamer.messages import Beat


class CameraSummary(msgspec.Struct, kw_only=True):
    """Figures of one camera, or of all together."""

    frames_in: int = 0
    """Frames that the source gave."""
    frames_out: int = 0
    """Frames written, or looked at where nothing is written."""
    frames_dropped: dict[str, int] = msgspec.field(default_factory=dict)
    """Frames that did not reach a consumer, by cause."""
    fps: float = 0.0
    """frames_out over the time from the first decoded frame to the last packet written."""
    latency_ms: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Capture to event: p50, p95, p99; null where nothing was measured."""
    restarts: int = 0
    events: int = 0


class Summary(CameraSummary, kw_only=True):
    """Figures of the whole run."""

    cameras: dict[str, CameraSummary] = msgspec.field(default_factory=dict)


class Tally:
    """Counts of all stages, dead incarnations included."""

    def __init__(self, cameras: list[str]) -> None:
        self._cameras = cameras
        self._past: defaultdict[str, list[Beat]] = defaultdict(list)
        self._now: dict[str, Beat] = {}
        self.restarts: Counter[str] = Counter()
        """By stage."""

    def beat(self, stage: str, beat: Beat) -> None:
        """Keep the newest counts of a stage."""
        self._now[stage] = beat

    def bury(self, stage: str) -> None:
        """A stage died: its last counts stand, those of its successor are added."""
        if stage in self._now:
            self._past[stage].append(self._now.pop(stage))

    def count(self, stage: str, counter: str) -> int:
        """One counter of a stage, over all its incarnations."""
        return sum(beat.counters.get(counter, 0) for beat in self._beats(stage))

    def summary(self) -> Summary:
        """All figures as they are now."""
        cameras = {camera: self._camera(camera) for camera in self._cameras}
        total = Summary(cameras=cameras, restarts=sum(self.restarts.values()))
        dropped: Counter[str] = Counter()
        for one in cameras.values():
            total.frames_in += one.frames_in
            total.frames_out += one.frames_out
            dropped.update(one.frames_dropped)
        total.events = self.count("publish", "events")
        total.frames_dropped = dict(dropped)
        total.fps = self._fps(self._cameras, total.frames_out)
        total.latency_ms = self._latency(self._cameras)
        return total

    def _beats(self, stage: str) -> list[Beat]:
        now = self._now.get(stage)
        return self._past[stage] + ([now] if now else [])

    def _camera(self, camera: str) -> CameraSummary:
        dropped: Counter[str] = Counter()
        for stage in {*self._now, *self._past}:
            for beat in self._beats(stage):
                dropped.update(beat.dropped.get(camera, {}))
        writer = self._writer(camera)
        frames_out = self.count(*writer)
        return CameraSummary(
            frames_in=self.count(f"decode.{camera}", "frames"),
            frames_out=frames_out,
            frames_dropped=dict(dropped),
            fps=self._fps([camera], frames_out),
            latency_ms=self._latency([camera]),
            restarts=sum(
                count for stage, count in self.restarts.items() if stage.endswith(f".{camera}")
            ),
            events=self.count("publish", f"events.{camera}"),
        )

    def _writer(self, camera: str) -> tuple[str, str]:
        """The stage and counter that say how many frames came out."""
        if self._beats(f"encode.{camera}"):
            return f"encode.{camera}", "frames"
        return "publish", f"frames.{camera}"

    def _fps(self, cameras: list[str], frames: int) -> float:
        begins, ends = [], []
        for camera in cameras:
            stage, _ = self._writer(camera)
            last = "last_ns" if stage.startswith("encode") else f"last_ns.{camera}"
            begins += [
                beat.counters["first_ns"]
                for beat in self._beats(f"decode.{camera}")
                if "first_ns" in beat.counters
            ]
            ends += [beat.counters[last] for beat in self._beats(stage) if last in beat.counters]
        if not begins or not ends or max(ends) <= min(begins):
            return 0.0
        return round(frames * 1e9 / (max(ends) - min(begins)), 2)

    def _latency(self, cameras: list[str]) -> dict[str, float | None]:
        times = Histogram()
        for beat in self._beats("publish"):
            for camera in cameras:
                times.merge(beat.latency.get(camera, {}))
        return {f"p{percent}": times.percentile_ms(percent) for percent in (50, 95, 99)}
