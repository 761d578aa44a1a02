"""The infer stage without its process: real engines, frames by hand, results in a list."""

from __future__ import annotations

import os
import select
import time
from collections import defaultdict
from collections.abc import Mapping

import msgspec
import numpy as np
import zmq
from samples import info_of

from streamer.config import CameraConfig, Config, DetectorConfig, TrackerConfig
from streamer.graph import build_graph
from streamer.messages import Body, Detections, EndOfStream, Frame
from streamer.planes import Planes
from streamer.queues import Received
from streamer.stage import StageStart
from streamer.stages.infer import Infer


class Driven(Infer):
    """Infer whose results are kept in `sent`, by camera."""

    def __init__(
        self,
        *,
        cameras: int = 1,
        live: bool = False,
        detector: Mapping[str, object] | None = None,
        tracker: Mapping[str, object] | None = None,
    ) -> None:
        names = [f"c{number}" for number in range(cameras)]
        config = Config(
            cameras={name: CameraConfig(source=f"{name}.mp4") for name in names},
            detector=msgspec.convert({"streams": 2, **(detector or {})}, DetectorConfig),
            tracker=msgspec.convert({"motion": "off", **(tracker or {})}, TrackerConfig),
        )
        regimes = dict.fromkeys(names, live)
        super().__init__(
            StageStart(
                spec=build_graph(config, regimes).stage("infer"),
                config=config,
                live=regimes,
                run=f"test{os.getpid()}.{id(self):x}",
                incarnation=0,
                supervisor_pid=os.getpid(),
                control=f"ipc://@control{id(self):x}",
                ledger_fd=-1,
            )
        )
        self.sent: defaultdict[str, list[Body]] = defaultdict(list)
        self.given_back: list[tuple[str, int]] = []

    def __enter__(self) -> Driven:
        try:
            self.on_open()
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.on_close()
        self._control.set(zmq.LINGER, 0)  # nobody listens
        self.close()

    def forward(self, item: Received, body: Body, *, to: object = None) -> None:
        """Keep a result."""
        assert to == [f"track.{item.producer.partition('.')[2]}"]
        self.sent[item.producer.partition(".")[2]].append(body)
        self.given_back.append((item.producer, item.number))

    def frame(self, camera: str, seq: int, planes: Planes, **info: object) -> None:
        """A frame comes, its pixels in the message."""
        plain = info_of(seq, camera=camera, width=planes.width, height=planes.height)
        told = msgspec.structs.replace(plain, **{"receive_ns": time.monotonic_ns(), **info})
        self.item(camera, seq + 1, Frame(told, -1, 0, 0), pixels_of(planes))

    def end(self, camera: str) -> None:
        """A stream ends."""
        self.item(camera, 10_000, EndOfStream(camera))

    def item(self, camera: str, number: int, body: Body, inline: memoryview | None = None) -> None:
        """Anything comes."""
        self.on_item(Received(f"decode.{camera}", number, body, inline))

    def settle(self, results: int, timeout_s: float = 60.0) -> dict[str, list[Detections]]:
        """Let the engines finish so many results; those of each camera."""
        deadline = time.monotonic() + timeout_s
        while sum(len(bodies) for bodies in self.sent.values()) < results:
            now = time.monotonic()
            assert now < deadline, f"{dict(self.sent)} after {timeout_s} s"
            due_s = max(0.0, min(self.tick_at, deadline) - now)
            if select.select([self._wakeup], [], [], due_s)[0]:
                os.eventfd_read(self._wakeup)
                self.on_wake()
            else:
                self.on_tick()
        return {
            camera: [body for body in bodies if isinstance(body, Detections)]
            for camera, bodies in self.sent.items()
        }


def pixels_of(planes: Planes) -> memoryview:
    """The planes as they travel in a message."""
    return memoryview(
        np.concatenate([plane.reshape(-1) for plane in (planes.y, planes.u, planes.v)])
    )


def boxes_of(found: Detections) -> np.ndarray:
    """(N, 4) boxes of a result."""
    return np.frombuffer(found.boxes, np.float32).reshape(-1, 4)


def scores_of(found: Detections) -> np.ndarray:
    """(N,) scores of a result."""
    return np.frombuffer(found.scores, np.float32)
