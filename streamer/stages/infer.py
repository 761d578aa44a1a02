"""Turn frames of all cameras into detections, batched over them; runs in the infer process.

One process a device. Cameras take turns; what one of them sends never waits for another. Results
leave in the order of each camera's frames, whatever order the engine finishes them in.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engines.detectors import runtime
from engines.errors import EngineError
from streamer.errors import ConfigError, StaleFrame
from streamer.frames import PoolReader
from streamer.graph import processors
from streamer.messages import Detections, EndOfStream, Frame, PeerDown
from streamer.queues import Received
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Order:
    """One frame from its arrival to the departure of its result."""

    item: Received
    frame: Frame | None
    """None for the end of the stream."""
    result: Detections | None = None


@dataclass(slots=True)
class _Camera:
    """The frames of one camera that are here. waiting is the tail of orders."""

    orders: deque[_Order] = field(default_factory=deque)
    waiting: deque[_Order] = field(default_factory=deque)
    last_seq: int = -1
    ended: bool = False


Landed = tuple[list[_Order], "dict[str, NDArray[np.float32]] | EngineError"]


class Infer(Stage):
    """Feeds one engine."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._reader = PoolReader(start.supervisor_pid)
        self._cameras = {name: _Camera() for name in start.config.cameras}
        self._turns = deque(start.config.cameras)
        self._landed: deque[Landed] = deque()
        self._flying = 0
        assert start.config.detector is not None
        self._settings = start.config.detector
        self._detector: runtime.Detector | None = None

    def on_open(self) -> None:
        """Load the network and run it once."""
        settings = self._settings
        try:
            self._detector = runtime.Detector.load(
                settings.model,
                device=settings.device,
                streams=settings.streams or processors(),
                precision=settings.precision,
                batch=1 if settings.batch == 1 else None,
                score=settings.score_low,
                nms_iou=settings.nms_iou,
                only=settings.classes or None,
            )
        except ValueError as error:
            if isinstance(error, EngineError):
                raise
            raise ConfigError(f"detector: {error}") from error
        self._detector.engine.warm_up()
        engine = self._detector.engine
        log.info(
            "%s on %s (%s %s), %d at once", settings.model, engine.device, engine.name,
            engine.version, engine.depth,
        )  # fmt: skip

    def on_item(self, item: Received) -> None:
        """Queue one frame of one camera."""
        body = item.body
        name = item.producer.partition(".")[2]
        camera = self._cameras[name]
        if isinstance(body, Frame):
            if body.info.seq <= camera.last_seq:
                self.inbox.done(item.producer, item.number)  # delivered twice after a crash
                return
            camera.last_seq = body.info.seq
            self.inbox.next_seq[item.producer] = body.info.seq + 1
            order = _Order(item, body)
            camera.waiting.append(order)
            camera.orders.append(order)
        elif isinstance(body, EndOfStream):
            camera.orders.append(_Order(item, None))
            self._depart(name)
        self._submit()

    def on_wake(self) -> None:
        """Read what the engine has finished."""
        while self._landed:
            orders, outputs = self._landed.popleft()
            self._flying -= 1
            if isinstance(outputs, EngineError):
                raise outputs  # not mended here: our successor loads the engine anew
            self._read(orders, outputs)
            for name in {order.frame.info.camera for order in orders if order.frame}:
                self._depart(name)
        self._submit()

    def on_peer_down(self, down: PeerDown) -> None:
        """A camera that will send nothing more has ended."""
        name = down.stage.partition(".")[2]
        if down.final and down.stage.startswith("decode.") and not self._cameras[name].ended:
            end = Received(down.stage, 0, EndOfStream(name), None)
            self._cameras[name].orders.append(_Order(end, None))
            self._depart(name)

    def finished(self) -> bool:
        """All cameras have ended."""
        return self.stopping or all(camera.ended for camera in self._cameras.values())

    def on_close(self) -> None:
        """Let go of the engine."""
        if self._detector is not None:
            self._detector.close()

    def _submit(self) -> None:
        assert self._detector is not None
        while self._flying < self._detector.engine.depth:
            orders = self._next_batch()
            if not orders:
                return
            ready = self._prepare(orders)
            if ready is None:
                continue
            self._flying += 1
            landed, inputs = ready
            self._detector.engine.start(inputs, partial(self._land, landed))

    def _next_batch(self) -> list[_Order]:
        """The frames whose turn it is: one of each camera that has any, up to the batch."""
        batch: list[_Order] = []
        for _ in range(len(self._turns)):
            if len(batch) == self._settings.batch:
                break
            camera = self._cameras[self._turns[0]]
            self._turns.rotate(-1)
            if camera.waiting:
                batch.append(camera.waiting.popleft())
        return batch

    def _prepare(
        self, orders: list[_Order]
    ) -> tuple[list[_Order], dict[str, NDArray[np.float32]]] | None:
        assert self._detector is not None
        ready, pictures, matrix = [], [], "bt601"
        for order in orders:
            frame = order.frame
            assert frame is not None
            age_ns = time.monotonic_ns() - frame.info.receive_ns
            live = self.start.live[frame.info.camera]
            try:
                if live and age_ns > self._settings.age_s * 1e9:
                    raise StaleFrame("too old")
                planes = self._reader.planes(frame, order.item.inline)
            except StaleFrame as error:
                self._skip(order, str(error))
                continue
            matrix = frame.info.matrix
            pictures.append((planes.y, planes.u, planes.v))
            ready.append(order)
        if not ready:
            return None
        return ready, self._detector.prepare_batch(pictures, matrix=matrix)

    def _land(
        self, orders: list[_Order], outputs: dict[str, NDArray[np.float32]] | EngineError
    ) -> None:
        """Runs on a thread of the engine."""
        self._landed.append((orders, outputs))
        self.wake()

    def _read(self, orders: list[_Order], outputs: dict[str, NDArray[np.float32]]) -> None:
        assert self._detector is not None
        frames = [order.frame for order in orders if order.frame]
        sizes = [(frame.info.width, frame.info.height) for frame in frames]
        found = self._detector.decode_batch(outputs, sizes)
        for order, frame, boxes in zip(orders, frames, found, strict=True):
            order.result = Detections(
                frame.info,
                boxes.boxes_xyxy.tobytes(),
                boxes.scores.tobytes(),
                boxes.classes.tobytes(),
                self._detector.classes,
            )
            self.counters["frames"] += 1

    def _skip(self, order: _Order, cause: str) -> None:
        assert self._detector is not None
        assert order.frame is not None
        info = order.frame.info
        self.dropped[info.camera]["infer_stale"] += 1
        order.result = Detections(info, b"", b"", b"", self._detector.classes, skipped=cause)
        self._depart(info.camera)

    def _depart(self, name: str) -> None:
        """Send all results of a camera that no earlier frame is waiting in front of."""
        camera = self._cameras[name]
        while camera.orders and (camera.orders[0].frame is None or camera.orders[0].result):
            order = camera.orders.popleft()
            body = order.result or EndOfStream(name)
            camera.ended = camera.ended or order.frame is None
            self.forward(order.item, body, to=[f"track.{name}"])


make = Infer
