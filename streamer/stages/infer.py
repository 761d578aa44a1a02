"""Turn frames of all cameras into detections, batched over them; runs in the infer process.

One process a device. Cameras take turns; what one of them sends never waits for another. Results
leave in the order of each camera's frames, whatever order the engines finish them in.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.detectors import runtime
from engines.errors import EngineError
from streamer.errors import StaleFrame
from streamer.frames import PoolReader
from streamer.inference.load import CROPS_A_CALL, load_detector, load_steps, wants_motion
from streamer.inference.motion import CameraMotion, small_luma
from streamer.inference.refine import Found, Refinement
from streamer.inference.turns import Turns
from streamer.messages import Detections, EndOfStream, Frame, PeerDown
from streamer.planes import Planes
from streamer.queues import Received
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Order:
    """One frame from its arrival to the departure of its result."""

    item: Received
    frame: Frame | None
    """None for the end of the stream."""
    planes: Planes | None = None
    """From the moment its turn came."""
    small: tuple[NDArray[np.uint8], int] | None = None
    """Small luma and its scale, where the camera's motion is wanted."""
    found: Found | None = None
    skipped: str = ""

    @property
    def can_leave(self) -> bool:
        """True if there is a result, or there never will be."""
        return self.frame is None or self.found is not None or bool(self.skipped)


@dataclass(slots=True)
class _Camera:
    """The frames of one camera that are here."""

    motion: CameraMotion | None
    orders: deque[_Order] = field(default_factory=deque)
    last_seq: int = -1
    ended: bool = False


Landed = tuple[list[_Order], "dict[str, Array] | EngineError"]


