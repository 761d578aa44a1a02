"""Stand in for the track stage of a camera: frames with so many tracks, so many a second.

Its source says what it sends: "burst?fps=100&objects=9&frames=1000&stay=0"; with stay=1 the stream
does not end with the last frame, but when it is stopped. Each frame's wall clock is the moment of
its sending, so that what is measured from there is only publish.
"""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from streamer.config import Config, EventsConfig
from streamer.configfile import build_config
from streamer.graph import Graph, StageSpec
from streamer.messages import Detections, EndOfStream, FrameInfo, Tracks
from streamer.queues import EdgePolicy
from streamer.stage import Stage, StageStart

_TICK_S = 0.001
_WAITING = 64
"""Frames that wait for publish before the source waits, too."""


class Burst(Stage):
    """Sends on time; when publish is behind, later, but all."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        query = parse_qs(urlsplit(start.config.cameras[self.camera].source).query)
        self._fps, self._objects, self._frames, self._stay = (
            int(query[name][0]) for name in ("fps", "objects", "frames", "stay")
        )
        self._sent = 0
        self._begun_at = 0.0
        self._ended = False
        self._tracks = _tracks(self.camera, self._objects)

    def on_open(self) -> None:
        """Begin at once."""
        self._begun_at = self.tick_at = time.monotonic()

    def on_tick(self) -> None:
        """Send what is due."""
        due = int((time.monotonic() - self._begun_at) * self._fps)
        due = min(due, self._frames)
        while self._sent < due and self.outbox.pending("publish") < _WAITING:
            self._send()
        if self._sent == self._frames and not self._stay:
            self._end()
        self.tick_at = time.monotonic() + _TICK_S

    def finished(self) -> bool:
        """All frames are sent, or a stop was asked for."""
        return self.stopping or self._ended

    def on_stop(self, *, drain: bool) -> None:
        """End the stream as a source does."""
        super().on_stop(drain=drain)
        self._end()

    def _send(self) -> None:
        replace = msgspec.structs.replace
        info = replace(
            self._tracks.info,
            seq=self._sent,
            pts=self._sent,
            capture_ns=time.time_ns(),
            receive_ns=time.monotonic_ns(),
        )
        found = replace(self._tracks.detections, info=info)
        self.outbox.send("publish", replace(self._tracks, info=info, detections=found))
        self._sent += 1
        self.counters["frames"] = self._sent

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.outbox.send("publish", EndOfStream(self.camera))


def _tracks(camera: str, objects: int) -> Tracks:
    info = FrameInfo(
        camera=camera, seq=0, epoch=1, width=1920, height=1080, pts=0, time_base=(1, 25),
        capture_ns=0, receive_ns=0,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 900, (objects, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 180, (objects, 2))]).astype(np.float32)
    scores = rng.uniform(0.5, 1, objects).astype(np.float32).tobytes()
    classes = np.zeros(objects, np.int16).tobytes()
    ids = np.arange(1, objects + 1, dtype=np.int64).tobytes()
    found = Detections(info, boxes.tobytes(), scores, classes, ("person",))
    still = np.zeros((objects, 2), np.float32).tobytes()
    return Tracks(info, found, ids, boxes.tobytes(), still, scores, classes)


def burst_graph(cameras: dict[str, str], events: EventsConfig) -> Graph:
    """Publish with one such source a camera.

    Args:
        cameras: by name, what its source sends.
        events: where publish puts it.
    """
    plain = build_config({"cameras": cameras})
    config: Config = msgspec.structs.replace(plain, events=events)
    stages = [
        StageSpec(
            name=f"track.{camera}", module="benchmarks.burst", camera=camera,
            consumers={"publish": EdgePolicy(policy="block")},
        )
        for camera in cameras
    ]  # fmt: skip
    publish = StageSpec(
        name="publish",
        module="streamer.stages.publish",
        after=tuple(stage.name for stage in stages),
        producers={stage.name: 64 for stage in stages},
    )
    return Graph(config, (*stages, publish), dict.fromkeys(cameras, False))


make = Burst