class Infer(Stage):
    """Feeds one detector and what follows it."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        assert start.config.detector is not None
        self._settings = start.config.detector
        self._reader = PoolReader(start.supervisor_pid)
        always = start.config.tracker.motion == "on"
        follows = wants_motion(start.config)
        self._cameras = {
            name: _Camera(CameraMotion(always=always) if follows else None)
            for name in start.config.cameras
        }
        self._calls: deque[list[_Order]] = deque()
        self._landed: deque[Landed] = deque()
        self._flying = 0
        self._detector: runtime.Detector | None = None
        self._turns: Turns[_Order]
        self._refinement: Refinement[_Order] = Refinement([], most=1, wake=self.wake)

    def on_open(self) -> None:
        """Load the networks and run each once."""
        settings, cameras = self._settings, self.config.cameras
        fixed = not all(self.start.live.values())
        self._detector, most = load_detector(settings, cameras=len(cameras), fixed=fixed)
        self._turns = Turns(cameras, most=most, collect_s=settings.collect_ms / 1e3)
        steps = load_steps(self.config, self._detector.classes, fixed=fixed)
        self._refinement = Refinement(steps, most=CROPS_A_CALL, wake=self.wake)
        engine = self._detector.engine
        log.info(
            "%s on %s (%s %s), %d at once, %d frames a call%s",
            settings.model, engine.device, engine.name, engine.version, engine.depth, most,
            "".join(f", then {step.name}" for step in steps),
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
            camera.orders.append(order)
            self._turns.add(name, order, time.monotonic(), self._leave_by_s(body))
        elif isinstance(body, EndOfStream):
            self._end(name, item)
        self._submit()

    def on_wake(self) -> None:
        """Read what the engines have finished."""
        while self._landed:
            orders, outputs = self._landed.popleft()
            self._flying -= 1
            if isinstance(outputs, EngineError):
                raise outputs  # not mended here: our successor loads the engine anew
            self._read(orders, outputs)
        self._submit()  # before the second looks, so that the detector is never without work
        self._collect()

    def on_tick(self) -> None:
        """A batch has waited long enough for more frames."""
        self._submit()

    def on_peer_down(self, down: PeerDown) -> None:
        """A camera that will send nothing more has ended."""
        name = down.stage.partition(".")[2]
        if down.final and down.stage.startswith("decode.") and not self._cameras[name].ended:
            self._end(name, Received(down.stage, 0, EndOfStream(name), None))

    def finished(self) -> bool:
        """All cameras have ended."""
        return self.stopping or all(camera.ended for camera in self._cameras.values())

    def on_close(self) -> None:
        """Say how full the calls were, and let go of the engines."""
        calls = sum(count for name, count in self.counters.items() if name.startswith("calls."))
        log.info("%d frames in %d calls", self.counters["frames"], calls)
        if self._detector is not None:
            self._detector.close()
            self._refinement.close()

    def _end(self, name: str, item: Received) -> None:
        self._cameras[name].orders.append(_Order(item, None))
        self._turns.end(name)
        self._depart(name)

    def _leave_by_s(self, frame: Frame) -> float:
        """Live, waiting for others may use up half of the age that a frame may reach."""
        if not self.start.live[frame.info.camera]:
            return float("inf")
        return frame.info.receive_ns / 1e9 + self._settings.age_s / 2

    def _submit(self) -> None:
        """Give the detector all that it has room for."""
        assert self._detector is not None
        while self._flying < self._detector.engine.depth:
            if not self._calls:
                batch = self._turns.next(time.monotonic())
                self.tick_at = self._turns.due_s
                self._calls += [list(same) for _, same in groupby(batch, key=_matrix)]
            if not self._calls:
                return
            ready = [order for order in self._calls.popleft() if self._open(order)]
            if ready:
                self._flying += 1
                self.counters[f"calls.{len(ready)}"] += 1
                inputs = self._prepare(ready)
                self._detector.engine.start(inputs, partial(self._land, ready))

    def _open(self, order: _Order) -> bool:
        """See the frame's pixels; a frame that is too old, or gone, is skipped."""
        assert order.frame is not None
        info = order.frame.info
        age_ns = time.monotonic_ns() - info.receive_ns
        try:
            if self.start.live[info.camera] and age_ns > self._settings.age_s * 1e9:
                raise StaleFrame("too old")
            order.planes = self._reader.planes(order.frame, order.item.inline)
        except StaleFrame as error:
            self.dropped[info.camera]["infer_stale"] += 1
            order.skipped = str(error)
            self._depart(info.camera)
            return False
        if self._cameras[info.camera].motion is not None:
            order.small = small_luma(order.planes.y)
        return True

    def _prepare(self, orders: list[_Order]) -> dict[str, Array]:
        assert self._detector is not None
        pictures = [(o.planes.y, o.planes.u, o.planes.v) for o in orders if o.planes]
        missing = (self._detector.max_batch or 0) - len(pictures)  # filled with a picture again
        return self._detector.prepare_batch(
            [*pictures, *missing * pictures[:1]], matrix=_matrix(orders[0])
        )

    def _land(self, orders: list[_Order], outputs: dict[str, Array] | EngineError) -> None:
        """Runs on a thread of the engine."""
        self._landed.append((orders, outputs))
        self.wake()

    def _read(self, orders: list[_Order], outputs: dict[str, Array]) -> None:
        """Decode one call, and have its boxes looked at again."""
        assert self._detector is not None
        infos = [order.frame.info for order in orders if order.frame]
        rows = {name: array[: len(orders)] for name, array in outputs.items()}
        boxes = self._detector.decode_batch(rows, [(info.width, info.height) for info in infos])
        for order, info, found in zip(orders, infos, boxes, strict=True):
            assert order.planes is not None
            self.counters["frames"] += 1
            self._refinement.begin(
                order,
                (order.planes.y, order.planes.u, order.planes.v),
                info.matrix,
                Found(found.boxes_xyxy, found.scores, found.classes, outlines=found.outlines),
            )

    def _collect(self) -> None:
        """Take the frames that nothing will look at any more, and send what can leave."""
        done = self._refinement.finished()
        for name, count in self._refinement.counters().items():
            self.counters[name] = count
        for order, found in done:
            order.found = found
        for name in {order.frame.info.camera for order, _ in done if order.frame}:
            self._depart(name)

    def _depart(self, name: str) -> None:
        """Send all results of a camera that no earlier frame is waiting in front of."""
        camera = self._cameras[name]
        while camera.orders and camera.orders[0].can_leave:
            order = camera.orders.popleft()
            camera.ended = camera.ended or order.frame is None
            body = EndOfStream(name) if order.frame is None else self._result(camera, order)
            self.forward(order.item, body, to=[f"track.{name}"])

    def _result(self, camera: _Camera, order: _Order) -> Detections:
        assert self._detector is not None
        assert order.frame is not None
        info, found, classes = order.frame.info, order.found, self._detector.classes
        if found is None:
            return Detections(info, b"", b"", b"", classes, skipped=order.skipped)
        motion = b""
        if camera.motion is not None and order.small is not None:
            motion = camera.motion.into(info, *order.small, found.boxes_xyxy)
        return Detections(
            info,
            found.boxes_xyxy.tobytes(),
            found.scores.tobytes(),
            found.classes.tobytes(),
            classes,
            motion=motion,
            embeddings=b"" if found.embeddings is None else found.embeddings.tobytes(),
            labels=found.labels,
            outlines=tuple(tuple(map(np.ndarray.tobytes, parts)) for parts in found.outlines),
        )


def _matrix(order: _Order) -> str:
    assert order.frame is not None
    return order.frame.info.matrix


make = Infer
